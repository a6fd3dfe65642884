//! `manifest.jsonl`: one object for each item that was selected, written while the export goes on, named at its end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Placed, make_file, sync_dir};

/// Its name.
pub(super) const NAME: &str = "manifest.jsonl";
/// Its name until everything it speaks of is stable.
const UNFINISHED: &str = "manifest.jsonl.incomplete";
/// What is said of an item as its listing says it.
const LISTED: [&str; 9] =
    ["id", "direction", "lane", "seq", "state", "result", "mail_from", "rcpt_to", "accepted_at"];

#[derive(Debug)]
pub(super) struct Manifest {
    dir: PathBuf,
    file: BufWriter<File>,
}

impl Manifest {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned(), file: BufWriter::new(make_file(&dir.join(UNFINISHED))?) })
    }

    /// An item whose message is there.
    ///
    /// * `sha256`: of the bytes that its gateway, or the next hop, gets.
    pub(super) fn exported(&mut self, item: &Value, sha256: &str, placed: &Placed) -> io::Result<()> {
        let mut line = listed(item);
        line["sha256"] = sha256.into();
        line["body_sha256"] = item["sha256"].clone();
        line["file"] = placed.file.as_str().into();
        if let Some((offset, length, exact)) = placed.part {
            line["offset"] = offset.into();
            line["length"] = length.into();
            if !exact {
                line["line_ends_changed"] = true.into();
            }
        }
        writeln!(self.file, "{line}")
    }

    /// An item whose message is not.
    pub(super) fn missing(&mut self, item: &Value, why: &str, damaged: bool) -> io::Result<()> {
        let mut line = listed(item);
        line["body_sha256"] = item["sha256"].clone();
        line["missing"] = why.into();
        line["damaged"] = damaged.into();
        writeln!(self.file, "{line}")
    }

    /// Everything it speaks of is stable.
    pub(super) fn finish(self) -> io::Result<()> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(self.dir.join(UNFINISHED), self.dir.join(NAME))?;
        sync_dir(&self.dir)
    }
}

fn listed(item: &Value) -> Value {
    let mut line = json!({});
    for name in LISTED {
        line[name] = item[name].clone();
    }
    // A record that cannot be read has no id.
    if item["sha256"].is_null() {
        line["id"] = Value::Null;
    }
    line["size_bytes"] = item["size_bytes"].clone();
    line
}
