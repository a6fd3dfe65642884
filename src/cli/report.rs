//! What a person sees of checks: a mark, what was looked at, what was found, and what to do about it.
//!
//! Marks are signs on a terminal and words elsewhere; sentences are broken at the width of the terminal, values that
//! somebody will copy are not.

use std::io::IsTerminal as _;

use super::screen::{self, Paint};

/// Columns when nobody says how many there are.
const WIDTH: usize = 80;
/// Widest line that is still read with pleasure, columns.
const WIDTH_MAX: usize = 100;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing to do.
    Good,
    /// Not looked at, or nobody knows.
    Open,
    /// Somebody should look.
    Warn,
    /// Something does not work.
    Bad,
}

impl Level {
    /// As in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Open => "skipped",
            Self::Warn => "warn",
            Self::Bad => "wrong",
        }
    }
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sheet {
    paint: Paint,
    signs: bool,
    width: usize,
}

impl Sheet {
    /// For standard output.
    pub(crate) fn new(paint: Paint) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let known = terminal.then(|| ratatui::crossterm::terminal::size().ok()).flatten();
        let width = known.map_or(WIDTH, |(columns, _)| usize::from(columns)).clamp(40, WIDTH_MAX);
        Self { paint, signs: terminal, width }
    }

    /// The mark of a level, padded so that what follows is aligned.
    pub(crate) fn mark(self, level: Level) -> String {
        let text = match (self.signs, level) {
            (true, Level::Good) => "✓",
            (true, Level::Open) => "-",
            (true, Level::Warn) => "!",
            (true, Level::Bad) => "✗",
            (false, Level::Good) => "ok   ",
            (false, Level::Open) => "-    ",
            (false, Level::Warn) => "warn ",
            (false, Level::Bad) => "WRONG",
        };
        match level {
            Level::Good => self.paint.good(text),
            Level::Open => self.paint.dim(text),
            Level::Warn => self.paint.warn(text),
            Level::Bad => self.paint.bad(text),
        }
    }

    /// Columns that a mark takes, with the blank behind it.
    pub(crate) fn margin(self) -> usize {
        if self.signs { 2 } else { 6 }
    }

    /// A sentence, broken at blanks, each line behind `indent` blanks but the first, which begins at `column`.
    pub(crate) fn wrap(self, text: &str, column: usize, indent: usize) -> String {
        let mut out = String::new();
        let mut at = column;
        for word in text.split_whitespace() {
            let long = word.chars().count();
            if at > column.min(indent) && at + 1 + long > self.width && at != column {
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                at = indent;
            } else if at != column || !out.is_empty() {
                out.push(' ');
                at += 1;
            }
            out.push_str(&screen::clean(word));
            at += long;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(width: usize) -> Sheet {
        Sheet { paint: Paint::new(false), signs: false, width }
    }

    #[test]
    fn sentences_are_broken_at_blanks_and_long_words_are_not_broken() {
        let text = "one two three four five";
        assert_eq!(sheet(80).wrap(text, 10, 4), text);
        assert_eq!(sheet(20).wrap(text, 10, 4), "one two\n    three four five");
        let long = "x".repeat(50);
        assert_eq!(sheet(20).wrap(&format!("a {long} b"), 4, 4), format!("a\n    {long}\n    b"));
        assert!(sheet(40).wrap(text, 0, 0).lines().all(|line| line.chars().count() <= 40));
    }

    #[test]
    fn marks_line_up() {
        let plain = sheet(80);
        for level in [Level::Good, Level::Open, Level::Warn, Level::Bad] {
            assert_eq!(plain.mark(level).len() + 1, plain.margin());
        }
    }
}
