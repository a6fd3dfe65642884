//! What the manual quotes of the program, the program says: names of events, replies, codes, metrics, keys of the
//! configuration.

use std::collections::BTreeSet;
use std::fs;

use super::{pages, read};
use crate::layering::{collect, root};
use crate::support::process::run_text;

/// All text between backticks of a page, outside fenced blocks, with its line.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            found.extend(line.split('`').skip(1).step_by(2).map(|text| (n + 1, text.to_owned())));
        }
    }
    found
}

/// `a.{b,c}.d` as `a.b.d`, `a.c.d`.
fn unfold(text: &str) -> Vec<String> {
    let Some((front, rest)) = text.split_once('{') else { return vec![text.to_owned()] };
    let Some((middle, back)) = rest.split_once('}') else { return vec![text.to_owned()] };
    middle.split(',').map(|word| format!("{front}{}{back}", word.trim())).collect()
}

fn sources() -> String {
    let mut files = Vec::new();
    for dir in ["src", "spool/src"] {
        collect(&root().join(dir), &mut files);
    }
    files.into_iter().map(|file| fs::read_to_string(file).expect("source")).collect()
}

fn problems(what: &str, of: impl Fn(&str) -> Vec<String>, known: impl Fn(&str) -> bool, least: usize) {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in pages() {
        for (line, text) in quoted(&read(&page)) {
            for name in of(&text) {
                seen += 1;
                if !known(&name) {
                    wrong.push(format!("{page}:{line}: {name}"));
                }
            }
        }
    }
    assert!(seen >= least, "{what} were not found");
    assert!(wrong.is_empty(), "{what} that the program does not have: {wrong:#?}");
}

#[test]
fn every_event_that_is_quoted_is_logged() {
    let sources = sources();
    let of = |text: &str| {
        let event = text.starts_with("relay.") || text.starts_with("gateway.");
        // `gateway.toml` is a file, `relay.example.org` a host.
        let name = event
            && text.chars().all(|c| matches!(c, 'a'..='z' | '_' | '.' | '{' | '}' | ',' | ' '))
            && !text.contains("example")
            && !matches!(text, "gateway.toml" | "gateway.sock" | "gateway.json");
        if name { unfold(text) } else { Vec::new() }
    };
    problems("events", of, |name| sources.contains(&format!("\"{name}\"")), 60);
}

