//! One page, played from top to bottom.
//!
//! What a reader fills in from what he has seen is filled in likewise: the words `ADDRESS`, `KEY`, `ID` and `CODE` in a command
//! stand for the newest address, key text, item id and invitation that a command before has printed.

use std::time::Duration;

use super::compare::as_shown;
use super::fences::{Fence, Kind, dialogue};
use super::fences_of;
use super::room::Room;

/// Pages whose reader stands in the source tree, where `cargo build --release` was done.
const IN_THE_TREE: [&str; 2] = ["README.md", "deploy/README.md"];

/// What was printed so far, and what a reader would copy from it.
#[derive(Debug, Default)]
struct Seen {
    address: Option<String>,
    key: Option<String>,
    id: Option<String>,
    code: Option<String>,
}

fn is_of(text: &str, chars: usize, like: impl Fn(char) -> bool) -> bool {
    text.len() == chars && text.chars().all(like)
}

impl Seen {
    fn note(&mut self, said: &str) {
        let base32 = |c: char| matches!(c, 'a'..='z' | '2'..='7');
        for word in said
            .split(|c: char| c.is_whitespace() || matches!(c, '"' | ',' | '(' | ')' | '<' | '>' | ';' | '='))
        {
            let word = word.trim_end_matches(['.', ':']);
            if let Some((local, domain)) = word.split_once('@')
                && is_of(local, 52, base32)
                && !domain.is_empty()
            {
                self.address = Some(word.to_owned());
                self.key = Some(local.to_owned());
            } else if is_of(word, 52, base32) {
                self.key = Some(word.to_owned());
            } else if is_of(word, 26, |c| matches!(c, 'a'..='v' | '0'..='9')) && word.starts_with('0') {
                self.id = Some(word.to_owned());
            } else if word.split('-').count() == 6 && word.split('-').all(|part| is_of(part, 4, base32)) {
                self.code = Some(word.to_owned());
            }
        }
    }

    /// Fills in whole words.
    fn fill(&self, command: &str) -> String {
        let mut filled = String::new();
        let mut rest = command;
        while let Some(c) = rest.chars().next() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end.max(c.len_utf8()));
            let known = match word {
                "ADDRESS" => Some(&self.address),
                "KEY" => Some(&self.key),
                "ID" => Some(&self.id),
                "CODE" => Some(&self.code),
                _ => None,
            };
            match known {
                Some(Some(value)) => filled.push_str(value),
                Some(None) => panic!("{word} stands in a command, and none was printed before:\n{command}"),
                None => filled.push_str(word),
            }
            rest = after;
        }
        filled
    }
}

/// Plays the page, or says why it cannot be played here.
pub(super) fn play(page: &str) {
    let fences = fences_of(page);
    if fences.is_empty() {
        return;
    }
    let Some(mut room) = Room::open() else { return };
    let mut seen = Seen::default();
    if IN_THE_TREE.contains(&page) {
        let built = "cd ~/tree && mkdir -p target/release && ln -sf /stage/bin/waystation.real target/release/waystation";
        assert_eq!(room.run(built).code, 0);
    }
    let mut took = Duration::ZERO;
    for fence in &fences {
        let of_block = one(page, fence, &mut room, &mut seen);
        eprintln!("{page}:{}: {:?} in {} ms", fence.line, fence.kind, of_block.as_millis());
        took += of_block;
    }
    eprintln!("{page}: {} blocks, {} ms", fences.len(), took.as_millis());
}

