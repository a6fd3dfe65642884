//! The sentences of an audit.

use spool::ids::WallMs;

use super::{Report, What};
use crate::mail::custody::Kind;
use crate::mail::signed::time_text;

/// An instant for a person.
pub(super) fn time(at: WallMs) -> String {
    time_text(at)
}

/// `item 06g… (position 7)`.
pub(super) fn thing(kind: Kind, seq: u64, id: &str) -> String {
    let printable: String = id.chars().filter(char::is_ascii_graphic).take(64).collect();
    match seq {
        0 => format!("{} {printable}", kind.as_str()),
        seq => format!("{} {printable} (position {seq})", kind.as_str()),
    }
}

/// Positions that never came.
pub(super) fn gap(kind: Kind, from: u64, to: u64, before: Option<String>, after: String) -> String {
    let which = if from == to { format!("Position {from}") } else { format!("Positions {from} to {to}") };
    let (verb, them) = if from == to { ("has", "it") } else { ("have", "them") };
    let between = match before {
        Some(before) => format!("between {before} and {after}"),
        None => format!("before {after}"),
    };
    match kind {
        Kind::Item => format!(
            "{which} {verb} no receipt here, {between}: the relay accepted mail for {them} and never handed it over. It may \
             still wait or be held there, have expired, have gone to another gateway with this key, or have been purged by its operator: `waystation spool ls` and the \
             relay's log tell which. If none of that is so, mail was lost or withheld."
        ),
        Kind::Submission => format!(
            "{which} of mail out {verb} no receipt here, {between}: the relay took something in the name of this key that \
             this gateway knows nothing of, or its answer was lost on the way."
        ),
    }
}

impl Report {
    /// One line when everything adds up, else the first thing that does not.
    #[must_use]
    pub fn to_text(&self) -> String {
        let more = match self.findings.len() {
            0 | 1 => String::new(),
            n => format!("\n{} more; --json lists them.", n - 1),
        };
        match self.findings.first() {
            Some(first) => format!("{}{more}\n", first.text),
            None => format!("{}\n", self.good()),
        }
    }

    fn good(&self) -> String {
        let positions =
            self.positions.map(|(from, to)| format!(" (positions {from} to {to})")).unwrap_or_default();
        if self.items + self.submissions == 0 {
            return format!(
                "nothing to audit: there is no receipt to check; {} items delivered as verified, {} not",
                self.verified, self.unverified
            );
        }
        format!(
            "ok: {} receipts of items{positions} and {} of submissions, all signed by trusted keys, no gap, chain unbroken; \
             {} items delivered as verified, {} not; {} files compared",
            self.items, self.submissions, self.verified, self.unverified, self.files
        )
    }

    /// A delivered file that is not what came.
    pub fn changed_file(&mut self, file: &str, seq: u64, id: &str, problem: &str) {
        let name = thing(Kind::Item, seq, id);
        let text = format!(
            "The file {file} of {name} is not what was delivered ({problem}): a program or a person changed it, or the \
             medium did."
        );
        self.find(What::ChangedFile, Kind::Item.as_str(), seq, id, text);
    }

    /// A delivered file of which no receipt is kept.
    pub fn file_without_receipt(&mut self, file: &str, seq: u64, id: &str) {
        let name = thing(Kind::Item, seq, id);
        if self.findings.iter().any(|finding| finding.what == What::NoReceipt && finding.seq == seq) {
            return;
        }
        let text = format!(
            "The file {file} of {name} was delivered, and nothing is kept of its receipt: a line was taken out of the \
             receipts, or the file is not the gateway's."
        );
        self.find(What::NoReceipt, Kind::Item.as_str(), seq, id, text);
    }
}
