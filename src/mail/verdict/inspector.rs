//! PURE: what is done with a message while it passes by on its way to the spool.
//!
//! Promises: no `Authentication-Results` field that claims to be ours goes on, and no `Waystation-Attestation` field;
//! everything else goes on octet for octet (RFC 8601 section 5). The header as it came is kept aside for the checks,
//! at most [`HEADER_KEPT_BYTES_MAX`] of it; of the body only hashes are kept. The result does not depend on how the
//! octets are split. Until the first empty line everything counts as header, also what is no field: readers differ in
//! where they believe the header ends.
//!
//! Failure policy: a header that is too long or makes no sense is a [`Flaw`] of the inspection, never a reason to
//! lose the message.

use super::body::BodyHash;
use super::claims::{self, Claim};
use super::signatures::{self, Wanted};

/// Most octets of a header that are kept for the checks.
pub const HEADER_KEPT_BYTES_MAX: usize = 256 * 1024;
/// Most octets of one field that are looked at before it is decided whether it goes on.
const FIELD_BYTES_MAX: usize = 64 * 1024;

/// Why the checks cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The header is over [`HEADER_KEPT_BYTES_MAX`].
    HeaderTooLarge,
    /// A line of the header is no field.
    HeaderMalformed,
    /// The library stumbled over it.
    Unreadable,
}

/// What the inspection leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// The header as it came, with the empty line; empty with [`Flaw::HeaderTooLarge`].
    pub header: Vec<u8>,
    /// The hash of the body for each way in which signatures cover it; `None` when it is shorter than they say.
    pub hashes: Vec<(Wanted, Option<[u8; 32]>)>,
    /// Why the checks cannot be made.
    pub flaw: Option<Flaw>,
    /// Forged fields that were removed.
    pub removed: u32,
    /// It says something in `Message-ID` or `Date`, so two messages with the same octets are one message sent twice.
    pub dated: bool,
}

/// Watches one message pass by.
#[derive(Debug)]
pub struct Inspector {
    ours: String,
    /// The checks will be made.
    wanted: bool,
    phase: Phase,
    /// The field under way, as far as it is not decided yet.
    field: Vec<u8>,
    /// Octets of the line under way.
    line_bytes: usize,
    inspected: Inspected,
    hashes: Vec<(Wanted, BodyHash)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Fields are gathered and decided.
    Header,
    /// The rest of an over-long field is removed.
    Dropping,
    /// The rest of an over-long field goes on.
    Passing,
    Body,
}

impl Inspector {
    /// `ours`: our name, the `authserv-id`. `wanted`: checks follow, so keep what they need.
    #[must_use]
    pub fn new(ours: &str, wanted: bool) -> Self {
        Self {
            ours: ours.to_owned(),
            wanted,
            phase: Phase::Header,
            field: Vec::new(),
            line_bytes: 0,
            inspected: Inspected::default(),
            hashes: Vec::new(),
        }
    }

