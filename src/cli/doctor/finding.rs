//! What one check found, and how a list of findings is printed.

use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::super::report::{Level, Sheet};
use super::super::{Exit, Global, screen};

/// Columns for the name of a check; longer names push the rest to the right.
const NAME_COLUMNS: usize = 15;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: String,
    /// How bad it is.
    pub(crate) level: Level,
    /// What was found, in a few words.
    pub(crate) found: String,
    /// What to do; empty when all is well.
    pub(crate) advice: String,
}

impl Finding {
    /// All is well.
    pub(crate) fn good(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), level: Level::Good, found: found.into(), advice: String::new() }
    }

    /// Not looked at, and why.
    pub(crate) fn open(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level: Level::Open, ..Self::good(check, found) }
    }

    /// Somebody should look.
    pub(crate) fn warn(
        check: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warn, advice: advice.into(), ..Self::good(check, found) }
    }

    /// Something does not work.
    pub(crate) fn bad(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Bad, advice: advice.into(), ..Self::good(check, found) }
    }
}

/// Prints all of them; the worst decides how the command ends.
pub(crate) fn print(global: &Global, findings: &[Finding]) -> anyhow::Result<Exit> {
    if global.json {
        for finding in findings {
            screen::line(&json!({
                "check": finding.check,
                "level": finding.level.word(),
                "finding": finding.found,
                "advice": finding.advice,
            }))?;
        }
    } else {
        let paint = screen::Paint::new(global.color.on_stdout());
        screen::print(&text(findings, Sheet::new(paint)))?;
    }
    let wrong = findings.iter().any(|finding| finding.level == Level::Bad);
    Ok(if wrong { Exit::Failed } else { Exit::Done })
}

fn text(findings: &[Finding], sheet: Sheet) -> String {
    let mut text = String::new();
    let margin = sheet.margin() + NAME_COLUMNS + 1;
    for finding in findings {
        let name = format!("{:<NAME_COLUMNS$}", finding.check);
        let column = sheet.margin() + name.chars().count() + 1;
        let found = sheet.wrap(&finding.found, column, margin);
        text.push_str(&format!("{} {name} {found}\n", sheet.mark(finding.level)));
        if !finding.advice.is_empty() {
            let blanks = " ".repeat(margin);
            text.push_str(&format!("{blanks}{}\n", sheet.wrap(&finding.advice, margin, margin)));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (bad, warn) = (count(Level::Bad), count(Level::Warn));
    let summary = match (bad, warn) {
        (0, 0) => "all is well".to_owned(),
        (0, warn) => format!("nothing is wrong; {warn} to look at"),
        (bad, 0) => format!("{bad} wrong"),
        (bad, warn) => format!("{bad} wrong, {warn} to look at"),
    };
    text.push_str(&format!("\n{summary}\n"));
    text
}

/// A place, and what the checks there found.
type Note = (usize, Vec<Finding>);

/// Findings of checks that run beside one another, in the order of their places.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Vec<Note>>);

impl Board {
    /// Adds what the checks of a place found.
    pub(crate) fn add(&self, place: usize, findings: Vec<Finding>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((place, findings));
    }

    /// Everything, place by place.
    pub(crate) fn all(self) -> Vec<Finding> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().flat_map(|(_, findings)| findings).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_what_was_found() {
        let findings =
            [Finding::good("clock", "in step"), Finding::warn("disk sync", "p50 9 us", "the disk may lie")];
        let text = text(&findings, Sheet::new(screen::Paint::new(false)));
        assert_eq!(
            text,
            "ok    clock           in step\nwarn  disk sync       p50 9 us\n                      the disk may lie\n\nnothing is wrong; 1 to look at\n"
        );
    }

    #[test]
    fn findings_keep_their_places_whoever_is_first() {
        let board = Board::default();
        board.add(2, vec![Finding::good("b", "")]);
        board.add(1, vec![Finding::good("a", ""), Finding::good("a2", "")]);
        let names: Vec<_> = board.all().into_iter().map(|finding| finding.check).collect();
        assert_eq!(names, ["a", "a2", "b"]);
    }
}
