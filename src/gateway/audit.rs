//! `gateway audit`: do the receipts of the relay add up, and is what was delivered still what they are about?
//!
//! Pure: the archive, the keys and what the memory knows come in, findings go out, in the order of the lane. Every
//! signature is verified anew with the keys of today, and the chain is computed anew wherever both neighbours are known.
//!
//! A finding is no verdict on the relay. A gap may be mail that waits, is held, has expired or was purged by the relay's
//! operator; the sentence says so, and where to look. Swaps and broken chains have no such explanation.

mod words;

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use serde::Serialize;
use spool::accept::chain_step;
use spool::ids::WallMs;

use crate::gateway::receipts::{Archive, Entry, Fate, Line, Mark};
use crate::mail::custody::{self, Kind, Receipt};
use crate::mail::relay_keys::TrustedKeys;
use crate::mail::signed::Reason;
use words::{gap, thing};

/// How far two clocks may differ before times make no sense.
const SKEW_MS: u64 = 10 * 60 * 1000;
/// Most findings that are gathered.
const FINDINGS_MAX: usize = 1000;

/// What does not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// No key is pinned.
    NoKey,
    /// A line of the archive cannot be read.
    DamagedLine,
    /// A receipt is not signed by a trusted key.
    UnknownKey,
    /// A receipt was changed after it was signed, or is none.
    BadReceipt,
    /// A receipt stands beside something that it is not about.
    Misplaced,
    /// Something was delivered, and has no receipt here.
    NoReceipt,
    /// Positions that never came.
    Gap,
    /// A receipt is for other bytes than those that came, or were handed over.
    OtherBytes,
    /// Two things in one place.
    Swap,
    /// The chain does not go on.
    ChainBreak,
    /// Times that cannot be.
    Clock,
    /// A delivered file is not what was received.
    ChangedFile,
}

/// One thing that does not add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// `item` or `submission`.
    pub kind: &'static str,
    /// Position in the lane, or the first of several; 0 when there is none.
    pub seq: u64,
    /// The relay's name for it; may be empty.
    pub id: String,
    /// A sentence for a person.
    pub text: String,
}

/// What an audit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Different receipts of items that are true.
    pub items: u64,
    /// Different receipts of submissions that are true.
    pub submissions: u64,
    /// First and last position of the items.
    pub positions: Option<(u64, u64)>,
    /// Items that were delivered as verified.
    pub verified: u64,
    /// Items that were delivered as not verified.
    pub unverified: u64,
    /// Delivered files that were compared.
    pub files: u64,
    /// What does not add up, in the order of the lane.
    pub findings: Vec<Finding>,
}

/// What an audit looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The receipts.
    pub archive: &'a Archive,
    /// The keys that are trusted today.
    pub keys: &'a TrustedKeys,
    /// The gateway's key text.
    pub lane: &'a str,
    /// Positions that the memory of delivered items knows.
    pub delivered: &'a BTreeSet<u64>,
}

/// A true receipt, and where it was found.
#[derive(Clone, Copy)]
struct Known<'a> {
    receipt: &'a Receipt,
    entry: &'a Entry,
}

/// Looks at all of it.
#[must_use]
pub fn audit(evidence: &Evidence<'_>) -> Report {
    let mut report = Report::default();
    let archive = evidence.archive;
    for (path, line) in &archive.damaged {
        let text = format!(
            "Line {line} of {} cannot be read: the medium damaged it, or somebody changed it.",
            path.display()
        );
        report.find(What::DamagedLine, "item", 0, "", text);
    }
    let entries = archive.lines.iter().filter_map(|line| match line {
        Line::Entry(entry) => Some(entry),
        Line::Begin { .. } => None,
    });
    let entries: Vec<&Entry> = entries.collect();
    if evidence.keys.is_empty() && entries.iter().any(|entry| entry.receipt.is_some()) {
        let text =
            "No key of the relay is pinned, so no receipt can be verified: put its [[relay_keys]] into the \
                    configuration (`waystation keys attestation --show` on the relay prints them)."
                .to_owned();
        report.find(What::NoKey, "item", 0, "", text);
        return report;
    }
    let receipts: Vec<_> = entries
        .iter()
        .map(|entry| entry.receipt.as_ref().map(|signed| custody::verify(signed, evidence.keys)))
        .collect();
    for kind in [Kind::Item, Kind::Submission] {
        let mut of_kind = Vec::new();
        for (entry, receipt) in entries.iter().zip(&receipts) {
            if (entry.fate == Fate::Submitted) == (kind == Kind::Submission) {
                of_kind.push((*entry, receipt.as_ref()));
            }
        }
        lane(&mut report, evidence, kind, &of_kind);
    }
    report
}

