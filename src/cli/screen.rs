//! What a person sees: colour, aligned columns, ages and sizes in words.

use std::io::Write as _;

use serde_json::Value;

/// Colours, or plain text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    pub(crate) fn new(on: bool) -> Self {
        Self { on }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// The word of an item's state, in the colour of its urgency.
    pub(crate) fn state(self, word: &str) -> String {
        match word.trim() {
            "acked" | "sent" => self.good(word),
            "leased" | "armed" => self.wrap("36", word),
            "expired" | "held" | "failed" => self.warn(word),
            "quarantined" | "indeterminate" => self.bad(word),
            "purged" | "told" | "noted" => self.dim(word),
            _ => word.to_owned(),
        }
    }
}

/// What strangers said must not steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The same for words of several lines.
pub(crate) fn clean_lines(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', " ")
}

/// Writes text to standard output; a closed pipe is an error the caller passes up.
pub(crate) fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One JSON object per line.
pub(crate) fn line(value: &Value) -> std::io::Result<()> {
    print(&format!("{}\n", json_text(value)))
}

/// JSON on one line, and nothing in it that steers a terminal. JSON itself lets U+007F to U+009F pass, of which some do; only
/// strings can have them, so that escaped it is the same value.
fn json_text(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if c.is_control() {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// Rows under a header, columns as wide as their widest cell. Right-aligned where `right` says so. Cells are cleaned here:
/// most of them hold names and words of strangers.
pub(crate) fn table(paint: Paint, header: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let cleaned = |row: &Vec<String>| row.iter().map(|cell| clean(cell)).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.iter().map(cleaned).collect();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let align = |cells: Vec<&str>| {
        let mut line = String::new();
        for (n, cell) in cells.iter().enumerate() {
            let pad = widths[n].saturating_sub(cell.chars().count());
            let (before, after) = if right.get(n) == Some(&true) { (pad, 0) } else { (0, pad) };
            line.push_str(&" ".repeat(before));
            line.push_str(cell);
            line.push_str(&" ".repeat(after));
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    let mut text = paint.dim(&align(header.to_vec()));
    text.push('\n');
    let state = header.iter().position(|h| *h == "STATE");
    for row in &rows {
        let mut line = align(row.iter().map(String::as_str).collect());
        if let (true, Some(word)) = (paint.on, state.and_then(|n| row.get(n))) {
            line = line.replacen(&format!(" {word} "), &format!(" {} ", paint.state(word)), 1);
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// `1.5 MiB`
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `3d 4h`, `5m 10s`: the two largest units.
pub(crate) fn age(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, _, _) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

/// `2h`, `30m`, `7d`, `45s`, or bare seconds: a span in milliseconds.
pub(crate) fn span_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a span; write it like 45s, 30m, 2h or 7d");
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_ms = match unit {
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".into(), "10".into()], vec!["bbb".into(), "2".into()]];
        let text = table(Paint::new(false), &["NAME", "N"], &[false, true], &rows);
        assert_eq!(text, "NAME   N\na     10\nbbb    2\n");
    }

    #[test]
    fn no_cell_steers_a_terminal() {
        let rows = vec![vec!["a\x1b[2Jb".into(), "held\u{9b}".into()], vec!["c".into(), "\r\n".into()]];
        let text = table(Paint::new(false), &["FROM", "STATE"], &[false, false], &rows);
        assert_eq!(text, "FROM    STATE\na [2Jb  held\nc\n");
        assert_eq!(clean_lines("a\x1b[2J\nb\rc"), "a [2J\nb c");
    }

    #[test]
    fn no_json_steers_a_terminal_and_it_stays_the_same() {
        let value = serde_json::json!({ "a\u{9d}": "\u{1b}[2J\u{7f}\u{9b}2J\u{a0}é" });
        let text = json_text(&value);
        assert_eq!(text, "{\"a\\u009d\":\"\\u001b[2J\\u007f\\u009b2J\u{a0}é\"}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn spans_ages_and_sizes_read_well() {
        assert_eq!(span_ms("2h"), Ok(7_200_000));
        assert_eq!(span_ms("45"), Ok(45_000));
        assert!(span_ms("h").is_err());
        assert!(span_ms("99999999999999999999d").is_err());
        assert_eq!(age(59), "59s");
        assert_eq!(age(3661), "1h 1m");
        assert_eq!(age(90_000), "1d 1h");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(12), "12 B");
    }
}
