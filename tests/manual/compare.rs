//! What a page shows against what came: the same words, where those that differ each time count as a kind.
//!
//! Blanks count as one, so that columns may move. `...` and `…` stand for any part of a word, or, alone on a line, for
//! any lines. Times, ids, keys, hashes, ages, sizes and addresses with free ports are as good as any other of their kind.

/// What a word is, when it is something that differs each time.
#[derive(Debug, PartialEq, Eq)]
enum Varying {
    Time,
    Id,
    Key,
    Uuid,
    Hash,
    Code,
    Moment,
    Quantity,
}

fn is_base32(text: &str, hex: bool) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() && (!hex || b <= b'v'))
}

fn varying(word: &str) -> Option<Varying> {
    let bytes = word.as_bytes();
    if word.len() >= 20 && word.ends_with('Z') && bytes[4] == b'-' && bytes[10] == b'T' {
        return Some(Varying::Time);
    }
    if word.len() == 26 && is_base32(word, true) && word.starts_with('0') {
        return Some(Varying::Id);
    }
    if word.len() == 52 && is_base32(word, false) {
        return Some(Varying::Key);
    }
    if word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Some(Varying::Hash);
    }
    let groups = |sizes: &[usize]| {
        let parts: Vec<_> = word.split('-').map(str::len).collect();
        parts == sizes && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if groups(&[8, 4, 4, 4, 12]) {
        return Some(Varying::Uuid);
    }
    if groups(&[4; 6]) {
        return Some(Varying::Code);
    }
    if word.len() == 10 && is_number(word) {
        return Some(Varying::Moment);
    }
    // 8s, 2m, 307B, 1.5MiB, 12 %; a bare number is a number.
    let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%');
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (is_number && number.len() < word.len()).then_some(Varying::Quantity)
}

/// Words of units, which change with the number in front of them.
const UNITS: &[&str] = &[
    "bytes", "byte", "B", "KiB", "MiB", "GiB", "kB", "MB", "GB", "ms", "s", "seconds", "second", "minutes",
    "minute", "hours", "hour", "days", "day",
];

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// Words of a line: cut at blanks and at what surrounds words, so that `(06gv...,` is three.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for part in line.split_whitespace() {
        let mut word = String::new();
        for c in part.chars() {
            if matches!(
                c,
                '(' | ')'
                    | '['
                    | ']'
                    | ','
                    | ';'
                    | '"'
                    | '\''
                    | '='
                    | '@'
                    | '<'
                    | '>'
                    | '{'
                    | '}'
                    | '`'
                    | '|'
            ) {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                words.push(c.to_string());
            } else {
                word.push(c);
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
    }
    words
}

/// `pattern` with `…` for any characters.
fn globs(pattern: &str, word: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = word.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let parts: Vec<_> = parts.collect();
    for (n, part) in parts.iter().enumerate() {
        if n + 1 == parts.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

fn same_word(shown: &str, came: &str) -> bool {
    let bare = |word: &str| word.trim_end_matches(['.', ':']).to_owned();
    shown == came
        || alike(shown, came)
        || globs(&shown.replace("...", "…"), came)
        || alike(&bare(shown), &bare(came))
        || {
            let (shown, came) = (runs(shown), runs(came));
            shown.len() > 1
                && shown.len() == came.len()
                && shown.iter().zip(&came).all(|(shown, came)| shown == came || alike(shown, came))
        }
}

fn alike(shown: &str, came: &str) -> bool {
    // A key that a column has cut off.
    let cut = |word: &str| {
        let stem = word.split(['.', '…']).next().unwrap_or("");
        stem.len() >= 8 && stem.len() < word.len() && is_base32(stem, false)
    };
    if cut(shown) && shown.ends_with("...") {
        return cut(came) || varying(came) == Some(Varying::Key);
    }
    varying(shown).is_some_and(|kind| varying(came) == Some(kind))
}

/// Parts of a word like `1795947191.Q000000000001-W06h2diquktp38t4pvif4147b18.relay`.
fn runs(word: &str) -> Vec<&str> {
    let kind = |c: char| match c {
        'a'..='z' | '0'..='9' => 0,
        'A'..='Z' => 1,
        _ => 2,
    };
    let mut runs = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| kind(c) != kind(first)).unwrap_or(rest.len());
        runs.push(&rest[..end]);
        rest = &rest[end..];
    }
    runs
}