/// One lane: its receipts one by one, then in their order.
fn lane(
    report: &mut Report,
    evidence: &Evidence<'_>,
    kind: Kind,
    entries: &[(&Entry, Option<&Result<Receipt, Reason>>)],
) {
    let mut known: BTreeMap<u64, Known<'_>> = BTreeMap::new();
    let mut found = Report::default();
    // By the time of arrival here: a position is whatever the relay says it is.
    let receipted = || entries.iter().filter(|(_, receipt)| receipt.is_some()).map(|(entry, _)| *entry);
    let receipted_from = receipted().map(|entry| entry.at_ms).min();
    let receipted_ids: BTreeSet<&str> = receipted().map(|entry| entry.id.as_str()).collect();
    let mut seen = BTreeSet::new();
    for (entry, receipt) in entries {
        if kind == Kind::Item && entry.fate == Fate::Stored {
            let count = if entry.verdict == "ok" { &mut report.verified } else { &mut report.unverified };
            *count += 1;
        }
        seen.insert(entry.seq);
        match receipt {
            None if receipted_from.is_some_and(|from| entry.at_ms >= from)
                && !receipted_ids.contains(entry.id.as_str()) =>
            {
                let text = format!(
                    "{} came without a receipt, although the relay gave receipts before it: nothing proves what it was.",
                    thing(kind, entry.seq, &entry.id)
                );
                found.find(What::NoReceipt, kind.as_str(), entry.seq, &entry.id, text);
            }
            None => {}
            Some(Err(reason)) => found.unreadable(kind, entry, *reason),
            Some(Ok(receipt)) => {
                let beside = Known { receipt, entry };
                if found.is_misplaced(evidence, kind, beside) {
                    continue;
                }
                seen.insert(receipt.seq.0);
                found.clock(beside);
                found.other_bytes(beside);
                match known.get(&receipt.seq.0) {
                    Some(before) if !same(before.receipt, receipt) => found.swap(*before, beside),
                    Some(_) => {}
                    None => {
                        known.insert(receipt.seq.0, beside);
                    }
                }
            }
        }
    }
    let (start, mark) = start(evidence, kind);
    found.neighbours(kind, start, &mark, &known, &seen, evidence.delivered);
    if kind == Kind::Item {
        report.items = known.len() as u64;
        report.positions = known.first_key_value().zip(known.last_key_value()).map(|(a, b)| (*a.0, *b.0));
        found.tail(evidence.delivered, start, &seen);
    } else {
        report.submissions = known.len() as u64;
    }
    found.findings.sort_by_key(|finding| finding.seq);
    let room = FINDINGS_MAX.saturating_sub(report.findings.len());
    report.findings.extend(found.findings.into_iter().take(room));
}

/// The position behind which receipts begin, and the chain value there.
fn start(evidence: &Evidence<'_>, kind: Kind) -> (u64, Mark) {
    let mark = evidence.archive.checkpoint.as_ref().map(|checkpoint| match kind {
        Kind::Item => checkpoint.items.clone(),
        Kind::Submission => checkpoint.submissions.clone(),
    });
    let begin = evidence.archive.lines.iter().find_map(|line| match line {
        Line::Begin { seq, .. } if kind == Kind::Item => Some(*seq),
        Line::Begin { .. } | Line::Entry(_) => None,
    });
    let mark = mark.unwrap_or_default();
    (mark.seq.max(begin.unwrap_or(0)), mark)
}

fn same(one: &Receipt, other: &Receipt) -> bool {
    (one.id, one.sha256, one.size, one.chain) == (other.id, other.sha256, other.size, other.chain)
}

