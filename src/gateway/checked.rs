//! What the relay signed about an item, compared with what arrived, and the header field that tells of it.
//!
//! Promises: a [`Checked`] says `ok` only when a pinned key signed the attestation for exactly this stream, envelope, item
//! and body, and when the receipt, if there is one, was signed for exactly this body, trace, place and chain. The field
//! holds nothing a sender can choose: addresses, names of keys and ids pass a filter of characters.
//!
//! Failure policy: none. What does not verify is delivered and says why; mail is never lost over a signature.

use core::net::IpAddr;

use crate::gateway::client::{Offer, Received};
use crate::mail::attestation::{self, Verified};
use crate::mail::custody::{self, Kind, Receipt};
use crate::mail::relay_keys::TrustedKeys;
use crate::mail::signed::Reason;
use crate::mail::verdict::{Verdicts, Word};
use spool::ids::WallMs;

/// Name of the field on top of each delivered item.
pub const FIELD_NAME: &str = "Waystation-Attestation";
/// Longest value put into the field, bytes.
const VALUE_BYTES_MAX: usize = 255;
/// Where a line of the field is folded, bytes.
const FOLD_BYTES: usize = 76;

/// The verdict on one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The relay's statement about the sender, or why it does not count.
    pub attestation: Result<Verified, Reason>,
    /// The relay's receipt, or why it does not count; [`Reason::MissingReceipt`] when there is none.
    pub receipt: Result<Receipt, Reason>,
}

impl Checked {
    /// Verifies what came with the start of a stream. `lane` is the gateway's key text.
    #[must_use]
    pub fn of_offer(stream: &str, offer: &Offer, lane: &str, keys: &TrustedKeys, now: WallMs) -> Self {
        let (from, to) = (&offer.mail_from, &offer.rcpt_to);
        let attestation = attestation::verify(offer.attestation.as_ref(), stream, from, to, keys, now);
        let receipt = match &offer.receipt {
            Some(signed) => custody::verify(signed, keys),
            None => Err(Reason::MissingReceipt),
        };
        let is_ours = |receipt: &Receipt| {
            receipt.kind == Kind::Item
                && receipt.lane == lane
                && receipt.id.to_string() == offer.item_id
                && receipt.seq.0 == offer.seq
                && offer.chain.is_none_or(|chain| chain == receipt.chain)
        };
        let receipt = receipt
            .and_then(|receipt| if is_ours(&receipt) { Ok(receipt) } else { Err(Reason::ItemMismatch) });
        Self { attestation, receipt }
    }

    /// Compares with the body, as it was announced or as it arrived.
    #[must_use]
    pub fn against(self, item_id: &str, received: &Received) -> Self {
        let Received { sha256, size, head_sha256 } = received;
        let attestation =
            self.attestation.and_then(|verified| verified.covers(item_id, sha256, *size).map(|()| verified));
        let receipt = self.receipt.and_then(|receipt| {
            let same = receipt.sha256 == *sha256
                && receipt.size == *size
                && head_sha256.is_none_or(|head| head == receipt.head_sha256);
            if same { Ok(receipt) } else { Err(Reason::BodyMismatch) }
        });
        Self { attestation, receipt }
    }

    /// All that came is true; the reason otherwise. A relay of the first protocol gives no receipts and can still attest.
    /// Without the receipt of any other one, nothing says that what stands in front of the body is the relay's.
    ///
    /// # Errors
    /// The attestation's [`Reason`], else the receipt's.
    pub fn verdict(&self) -> Result<&Verified, Reason> {
        let verified = self.attestation.as_ref().map_err(|reason| *reason)?;
        match self.receipt {
            Ok(_) => Ok(verified),
            Err(Reason::MissingReceipt) if verified.details.is_none() => Ok(verified),
            Err(reason) => Err(reason),
        }
    }

    /// `ok`, or the reason.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.verdict().map_or_else(Reason::as_str, |_| "ok")
    }

    /// The field with its final CRLF.
    #[must_use]
    pub fn field(&self, item_id: &str) -> Vec<u8> {
        let mut parts = vec![self.word().to_owned()];
        let mut add = |name: &str, value: &str| parts.push(format!("{name}={}", clean(value)));
        if let Ok(verified) = self.verdict() {
            if let Some(details) = &verified.details {
                add("relay", &details.relay);
            }
            add("key", &verified.key_id);
            match &verified.details {
                Some(details) => {
                    let Verdicts { spf, dkim, dmarc, arc } = &details.verdicts;
                    for (name, word) in
                        [("spf", spf.word), ("dkim", best(dkim)), ("dmarc", dmarc.word), ("arc", *arc)]
                    {
                        add(name, word.as_str());
                    }
                    let client = details.client_ip.parse::<IpAddr>().map(|ip| ip.to_string());
                    add("client", &client.unwrap_or_default());
                    add("tls", details.tls.split(' ').next().unwrap_or_default());
                }
                None => {
                    let signals = verified.signals;
                    for (name, signal) in
                        [("spf", signals.spf), ("dkim", signals.dkim), ("dmarc", signals.dmarc)]
                    {
                        add(name, signal.as_str());
                    }
                }
            }
        }
        match self.receipt {
            Ok(_) => add("receipt", "ok"),
            Err(Reason::MissingReceipt) => add("receipt", "none"),
            Err(reason) => add("receipt", reason.as_str()),
        }
        add("item", item_id);
        fold(&parts)
    }
}

