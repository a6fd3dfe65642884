//! A Maildir: written in `tmp`, synced, renamed into `new`.
//!
//! Names sort as the lanes do: the lane's place in the export, the item's number in its lane, its id. A file is as old as
//! its message, which is what programs take for the time of its arrival.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::text;
use super::{Placed, Shelf, make_dir, make_file, sync_dir};

#[derive(Debug)]
pub(super) struct Maildir {
    dir: PathBuf,
    lane: String,
    lanes: u64,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    name: String,
    /// Since 1970.
    arrived: Option<Duration>,
}

impl Maildir {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        for name in ["tmp", "new", "cur"] {
            make_dir(&dir.join(name))?;
        }
        Ok(Self { dir: dir.to_owned(), lane: String::new(), lanes: 0, current: None })
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.dir.join("tmp").join(name)
    }
}

impl Write for Maildir {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.current {
            Some(current) => current.file.write(bytes),
            None => Err(io::Error::other("no message was begun")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shelf for Maildir {
    fn begin(&mut self, item: &Value) -> io::Result<()> {
        let lane = format!("{} {}", text(&item["direction"]), text(&item["lane"]));
        if self.lane != lane {
            self.lane = lane;
            self.lanes += 1;
        }
        let seq = item["seq"].as_u64().unwrap_or(0);
        let name = format!("{:05}-{seq:012}.{}.waystation", self.lanes, text(&item["id"]));
        let file = make_file(&self.temporary(&name))?;
        let seconds = accepted_at(item).and_then(|at| u64::try_from(at.unix_timestamp()).ok());
        self.current = Some(Current { file, name, arrived: seconds.map(Duration::from_secs) });
        Ok(())
    }

    fn keep(&mut self) -> io::Result<Placed> {
        let Some(Current { file, name, arrived }) = self.current.take() else {
            return Err(io::Error::other("no message was begun"));
        };
        if let Some(arrived) = arrived {
            file.set_modified(SystemTime::UNIX_EPOCH + arrived)?;
        }
        file.sync_all()?;
        let place = format!("new/{name}");
        fs::rename(self.temporary(&name), self.dir.join(&place))?;
        Ok(Placed { file: place, part: None })
    }

    fn discard(&mut self) -> io::Result<()> {
        match self.current.take() {
            Some(current) => fs::remove_file(self.temporary(&current.name)),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        for name in ["tmp", "new", "cur"] {
            sync_dir(&self.dir.join(name))?;
        }
        sync_dir(&self.dir)
    }
}

/// When an item was accepted.
pub(super) fn accepted_at(item: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text(&item["accepted_at"]), &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(direction: &str, lane: &str, seq: u64, id: &str) -> Value {
        json!({ "direction": direction, "lane": lane, "seq": seq, "id": id, "accepted_at": "2026-01-02T03:04:05.678Z" })
    }

    #[test]
    fn names_sort_as_the_lanes_do_and_files_are_as_old_as_their_messages() {
        let dir = tempfile::tempdir().unwrap();
        let mut maildir = Maildir::new(dir.path()).unwrap();
        let items = [
            item("in", "zebra", 9, "b"),
            item("in", "zebra", 10, "a"),
            item("in", "ant", 1, "d"),
            item("out", "ant", 1, "c"),
        ];
        let mut placed = Vec::new();
        for item in &items {
            maildir.begin(item).unwrap();
            maildir.write_all(text(&item["id"]).as_bytes()).unwrap();
            placed.push(maildir.keep().unwrap().file);
        }
        maildir.begin(&item("in", "ant", 2, "e")).unwrap();
        maildir.write_all(b"half").unwrap();
        maildir.discard().unwrap();
        maildir.finish().unwrap();
        assert_eq!(placed[1], "new/00001-000000000010.a.waystation");
        assert!(placed.is_sorted(), "{placed:?}");
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(dir.path().join("new")).unwrap().count(), 4);
        let facts = fs::metadata(dir.path().join(&placed[0])).unwrap();
        assert_eq!(facts.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045));
    }
}
