//! What a session asks of the spool: who is this, is there room, keep this.

use std::net::IpAddr;

use sha2::{Digest, Sha256};
use spool::Spool;
use spool::error::{AcceptError, SpoolError};
use spool::ids::{ItemId, WallMs};

use super::{OPERATOR_LANE, Settings, TWIN_MS};
use crate::clock;
use crate::mail::address::{ForwardPath, Mailbox};
use crate::mail::envelope::Meta;
use crate::mail::limits;
use crate::mail::smtp::receiver::{Acceptance, Answer};
use crate::mail::trace::Received;
use crate::mail::verdict::evaluate::Judged;
use crate::spooler::{Accepted, BodyWriter, Spooler};

/// What became of a message.
#[derive(Debug)]
pub(super) enum Stored {
    /// Stable now.
    New(Accepted),
    /// A repeat of that one; nothing stored.
    Twin(ItemId),
}

/// Registers the lane for postmaster mail; without it such mail is refused for now, nothing worse.
pub(super) async fn ensure_operator_lane(spooler: &Spooler) {
    let registered = spooler.call(|spool| spool.register(OPERATOR_LANE, clock::wall())).await;
    match registered {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::error!(event = "relay.spool.unavailable", %error, "no lane for postmaster mail: {error}")
        }
        Err(error) => {
            tracing::error!(event = "relay.spool.unavailable", %error, "no lane for postmaster mail: {error}")
        }
    }
}

/// May a transaction begin, as far as storage goes?
pub(super) fn transaction(spooler: &Spooler) -> Answer {
    spooler.accepts().map_or_else(|error| refusal(&error), |()| Answer::Begin)
}

/// Where does this recipient go?
pub(super) async fn recipient(spooler: &Spooler, settings: &Settings, path: &ForwardPath) -> Answer {
    let names = names(path, &settings.postmaster);
    let asked = spooler.query(move |spool| look_up(spool, &names));
    match tokio::time::timeout(settings.commit_timeout, asked).await {
        Ok(Ok(Ok(answer))) => answer,
        Ok(Ok(Err(error))) => {
            tracing::error!(event = "relay.spool.unavailable", %error, "cannot look up a recipient: {error}");
            Answer::Failed
        }
        Ok(Err(_)) | Err(_) => Answer::Failed,
    }
}

/// Mailbox names to try, best first. Postmaster mail always ends up somewhere (RFC 5321 §4.5.1).
pub(in crate::mail) fn names(path: &ForwardPath, postmaster: &str) -> Vec<String> {
    let (mut names, is_postmaster) = match path {
        ForwardPath::Postmaster(_) => (Vec::new(), true),
        ForwardPath::Mailbox(mailbox) => (mailbox.names(), mailbox.is_postmaster()),
    };
    if is_postmaster {
        match Mailbox::parse(postmaster, true) {
            Ok(configured) => names.extend(configured.names()),
            Err(_) if postmaster.is_empty() => {}
            Err(_) => names.push(postmaster.to_ascii_lowercase()), // a key text
        }
        names.push(OPERATOR_LANE.to_owned());
    }
    names
}

pub(in crate::mail) fn look_up(spool: &Spool, names: &[String]) -> Result<Answer, SpoolError> {
    for name in names {
        match spool.room_by_name(name) {
            Ok(Some((lane, name))) => return Ok(Answer::Lane { lane, name }),
            Ok(None) => {}
            Err(AcceptError::Spool(error)) => return Err(error),
            Err(error) => return Ok(refusal(&error)),
        }
    }
    Ok(Answer::Unknown)
}

/// The spool's refusal as the session understands it.
pub(super) fn refusal(error: &AcceptError) -> Answer {
    match error {
        AcceptError::UnknownLane => Answer::Unknown,
        AcceptError::Revoked => Answer::Revoked,
        AcceptError::OverQuota => Answer::OverQuota,
        AcceptError::NoSpace => Answer::NoSpace,
        AcceptError::NoBody | AcceptError::Spool(_) => Answer::Failed,
    }
}

/// Recognises the same message from the same corner of the network (Q30): neighbourhood of the client,
/// envelope, and the body as received. Of use only for a message that bears a date or an id: what a device sends
/// without them has the same octets each time, and is a new message each time.
pub(super) fn fingerprint(client: IpAddr, acceptance: &Acceptance, body: &BodyWriter) -> [u8; 32] {
    let mut paths: Vec<String> = acceptance.recipients.iter().map(|r| r.path.key()).collect();
    paths.sort_unstable();
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(&limits::neighbourhood(client));
    part(acceptance.from.verbatim().as_bytes());
    for path in &paths {
        part(path.as_bytes());
    }
    part(&body.sha256());
    hash.finalize().into()
}

