//! PURE: values of the spool as JSON objects with the documented names, and times and sizes as text.

pub mod outgoing;

use serde_json::{Value, json};
use spool::ids::WallMs;
use spool::types::{ItemInfo, Mailbox, STATES, SpoolStats, State, Transition};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::mail::envelope::Envelope;
use crate::mail::verdict::Verdicts;

/// RFC 3339 with milliseconds, UTC: `2026-01-02T03:04:05.678Z`.
#[must_use]
pub fn rfc3339(at: WallMs) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&format).ok())
        .unwrap_or_else(|| format!("{} ms after 1970", at.0))
}

/// A span in words: `3 days 4 hours`, the two largest units.
#[must_use]
pub fn age(ms: u64) -> String {
    let s = ms / 1000;
    let parts = [(s / 86_400, "day"), (s / 3600 % 24, "hour"), (s / 60 % 60, "minute"), (s % 60, "second")];
    let Some(first) = parts.iter().position(|(n, _)| *n > 0) else { return "less than a second".to_owned() };
    let shown = parts[first..].iter().take(2).filter(|(n, _)| *n > 0);
    shown.map(|(n, unit)| format!("{n} {unit}{}", plural(*n))).collect::<Vec<_>>().join(" ")
}

/// A size in words: `12 bytes`, `3 KiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} byte{}", plural(bytes)),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

/// How timelines mark what an operator did.
const BY_OPERATOR: &str = "by an operator";

/// The reason of a step that an operator made.
#[must_use]
pub fn by_operator(reason: &str) -> String {
    if reason.is_empty() { BY_OPERATOR.to_owned() } else { format!("{BY_OPERATOR}: {reason}") }
}

/// The operator's own words in such a reason, which may be none; `None` when somebody else made the step.
#[must_use]
pub fn operators(reason: &str) -> Option<&str> {
    let rest = reason.strip_prefix(BY_OPERATOR)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix(": ") }
}

fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// The word of the item's state; `leased` while it is lent.
#[must_use]
pub fn state(item: &ItemInfo) -> &'static str {
    if item.leased && item.state == State::Ready { "leased" } else { item.state.word() }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// One item as `spool ls` shows it.
#[must_use]
pub fn item(item: &ItemInfo, now: WallMs) -> Value {
    // Metadata of a newer version or damaged: the rest of the item is still worth showing.
    let mail_from = Envelope::decode(&item.meta).ok().map(|e| e.mail_from().to_owned());
    json!({
        "id": item.id.to_string(),
        "direction": if item.outbound.is_some() { "out" } else { "in" },
        "lane": item.lane_name,
        "seq": item.seq.0,
        "state": state(item),
        "size_bytes": item.size_bytes,
        // All zeros stand for a record that cannot be read.
        "sha256": (item.sha256 != [0; 32]).then(|| hex(&item.sha256)),
        "mail_from": mail_from,
        "rcpt_to": String::from_utf8_lossy(&item.tag),
        "accepted_at": rfc3339(item.accepted_at),
        "age_seconds": now.since(item.accepted_at) / 1000,
    })
}

/// Adds what `spool show` prints besides.
pub fn details(object: &mut Value, item: &ItemInfo, timeline: &[Transition]) {
    let steps = timeline
        .iter()
        .map(|t| json!({ "at": rfc3339(WallMs(t.at_ms)), "state": t.state, "reason": t.reason }));
    object["changed_at"] = rfc3339(item.changed_at).into();
    object["chain"] = hex(&item.chain).into();
    object["trace"] = String::from_utf8_lossy(&item.head).into();
    object["timeline"] = if item.outbound.is_some() { outgoing::timeline(timeline) } else { steps.collect() };
    match Envelope::decode(&item.meta) {
        Ok(Envelope::Inbound(meta)) => {
            object["client_ip"] = meta.client_ip.into();
            object["helo"] = meta.helo.into();
            object["protocol"] = meta.protocol.into();
            object["smtputf8"] = meta.smtputf8.into();
            object["transaction"] = meta.transaction.into();
            object["verdicts"] = verdicts(&meta.verdicts);
        }
        Ok(Envelope::Outbound(meta)) => {
            object["stream"] = meta.stream.into();
            object["message_id"] = meta.message_id.into();
            object["subject"] = meta.subject.into();
            object["smtputf8"] = meta.smtputf8.into();
        }
        Err(_) => {}
    }
}