fn same_line(shown: &str, came: &str) -> bool {
    let (shown, came) = (words(shown), words(came));
    // A lone `…` between words is any number of words.
    fn from(shown: &[String], came: &[String]) -> bool {
        match shown {
            [] => came.is_empty(),
            [any, rest @ ..] if any == "…" || any == "..." => {
                (0..=came.len()).any(|skip| from(rest, &came[skip..]))
            }
            [number, unit, rest @ ..]
                if is_number(number) && UNITS.contains(&unit.trim_end_matches(['.', ':'])) =>
            {
                came.len() >= 2
                    && is_number(&came[0])
                    && UNITS.contains(&came[1].trim_end_matches(['.', ':']))
                    && from(rest, &came[2..])
            }
            [word, rest @ ..] => {
                came.first().is_some_and(|first| same_word(word, first)) && from(rest, &came[1..])
            }
        }
    }
    from(&shown, &came)
}

/// Notes about who answered; a page need not show them.
const ASIDES: &[&str] = &["(from the running relay", "(through the running relay", "(read from"];

/// Whether `came` is what the page shows; else the first line that is not.
pub(super) fn as_shown(shown: &str, came: &str) -> Result<(), String> {
    let aside = |line: &str| ASIDES.iter().any(|note| line.starts_with(note));
    let lines = |text: &str| -> Vec<String> {
        let kept = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        kept.filter(|line| shown.contains(line) || !aside(line)).map(str::to_owned).collect()
    };
    let (shown, came) = (lines(shown), lines(came));
    // Sentences break elsewhere when a number in them has another length.
    if shown.iter().all(|line| !line.contains("  ")) && same_line(&shown.join(" "), &came.join(" ")) {
        return Ok(());
    }
    fn from(shown: &[String], came: &[String]) -> Result<(), (usize, String)> {
        let Some((line, rest)) = shown.split_first() else {
            return came.first().map_or(Ok(()), |more| Err((0, format!("came, and is not shown: {more}"))));
        };
        if matches!(line.trim(), "..." | "…") {
            let tried: Vec<_> = (0..=came.len()).map(|skip| from(rest, &came[skip..])).collect();
            return tried
                .into_iter()
                .min_by_key(|tried| tried.as_ref().err().map(|(left, _)| *left))
                .unwrap_or(Ok(()));
        }
        match came.split_first() {
            Some((first, others)) if same_line(line, first) => from(rest, others),
            Some((first, _)) => Err((shown.len(), format!("shown: {line}\n     came: {first}"))),
            None => Err((shown.len(), format!("shown, and did not come: {line}"))),
        }
    }
    from(&shown, &came).map_err(|(_, problem)| problem)
}

#[test]
fn what_differs_each_time_is_as_good_as_another() {
    let same = |shown: &str, came: &str| as_shown(shown, came).is_ok();
    assert!(same(
        "06gvmkcmcfodl57vg7dcu9edjg  in  ready  8s  307 B",
        "06h8fkcmcfodl57vg7dcu9edja in ready 2m 1.2 KiB"
    ));
    assert!(same("at 2026-11-20T23:36:32.287Z.", "at 2026-11-21T00:00:00.001Z."));
    assert!(same("address  fumk...@mail.localhost", "address fumkvvmo@mail.localhost"));
    assert!(same("6o7mqnh656y...  in", "fumkvvmojlp...  in"));
    assert!(same("a\n...\nd\n", "a\nb\nc\nd\n"));
    let file = |n: &str, id: &str| format!("{n}.Q000000000001-W{id}.relay");
    assert!(same(
        &file("1795947191", "06h2diquktp38t4pvif4147b18"),
        &file("1795947562", "06h2dk851leqp1r2a42b111pjg")
    ));
    assert!(same(
        "it has 611 bytes and was accepted 2 seconds\nago",
        "it has 611 bytes and was accepted 12\nseconds ago"
    ));
    assert!(same("It was tried … due in 56 seconds", "It was tried once, a moment ago: due in 3 minutes"));
}

#[test]
fn what_is_wrong_is_found() {
    let same = |shown: &str, came: &str| as_shown(shown, came).is_ok();
    assert!(!same("state ready", "state held"));
    assert!(!same("a\nb\n", "a\n"));
    assert!(!same("a\n", "a\nb\n"));
    assert!(!same("3 items", "4 items"), "a count without a unit counts");
    assert!(!same("a\n...\nd\n", "a\nb\n"));
    assert!(!same("06gvmkcmcfodl57vg7dcu9edjg", "none"));
}
