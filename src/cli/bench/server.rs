//! This relay as a server under measurement: a `serve` process of its own, from this program or from an earlier one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::figures::{Outcome, Unit};
use super::{offline, stop};
use crate::clock;
use crate::config::{Config, Sources};
use crate::identity::key::SecretKey;
use crate::observe::history::Reading;

/// Longest wait for `serve` to start: millions of items may have to be read.
const START_PATIENCE: Duration = Duration::from_secs(3600);
/// Longest wait for a metric.
const METRIC_PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for it to count what it has.
const COUNT_PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for it to stop when asked.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// Shortest time that results are kept.
const RETAIN_RESULTS_SECONDS_MIN: u64 = 60;
/// Most senders at a time.
const SENDERS_MAX: u32 = 2000;
/// What recipients have behind the `@`.
pub(super) const DOMAIN: &str = "mail.bench.test";

/// The key of gateway `n`.
pub(super) fn key(n: u32) -> SecretKey {
    let mut seed = [0x5a; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_seed(&seed)
}

/// A directory with a configuration, which relays start on, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    program: PathBuf,
}

impl Place {
    /// What a relay is measured with: everything durable and logged as by default; nothing that needs DNS, no limit on
    /// how fast one address may bring mail. `more` are further tables.
    pub(super) fn make(root: &Path, program: &Path, more: &str) -> anyhow::Result<Self> {
        let text = format!(
            "data_dir = \"{}\"\nhostname = \"relay.bench.test\"\ndomains = [\"{DOMAIN}\"]\n\
             [http]\nlisten = \"127.0.0.1:0\"\n\
             [smtp]\nlisten = [\"127.0.0.1:0\"]\ngreet_delay_ms = 0\nmax_connections = {SENDERS_MAX}\n\
             [spool]\nmin_free_bytes = 0\n[log]\nformat = \"json\"\n[verify]\nenabled = false\n\
             [limits]\nenabled = false\n\
             [admission]\nmailbox_items_max = 100000000\nmailbox_bytes_max = 1000000000000\n{more}",
            root.join("data").display(),
        );
        fs::write(root.join("waystation.toml"), text)?;
        Ok(Self { root: root.to_owned(), program: program.to_owned() })
    }

    /// Relays here forget what was acked after so many seconds, and results as soon as they may.
    pub(super) fn retain(&self, seconds: u64) -> anyhow::Result<()> {
        let text = fs::read_to_string(self.config_file())?;
        let results = seconds.max(RETAIN_RESULTS_SECONDS_MIN);
        let table =
            format!("[spool]\nretain_acked_seconds = {seconds}\nretain_results_seconds = {results}\n");
        anyhow::ensure!(text.matches("[spool]\n").count() == 1, "the configuration has no table [spool]");
        Ok(fs::write(self.config_file(), text.replace("[spool]\n", &table))?)
    }

    /// Relays here take mail from a few senders at a time, and leave what files the others would need to gateways.
    pub(super) fn few_senders(&self) -> anyhow::Result<()> {
        let (text, many) = (fs::read_to_string(self.config_file())?, format!("= {SENDERS_MAX}\n"));
        anyhow::ensure!(text.matches(&many).count() == 1, "the configuration does not say how many senders");
        Ok(fs::write(self.config_file(), text.replace(&many, "= 64\n"))?)
    }

    fn config_file(&self) -> PathBuf {
        self.root.join("waystation.toml")
    }

    /// The configuration that relays here start with: for whoever fills the spool while none runs.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        let text = fs::read_to_string(self.config_file())?;
        Ok(Config::load(&Sources { file: Some(("waystation.toml", &text)), env: &[], flags: &[] })?)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config_file()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Registers gateways `0..count` while no relay runs, and gives their addresses.
    pub(super) fn mailboxes(&self, count: u32) -> anyhow::Result<Vec<String>> {
        let names: Vec<String> = (0..count).map(|n| key(n).key_text().to_string()).collect();
        let addresses = names.iter().map(|name| format!("{name}@{DOMAIN}")).collect();
        offline::with(self, |spooler| async move { offline::register(&spooler, &names).await })?;
        Ok(addresses)
    }

    /// Asks the running relay something, as its operator does; how long that took, and what it said.
    pub(super) fn ask(&self, arguments: &[&str]) -> anyhow::Result<(Duration, String)> {
        let begun = clock::monotonic();
        let done = self.command().args(arguments).stdout(Stdio::piped()).output()?;
        let took = since(begun);
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::ensure!(done.status.success(), "waystation {}: {said}", arguments.join(" "));
        Ok((took, String::from_utf8(done.stdout)?))
    }