/// Makes a message durable for all its recipients or for none, unless it is a repeat.
///
/// One request of the ledger does all of it. Once that has been sent it is carried out, whether anybody waits or not.
pub(super) async fn store(
    spooler: Spooler,
    settings: StoreSettings,
    acceptance: Acceptance,
    mut body: BodyWriter,
) -> Result<Stored, Answer> {
    let now = clock::wall();
    let repeats = settings.fingerprint;
    if let Some(fingerprint) = repeats {
        body.set_fingerprint(fingerprint);
    }
    let id = body.id();
    let only = match acceptance.recipients.as_slice() {
        [only] => Some(only.path.verbatim()),
        _ => None,
    };
    let mut head = settings.judged.field;
    let received = Received {
        helo: &acceptance.helo,
        client: settings.client,
        hostname: &settings.hostname,
        protocol: acceptance.protocol,
        tls: &acceptance.tls,
        id,
        only_recipient: only,
        at: now,
    };
    head.extend_from_slice(&received.field());
    let meta = Meta {
        mail_from: acceptance.from.verbatim().to_owned(),
        client_ip: settings.client.to_string(),
        helo: acceptance.helo.clone(),
        protocol: acceptance.protocol.to_owned(),
        smtputf8: acceptance.utf8,
        body: acceptance.body,
        received_at_ms: now.0,
        transaction: id.to_string(),
        tls: acceptance.tls.clone(),
        verdicts: settings.judged.verdicts,
    };
    let targets =
        acceptance.recipients.iter().map(|r| (r.lane, r.path.verbatim().as_bytes().to_vec())).collect();
    let meta = meta.encode();
    let body = body.seal();
    let stored = spooler.call(move |spool| {
        if let Some(first) = repeats.and_then(|fingerprint| twin(spool, &fingerprint, now)) {
            body.abandon(spool);
            return Ok(Stored::Twin(first));
        }
        body.accept(spool, head, meta, targets, now).map(Stored::New)
    });
    stored.await.map_err(AcceptError::Spool).flatten().map_err(|error| {
        tracing::warn!(event = "relay.ingress.not_stored", item.id = %id, %error, "message {id} was not stored: {error}");
        refusal(&error)
    })
}

fn twin(spool: &Spool, fingerprint: &[u8; 32], now: WallMs) -> Option<ItemId> {
    spool.twin(fingerprint, now).unwrap_or_else(|error| {
        // Twice is better than not at all.
        tracing::warn!(event = "relay.spool.unavailable", %error, "cannot look for twins: {error}");
        None
    })
}

/// What [`store`] needs to know besides the message.
#[derive(Clone, Debug)]
pub(super) struct StoreSettings {
    pub(super) client: IpAddr,
    pub(super) hostname: String,
    /// By which a repeat is recognised; `None`: by nothing.
    pub(super) fingerprint: Option<[u8; 32]>,
    pub(super) judged: Judged,
}

/// The sender may not have heard that we have it: his repeat shall not become a second message.
pub(super) async fn remember(spooler: &Spooler, fingerprint: [u8; 32], id: ItemId) {
    let until = clock::wall().plus(TWIN_MS);
    match spooler.call(move |spool| spool.remember_twin(fingerprint, id, until)).await {
        Ok(Ok(())) => tracing::info!(
            event = "relay.ingress.unheard", item.id = %id, "sender may not have heard our 250 for {id}"
        ),
        Ok(Err(error)) | Err(error) => tracing::warn!(
            event = "relay.spool.unavailable", item.id = %id, %error, "cannot remember an unheard 250: {error}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ForwardPath {
        ForwardPath::parse(text.as_bytes(), false).unwrap()
    }

    #[test]
    fn postmaster_mail_always_has_a_place() {
        assert_eq!(names(&path("postmaster"), ""), ["operator"]); // B4
        assert_eq!(
            names(&path("PostMaster@our.example"), "boss@our.example"),
            ["postmaster@our.example", "boss@our.example", "operator"]
        );
        let key = "k".repeat(52);
        assert_eq!(names(&path("postmaster"), &key.to_uppercase()), [key, "operator".to_owned()]);
    }

    #[test]
    fn nobody_can_write_to_the_operator_lane_by_its_name() {
        assert_eq!(names(&path("operator@our.example"), ""), ["operator@our.example"]);
    }
}