/// What was found out about the sender; `null` when nobody asked.
fn verdicts(found: &Verdicts) -> Value {
    if *found == Verdicts::default() {
        return Value::Null;
    }
    let words: serde_json::Map<String, Value> =
        found.words().map(|(method, word)| (method.to_owned(), word.as_str().into())).collect();
    let mut object = Value::Object(words);
    object["spf_domain"] = found.spf.domain.as_str().into();
    object["from_domain"] = found.dmarc.domain.as_str().into();
    object["policy"] = found.dmarc.policy.as_str().into();
    object
}

/// One mailbox.
#[must_use]
pub fn mailbox(mailbox: &Mailbox, now: WallMs) -> Value {
    let stats = &mailbox.stats;
    json!({
        "lane": mailbox.name,
        "aliases": mailbox.aliases,
        "created_at": rfc3339(mailbox.created_at),
        "revoked": mailbox.revoked,
        "quota_items": mailbox.quota_items,
        "quota_bytes": mailbox.quota_bytes,
        "submissions_per_hour": mailbox.submissions_per_hour,
        "recipients_per_day": mailbox.recipients_per_day,
        "items": by_state(&stats.items),
        "bytes": by_state(&stats.bytes),
        "next_seq": stats.next_seq.0,
        "cursor": stats.cursor.0,
        "oldest_ready_at": stats.oldest_ready.map(rfc3339),
        "oldest_ready_seconds": stats.oldest_ready.map(|t| now.since(t) / 1000),
    })
}

/// The spool in numbers; `lanes` are those with something waiting.
#[must_use]
pub fn stats(stats: &SpoolStats, lanes: &[Value], now: WallMs) -> Value {
    let used: u64 = stats.segments.iter().map(|s| s.used_bytes).sum();
    let live: u64 = stats.segments.iter().map(|s| s.live_bytes).sum();
    let segments = stats.segments.iter().map(|s| {
        json!({ "number": s.number, "used_bytes": s.used_bytes, "live_bytes": s.live_bytes,
                "active": s.active })
    });
    json!({
        "items": by_state(&stats.items),
        "bytes": by_state(&stats.bytes),
        "submissions": by_state(&stats.submissions),
        "leased": stats.leased,
        "oldest_ready_at": stats.oldest_ready.map(rfc3339),
        "oldest_ready_seconds": stats.oldest_ready.map(|t| now.since(t) / 1000),
        "mailboxes": stats.lanes,
        "lanes": lanes,
        "journal_bytes": used,
        "live_bytes": live,
        "reclaimable_bytes": used.saturating_sub(live),
        "index_bytes": stats.index_bytes,
        "free_bytes": stats.free_bytes,
        "tail_entries": stats.tail_entries,
        "quarantined_records": stats.quarantined_records,
        "segments": segments.collect::<Vec<_>>(),
    })
}

/// Counters under the words of their states.
#[must_use]
pub fn by_state(counts: &[u64; STATES]) -> Value {
    State::ALL.iter().zip(counts).map(|(state, n)| (state.word().to_owned(), Value::from(*n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_spans_and_sizes_read_well() {
        assert_eq!(rfc3339(WallMs(1_767_323_045_678)), "2026-01-02T03:04:05.678Z");
        assert_eq!(rfc3339(WallMs(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(age(500), "less than a second");
        assert_eq!(age(61_000), "1 minute 1 second");
        assert_eq!(age(86_400_000), "1 day");
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(20_480), "20 KiB");
        assert!(rfc3339(WallMs(u64::MAX)).contains("after 1970"));
    }

    #[test]
    fn an_operators_words_are_told_from_other_reasons() {
        for words in ["", "asked by the owner", "by an operator"] {
            assert_eq!(operators(&by_operator(words)), Some(words));
        }
        assert_eq!(operators("by an operatorish"), None);
        assert_eq!(operators("refused 5 times by the gateway"), None);
    }

    #[test]
    fn states_are_counted_under_their_words() {
        let counts = by_state(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!((counts["ready"].as_u64(), counts["held"].as_u64()), (Some(1), Some(4)));
    }
}
