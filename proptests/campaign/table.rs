//! The table at the end, and the same as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::rounds::Tally;

/// One campaign.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) campaign: &'static str,
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    pub(crate) tally: Tally,
    pub(crate) violations: u64,
    pub(crate) took: Duration,
    /// Whether the control was caught; `None`: it was not played.
    pub(crate) control: Option<bool>,
}

impl Row {
    /// Nothing was broken, and something would have been seen.
    pub(crate) fn good(&self) -> bool {
        self.violations == 0 && self.control != Some(false)
    }

    fn control(&self) -> &'static str {
        match self.control {
            Some(true) => "caught",
            Some(false) => "NOT CAUGHT",
            None => "-",
        }
    }
}

const HEADS: [&str; 15] = [
    "campaign",
    "seed",
    "rounds",
    "operations",
    "cuts",
    "images",
    "per s",
    "committed",
    "harmless",
    "found",
    "lost",
    "corrupt",
    "double",
    "violations",
    "time",
];

/// For people.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut lines = vec![HEADS.map(str::to_owned).to_vec()];
    for row in rows {
        let Tally { operations, cuts, images, committed, harmless, found, harm } = row.tally;
        let rate = images as f64 / row.took.as_secs_f64().max(0.001);
        let numbers =
            [row.seed, row.rounds, operations, cuts, images, rate as u64, committed, harmless, found];
        let harm = [harm.lost, harm.corrupt, harm.double, row.violations];
        let mut line = vec![row.campaign.to_owned()];
        line.extend(numbers.iter().chain(&harm).map(u64::to_string));
        line.push(format!("{:.1} s", row.took.as_secs_f64()));
        lines.push(line);
    }
    let mut out = String::from("\n");
    for (n, line) in lines.iter().enumerate() {
        for (column, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
            let _ = if column == 0 { write!(out, "{cell:width$}") } else { write!(out, "  {cell:>width$}") };
        }
        let control = n.checked_sub(1).and_then(|n| rows.get(n)).map_or("control", Row::control);
        let _ = writeln!(out, "  {control}");
    }
    out
}

/// For programs.
pub(crate) fn json(rows: &[Row]) -> String {
    let row = |row: &Row| {
        json!({
            "campaign": row.campaign,
            "seed": row.seed,
            "rounds": row.rounds,
            "operations": row.tally.operations,
            "cuts": row.tally.cuts,
            "images": row.tally.images,
            "committed": row.tally.committed,
            "harmless": row.tally.harmless,
            "found": row.tally.found,
            "lost": row.tally.harm.lost,
            "corrupt": row.tally.harm.corrupt,
            "double": row.tally.harm.double,
            "violations": row.violations,
            "seconds": row.took.as_secs_f64(),
            "control": row.control(),
        })
    };
    format!("{:#}\n", serde_json::Value::Array(rows.iter().map(row).collect()))
}