    /// Takes octets of the message and appends to `out` what may be stored.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut rest = input;
        while let Some(&first) = rest.first() {
            if self.phase == Phase::Body {
                self.hashes.iter_mut().for_each(|(_, hash)| hash.feed(rest));
                out.extend_from_slice(rest);
                return;
            }
            if self.line_bytes == 0 && !matches!(first, b' ' | b'\t') {
                self.end_field(out);
            }
            let taken = memchr::memchr(b'\n', rest).map_or(rest.len(), |n| n + 1);
            let (piece, after) = rest.split_at(taken);
            self.take(piece, out);
            rest = after;
            if piece.ends_with(b"\n") {
                self.line_bytes = 0;
                if self.field == b"\r\n" || self.field == b"\n" {
                    out.append(&mut self.field);
                    self.begin_body();
                }
            } else {
                self.line_bytes += piece.len();
            }
        }
    }

    /// The message has ended.
    #[must_use]
    pub fn finish(mut self, out: &mut Vec<u8>) -> Inspected {
        if self.phase != Phase::Body {
            self.end_field(out);
            self.begin_body();
        }
        self.inspected.hashes =
            self.hashes.into_iter().map(|(wanted, hash)| (wanted, hash.finish())).collect();
        self.inspected
    }

    fn take(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if self.wanted && self.inspected.flaw.is_none() {
            if self.inspected.header.len() + piece.len() > HEADER_KEPT_BYTES_MAX {
                self.inspected.flaw = Some(Flaw::HeaderTooLarge);
                self.inspected.header = Vec::new();
            } else {
                self.inspected.header.extend_from_slice(piece);
            }
        }
        match self.phase {
            Phase::Dropping => {}
            Phase::Passing | Phase::Body => out.extend_from_slice(piece),
            Phase::Header => {
                let room = FIELD_BYTES_MAX - self.field.len();
                let (near, far) = piece.split_at(room.min(piece.len()));
                self.field.extend_from_slice(near);
                if !far.is_empty() {
                    self.end_early(out);
                    if self.phase == Phase::Passing {
                        out.extend_from_slice(far);
                    }
                }
            }
        }
    }

    /// The field is longer than we look: what is seen of it must do.
    fn end_early(&mut self, out: &mut Vec<u8>) {
        self.note_date();
        if self.is_forged(true) {
            self.inspected.removed = self.inspected.removed.saturating_add(1);
            self.phase = Phase::Dropping;
        } else {
            out.extend_from_slice(&self.field);
            self.phase = Phase::Passing;
        }
        self.field = Vec::new();
    }

    fn end_field(&mut self, out: &mut Vec<u8>) {
        self.note_date();
        if self.is_forged(false) {
            self.inspected.removed = self.inspected.removed.saturating_add(1);
        } else {
            out.extend_from_slice(&self.field);
        }
        self.field.clear();
        self.phase = Phase::Header;
    }

    fn note_date(&mut self) {
        self.inspected.dated |= ["Message-ID", "Date"].iter().any(|name| says(&self.field, name));
    }

    /// `cut`: more of the field follows.
    fn is_forged(&self, cut: bool) -> bool {
        if value_of(&self.field, b"Waystation-Attestation", cut).is_some() {
            return true;
        }
        let Some(value) = value_of(&self.field, b"Authentication-Results", cut) else { return false };
        match claims::claim(value, &self.ours) {
            // The id may go on behind the cut.
            Claim::Other if cut && !value.contains(&b';') => true,
            Claim::Ours => true,
            Claim::Other => false,
            Claim::Unclear => cut || claims::mentions(value, &self.ours),
        }
    }

    fn begin_body(&mut self) {
        self.phase = Phase::Body;
        self.field = Vec::new();
        if !self.wanted || self.inspected.flaw.is_some() {
            return;
        }
        match signatures::wanted(&self.inspected.header) {
            Ok(wanted) => {
                let hash = |wanted: Wanted| (wanted, BodyHash::new(wanted.form, wanted.limit));
                self.hashes = wanted.into_iter().map(hash).collect();
            }
            Err(flaw) => self.inspected.flaw = Some(flaw),
        }
    }
}

/// Whether `field` has that name, and a value. Strict: a message that is taken for one without date is stored once more
/// at worst.
fn says(field: &[u8], name: &str) -> bool {
    let Some((spelled, rest)) = field.split_at_checked(name.len()) else { return false };
    spelled.eq_ignore_ascii_case(name.as_bytes())
        && rest.trim_ascii_start().strip_prefix(b":").is_some_and(|value| !value.trim_ascii().is_empty())
}

