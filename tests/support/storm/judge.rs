//! The headline rule (Q23), as a function: what three witnesses say about one submission must be one story.

use std::collections::BTreeMap;

/// What the witnesses say about one submission to one recipient.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) stream: String,
    /// The gateway speaks tunnel 2: it hears of every result.
    pub(crate) hears_all: bool,
    /// Submission ids that the gateway was told, without repeats.
    pub(crate) accepted: Vec<String>,
    /// Texts of results that the gateway was told, byte for byte, without repeats.
    pub(crate) texts: Vec<String>,
    /// Words of those results.
    pub(crate) words: Vec<String>,
    /// Records in the relay's spool: id and word of the result, `None` while it has none.
    pub(crate) records: Vec<(String, Option<String>)>,
    /// Copies that the sink holds.
    pub(crate) copies: usize,
}

/// Whether the story is one.
///
/// # Errors
/// What does not agree.
pub(crate) fn judge(story: &Story) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{}: {what}\n{story:?}", story.stream));
    if story.copies > 1 {
        return wrong(format!("{} copies", story.copies));
    }
    let [(id, result)] = &story.records[..] else {
        return match &story.records[..] {
            // Never complete at the relay: nobody may claim anything, but for the words that an unmodified gateway hears
            // of a stream that its line cut off.
            [] if story.copies == 0 && story.accepted.is_empty() && story.texts.is_empty() => Ok(()),
            [] if story.copies == 0 && !story.hears_all && story.words == ["failed"] => Ok(()),
            [] => wrong("no record of what was promised or sent".to_owned()),
            _ => wrong(format!("{} records", story.records.len())),
        };
    };
    if story.accepted.iter().any(|told| told != id) {
        return wrong("accepted under another id".to_owned());
    }
    let Some(result) = result else { return wrong("no result".to_owned()) };
    let agrees = match result.as_str() {
        "sent" => story.copies == 1,
        "failed" => story.copies == 0,
        "indeterminate" => true,
        _ => false,
    };
    if !agrees {
        return wrong(format!("{result}, but {} copies", story.copies));
    }
    if story.texts.len() > 1 {
        return wrong("told several results".to_owned());
    }
    if story.hears_all && story.texts.is_empty() {
        return wrong("never told".to_owned());
    }
    if let Some(word) = story.words.iter().find(|word| *word != result) {
        return wrong(format!("told {word}, recorded {result}"));
    }
    if !story.hears_all && result == "indeterminate" && !story.words.is_empty() {
        return wrong("an unmodified gateway does not know that word".to_owned());
    }
    Ok(())
}

/// How many stories ended how: result and copies.
pub(crate) fn table(stories: &[Story]) -> String {
    let mut rows: BTreeMap<(String, usize, bool), usize> = BTreeMap::new();
    for story in stories {
        let result =
            story.records.first().map_or("never complete", |(_, result)| result.as_deref().unwrap_or("open"));
        *rows.entry((result.to_owned(), story.copies, story.hears_all)).or_default() += 1;
    }
    let mut text = format!("{:<16} {:>6} {:>7} {:>11}\n", "result", "copies", "tunnel", "submissions");
    for ((result, copies, hears_all), n) in rows {
        let tunnel = if hears_all { 2 } else { 1 };
        text.push_str(&format!("{result:<16} {copies:>6} {tunnel:>7} {n:>11}\n"));
    }
    text
}

#[test]
fn the_judge_sees_every_lie() {
    let honest = Story {
        stream: "s".to_owned(),
        hears_all: true,
        accepted: vec!["i".to_owned()],
        texts: vec!["t".to_owned()],
        words: vec!["sent".to_owned()],
        records: vec![("i".to_owned(), Some("sent".to_owned()))],
        copies: 1,
    };
    let with = |change: &dyn Fn(&mut Story)| {
        let mut story = honest.clone();
        change(&mut story);
        judge(&story)
    };
    assert_eq!(judge(&honest), Ok(()));
    assert_eq!(judge(&Story::default()), Ok(()));
    let cut = |hears_all, word: &str, copies| Story {
        hears_all,
        copies,
        texts: vec!["t".to_owned()],
        words: vec![word.to_owned()],
        ..Story::default()
    };
    assert_eq!(judge(&cut(false, "failed", 0)), Ok(()));
    for lie in [cut(true, "failed", 0), cut(false, "sent", 0), cut(false, "failed", 1)] {
        assert!(judge(&lie).is_err(), "{lie:?}");
    }
    let lies: [&dyn Fn(&mut Story); 9] = [
        &|story| story.copies = 2,
        &|story| story.copies = 0,
        &|story| story.records = vec![("i".to_owned(), Some("failed".to_owned()))],
        &|story| story.records = vec![("i".to_owned(), None)],
        &|story| story.records.clear(),
        &|story| story.records.push(("j".to_owned(), Some("sent".to_owned()))),
        &|story| story.accepted.push("j".to_owned()),
        &|story| story.texts.push("u".to_owned()),
        &|story| story.words = vec!["indeterminate".to_owned()],
    ];
    for (n, lie) in lies.iter().enumerate() {
        assert!(with(*lie).is_err(), "lie {n}");
    }
}