#[test]
fn every_reply_that_is_quoted_is_given() {
    let replies = fs::read_to_string(root().join("src/mail/smtp/reply.rs")).expect("replies");
    // `coded(550, 1, 1, "No such mailbox")` becomes `550 5.1.1 No such mailbox`.
    let mut given = BTreeSet::new();
    for (at, _) in replies.match_indices("coded(") {
        let text: String = replies[at + 6..].chars().take(240).collect();
        let mut parts = text.splitn(4, ',').map(str::trim);
        let mut number = || parts.next().and_then(|part| part.parse::<u16>().ok());
        let (Some(code), Some(subject), Some(detail)) = (number(), number(), number()) else { continue };
        let words = parts.next().and_then(|part| part.split('"').nth(1)).unwrap_or("").to_owned();
        given.insert((format!("{code} {}.{subject}.{detail}", code / 100), words));
    }
    assert!(given.len() > 40, "replies were not found");
    let of = |text: &str| {
        let bytes = text.as_bytes();
        let digits = |range: std::ops::Range<usize>| {
            bytes.get(range).is_some_and(|b| b.iter().all(u8::is_ascii_digit))
        };
        let like = bytes.len() > 8
            && digits(0..3)
            && bytes[3] == b' '
            && digits(4..5)
            && bytes[5] == b'.'
            && matches!(bytes[0], b'4' | b'5');
        if like { vec![text.to_owned()] } else { Vec::new() }
    };
    let known = |text: &str| {
        let mut parts = text.splitn(3, ' ');
        let code = format!("{} {}", parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let words = parts.next().unwrap_or("");
        given.iter().any(|(of, said)| {
            // A name in front, or a number inside, is filled in when it is said.
            let fixed: Vec<&str> =
                said.split(['{', '}']).step_by(2).map(str::trim).filter(|part| !part.is_empty()).collect();
            *of == code
                && (words.is_empty() || fixed.iter().any(|part| words.contains(part) || part.contains(words)))
        })
    };
    problems("replies", of, known, 20);
}

#[test]
fn every_metric_that_is_quoted_is_counted() {
    // Names are put together where they are registered; what stands there is the end of each.
    let sources = sources();
    let of = |text: &str| {
        let name = text.split(['{', ' ', '=']).next().unwrap_or("");
        let metric =
            name.starts_with("waystation_") && name.chars().all(|c| matches!(c, 'a'..='z' | '_' | '0'..='9'));
        if metric { vec![name.to_owned()] } else { Vec::new() }
    };
    let known = |name: &str| {
        let bare = name.trim_start_matches("waystation_");
        let bare = ["_total", "_info", "_count", "_sum", "_bucket"]
            .iter()
            .fold(bare, |bare, end| bare.trim_end_matches(end));
        let units = ["_seconds", "_bytes"].iter().fold(bare, |bare, end| bare.trim_end_matches(end));
        let stands = |name: &str| {
            (1..=name.matches('_').count() + 1).any(|parts| {
                let tail: Vec<_> = name.rsplitn(parts + 1, '_').take(parts).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("_");
                tail.len() >= 5 && sources.contains(&format!("\"{tail}\""))
            })
        };
        stands(bare) || stands(units)
    };
    problems("metrics", of, known, 5);
}

#[test]
fn every_key_that_is_quoted_is_configurable() {
    let (_, reference, _) = run_text(&["check-config", "--defaults"]);
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    for line in reference.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((name, _)) = line.strip_prefix('#').and_then(|rest| rest.split_once(" = ")) {
            keys.insert(format!("{table}{name}"));
        }
    }
    let tables: BTreeSet<&str> =
        keys.iter().filter_map(|key| key.split_once('.').map(|(table, _)| table)).collect();
    let of = |text: &str| {
        let path = text.split(' ').next().unwrap_or("");
        let like = path.split_once('.').is_some_and(|(table, leaf)| {
            tables.contains(table) && leaf.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '.'))
        });
        // Files that bear the name of a table: `admin.sock`, `attestation.key`.
        let file = ["sock", "key", "token", "json", "toml", "pem", "rs", "md"]
            .iter()
            .any(|end| path.ends_with(&format!(".{end}")));
        if like && !file { vec![path.to_owned()] } else { Vec::new() }
    };
    // Fields of the file that docs/migration.md translates.
    const OF_THE_OLD_RELAY: [&str; 2] = ["smtp.host", "smtp.port"];
    let known = |key: &str| keys.contains(key) || OF_THE_OLD_RELAY.contains(&key);
    problems(
        "keys",
        of,
        |key| known(key) || keys.iter().any(|known| known.starts_with(&format!("{key}."))),
        40,
    );
}

#[test]
fn every_command_that_is_quoted_can_be_typed() {
    let (_, reference, _) = run_text(&["reference", "commands"]);
    // Heading of each command, and the options in its section.
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in reference.lines() {
        match line.trim_start_matches('#').strip_prefix(" waystation ") {
            Some(name) if line.starts_with('#') => commands.push((name.to_owned(), String::new())),
            _ => {
                if let Some((_, section)) = commands.last_mut() {
                    section.push_str(line);
                    section.push('\n');
                }
            }
        }
    }
    const EVERYWHERE: [&str; 6] = ["--config", "--data-dir", "--json", "--color", "--help", "--version"];
    let of = |text: &str| {
        // A command at the relay or at home, with what stands around it in a shell taken off.
        let command = text.strip_prefix("waystation ").filter(|rest| !rest.is_empty());
        command.map(str::to_owned).into_iter().collect()
    };
    let known = |command: &str| {
        // The one that makes pages is not among those that a page lists.
        if command.starts_with("reference ") {
            return true;
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        let first = words.iter().position(|word| !word.starts_with('-')).unwrap_or(0);
        let words = if EVERYWHERE.contains(&words[0]) { &words[first + 1..] } else { &words[..] };
        let name = |count: usize| words.iter().take(count).copied().collect::<Vec<_>>().join(" ");
        let options: Vec<&str> = words
            .iter()
            .filter(|word| word.starts_with("--"))
            .map(|word| word.split('=').next().unwrap_or(word).trim_end_matches(','))
            .collect();
        // `spool hold / release ID`, `mailbox ls, show`: each verb is one.
        let verbs = words.get(1).map(|verb| verb.trim_end_matches(','));
        let at = |name: &str| commands.iter().find(|(known, _)| known == name);
        let two = verbs.and_then(|verb| at(&format!("{} {verb}", name(1))));
        match two.or_else(|| at(&name(1))) {
            Some((_, section)) => options.iter().all(|option| {
                EVERYWHERE.contains(option)
                    || section.contains(&format!("{option} "))
                    || section.contains(&format!("{option}`"))
            }),
            None => false,
        }
    };
    problems("commands", of, known, 60);
}