    /// Starts a relay and waits until it serves.
    pub(super) fn start(&self) -> anyhow::Result<Relay> {
        let log = self.root.join("log");
        let (begun, file) = (clock::monotonic(), fs::File::create(&log)?);
        let child = self.command().arg("serve").stderr(file).spawn().context("cannot start serve")?;
        let mut relay = Relay { child, http: ([127, 0, 0, 1], 0).into(), smtp: None, ready: Duration::ZERO };
        loop {
            let text = fs::read_to_string(&log)?;
            let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(event) = events.find(|event| event["event"] == "relay.started") {
                relay.http = event["http"].as_str().context("no http")?.parse().context("http")?;
                relay.smtp = smtp_address(&event["smtp"]);
                relay.ready = clock::monotonic().duration_since(begun);
                return Ok(relay);
            }
            let ended = relay.child.try_wait()?;
            anyhow::ensure!(ended.is_none(), "the relay ended instead of starting:\n{text}");
            anyhow::ensure!(since(begun) < START_PATIENCE, "the relay does not start:\n{text}");
            stop::sleep(Duration::from_millis(2))?;
        }
    }
}

fn since(begun: std::time::Instant) -> Duration {
    clock::monotonic().duration_since(begun)
}

/// The first address in what the log shows of a list.
fn smtp_address(listed: &Value) -> Option<SocketAddr> {
    let text = listed.as_str()?.trim_matches(['[', ']']);
    text.split(',').next()?.trim().parse().ok()
}

/// A running relay; killed when dropped.
#[derive(Debug)]
pub(super) struct Relay {
    child: Child,
    pub(super) http: SocketAddr,
    smtp: Option<SocketAddr>,
    /// From its start to the moment it served.
    pub(super) ready: Duration,
}

impl Relay {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn smtp(&self) -> anyhow::Result<SocketAddr> {
        self.smtp.context("the relay does not say where it takes SMTP")
    }

    /// See [`metric`].
    pub(super) fn metric(&self, name: &str) -> anyhow::Result<u64> {
        metric(self.http, name)
    }

    /// Several metrics added up, asked for at once.
    pub(super) fn sum(&self, names: &[String]) -> anyhow::Result<u64> {
        let text = metrics(self.http)?;
        names.iter().map(|name| whole(&text, name)).sum()
    }

    /// Whether it counts so many items that wait for gateways, all together.
    pub(super) fn has_ready(&self, stored: u64) -> anyhow::Result<()> {
        let begun = clock::monotonic();
        loop {
            let ready = self.metric("waystation_spool_items{state=\"ready\"}")?;
            if ready == stored {
                return Ok(());
            }
            anyhow::ensure!(since(begun) < COUNT_PATIENCE, "{ready} of {stored} items are stored");
            stop::sleep(Duration::from_millis(20))?;
        }
    }

    /// Asks it to stop and waits.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begun = clock::monotonic();
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(since(begun) < STOP_PATIENCE, "the relay does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A metric with its labels as they are written; nothing counted yet is 0.
pub(super) fn metric(http: SocketAddr, name: &str) -> anyhow::Result<u64> {
    whole(&metrics(http)?, name)
}

fn whole(text: &str, name: &str) -> anyhow::Result<u64> {
    value(text, name).map_or(Ok(0), |value| Ok(value.parse()?))
}

/// The relay's group commits so far: their figures in `outcome`, and how many they were.
pub(super) fn commits(http: SocketAddr, outcome: &mut Outcome) -> anyhow::Result<f64> {
    let text = metrics(http)?;
    let read = |name| value(&text, name).map_or(Ok(0.0), str::parse);
    let count = read("waystation_spool_commit_seconds_count")?;
    let seconds = read("waystation_spool_commit_seconds_sum")?;
    let p99_ms = Reading::of(&text).commit_ms(0.99).context("no commit")?;
    outcome.figure("commit_mean_ms", Unit::Milliseconds, seconds * 1000.0 / count);
    outcome.figure("commit_p99_ms", Unit::Milliseconds, p99_ms);
    Ok(count)
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::trim)
}

fn metrics(http: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(http)?;
    stream.set_read_timeout(Some(METRIC_PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smtp_address_is_read_from_the_log() {
        let listed = |text: &str| smtp_address(&Value::from(text)).map(|address| address.port());
        assert_eq!(listed("[127.0.0.1:2525]"), Some(2525));
        assert_eq!(listed("[]"), None);
    }
}
