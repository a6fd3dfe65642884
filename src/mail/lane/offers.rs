//! Items as the tunnel sends them: stream id, start, signed statements.
//!
//! Promises: an offer's stream id is the same each time the item is offered; tunnel 1 gets exactly the fields it knows, and
//! a recipient under a name that it knows; what is made together shares a signature where the gateway takes that.
//!
//! Failure policy: an item whose envelope cannot be read is no offer, and says why.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::stream::{self, StreamExt as _};
use spool::ids::{ItemId, WallMs};
use spool::types::ItemInfo;

use crate::mail::address::Mailbox;
use crate::mail::envelope::Envelope;
use crate::mail::signed::PAYLOAD_BYTES_MAX;
use crate::mail::signer::{Batched, Signer};
use crate::tunnel::Dialect;
use crate::tunnel::frame::{STREAM_ID_BYTES_MAX, StartBody};
use crate::tunnel::session::Offer;

/// Items signed for without giving way to other tasks of the same thread: about half a millisecond of work.
const SIGNED_AT_ONCE: usize = 16;
/// Most base64 of what is signed in one start: what a gateway reads, and less than a frame.
const SIGNED_BYTES_MAX: usize = PAYLOAD_BYTES_MAX / 3 * 4;
/// Tasks that sign for one session at the same time: the session itself is to get its turn between them.
const SIGNING_TASKS: usize = 2;

/// An item, and what is offered of it; or why it cannot be.
pub(super) type Offered = (ItemInfo, Result<Offer, String>);

/// What a session's offers are made for.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub(super) dialect: Dialect,
    /// Whether what leaves together may share a signature.
    pub(super) batches: bool,
    /// The relay's domain now, when it has one only: a gateway of tunnel 1 knows one, and nobody knows which of several, or
    /// whether one that the relay had before.
    pub(super) home: Option<Arc<str>>,
}

/// An offer of each item, in order. Signing is most of the work of a replay: some items at a time go to a task of their
/// own, so that more cores sign than one, and none is held for long.
pub(super) async fn made(
    items: Vec<ItemInfo>,
    manner: &Manner,
    signer: Option<&Arc<Signer>>,
    now: WallMs,
) -> Vec<Offered> {
    let Some(signer) = signer.filter(|_| items.len() > SIGNED_AT_ONCE) else {
        return offers(items, manner, signer.map(AsRef::as_ref), now);
    };
    let mut items = items.into_iter();
    let parts = std::iter::from_fn(move || {
        let some: Vec<ItemInfo> = items.by_ref().take(SIGNED_AT_ONCE).collect();
        (!some.is_empty()).then_some(some)
    });
    let tasks = stream::iter(parts).map(|some| {
        let (signer, manner) = (Arc::clone(signer), manner.clone());
        tokio::spawn(async move { offers(some, &manner, Some(&signer), now) })
    });
    let mut tasks = tasks.buffered(SIGNING_TASKS);
    let mut all = Vec::new();
    while let Some(made) = tasks.next().await {
        match made {
            Ok(some) => all.extend(some),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends, and the session with it: what was not offered stays leased to nobody.
            Err(_) => break,
        }
    }
    all
}

/// Offers of some items, signed: one by one, or together where the gateway takes that.
fn offers(items: Vec<ItemInfo>, manner: &Manner, signer: Option<&Signer>, now: WallMs) -> Vec<Offered> {
    let mut offers = Vec::with_capacity(items.len());
    let (two, shared) = (manner.dialect == Dialect::Two, manner.batches && manner.dialect == Dialect::Two);
    let mut batch = Batched::new(now);
    for info in items {
        let made = Envelope::decode(&info.meta).map_err(|error| error.to_string()).map(|envelope| {
            let mut offer = offer(&info, &envelope, manner);
            if let Some(signer) = signer {
                if shared {
                    batch.add(signer, &info, &envelope, &offer.stream, &offer.start.rcpt_to);
                } else {
                    let start = &mut offer.start;
                    start.auth_attestation =
                        Some(signer.attest(&info, &envelope, &offer.stream, &start.rcpt_to, now));
                    start.receipt = two.then(|| signer.receipt(&info, &envelope, now));
                }
            }
            offer
        });
        offers.push((info, made));
    }
    if let Some(signer) = signer {
        let mut signed = batch.sign(signer).into_iter();
        for (_, made) in &mut offers {
            if let (true, Ok(offer)) = (shared, made) {
                offer.start.auth_attestation = signed.next();
                offer.start.receipt = signed.next();
            }
        }
    }
    offers
        .iter_mut()
        .filter_map(|(_, made)| made.as_mut().ok())
        .for_each(|offer| leave_out(&mut offer.start));
    offers
}

