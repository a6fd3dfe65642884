//! STARTTLS (RFC 3207): from the offer to the first command inside TLS.
//!
//! Promises: what was said before the handshake has no effect after it, apart from the caps on mistakes; nothing that
//! came in the clear is ever answered inside TLS.
//!
//! Octets behind `STARTTLS` end the session (J3). RFC 3207 §6 lets a server throw them away and go on; then somebody on
//! the wire who puts commands in there (CVE-2011-0411) leaves no trace. No honest client sends them: it has to wait for
//! the 220, as it has to wait for that of EHLO and DATA.

use std::time::Instant;

use super::{Output, Phase, Receiver, Stage};
use crate::mail::smtp::reply::Reply;

/// TLS in one session.
#[derive(Debug, Default)]
pub(super) struct Tls {
    /// There is a certificate.
    ready: bool,
    /// Version and cipher, once there is a session.
    session: Option<String>,
}

impl Tls {
    /// Version and cipher; empty without TLS.
    pub(super) fn text(&self) -> String {
        self.session.clone().unwrap_or_default()
    }

    /// Whether the session is encrypted.
    pub(super) fn is_on(&self) -> bool {
        self.session.is_some()
    }

    /// Whether EHLO names STARTTLS now.
    pub(super) fn is_offered(&self) -> bool {
        self.ready && self.session.is_none()
    }
}

impl Receiver {
    /// There is a certificate to shake hands with (or none any more). Counts for commands that come after it.
    pub fn set_tls_ready(&mut self, ready: bool) {
        self.tls.ready = ready;
    }

    /// The handshake that [`Output::StartTls`] asked for is done.
    ///
    /// * `session` – version and cipher, as trace fields and logs have them: `TLSv1.3 TLS_AES_256_GCM_SHA384`.
    pub fn tls_established(&mut self, session: String, now: Instant) {
        if matches!(self.phase, Phase::Handshake { .. }) {
            self.tls.session = Some(session);
            self.ready(now);
        }
    }

    /// The handshake came to nothing. There is no way back to plain text (J4).
    pub fn tls_failed(&mut self) {
        self.close();
    }

    /// `STARTTLS`. `more`: octets lie behind it, though they had to wait for our 220.
    pub(super) fn start_tls(&mut self, more: bool, now: Instant) {
        if self.tls.is_on() {
            return self.mistake(Reply::bad_sequence("TLS is on already"), Stage::Command);
        }
        if !self.tls.ready {
            return self.mistake(Reply::tls_not_available(), Stage::Command);
        }
        if more {
            return self.end(Reply::pipelining_violation());
        }
        if !self.hello.as_ref().is_some_and(|hello| hello.extended) {
            return self.mistake(Reply::bad_sequence("EHLO first"), Stage::Command);
        }
        self.drop_transaction();
        self.hello = None;
        self.say(Reply::ready_for_tls(), Stage::Command);
        self.outputs.push_back(Output::StartTls);
        self.phase = Phase::Handshake { since: now };
    }

    /// Why no transaction may begin in the clear. Without a certificate that is our fault, and temporary.
    pub(super) fn lacks_tls(&self) -> Option<Reply> {
        if !self.settings.require_tls || self.tls.is_on() {
            None
        } else if self.tls.ready {
            Some(Reply::must_start_tls())
        } else {
            Some(Reply::tls_not_available())
        }
    }
}
