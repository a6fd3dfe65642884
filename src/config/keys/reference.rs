//! PURE: the table of keys as a page for people, `docs/configuration.md`.

use super::{Effect, KEYS, Key, Kind};

/// What stands above the tables.
const HEAD: &str = "\
# Configuration reference

Every key of the relay, from the table that the relay itself reads by: a test keeps this page equal to
`waystation reference configuration`.

TOML, in the file that `--config` or `WAYSTATION_CONFIG` names. Order: defaults < file < environment < flags. Unknown keys are
refused, with the nearest known one suggested. In the environment, lists are separated by commas. The same as a commented file:
`waystation check-config --defaults`, [config/waystation.toml](../config/waystation.toml).

The column *reload*: **yes**, a change takes effect at `waystation reload`; **while set**, it does as long as the key was set and stays set; **no**, it
needs `waystation restart`. See [operating.md](operating.md#changing-the-configuration).

The gateway has a file of its own, written and commented by `waystation gateway bootstrap`: [gateway.md](gateway.md).
";

/// The whole page, Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    let mut table = None;
    for key in KEYS {
        let of = key.path.rsplit_once('.').map_or("", |(of, _)| of);
        if table != Some(of) {
            table = Some(of);
            let title = if of.is_empty() { "Top of the file".to_owned() } else { format!("[{of}]") };
            text.push_str(&format!(
                "\n## {title}\n\n| key | value | default | reload | environment | what for |\n|---|---|---|---|---|---|\n"
            ));
        }
        text.push_str(&row(key));
    }
    text
}

fn row(key: &Key) -> String {
    format!(
        "| `{}` | {} | `{}` | {} | `{}` | {} |\n",
        key.path.rsplit('.').next().unwrap_or(key.path),
        cell(&value(key.kind)),
        cell(key.default),
        match key.effect() {
            Effect::Live => "yes",
            Effect::LiveWhileSet => "while set",
            Effect::Restart => "no",
        },
        variable(key.path),
        cell(key.help),
    )
}

/// What may stand there.
fn value(kind: Kind) -> String {
    match kind {
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Whole(least, most) => format!("number, {}", range(least, most)),
        Kind::Text => "text".to_owned(),
        Kind::Word(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            format!("one of {}", words.join(", "))
        }
        Kind::List => "list of texts".to_owned(),
        Kind::Wholes(least, most) => format!("list of numbers, {}", range(least, most)),
    }
}

fn range(least: u64, most: u64) -> String {
    if most == i64::MAX as u64 { format!("{least} or more") } else { format!("{least} to {most}") }
}

/// `WAYSTATION_SMTP__LISTEN` for `smtp.listen`.
fn variable(path: &str) -> String {
    format!("WAYSTATION_{}", path.replace('.', "__").to_uppercase())
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_row() {
        let text = reference();
        assert_eq!(text.matches("\n| `").count(), KEYS.len());
        assert!(text.contains("| `challenge` | one of `auto`, `http-01`, `tls-alpn-01` |"), "{text}");
        assert!(text.contains("`WAYSTATION_TLS__ACME__CONTACT`"), "{text}");
        assert!(text.contains("| `port` | number, 1 to 65535 | `25` | yes |"), "{text}");
    }
}
