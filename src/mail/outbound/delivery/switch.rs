//! The switch that pauses all deliveries: an operator's, kept on disk, and the relay's own, when the spool is unwell.
//!
//! Promise: while either is on nothing is armed, so nothing is handed over. The operator's pause survives a restart;
//! ours ends by itself when the spool is well again. A file that cannot be written leaves the switch as it was; one
//! that cannot be read counts as a pause, because somebody put it there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use spool::ids::WallMs;
use tokio::sync::Notify;

/// File in the data directory that says that deliveries are paused.
pub const FILE: &str = "deliveries-paused.json";
/// Longest reason that is kept, characters.
const REASON_CHARS_MAX: usize = 300;
/// Longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// An operator's pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when, milliseconds since 1970 UTC.
    pub since_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    operator: Option<Pause>,
    unfit: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Switch {
    file: PathBuf,
    state: Mutex<State>,
    changed: Notify,
    /// For whoever shows it.
    turned: Notify,
}

impl Switch {
    /// The switch of a data directory, as it was left.
    #[must_use]
    pub fn open(data_dir: &Path) -> Self {
        let file = data_dir.join(FILE);
        let operator = match fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Ok(facts) if facts.len() > FILE_BYTES_MAX => Some(unreadable()),
            Ok(_) | Err(_) => {
                let text = fs::read_to_string(&file).unwrap_or_default();
                Some(serde_json::from_str(&text).unwrap_or_else(|_| unreadable()))
            }
        };
        let state = Mutex::new(State { operator, unfit: None });
        Self { file, state, changed: Notify::new(), turned: Notify::new() }
    }

    /// Stops handing anything over, for as long as it takes. Blocks for two syncs.
    ///
    /// # Errors
    /// The pause could not be made to survive a restart; nothing changed.
    pub fn pause(&self, reason: &str, now: WallMs) -> io::Result<()> {
        let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
        let pause = Pause { reason, since_ms: now.0 };
        let text = serde_json::to_string(&pause).unwrap_or_default();
        let beside = self.file.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.file)?;
        self.sync_dir()?;
        tracing::warn!(event = "relay.outbound.paused", reason = pause.reason, "deliveries are paused");
        self.change(|state| state.operator = Some(pause));
        Ok(())
    }

    /// Goes on. Blocks for one sync. False when no operator had paused.
    ///
    /// # Errors
    /// The file could not be removed; nothing changed.
    pub fn resume(&self) -> io::Result<bool> {
        match fs::remove_file(&self.file) {
            Ok(()) => self.sync_dir()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let was = self.change(|state| state.operator.take()).is_some();
        if was {
            tracing::info!(event = "relay.outbound.resumed", "deliveries go on");
        }
        Ok(was)
    }

    /// An operator's pause, if there is one.
    #[must_use]
    pub fn operator(&self) -> Option<Pause> {
        self.lock().operator.clone()
    }

    /// Why nothing is handed over now, if nothing is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let state = self.lock();
        let operator = state.operator.as_ref().map(|pause| match pause.reason.as_str() {
            "" => "paused by an operator".to_owned(),
            reason => format!("paused by an operator: {reason}"),
        });
        operator.or_else(|| state.unfit.clone())
    }

    /// Nothing may be handed over.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let state = self.lock();
        state.operator.is_some() || state.unfit.is_some()
    }

    /// The relay paused by itself, whatever operators want.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.lock().unfit.is_some()
    }

    /// Says how the spool is; `None`: well.
    pub(super) fn trip(&self, unfit: Option<String>) {
        if self.lock().unfit == unfit {
            return;
        }
        match &unfit {
            Some(reason) => tracing::error!(
                event = "relay.outbound.paused",
                reason,
                "deliveries are paused until the spool is well: {reason}"
            ),
            None => tracing::info!(event = "relay.outbound.resumed", "the spool is well, deliveries go on"),
        }
        self.change(|state| state.unfit = unfit);
    }

    /// Waits for the next change.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The same, for the one who shows what the relay is like.
    pub async fn turned(&self) {
        self.turned.notified().await;
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_one();
        self.turned.notify_one();
        value
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let dir = self.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }
}

fn unreadable() -> Pause {
    Pause { reason: format!("{FILE} cannot be read; remove it to go on"), since_ms: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_pause_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::open(dir.path());
        assert!(!switch.is_on());
        switch.pause("new\nhost", WallMs(5)).unwrap();
        let again = Switch::open(dir.path());
        assert_eq!(again.operator(), Some(Pause { reason: "newhost".into(), since_ms: 5 }));
        assert_eq!(again.reason().as_deref(), Some("paused by an operator: newhost"));
        assert!(again.resume().unwrap());
        assert!(!again.is_on() && !again.resume().unwrap());
        assert!(!Switch::open(dir.path()).is_on());
    }

    #[test]
    fn an_unwell_spool_pauses_until_it_is_well_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::open(dir.path());
        switch.trip(Some("no space for another segment".into()));
        assert!(switch.is_on());
        assert!(!Switch::open(dir.path()).is_on());
        switch.pause("", WallMs(1)).unwrap();
        switch.trip(None);
        assert!(switch.is_on(), "the operator's pause stays");
        switch.resume().unwrap();
        assert!(!switch.is_on());
    }

    #[test]
    fn a_file_nobody_can_read_is_a_pause() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Switch::open(dir.path()).reason().unwrap().contains("remove it"));
    }
}
