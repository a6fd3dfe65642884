//! Links between the Markdown files of the tree lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::all_markdown;
use crate::layering::root;

/// Lines outside fenced blocks.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut lines = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            lines.push((n + 1, line));
        }
    }
    lines
}

/// Targets of `[...](target)`.
fn targets(line: &str) -> Vec<&str> {
    line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split(')').next()).collect()
}

/// The anchor that a heading gets on the usual hosts of repositories.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

fn anchors(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).expect("markdown");
    let mut found = BTreeSet::new();
    for (_, line) in prose(&text) {
        let title = line.trim_start_matches('#');
        if title.len() < line.len() && title.starts_with(' ') {
            let name = anchor(title);
            let again = (1..).map(|n| format!("{name}-{n}"));
            found.insert(
                std::iter::once(name.clone())
                    .chain(again)
                    .find(|name| !found.contains(name))
                    .expect("a name"),
            );
        }
    }
    found
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for file in all_markdown() {
        let text = fs::read_to_string(&file).expect("markdown");
        for (n, line) in prose(&text) {
            for target in targets(line) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                seen += 1;
                let (path, heading) = target.split_once('#').unwrap_or((target, ""));
                let to =
                    if path.is_empty() { file.clone() } else { file.parent().expect("parent").join(path) };
                let fine =
                    to.exists() && (heading.is_empty() || to.is_file() && anchors(&to).contains(heading));
                if !fine {
                    broken.push(format!(
                        "{}:{n}: {target}",
                        file.strip_prefix(root()).expect("inside").display()
                    ));
                }
            }
        }
    }
    assert!(seen > 30, "links were not found");
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

#[test]
fn anchors_are_made_as_the_hosts_make_them() {
    assert_eq!(anchor(" Backup, restore, upgrade"), "backup-restore-upgrade");
    assert_eq!(anchor(" `450 4.7.1` from a sender"), "450-471-from-a-sender");
    assert_eq!(anchor(" [smtp]"), "smtp");
}
