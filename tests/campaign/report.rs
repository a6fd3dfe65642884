//! One row for each campaign, for people and as JSON.

use serde::Serialize;

/// How one campaign went.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) campaign: String,
    pub(crate) seed: u64,
    /// Build of the binary under test: `release`, or `dev` with named crash points.
    pub(crate) build: &'static str,
    pub(crate) rounds: u64,
    /// How often each fault was felt.
    pub(crate) faults: std::collections::BTreeMap<String, u64>,
    pub(crate) answered: u64,
    pub(crate) arrived: u64,
    /// Times that a message was sent whole and no answer came.
    pub(crate) unanswered: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    /// Not there, and reported as damaged: rot only.
    pub(crate) quarantined: u64,
    pub(crate) corrupt: u64,
    pub(crate) double: u64,
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) indeterminate: u64,
    pub(crate) disagreeing: u64,
    pub(crate) seconds: f64,
    /// Empty when all is well.
    pub(crate) violations: Vec<String>,
}

/// Columns of the table.
pub(crate) const HEAD: &str = "| campaign | seed | rounds | faults felt | answered 250 | arrived | lost | quarantined | corrupt | double \
     | sent / failed / indeterminate | disagreeing | time |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|";

impl Row {
    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let felt: u64 = self.faults.values().sum();
        format!(
            "| {} | {} | {} | {felt} | {} | {} | {} | {} | {} | {} | {} / {} / {} | {} | {:.0} s |",
            self.campaign,
            self.seed,
            self.rounds,
            self.answered,
            self.arrived,
            self.lost,
            self.quarantined,
            self.corrupt,
            self.double,
            self.sent,
            self.failed,
            self.indeterminate,
            self.disagreeing,
            self.seconds
        )
    }
}
