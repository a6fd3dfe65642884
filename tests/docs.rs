//! What the documents say of the tests is true: who reads that a test shows something can run it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::layering::{collect, root};

/// Head of the column that names tests.
const SHOWN_BY: &str = "shown by";

/// Names of all functions in the tree.
fn functions() -> BTreeSet<String> {
    let mut files = Vec::new();
    for dir in ["src", "tests", "proptests", "spool"] {
        collect(&root().join(dir), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("source");
        for (at, word) in text.match_indices("fn ") {
            let name = text[at + word.len()..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

/// The texts between backticks of a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether it reads like the name of a test, and not like a key of the configuration or a word of a protocol.
fn like_a_test(name: &str) -> bool {
    name.matches('_').count() >= 3 && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
}

#[test]
fn every_test_that_the_security_document_names_is_there() {
    let text = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let functions = functions();
    let named: Vec<_> = text.lines().flat_map(quoted).filter(|name| like_a_test(name)).collect();
    assert!(named.len() > 20, "names were not found");
    let missing: Vec<_> = named.into_iter().filter(|name| !functions.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/security.md names tests that do not exist: {missing:#?}");
}

#[test]
fn every_defence_of_the_security_document_has_a_test_or_a_document() {
    let text = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let mut shown = false;
    for line in text.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|row| row.trim_end().strip_suffix('|')) else {
            shown = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or("").trim();
        // What nothing stops stands in bold, and has nothing to show.
        if last == SHOWN_BY || last == "---" || last.is_empty() && row.trim_start().starts_with("**") {
            shown |= last == SHOWN_BY;
            continue;
        }
        let proof = |part: &str| quoted(part).any(like_a_test) || Path::new(root()).join(part).is_file();
        assert!(!shown || last.split(", ").all(proof), "nothing shows this: {line}");
    }
}