impl Report {
    /// Adds a finding, as long as there is room.
    pub fn find(&mut self, what: What, kind: &'static str, seq: u64, id: &str, text: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { what, kind, seq, id: id.to_owned(), text });
        }
    }

    fn unreadable(&mut self, kind: Kind, entry: &Entry, reason: Reason) {
        let name = thing(kind, entry.seq, &entry.id);
        let (what, text) = if reason == Reason::MissingTrustedKey {
            let key = entry.receipt.as_ref().map_or("", |signed| signed.key_id.as_str());
            let text = format!(
                "The receipt of {name} is signed by the key {key:?}, which is not trusted: the relay's keys were replaced \
                 without an endorsement, or the receipt is not the relay's."
            );
            (What::UnknownKey, text)
        } else {
            let text = format!(
                "The receipt of {name} does not verify ({reason}): it was changed here after it was signed, or the relay \
                 never signed it."
            );
            (What::BadReceipt, text)
        };
        self.find(what, kind.as_str(), entry.seq, &entry.id, text);
    }

    /// A receipt for something else than what it came with.
    fn is_misplaced(&mut self, evidence: &Evidence<'_>, kind: Kind, known: Known<'_>) -> bool {
        let Known { receipt, entry } = known;
        let at_its_place = match kind {
            Kind::Item => receipt.seq.0 == entry.seq,
            Kind::Submission => {
                let stream = entry.seen.as_ref().and_then(|seen| seen.stream.as_deref());
                stream.is_none_or(|stream| receipt.stream_id.as_deref() == Some(stream))
            }
        };
        let right = receipt.kind == kind
            && receipt.lane == evidence.lane
            && receipt.id.to_string() == entry.id
            && at_its_place;
        if !right {
            let text = format!(
                "The receipt beside {} is one for {} of lane {}: the relay gave the wrong one, or somebody moved it.",
                thing(kind, entry.seq, &entry.id),
                thing(receipt.kind, receipt.seq.0, &receipt.id.to_string()),
                receipt.lane,
            );
            self.find(What::Misplaced, kind.as_str(), entry.seq, &entry.id, text);
        }
        !right
    }

    /// A receipt for another content than the one seen here. A relay that refuses a submission keeps nothing of its body
    /// and says so: its receipt is for no bytes.
    fn other_bytes(&mut self, Known { receipt, entry }: Known<'_>) {
        let Some(seen) = &entry.seen else { return };
        let refused = receipt.kind == Kind::Submission && receipt.size == 0;
        let body = seen.body.as_ref().is_none_or(|body| {
            refused || (body.size == receipt.size && body.sha256 == HEXLOWER.encode(&receipt.sha256))
        });
        let head =
            seen.head_sha256.as_ref().is_none_or(|head| *head == HEXLOWER.encode(&receipt.head_sha256));
        if !body || !head {
            let what = match receipt.kind {
                Kind::Item => {
                    "came with it: the relay, or somebody between it and this gateway, changed the message"
                }
                Kind::Submission => {
                    "were handed over: the relay took another message than the one it was given"
                }
            };
            let text = format!(
                "The receipt of {}, accepted {}, is for other bytes than those that {what}.",
                thing(receipt.kind, receipt.seq.0, &entry.id),
                words::time(receipt.at)
            );
            self.find(What::OtherBytes, receipt.kind.as_str(), receipt.seq.0, &entry.id, text);
        }
    }

    fn clock(&mut self, Known { receipt, entry }: Known<'_>) {
        if receipt.at > WallMs(entry.at_ms).plus(SKEW_MS) {
            let text = format!(
                "{} was received here at {} and accepted by the relay at {}, which is later: one of the two clocks is wrong, \
                 or a time was made up.",
                thing(receipt.kind, receipt.seq.0, &entry.id),
                words::time(WallMs(entry.at_ms)),
                words::time(receipt.at)
            );
            self.find(What::Clock, receipt.kind.as_str(), receipt.seq.0, &entry.id, text);
        }
    }

    fn swap(&mut self, one: Known<'_>, other: Known<'_>) {
        let seq = one.receipt.seq.0;
        let tell = |known: Known<'_>| {
            format!(
                "{} (SHA-256 {}, accepted {})",
                known.entry.id,
                HEXLOWER.encode(&known.receipt.sha256),
                words::time(known.receipt.at)
            )
        };
        let text = format!(
            "The relay signed two different things for position {seq}: {} and {}. One was put into the place of the other, or \
             the relay went on from an older copy of its data.",
            tell(one),
            tell(other)
        );
        self.find(What::Swap, one.receipt.kind.as_str(), seq, &other.entry.id, text);
    }

    /// Goes through the positions in order: gaps, chain, times.
    fn neighbours(
        &mut self,
        kind: Kind,
        start: u64,
        mark: &Mark,
        known: &BTreeMap<u64, Known<'_>>,
        seen: &BTreeSet<u64>,
        delivered: &BTreeSet<u64>,
    ) {
        // A lane begins with a chain value of zeros; a checkpoint says what it was at its end.
        let mut chain = match HEXLOWER.decode(mark.chain.as_bytes()).ok().and_then(|raw| raw.try_into().ok())
        {
            Some(chain) if mark.seq == start => Some(chain),
            Some(_) | None if start == 0 => Some([0; 32]),
            Some(_) | None => None,
        };
        let mut before: Option<Known<'_>> = None;
        let mut last = start;
        for (&seq, &now) in known.range(start.saturating_add(1)..) {
            if seq.saturating_sub(last) > 1 {
                self.missing(kind, last, before, (seq, now), seen, delivered);
                chain = None;
            }
            let receipt = now.receipt;
            if let Some(chain) = chain
                && chain_step(&chain, receipt.seq, receipt.id, &receipt.head_sha256, &receipt.sha256)
                    != receipt.chain
            {
                let after = match before {
                    Some(before) => thing(kind, last, &before.entry.id),
                    None => format!("position {last}"),
                };
                let text = format!(
                    "{}, accepted {}, does not follow from {after}: its chain value is another than the one computed, so the \
                     relay's history of this lane was changed before position {seq}.",
                    thing(kind, seq, &now.entry.id),
                    words::time(receipt.at)
                );
                self.find(What::ChainBreak, kind.as_str(), seq, &now.entry.id, text);
            }
            if let Some(before) = before.filter(|before| before.receipt.at > receipt.at.plus(SKEW_MS)) {
                let text = format!(
                    "{} was accepted at {}, before {}, which stands in front of it and was accepted at {}: the relay's clock \
                     was set back, or a time was made up.",
                    thing(kind, seq, &now.entry.id),
                    words::time(receipt.at),
                    thing(kind, last, &before.entry.id),
                    words::time(before.receipt.at)
                );
                self.find(What::Clock, kind.as_str(), seq, &now.entry.id, text);
            }
            (chain, before, last) = (Some(receipt.chain), Some(now), seq);
        }
    }

    /// The positions between two known ones: delivered without a receipt, or never come.
    fn missing(
        &mut self,
        kind: Kind,
        last: u64,
        before: Option<Known<'_>>,
        (seq, after): (u64, Known<'_>),
        seen: &BTreeSet<u64>,
        delivered: &BTreeSet<u64>,
    ) {
        let ours = kind == Kind::Item;
        // Gaps can be as long as a relay likes; only what is known here is gone through one by one.
        let lost: Vec<u64> =
            delivered.range(last + 1..seq).filter(|n| ours && !seen.contains(n)).copied().collect();
        for n in &lost {
            self.lost(*n);
        }
        let known: BTreeSet<u64> = lost.into_iter().chain(seen.range(last + 1..seq).copied()).collect();
        let mut from = last + 1;
        for end in known.into_iter().chain([seq]) {
            if end > from {
                let edge = |known: Known<'_>| {
                    let Known { receipt, entry } = known;
                    format!(
                        "{} (accepted {})",
                        thing(kind, receipt.seq.0, &entry.id),
                        words::time(receipt.at)
                    )
                };
                let text = gap(kind, from, end - 1, before.map(edge), edge(after));
                self.find(What::Gap, kind.as_str(), from, "", text);
            }
            from = end.saturating_add(1);
        }
    }

    /// Delivered items behind the last receipt.
    fn tail(&mut self, delivered: &BTreeSet<u64>, start: u64, seen: &BTreeSet<u64>) {
        let last = seen.last().copied().unwrap_or(start).max(start);
        for n in delivered.range(last.saturating_add(1)..).filter(|n| !seen.contains(n)) {
            self.lost(*n);
        }
    }

    fn lost(&mut self, seq: u64) {
        let text = format!(
            "Position {seq} was delivered here, and nothing is kept of its receipt: a line was taken out of the receipts, or \
             lost with the medium."
        );
        self.find(What::NoReceipt, "item", seq, "", text);
    }
}

/// What the delivered file of an item must end with: bytes and SHA-256, hex. `None` when nothing is known of it.
#[must_use]
pub fn expected(entry: &Entry, keys: &TrustedKeys) -> Option<(u64, String)> {
    let seen = entry.seen.as_ref().and_then(|seen| seen.body.as_ref());
    if let Some(kept) = entry.kept.as_ref().or(seen) {
        return Some((kept.size, kept.sha256.clone()));
    }
    let receipt = custody::verify(entry.receipt.as_ref()?, keys).ok()?;
    Some((receipt.size, HEXLOWER.encode(&receipt.sha256)))
}

#[cfg(test)]
mod tests;