/// Leaves out what nobody would look at, and what might fill a frame: the mail is to arrive all the same.
fn leave_out(start: &mut StartBody) {
    let mut left = SIGNED_BYTES_MAX;
    for signed in [&mut start.receipt, &mut start.auth_attestation] {
        let bytes = signed.as_ref().map_or(0, |signed| signed.payload_base64.len());
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => *signed = None,
        }
    }
}

/// An item as the tunnel sends it, unsigned. Tunnel 1 gets exactly the fields it knows.
fn offer(info: &ItemInfo, envelope: &Envelope, manner: &Manner) -> Offer {
    let rcpt_to = String::from_utf8_lossy(&info.tag).into_owned();
    let stream = stream_id(info.id, &rcpt_to);
    let rcpt_to = match manner.dialect {
        Dialect::One => name_at_home(rcpt_to, &info.lane_name, manner.home.as_deref()),
        Dialect::Two => rcpt_to,
    };
    let mut start = StartBody { mail_from: envelope.mail_from().to_owned(), rcpt_to, ..StartBody::default() };
    if manner.dialect == Dialect::Two {
        start.item_id = Some(info.id.to_string());
        start.seq = Some(info.seq.0);
        start.chain = Some(HEXLOWER.encode(&info.chain));
        start.size = Some(info.size_bytes);
        start.trace_bytes = Some(info.head.len() as u64);
        start.sha256 = Some(HEXLOWER.encode(&info.sha256));
    }
    Offer {
        item: info.id,
        seq: info.seq,
        stream,
        start,
        head: Bytes::copy_from_slice(&info.head),
        pieces: info.chunks.len(),
        size_bytes: info.size_bytes,
        sha256: info.sha256,
    }
}

/// The recipient under a name by which a gateway of tunnel 1 finds its persona (mail-tunnel protocol, section 16.6); one
/// that finds none has acked the mail already when it drops it.
///
/// Its first relay passed on what the sender wrote, and took mail for the key text alone: at the one domain of the relay
/// that goes on as it is. A domain that is spelt in another way, or was ours before, is none that we know it has. Whatever
/// else leads to the mailbox (an alias, `postmaster`, quotes) is a name of ours, which no such gateway was ever told. It
/// may have aliases of its own, but they served its local listener only, and the key text leads to the same persona. It
/// goes without a domain: the gateway has one, and puts that behind an address that has none.
fn name_at_home(rcpt_to: String, key: &str, home: Option<&str>) -> String {
    let Ok(mailbox) = Mailbox::parse(&rcpt_to, true) else { return key.to_owned() };
    let (base, tag) = match mailbox.local().split_once('+') {
        Some((base, tag)) => (base, Some(tag)),
        None => (mailbox.local(), None),
    };
    if !base.eq_ignore_ascii_case(key) {
        return key.to_owned();
    }
    let domain = rcpt_to.rsplit_once('@').map(|(_, domain)| domain);
    let is_home = domain.zip(home).is_some_and(|(domain, home)| domain.eq_ignore_ascii_case(home));
    if is_home && !rcpt_to.starts_with('"') {
        return rcpt_to;
    }
    let plain = |tag: &&str| tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    tag.filter(plain).map_or_else(|| key.to_owned(), |tag| format!("{key}+{tag}"))
}

