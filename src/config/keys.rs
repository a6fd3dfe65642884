//! PURE: every key of the configuration, once: its path, its kind, its default and its reason.
//!
//! The commented example `config/waystation.toml` is written from this table, unknown keys are found by it,
//! and environment variables are typed by it, so none of them can drift from what the daemon uses.

mod live;
mod reference;
mod table;

pub use live::{Effect, effect, reload_table};
pub use reference::reference;
pub(super) use table::KEYS;

/// What a key holds, and how far it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number between the two, inclusive.
    Whole(u64, u64),
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts.
    List,
    /// A list of whole numbers between the two, inclusive.
    Wholes(u64, u64),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Dotted path, `smtp.listen`.
    pub(super) path: &'static str,
    /// What it holds.
    pub(super) kind: Kind,
    /// The default, spelled as in the file.
    pub(super) default: &'static str,
    /// Why it exists, for the person editing the file.
    pub(super) help: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { path, kind, default, help }
}

/// The key of that path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// Whether `path` names a table like `smtp`.
pub(super) fn is_table(path: &str) -> bool {
    KEYS.iter().any(|k| k.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The known key or table that looks most like `path`, if any does.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    /// Below this likeness (0 to 1) a suggestion would only confuse.
    const LIKENESS_MIN: f64 = 0.75;
    let leaf = path.rsplit('.').next().unwrap_or(path);
    let tables = KEYS.iter().filter_map(|k| k.path.rsplit_once('.').map(|(table, _)| table));
    KEYS.iter()
        .map(|k| k.path)
        .chain(tables)
        .map(|known| {
            let known_leaf = known.rsplit('.').next().unwrap_or(known);
            // A key put into the wrong table has the right leaf; a misspelt one is close as a whole.
            let in_other_table = if known_leaf == leaf { 0.9 } else { 0.0 };
            (known, strsim::jaro_winkler(known, path).max(in_other_table))
        })
        .filter(|(_, likeness)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(known, _)| known)
}

/// The example file: every key with its default and reason, all commented out but the tables.
#[must_use]
pub fn example() -> String {
    let mut text = String::from(
        "# Waystation configuration. Every key with its default; remove the `#` to change one.\n\
         # Any key can also be set by environment: WAYSTATION_SMTP__MAX_RECIPIENTS=10, lists with commas.\n\
         # Order: defaults < this file < environment < flags. Check with `waystation check-config FILE`.\n\
         # [live]: `waystation reload` (SIGHUP) is enough for a change; [live while set]: not to set it or to take it away.\n\
         # Every other key needs `waystation restart`.\n",
    );
    let mut table = "";
    for key in KEYS {
        let (of, leaf) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if of != table {
            table = of;
            text.push_str(&format!("\n[{table}]\n"));
        } else if table.is_empty() {
            text.push('\n');
        }
        let mark = match key.effect() {
            Effect::Live => " [live]",
            Effect::LiveWhileSet => " [live while set]",
            Effect::Restart => "",
        };
        text.push_str(&format!("# {}{mark}\n#{leaf} = {}\n", key.help, key.default));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_get_the_right_suggestion() {
        assert_eq!(nearest("smtp.max_recipient"), Some("smtp.max_recipients"));
        assert_eq!(nearest("smpt"), Some("smtp"));
        assert_eq!(nearest("domain"), Some("domains"));
        assert_eq!(nearest("http.max_connections"), Some("smtp.max_connections"));
        assert_eq!(nearest("qqqqq"), None);
    }

    #[test]
    fn tables_stay_together_in_the_example() {
        let text = example();
        for table in [
            "http",
            "tls",
            "tls.acme",
            "smtp",
            "tunnel",
            "verify",
            "attestation",
            "admission",
            "delivery",
            "dkim",
            "limits",
            "spool",
            "admin",
            "log",
            "metrics",
        ] {
            assert_eq!(text.matches(&format!("\n[{table}]\n")).count(), 1, "{table}");
        }
    }
}
