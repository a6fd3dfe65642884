//! One file of the mboxrd kind: `From ` lines between the messages, and one `>` more before every line that could be taken
//! for one.
//!
//! Line ends are LF there, as readers of such files want. Mail has CRLF; undoing the two changes gives back each byte,
//! unless a message had other line ends, which the manifest says.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

use super::super::text;
use super::maildir::accepted_at;
use super::{Placed, Shelf, make_file, sync_dir};

/// Its name.
const NAME: &str = "messages.mbox";
/// Its name until the last message is in it.
const UNFINISHED: &str = "messages.mbox.incomplete";
/// How a line begins that could be taken for the start of a message.
const FROM: &[u8] = b"From ";

#[derive(Debug)]
pub(super) struct Mbox {
    dir: PathBuf,
    file: BufWriter<File>,
    /// Bytes of the messages that were kept.
    end: u64,
    /// Where the message under way begins.
    start: u64,
    quoting: Quoting,
}

impl Mbox {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let file = BufWriter::new(make_file(&dir.join(UNFINISHED))?);
        Ok(Self { dir: dir.to_owned(), file, end: 0, start: 0, quoting: Quoting::default() })
    }
}

impl Write for Mbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.quoting.push(bytes, &mut self.file)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Shelf for Mbox {
    fn begin(&mut self, item: &Value) -> io::Result<()> {
        let line = from_line(text(&item["mail_from"]), accepted_at(item));
        self.file.write_all(line.as_bytes())?;
        self.start = self.end + line.len() as u64;
        self.quoting = Quoting::default();
        Ok(())
    }

    fn keep(&mut self) -> io::Result<Placed> {
        self.quoting.end(&mut self.file)?;
        let (length, exact) = (self.quoting.written, !self.quoting.changed);
        self.file.write_all(b"\n")?;
        self.end = self.start + length + 1;
        Ok(Placed { file: NAME.to_owned(), part: Some((self.start, length, exact)) })
    }

    fn discard(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_mut().set_len(self.end)?;
        self.file.seek(SeekFrom::Start(self.end)).map(|_| ())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(self.dir.join(UNFINISHED), self.dir.join(NAME))?;
        sync_dir(&self.dir)
    }
}

/// `From anna@far.example Fri Jan  2 03:04:05 2026`, in UTC. Blanks in an address would end it too early.
fn from_line(mail_from: &str, at: Option<OffsetDateTime>) -> String {
    let sender: String =
        mail_from.chars().map(|c| if c.is_whitespace() || c.is_control() { '-' } else { c }).collect();
    let sender = if sender.is_empty() { "MAILER-DAEMON" } else { &sender };
    let format = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    );
    let date = at.unwrap_or(OffsetDateTime::UNIX_EPOCH).format(&format).unwrap_or_default();
    format!("From {sender} {date}\n")
}

/// Changes the bytes of one message, in whatever pieces they come.
#[derive(Debug)]
struct Quoting {
    /// `Some` while all of the line so far is `>`s and then a part of `From `.
    begins: Option<(u64, usize)>,
    /// A CR that may belong to a CRLF.
    cr: bool,
    /// The message does not end with the end of a line yet.
    open_line: bool,
    /// What cannot be undone.
    changed: bool,
    written: u64,
}

impl Default for Quoting {
    fn default() -> Self {
        Self { begins: Some((0, 0)), cr: false, open_line: false, changed: false, written: 0 }
    }
}

impl Quoting {
    fn push(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        for byte in bytes {
            self.byte(*byte, out)?;
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8, out: &mut impl Write) -> io::Result<()> {
        match self.begins {
            Some((quotes, 0)) if byte == b'>' => {
                self.begins = Some((quotes + 1, 0));
                self.open_line = true;
                return Ok(());
            }
            Some((quotes, matched)) if FROM.get(matched) == Some(&byte) => {
                self.begins = Some((quotes, matched + 1));
                self.open_line = true;
                if matched + 1 == FROM.len() {
                    self.give(b'>', out)?;
                    self.begun(out)?;
                }
                return Ok(());
            }
            Some(_) => self.begun(out)?,
            None => {}
        }
        let cr = std::mem::take(&mut self.cr);
        if cr && byte != b'\n' {
            self.give(b'\r', out)?;
        }
        self.changed |= !cr && byte == b'\n';
        match byte {
            b'\r' => {
                self.cr = true;
                self.open_line = true;
                Ok(())
            }
            b'\n' => {
                self.begins = Some((0, 0));
                self.open_line = false;
                self.give(byte, out)
            }
            _ => {
                self.open_line = true;
                self.give(byte, out)
            }
        }
    }

    /// The line is none that needs a quote, or has one now: what was kept back of it goes out.
    fn begun(&mut self, out: &mut impl Write) -> io::Result<()> {
        let Some((quotes, matched)) = self.begins.take() else { return Ok(()) };
        for _ in 0..quotes {
            self.give(b'>', out)?;
        }
        FROM.iter().take(matched).try_for_each(|byte| self.give(*byte, out))
    }

    /// The message is over; its last line ends, whatever it was.
    fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.begun(out)?;
        if std::mem::take(&mut self.cr) {
            self.give(b'\r', out)?;
        }
        if std::mem::take(&mut self.open_line) {
            self.changed = true;
            self.give(b'\n', out)?;
        }
        Ok(())
    }