/// `<item id>:<recipient>`, or the item id alone when that does not fit a frame.
fn stream_id(item: ItemId, rcpt_to: &str) -> String {
    let both = format!("{item}:{rcpt_to}");
    if both.len() <= STREAM_ID_BYTES_MAX { both } else { item.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use spool::ids::{LaneId, Seq};
    use spool::types::State;

    use super::*;
    use crate::mail::envelope::Meta;
    use crate::tunnel::signed::Signed;

    /// The key of the vectors' persona.
    const KEY: &str = "rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5oa";

    fn info(tag: &[u8], meta: Vec<u8>) -> ItemInfo {
        ItemInfo {
            id: ItemId::new(WallMs(5), [1; 10]),
            lane: LaneId(1),
            lane_name: KEY.into(),
            seq: Seq(7),
            state: State::Ready,
            leased: true,
            size_bytes: 12,
            accepted_at: WallMs(5),
            changed_at: WallMs(5),
            sha256: [2; 32],
            chain: [3; 32],
            meta,
            tag: tag.to_vec(),
            head: b"Received: x\r\n".to_vec(),
            chunks: Vec::new(),
            outbound: None,
        }
    }

    fn meta() -> Vec<u8> {
        Meta { mail_from: "a@b.example".into(), ..Meta::default() }.encode()
    }

    fn one(info: ItemInfo, dialect: Dialect) -> Result<Offer, String> {
        at(info, dialect, Some("mail.example"))
    }

    fn at(info: ItemInfo, dialect: Dialect, home: Option<&str>) -> Result<Offer, String> {
        let manner = Manner { dialect, batches: false, home: home.map(Into::into) };
        offers(vec![info], &manner, None, WallMs(9)).remove(0).1
    }

    #[test]
    fn tunnel_1_sees_only_the_fields_it_knows() {
        let address = format!("{}@Mail.example", KEY.to_uppercase());
        let offer = one(info(address.as_bytes(), meta()), Dialect::One).unwrap();
        let expected =
            StartBody { mail_from: "a@b.example".into(), rcpt_to: address, ..StartBody::default() };
        assert_eq!(offer.start, expected);
    }

    /// What an unmodified gateway does with a recipient: vectors `gateway.gateway_recipient_to_persona`.
    fn finds_persona(vector: &Value, recipient: &str) -> bool {
        let lower = recipient.to_lowercase();
        let mail_domain = vector["mail_domain"].as_str().unwrap();
        let (local, domain) = lower.split_once('@').unwrap_or((lower.as_str(), mail_domain));
        let base = local.split('+').next().unwrap();
        let aliases = vector["persona"]["aliases"].as_array().unwrap();
        let mut aliases = aliases.iter().map(|alias| alias.as_str().unwrap().to_lowercase());
        let is_alias = aliases.any(|alias| alias.split('@').next() == Some(base));
        domain == mail_domain && (vector["persona"]["public_key_base32"] == base || is_alias)
    }

    #[test]
    fn tunnel_1_finds_its_persona_whatever_name_the_sender_used() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/vectors/mail-tunnel.json")).unwrap();
        let vector = &vectors["gateway"]["gateway_recipient_to_persona"];
        for case in vector["cases"].as_array().unwrap() {
            let recipient = case["recipient"].as_str().unwrap();
            assert_eq!(finds_persona(vector, recipient), case["matches"].as_bool().unwrap(), "{recipient}");
        }
        // Names that only the relay knows: aliases, postmaster, quotes.
        let (quoted, tagged) = (format!("\"{KEY}\"@mail.example"), format!("\"{KEY}+tag\"@mail.example"));
        let (odd, with_tag) = (format!("\"{KEY}+a tag@x\"@second.example"), format!("{KEY}+tag"));
        for (written, offered) in [
            ("home@mail.example", KEY),
            ("Home+tag@mail.example", KEY),
            ("home@second.example", KEY),
            ("postmaster", KEY),
            ("PostMaster@second.example", KEY),
            ("\"home mail\"@mail.example", KEY),
            (quoted.as_str(), KEY),
            (tagged.as_str(), with_tag.as_str()),
            (odd.as_str(), KEY),
        ] {
            assert!(!finds_persona(vector, written), "{written} would be found without us");
            let info = info(written.as_bytes(), meta());
            let offer = one(info.clone(), Dialect::One).unwrap();
            assert_eq!(offer.start.rcpt_to, offered, "{written}");
            assert!(finds_persona(vector, &offer.start.rcpt_to), "{written}");
            assert_eq!(offer.stream, format!("{}:{written}", info.id), "the stream's name stays");
            assert_eq!(one(info, Dialect::Two).unwrap().start.rcpt_to, written, "tunnel 2 is told its names");
        }
        // What the first relay passed on is passed on as it was written.
        for address in [KEY, &KEY.to_uppercase()].map(|key| format!("{key}+Tag@Mail.example")) {
            let offer = one(info(address.as_bytes(), meta()), Dialect::One).unwrap();
            assert!(finds_persona(vector, &offer.start.rcpt_to));
            assert_eq!(offer.start.rcpt_to, address);
        }
        // With more domains than one nobody knows which of them the gateway has; one that is not ours any more, or spelt in
        // another way, it does not have.
        for (domain, home) in [
            ("mail.example", None),
            ("second.example", None),
            ("former.example", Some("mail.example")),
            ("b\u{fc}cher.example", Some("xn--bcher-kva.example")),
        ] {
            for (local, offered) in [(KEY.to_uppercase(), KEY), (with_tag.clone(), with_tag.as_str())] {
                let info = info(format!("{local}@{domain}").as_bytes(), meta());
                let offer = at(info.clone(), Dialect::One, home).unwrap();
                assert_eq!(offer.start.rcpt_to, offered);
                assert!(finds_persona(vector, &offer.start.rcpt_to));
                let told = at(info, Dialect::Two, home).unwrap().start.rcpt_to;
                assert_eq!(told, format!("{local}@{domain}"));
            }
        }
    }

    #[test]
    fn tunnel_2_names_the_item_its_place_and_its_hash() {
        let info = info(b"c@d.example", meta());
        let offer = one(info.clone(), Dialect::Two).unwrap();
        assert_eq!(offer.start.item_id, Some(info.id.to_string()));
        assert_eq!(
            (offer.start.seq, offer.start.size, offer.start.trace_bytes),
            (Some(7), Some(12), Some(13))
        );
        assert_eq!(offer.start.sha256, Some("02".repeat(32)));
        assert_eq!(offer.start.chain, Some("03".repeat(32)));
    }

    #[test]
    fn a_stream_id_is_stable_and_always_fits() {
        let id = ItemId::new(WallMs(5), [1; 10]);
        assert_eq!(stream_id(id, "a@b"), format!("{id}:a@b"));
        assert_eq!(stream_id(id, &"x".repeat(228)).len(), 255);
        assert_eq!(stream_id(id, &"x".repeat(229)), id.to_string());
    }

    #[test]
    fn statements_that_would_fill_a_frame_are_left_out() {
        let signed = |bytes| {
            let (key_id, signature_base64) = (String::new(), String::new());
            Some(Signed { key_id, payload_base64: "A".repeat(bytes), signature_base64, batch_path: None })
        };
        let left = |attestation, receipt| {
            let (auth_attestation, receipt) = (signed(attestation), signed(receipt));
            let mut start = StartBody { auth_attestation, receipt, ..StartBody::default() };
            leave_out(&mut start);
            (start.auth_attestation.is_some(), start.receipt.is_some())
        };
        assert_eq!(left(2_000, 900), (true, true));
        assert_eq!(left(SIGNED_BYTES_MAX - 900, 900), (true, true));
        assert_eq!(left(SIGNED_BYTES_MAX - 899, 900), (false, true));
        assert_eq!(left(900, SIGNED_BYTES_MAX + 1), (true, false));
    }

    #[test]
    fn unreadable_metadata_is_no_offer() {
        assert!(one(info(b"c@d", vec![99]), Dialect::One).is_err());
    }
}