/// A pass if any signature passes, else what the first one says.
fn best(dkim: &[crate::mail::verdict::Dkim]) -> Word {
    let passes = dkim.iter().any(|one| one.word == Word::Pass);
    if passes { Word::Pass } else { dkim.first().map_or(Word::None, |one| one.word) }
}

/// A value that ends no parameter and no line; `none` for an empty one.
fn clean(value: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '+' | '/' | '@');
    let kept: String = value.chars().filter(plain).take(VALUE_BYTES_MAX).collect();
    if kept.is_empty() { "none".to_owned() } else { kept }
}

fn fold(parts: &[String]) -> Vec<u8> {
    let mut field = format!("{FIELD_NAME}:");
    let mut line = field.len();
    for (n, part) in parts.iter().enumerate() {
        let end = if n + 1 < parts.len() { ";" } else { "" };
        let more = 1 + part.len() + end.len();
        if n > 0 && line + more > FOLD_BYTES {
            field.push_str("\r\n\t");
            line = 1;
        } else {
            field.push(' ');
            line += 1;
        }
        field.push_str(part);
        field.push_str(end);
        line += part.len() + end.len();
    }
    field.push_str("\r\n");
    field.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key::SecretKey;
    use crate::mail::attestation::{Details, Signals, Statement, signals};
    use crate::mail::verdict::{Dkim, Spf};
    use spool::ids::{ItemId, Seq};

    const NOW: WallMs = WallMs(1_800_000_000_000);
    const LANE: &str = "lane";

    fn received() -> Received {
        Received { sha256: [1; 32], size: 10, head_sha256: Some([2; 32]) }
    }

    fn keys() -> (SecretKey, TrustedKeys) {
        let key = SecretKey::from_seed(&[7; 32]);
        let mut keys = TrustedKeys::default();
        keys.pin("k1", key.key_text()).unwrap();
        (key, keys)
    }

    fn statement(id: ItemId) -> Statement {
        let verdicts = Verdicts {
            spf: Spf { word: Word::Pass, ..Spf::default() },
            dkim: vec![
                Dkim { word: Word::Fail, ..Dkim::default() },
                Dkim { word: Word::Pass, ..Dkim::default() },
            ],
            ..Verdicts::default()
        };
        Statement {
            stream_id: "s".into(),
            mail_from: "a@b.example".into(),
            rcpt_to: "c@d.example".into(),
            issued_at: NOW,
            signals: signals(&verdicts),
            details: Some(Details {
                relay: "mx.example".into(),
                item_id: id.to_string(),
                sha256: [1; 32],
                size: 10,
                client_ip: "192.0.2.1".into(),
                helo: "x\r\nSubject: forged".into(),
                tls: "TLSv1.3 TLS_AES_256_GCM_SHA384".into(),
                verdicts,
                expires_at: NOW.plus(1000),
            }),
        }
    }

    fn receipt(id: ItemId) -> Receipt {
        Receipt {
            kind: Kind::Item,
            relay: "mx.example".into(),
            id,
            lane: LANE.into(),
            seq: Seq(3),
            sha256: [1; 32],
            size: 10,
            head_sha256: [2; 32],
            chain: [3; 32],
            at: NOW,
            stream_id: None,
        }
    }

    fn offer(statement: &Statement, receipt: Option<&Receipt>, id: ItemId) -> Offer {
        let (key, _) = keys();
        Offer {
            item_id: id.to_string(),
            seq: 3,
            mail_from: "a@b.example".into(),
            rcpt_to: "c@d.example".into(),
            size_bytes: Some(20),
            attestation: Some(attestation::sign(statement, "k1", &key)),
            receipt: receipt.map(|receipt| receipt.sign("k1", &key)),
            chain: Some([3; 32]),
            announced: None,
        }
    }

    fn check(offer: &Offer) -> Checked {
        let (_, keys) = keys();
        Checked::of_offer("s", offer, LANE, &keys, NOW).against(&offer.item_id, &received())
    }

    #[test]
    fn what_is_all_true_is_ok_and_the_field_says_what_was_seen() {
        let id = ItemId::new(NOW, [1; 10]);
        let checked = check(&offer(&statement(id), Some(&receipt(id)), id));
        assert_eq!(checked.word(), "ok");
        assert_eq!(
            String::from_utf8(checked.field(&id.to_string())).unwrap(),
            format!(
                "Waystation-Attestation: ok; relay=mx.example; key=k1; spf=pass; dkim=pass;\r\n\
                 \tdmarc=none; arc=none; client=192.0.2.1; tls=TLSv1.3; receipt=ok;\r\n\titem={id}\r\n"
            )
        );
    }

    #[test]
    fn each_thing_that_differs_is_found() {
        let id = ItemId::new(NOW, [1; 10]);
        let other = ItemId::new(NOW, [2; 10]);
        let word =
            |statement: &Statement, receipt: &Receipt| check(&offer(statement, Some(receipt), id)).word();
        let details = |change: fn(&mut Details)| {
            let mut changed = statement(id);
            changed.details.as_mut().map(change);
            changed
        };
        let changed = Statement { mail_from: "x@b.example".into(), ..statement(id) };
        assert_eq!(word(&changed, &receipt(id)), "context_mismatch");
        assert_eq!(word(&statement(other), &receipt(id)), "item_mismatch");
        assert_eq!(word(&details(|d| d.sha256 = [9; 32]), &receipt(id)), "body_mismatch");
        assert_eq!(word(&details(|d| d.size = 9), &receipt(id)), "body_mismatch");
        assert_eq!(word(&details(|d| d.expires_at = WallMs(5)), &receipt(id)), "expired");
        for changed in [
            Receipt { kind: Kind::Submission, ..receipt(id) },
            Receipt { lane: "other".into(), ..receipt(id) },
            Receipt { seq: Seq(4), ..receipt(id) },
            Receipt { chain: [4; 32], ..receipt(id) },
            receipt(other),
        ] {
            assert_eq!(word(&statement(id), &changed), "item_mismatch");
        }
        for changed in [
            Receipt { sha256: [4; 32], ..receipt(id) },
            Receipt { size: 4, ..receipt(id) },
            Receipt { head_sha256: [4; 32], ..receipt(id) },
        ] {
            assert_eq!(word(&statement(id), &changed), "body_mismatch");
        }
    }

    #[test]
    fn without_pinned_keys_and_without_statements_it_says_so() {
        let id = ItemId::new(NOW, [1; 10]);
        let offer = offer(&statement(id), Some(&receipt(id)), id);
        let checked = Checked::of_offer("s", &offer, LANE, &TrustedKeys::default(), NOW);
        assert_eq!(
            String::from_utf8(checked.field("x")).unwrap(),
            "Waystation-Attestation: missing_trusted_key; receipt=missing_trusted_key;\r\n\titem=x\r\n"
        );
        let no_receipt = Offer { receipt: None, ..offer.clone() };
        assert_eq!(check(&no_receipt).word(), "missing_receipt", "the trace in front is nobody's");
        let bare = Offer { attestation: None, receipt: None, ..offer };
        assert_eq!(check(&bare).word(), "missing_attestation");
    }

    #[test]
    fn a_relay_of_the_first_protocol_attests_signals() {
        let id = ItemId::new(NOW, [1; 10]);
        let signals = Signals::default();
        let checked = check(&offer(&Statement { details: None, signals, ..statement(id) }, None, id));
        let text = String::from_utf8(checked.field("x")).unwrap().replace("\r\n\t", " ");
        assert!(text.contains("ok; key=k1; spf=unknown; dkim=unknown; dmarc=unknown;"), "{text}");
    }

    #[test]
    fn nothing_breaks_out_of_the_field() {
        let id = ItemId::new(NOW, [1; 10]);
        let mut said = statement(id);
        if let Some(details) = &mut said.details {
            details.relay = "mx\r\nX: y; spf=fail \u{e4}".into();
            details.client_ip = "1\r\n2".into();
            details.tls = "\r\n".into();
        }
        let field =
            String::from_utf8(check(&offer(&said, Some(&receipt(id)), id)).field("a\r\n\r\nb; c=d")).unwrap();
        assert!(field.ends_with("item=abcd\r\n"), "{field}");
        assert!(field.contains("relay=mxX:yspffail;"), "{field}");
        for line in field.strip_suffix("\r\n").unwrap().split("\r\n").skip(1) {
            assert!(line.starts_with('\t') && line.len() < 400, "{field}");
        }
    }
}
