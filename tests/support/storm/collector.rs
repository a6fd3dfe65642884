//! Reads a Maildir as it fills, and makes room: only the newest messages stay, so that a million of them is no matter.
//!
//! Each name is looked at once. What a gateway delivers a second time has another name, or takes the place of one that is gone; both
//! count as a second arrival. The gateway recognises what it delivered by these names for as long as its own memory is not
//! stable, so the newest must stay.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use crate::support::home::untop;

/// See above.
pub(crate) struct Collector {
    new: PathBuf,
    seen: HashSet<OsString>,
    order: VecDeque<OsString>,
    keep: usize,
}

impl Collector {
    /// For the Maildir at `path`; the newest `keep` messages stay in it.
    pub(crate) fn new(path: PathBuf, keep: usize) -> Self {
        Self { new: path.join("new"), seen: HashSet::new(), order: VecDeque::new(), keep }
    }

    /// Hands over what came since the last time, without the gateway's own field.
    pub(crate) fn look(&mut self, mut arrived: impl FnMut(&[u8])) {
        let Ok(entries) = fs::read_dir(&self.new) else { return };
        for entry in entries {
            let name = entry.expect("entry").file_name();
            if self.seen.contains(&name) {
                continue;
            }
            arrived(untop(&fs::read(self.new.join(&name)).expect("read")));
            self.seen.insert(name.clone());
            self.order.push_back(name);
        }
        while self.order.len() > self.keep {
            let oldest = self.order.pop_front().expect("there are more");
            fs::remove_file(self.new.join(&oldest)).expect("removed");
            self.seen.remove(&oldest);
        }
    }
}
