//! Fenced blocks of a page, and what their info strings ask for.

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Commands; all must succeed.
    Sh,
    /// Prompts, commands, and what they print.
    Console,
    /// Nothing that is typed: output, diagrams, wire bytes.
    Text,
    /// A configuration of the relay, whole or in part.
    Toml,
    /// A configuration of the gateway, whole or in part.
    GatewayToml,
    /// One JSON value, or one per line.
    Json,
    /// Inside of a `server` block.
    Nginx,
    /// Sections behind a frame of defaults.
    Haproxy,
    /// Sections of a systemd unit.
    Ini,
    /// Resource records.
    Dns,
    /// A program.
    Python,
}

/// One block.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    /// What it is.
    pub(super) kind: Kind,
    /// Line of its opening fence, from 1.
    pub(super) line: usize,
    /// What stands between the fences, without the indentation of a list.
    pub(super) text: String,
    /// Text that a process prints when it is ready; the block goes on in the background.
    pub(super) background: Option<String>,
    /// Why it cannot be run.
    pub(super) not_run: Option<String>,
    /// Exit code that the last command shall have.
    pub(super) exit: i32,
    /// Repeated until it is as shown: what happens in the background takes a moment.
    pub(super) wait: bool,
}

fn kind_of(word: &str) -> Option<Kind> {
    Some(match word {
        "sh" => Kind::Sh,
        "console" => Kind::Console,
        "text" => Kind::Text,
        "toml" => Kind::Toml,
        "json" => Kind::Json,
        "nginx" => Kind::Nginx,
        "haproxy" => Kind::Haproxy,
        "ini" => Kind::Ini,
        "dns" => Kind::Dns,
        "python" => Kind::Python,
        _ => return None,
    })
}

/// Reads `word name name="value"...`.
fn attributes(mut rest: &str) -> Option<Vec<(&str, &str)>> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Some(found);
        }
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let name = &rest[..end];
        rest = &rest[end..];
        let value = match rest.strip_prefix("=\"") {
            Some(quoted) => {
                let end = quoted.find('"')?;
                rest = &quoted[end + 1..];
                &quoted[..end]
            }
            None => "",
        };
        found.push((name, value));
    }
}

/// All blocks of a page.
///
/// # Errors
/// The first block whose info string is missing or unknown, or that does not end.
pub(super) fn read(page: &str, text: &str) -> Result<Vec<Fence>, String> {
    let mut fences = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        // What a page takes as given is in a comment: `<!-- room`, commands, `-->`.
        let (word, rest, end) = if let Some(rest) = line.strip_prefix("<!-- room") {
            ("sh", rest, "-->")
        } else if let Some(info) = line.trim_start().strip_prefix("```") {
            let (word, rest) = info.split_once(' ').unwrap_or((info, ""));
            (word, rest, "```")
        } else {
            continue;
        };
        let at = at + 1;
        let wrong = |what: &str| format!("{page}:{at}: {what}: {line}");
        let mut fence = Fence {
            kind: kind_of(word).ok_or_else(|| wrong("block without a known kind"))?,
            line: at,
            text: String::new(),
            background: None,
            not_run: None,
            exit: 0,
            wait: false,
        };
        for (name, value) in attributes(rest).ok_or_else(|| wrong("unfinished value"))? {
            match (name, value.is_empty()) {
                ("background", false) => fence.background = Some(value.to_owned()),
                ("not-run", false) => fence.not_run = Some(value.to_owned()),
                ("exit", false) => fence.exit = value.parse().map_err(|_| wrong("no exit code"))?,
                ("wait", true) => fence.wait = true,
                ("gateway", true) if fence.kind == Kind::Toml => fence.kind = Kind::GatewayToml,
                _ => return Err(wrong("unknown attribute")),
            }
        }
        loop {
            let (_, line) = lines.next().ok_or_else(|| wrong("block without an end"))?;
            if line.trim() == end {
                break;
            }
            let cut = indent.min(line.len() - line.trim_start().len());
            fence.text.push_str(&line[cut..]);
            fence.text.push('\n');
        }
        fences.push(fence);
    }
    Ok(fences)
}

/// The commands of a `console` block, each with what it is shown to print.
pub(super) fn dialogue(text: &str) -> Vec<(String, String)> {
    let mut said: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            said.push((command.to_owned(), String::new()));
        } else if let Some((command, output)) = said.last_mut() {
            match line.strip_prefix("> ").filter(|_| output.is_empty() && command.ends_with('\\')) {
                Some(more) => *command = format!("{command}\n{more}"),
                None => {
                    output.push_str(line);
                    output.push('\n');
                }
            }
        }
    }
    said
}

#[test]
fn a_block_without_a_kind_is_found() {
    let found = |text: &str| read("p.md", text).err();
    assert!(found("```\nls\n```\n").expect("refused").contains("p.md:1"));
    assert!(found("text\n\n```bash\nls\n```\n").expect("refused").contains("p.md:3"));
    assert!(found("```sh not-run\nls\n```\n").is_some(), "a reason is needed");
    assert!(found("```sh\nls\n").is_some(), "an end is needed");
    let one =
        read("p.md", "1. a\n\n   ```sh background=\"it runs\" wait\n   ls\n     -l\n   ```\n").expect("read");
    assert_eq!((one[0].text.as_str(), one[0].background.as_deref()), ("ls\n  -l\n", Some("it runs")));
    assert!(one[0].wait);
}

#[test]
fn a_dialogue_is_taken_apart() {
    let said = dialogue("$ a \\\n> b\nx\n\n$ c\n");
    assert_eq!(said, [("a \\\nb".to_owned(), "x\n\n".to_owned()), ("c".to_owned(), String::new())]);
}
