//! The relay as a process that comes and goes; killed when dropped.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::support::process::Launch;

/// How long an orderly end may take before it is none.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Points in the relay, in the order a submission passes them.
pub(crate) const OUTBOUND_POINTS: [&str; 10] = [
    "outbound.before_accept",
    "outbound.after_accept",
    "delivery.before_arm",
    "delivery.after_arm",
    "delivery.before_dot",
    "delivery.after_dot",
    "delivery.before_settle",
    "delivery.after_settle",
    "outbound.before_told",
    "outbound.after_told",
];
/// Points in the relay, in the order a message passes them.
pub(crate) const RELAY_POINTS: [&str; 7] = [
    "intake.before_commit",
    "intake.after_commit",
    "intake.after_reply",
    "lane.before_read",
    "lane.before_ack",
    "lane.ack_answered",
    "lane.after_ack",
];

/// See above.
pub(crate) struct Relay {
    child: Child,
}

impl Relay {
    /// Starts it with the `waystation.toml` of `dir`; what it logs is added to `relay.log` there.
    pub(crate) fn start(dir: &Path, launch: &Launch) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("relay.log")).expect("log");
        let mut command = launch.command();
        command.args(["serve", "--config"]).arg(dir.join("waystation.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("WAYSTATION_VERIFY__ENABLED", "false"); // nobody's signatures are of interest here
        Self { child: command.spawn().expect("started") }
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waited")
    }

    /// Sends a signal by name, if it is still there to hear it.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status();
    }

    /// SIGTERM, then SIGKILL if it takes too long (W15).
    pub(crate) fn stop(mut self) {
        if self.has_ended().is_some() {
            return;
        }
        self.signal("TERM");
        let step = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        while self.has_ended().is_none() && waited < STOP_PATIENCE {
            std::thread::sleep(step);
            waited += step;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