/// The value of the field if that is its name. Readers take blanks and controls of many kinds off a name, some of them
/// octets beyond ASCII, so only what can be seen counts. `cut`: the colon may be still to come.
fn value_of<'f>(field: &'f [u8], name: &[u8], cut: bool) -> Option<&'f [u8]> {
    let colon = memchr::memchr(b':', field);
    let (spelled, value) = field.split_at(colon.unwrap_or(field.len()));
    let seen = spelled.iter().filter(|octet| octet.is_ascii_graphic()).map(u8::to_ascii_lowercase);
    let named = seen.eq(name.iter().map(u8::to_ascii_lowercase));
    (named && (colon.is_some() || cut)).then(|| value.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: &str = "mx.our.example";

    fn pass(message: &[u8], piece: usize) -> (Vec<u8>, Inspected) {
        let (mut inspector, mut out) = (Inspector::new(OURS, true), Vec::new());
        message.chunks(piece.max(1)).for_each(|bytes| inspector.push(bytes, &mut out));
        let inspected = inspector.finish(&mut out);
        (out, inspected)
    }

    fn stored(message: &str) -> String {
        let (out, inspected) = pass(message.as_bytes(), 4096);
        assert!(inspected.flaw.is_some() || message.as_bytes().starts_with(&inspected.header));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn forged_fields_go_and_all_others_stay() {
        let forged = [
            "Authentication-Results: mx.our.example; dmarc=pass\r\n",
            "authentication-RESULTS : MX.OUR.EXAMPLE. 1;\r\n\tdmarc=pass\r\n",
            "Authentication-Results:\r\n (c) \"mx.our.example\";\r\n dmarc=pass\r\n",
            "Authentication-Results\r\n : mx.our.\r\n example\r\n",
            "Waystation-Attestation: v=1; whatever\r\n",
            "Authentication-Results\u{a0}: mx.our.example; dmarc=pass\r\n",
            "\x0bAuthentication-Results\x1f: mx.our.example; dmarc=pass\r\n",
            "Authentication-Results: mx.our.example\u{a0}; dmarc=pass\r\n",
            "Authentication-Results: =?us-ascii?q?mx=2Eour=2Eexample?=; dmarc=pass\r\n",
        ];
        let kept = "Authentication-Results: mx.other.example; dmarc=fail\r\nARC-Authentication-Results: i=1; \
                    mx.our.example; none\r\nX-Authentication-Results: mx.our.example; a=b\r\nSubject: x\r\n";
        let body = "\r\nAuthentication-Results: mx.our.example; quoted\r\n";
        for field in forged {
            let message = format!("{field}From: a@b.example\r\n{}{kept}{body}", field.repeat(10));
            assert_eq!(stored(&message), format!("From: a@b.example\r\n{kept}{body}"), "{field}"); // M1
        }
        assert_eq!(stored(&format!("{}Subject: x\r\n", forged.concat())), "Subject: x\r\n");
        assert_eq!(stored(&format!("no field\r\n{}\r\n", forged[0])), "no field\r\n\r\n");
    }

    #[test]
    fn a_date_or_an_id_in_the_header_makes_a_message_recognisable() {
        let dated = |message: &str| {
            let ways = [1, 7, 4096].map(|piece| pass(message.as_bytes(), piece).1.dated);
            assert!(ways.iter().all(|way| *way == ways[0]), "{message}");
            ways[0]
        };
        assert!(dated("Subject: x\r\nMESSAGE-id:\r\n <1@a.example>\r\n\r\n")); // Q31
        assert!(dated("Date : Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\n"));
        assert!(dated("Subject: x\r\nDate: today")); // no end of the header at all
        for message in [
            "",
            "Subject: UPS on battery\r\n\r\nDate: today\r\n",
            "Date: \r\nMessage-ID:\r\n\r\n",
            "Dates: today\r\nX-Date: today\r\nSubject: a\r\n Date: today\r\n\r\n",
        ] {
            assert!(!dated(message), "{message}"); // Q32
        }
    }

    #[test]
    fn an_endless_field_is_decided_by_its_beginning() {
        let long =
            |start: &str| format!("{start}{} end\r\nSubject: x\r\n\r\nb\r\n", " (c)\r\n".repeat(20_000));
        for start in
            ["Authentication-Results:", "Authentication-Results: mx.our.example;", "Waystation-Attestation:"]
        {
            assert_eq!(stored(&long(start)), "Subject: x\r\n\r\nb\r\n", "{start}");
        }
        let blank = format!(
            "Authentication-Results{}: mx.our.example;\r\nSubject: x\r\n\r\n",
            "\r\n ".repeat(40_000)
        );
        assert_eq!(stored(&blank), "Subject: x\r\n\r\n");
        let others = long("Authentication-Results: mx.other.example;");
        assert_eq!(stored(&others), others);
        let endless = long("Subject:");
        assert_eq!(stored(&endless), endless);
    }

    #[test]
    fn a_header_over_the_bound_is_not_kept_and_still_cleaned() {
        let field = format!("X-Fill: {}\r\n", "x".repeat(900));
        let message = format!(
            "{}Authentication-Results: mx.our.example; dmarc=pass\r\n\r\nbody\r\n",
            field.repeat(300)
        );
        let (out, inspected) = pass(message.as_bytes(), 4096);
        assert_eq!(inspected.flaw, Some(Flaw::HeaderTooLarge));
        assert!(inspected.header.is_empty() && inspected.header.capacity() == 0);
        assert_eq!(out, format!("{}\r\nbody\r\n", field.repeat(300)).into_bytes());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("Authentication-Results:"), Just(" mx.our.example"), Just(";"), Just("\r\n"), Just(" "),
                    Just("\t(c)"), Just("Subject: x"), Just("Waystation-Attestation: y"), Just("\""), Just("body"),
                    Just("DKIM-Signature: v=1; a=rsa-sha256; d=a; s=b; h=from; l=3; bh=AAAA; b=AAAA\r\n"),
                ],
                0..30,
            ),
            piece in 1_usize..20,
        ) {
            let message = parts.concat();
            let (whole, inspected) = pass(message.as_bytes(), message.len());
            let (split, other) = pass(message.as_bytes(), piece);
            prop_assert_eq!(whole, split);
            prop_assert_eq!(inspected.header, other.header);
            prop_assert_eq!(inspected.hashes, other.hashes);
            prop_assert_eq!((inspected.flaw, inspected.removed), (other.flaw, other.removed));
            prop_assert_eq!(inspected.dated, other.dated);
        }
    }
}