    fn give(&mut self, byte: u8, out: &mut impl Write) -> io::Result<()> {
        self.written += 1;
        out.write_all(&[byte])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    fn quoted(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut quoting, mut out) = (Quoting::default(), Vec::new());
        for piece in pieces {
            quoting.push(piece, &mut out).unwrap();
        }
        quoting.end(&mut out).unwrap();
        assert_eq!(quoting.written, out.len() as u64);
        (out, !quoting.changed)
    }

    /// What a reader of such files does, and CRLF again.
    fn undone(quoted: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in quoted.split_inclusive(|b| *b == b'\n') {
            let quotes = line.iter().take_while(|b| **b == b'>').count();
            let line = if quotes > 0 && line[quotes..].starts_with(FROM) { &line[1..] } else { line };
            out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    #[test]
    fn lines_that_begin_like_a_message_get_one_quote_more() {
        let (text, exact) =
            quoted(&[b"Subject: x\r\n\r\nFrom me\r\n>From you\r\n>>Fro", b"m all\r\nFrom\r\n>x\r\n"]);
        assert_eq!(text, b"Subject: x\n\n>From me\n>>From you\n>>>From all\nFrom\n>x\n");
        assert!(exact);
    }

    #[test]
    fn other_line_ends_are_kept_and_told() {
        assert_eq!(quoted(&[b"a\nb\r\n"]), (b"a\nb\n".to_vec(), false));
        assert_eq!(quoted(&[b"a\r\nb"]), (b"a\nb\n".to_vec(), false));
        assert_eq!(quoted(&[b"a\rb\r\n"]), (b"a\rb\n".to_vec(), true));
        assert_eq!(quoted(&[b"a\r\r\n"]), (b"a\r\n".to_vec(), true));
        assert_eq!(quoted(&[b">>"]), (b">>\n".to_vec(), false));
        assert_eq!(quoted(&[b""]), (Vec::new(), true));
    }

    proptest! {
        #[test]
        fn each_byte_can_be_had_back(
            words in proptest::collection::vec(
                proptest::sample::select(vec!["From ", ">", "\r\n", "F", "\r", "x y"]),
                0..40,
            ),
            cut in 0_usize..120,
        ) {
            let mut mail = words.concat().into_bytes();
            if !mail.ends_with(b"\r\n") {
                mail.extend_from_slice(b"\r\n");
            }
            let (left, right) = mail.split_at(cut.min(mail.len()));
            let (text, exact) = quoted(&[left, right]);
            prop_assert!(exact);
            prop_assert_eq!(undone(&text), mail);
            prop_assert!(!text.starts_with(FROM) && !text.windows(6).any(|w| w == b"\nFrom "));
        }
    }

    #[test]
    fn from_lines_are_what_readers_look_for() {
        let at = Some(datetime!(2026-01-02 03:04:05 UTC));
        assert_eq!(from_line("anna@far.example", at), "From anna@far.example Fri Jan  2 03:04:05 2026\n");
        assert_eq!(from_line("", None), "From MAILER-DAEMON Thu Jan  1 00:00:00 1970\n");
        assert!(from_line("\"a b\"@x", at).starts_with("From \"a-b\"@x Fri"));
    }

    #[test]
    fn a_message_that_was_begun_in_vain_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut mbox = Mbox::new(dir.path()).unwrap();
        let item = json!({ "mail_from": "a@b", "accepted_at": "2026-01-02T03:04:05Z" });
        let mut put = |body: &[u8], keep: bool| {
            mbox.begin(&item).unwrap();
            mbox.write_all(body).unwrap();
            if keep { Some(mbox.keep().unwrap()) } else { mbox.discard().map(|()| None).unwrap() }
        };
        put(b"one\r\n", true);
        put(&vec![b'x'; 100_000], false);
        let placed = put(b"two\r\n", true).unwrap();
        mbox.finish().unwrap();
        let text = fs::read_to_string(dir.path().join(NAME)).unwrap();
        let from = "From a@b Fri Jan  2 03:04:05 2026\n";
        assert_eq!(text, format!("{from}one\n\n{from}two\n\n"));
        let Some((offset, length, true)) = placed.part else { panic!("{placed:?}") };
        assert_eq!(&text[offset as usize..][..length as usize], "two\n");
    }
}