fn one(page: &str, fence: &Fence, room: &mut Room, seen: &mut Seen) -> Duration {
    let at = format!("{page}:{}", fence.line);
    if let Some(reason) = &fence.not_run {
        eprintln!("NOT RUN: {at}: {reason}");
        return Duration::ZERO;
    }
    match fence.kind {
        Kind::Sh => commands(&at, fence, room, seen),
        Kind::Console => conversation(&at, fence, room, seen),
        Kind::Text => {
            // A row of a table may begin with our name, too; it has columns.
            let is_command = |line: &&str| {
                line.starts_with("$ ") || line.starts_with("waystation ") && !line.contains("  ")
            };
            let hidden = fence.text.lines().find(is_command);
            assert!(hidden.is_none(), "{at}: a command stands in a block that is not run: {hidden:?}");
            Duration::ZERO
        }
        Kind::Json => {
            let whole = serde_json::from_str::<serde_json::Value>(&fence.text).is_ok();
            let each =
                || fence.text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
            assert!(whole || each(), "{at}: no JSON");
            Duration::ZERO
        }
        Kind::GatewayToml => {
            let text = if fence.text.contains("relay_url") {
                fence.text.clone()
            } else {
                format!("relay_url = \"wss://relay.example.org/ws\"\n{}{}", fence.text, maildir(&fence.text))
            };
            let read =
                waystation::gateway::config::Config::parse(&text, std::path::Path::new("/etc/waystation"));
            assert!(read.is_ok(), "{at}: {read:?}");
            Duration::ZERO
        }
        Kind::Toml => {
            judged(&at, room, "block.toml", &fence.text, "waystation check-config /stage/block.toml")
        }
        Kind::Nginx => {
            let text = format!(
                "pid /tmp/nginx.pid;\nevents {{}}\nhttp {{ server {{ listen 127.0.0.1:8099;\n{}\n}} }}\n",
                fence.text
            );
            judged(&at, room, "nginx.conf", &text, "nginx -t -c /stage/nginx.conf")
        }
        Kind::Haproxy => {
            let text = format!("global\n  maxconn 100\ndefaults\n  timeout connect 5s\n{}", fence.text);
            judged(&at, room, "haproxy.cfg", &text, "haproxy -c -f /stage/haproxy.cfg")
        }
        Kind::Ini => {
            let fine = |line: &str| {
                line.is_empty()
                    || line.starts_with(['#', '['])
                    || line.split_once('=').is_some_and(|(k, _)| !k.contains(' '))
            };
            assert!(fence.text.lines().all(fine), "{at}: no unit file");
            Duration::ZERO
        }
        Kind::Dns => {
            let zone = format!(
                "$ORIGIN .\n$TTL 300\nexample.org. SOA ns.example.org. a.example.org. 1 2 3 4 5\nexample.org. NS ns.example.org.\nns.example.org. A 203.0.113.9\n{}",
                fence.text
            );
            judged(&at, room, "zone", &zone, "named-checkzone example.org /stage/zone")
        }
        Kind::Python => judged(
            &at,
            room,
            "block.py",
            &fence.text,
            "python3 -c 'import cryptography' && python3 /stage/block.py",
        ),
    }
}

/// A destination, when the piece of a configuration has none.
fn maildir(text: &str) -> &'static str {
    let has = ["[maildir]", "[lmtp]", "[command]", "[webhook]"].iter().any(|table| text.contains(table));
    if has { "" } else { "\n[maildir]\npath = \"Maildir\"\n" }
}

/// Lets the program that will read it say whether it can.
fn judged(at: &str, room: &mut Room, name: &str, text: &str, command: &str) -> Duration {
    let program = command.split(' ').next().unwrap_or_default();
    room.put(name, text);
    let ended =
        room.run(&format!("command -v {program} >/dev/null || {{ echo NOT-INSTALLED; exit 0; }}\n{command}"));
    if ended.said.contains("NOT-INSTALLED") {
        eprintln!("SKIPPED: {at}: {program} is not installed");
    }
    assert_eq!(ended.code, 0, "{at}: {}", ended.said);
    ended.took
}

fn commands(at: &str, fence: &Fence, room: &mut Room, seen: &mut Seen) -> Duration {
    let script = seen.fill(&fence.text);
    let ended = match (&fence.background, fence.wait) {
        (Some(ready), _) => room.background(&script, ready),
        (None, false) => room.run(&script),
        (None, true) => room.until(&script, |ended| {
            if ended.code == fence.exit {
                Ok(super::room::Ended { code: ended.code, said: ended.said.clone(), took: ended.took })
            } else {
                Err(format!("{at}: exit code {}", ended.code))
            }
        }),
    };
    assert_eq!(ended.code, fence.exit, "{at}:\n{script}\nsaid:\n{}", ended.said);
    seen.note(&ended.said);
    ended.took
}

fn conversation(at: &str, fence: &Fence, room: &mut Room, seen: &mut Seen) -> Duration {
    let mut took = Duration::ZERO;
    let said = dialogue(&fence.text);
    assert!(!said.is_empty(), "{at}: a console block without a prompt");
    let last = said.len() - 1;
    for (n, (command, shown)) in said.iter().enumerate() {
        let script = seen.fill(command);
        let code = if n == last { fence.exit } else { 0 };
        let judge = |ended: &super::room::Ended| {
            if ended.code != code {
                return Err(format!("{at}: $ {script}: exit code {}", ended.code));
            }
            as_shown(shown, &ended.said).map_err(|problem| format!("{at}: $ {script}: {problem}"))?;
            Ok((ended.said.clone(), ended.took))
        };
        let (came, of_command) = if fence.wait {
            room.until(&script, judge)
        } else {
            let ended = room.run(&script);
            judge(&ended).unwrap_or_else(|problem| panic!("{problem}\nit said:\n{}", ended.said))
        };
        seen.note(&came);
        took += of_command;
    }
    took
}

#[test]
fn what_was_printed_is_filled_in() {
    let mut seen = Seen::default();
    let key = "fumkvvmojlprkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7ta";
    seen.note(&format!("address  {key}@mail.localhost\n250 2.0.0 OK queued as 06gvmkcmcfodl57vg7dcu9edjg\n"));
    assert_eq!(
        seen.fill("show ID --to ADDRESS; echo IDS $ID_X"),
        format!("show 06gvmkcmcfodl57vg7dcu9edjg --to {key}@mail.localhost; echo IDS $ID_X")
    );
}
