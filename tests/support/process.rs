//! The real binary as a child process: what a shell would see.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use waystation::clock::monotonic;

/// Longest wait for the binary to do something.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test, deaf to the environment of whoever runs the tests.
pub(crate) fn waystation() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waystation"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WAYSTATION_") {
            command.env_remove(name);
        }
    }
    command.env_remove("JOURNAL_STREAM").stdin(Stdio::null());
    command
}

/// How the binary is started when something stands around it: words before its own, variables, a crash point.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    /// `strace -f`, `ip netns exec NAME`: a program that becomes the binary, and its arguments.
    pub(crate) before: Vec<String>,
    /// More environment.
    pub(crate) env: Vec<(String, String)>,
}

impl Launch {
    /// It ends at a named point (`name:count`), if one is given.
    pub(crate) fn dying_at(point: Option<&str>) -> Self {
        let env = point.map(|point| ("WAYSTATION_CRASH_AT".to_owned(), point.to_owned()));
        Self { before: Vec::new(), env: env.into_iter().collect() }
    }

    /// The binary as [`waystation`] gives it, with all that around it.
    pub(crate) fn command(&self) -> Command {
        let plain = waystation();
        let Some((program, rest)) = self.before.split_first() else {
            let mut command = plain;
            command.envs(self.env.iter().cloned());
            return command;
        };
        let mut command = Command::new(program);
        command.args(rest).arg(plain.get_program()).stdin(Stdio::null());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.envs(self.env.iter().cloned());
        command
    }
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    waystation().args(args).output().expect("the binary runs")
}

/// Exit code, standard output, standard error.
pub(crate) fn run_text(args: &[&str]) -> (i32, String, String) {
    let output = run(args);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A relay as a process of its own, on free ports.
#[derive(Debug)]
pub(crate) struct RelayProcess {
    child: Child,
    /// Where SMTP listens.
    pub(crate) smtp: SocketAddr,
    /// Where HTTP listens.
    pub(crate) http: SocketAddr,
    /// Where HTTPS listens.
    pub(crate) https: Option<SocketAddr>,
    /// What it logged before it was started.
    pub(crate) early: String,
    log: BufReader<ChildStderr>,
}

impl RelayProcess {
    /// Starts it on `data_dir` and waits until it says that it is started.
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// The same with more environment.
    pub(crate) fn start_with(data_dir: &Path, env: &[(&str, &str)]) -> Self {
        Self::start_as(waystation(), data_dir, env)
    }

    /// The same with a program that is called otherwise.
    pub(crate) fn start_as(mut program: Command, data_dir: &Path, env: &[(&str, &str)]) -> Self {
        let mut child = program
            .args(["serve", "--data-dir"])
            .arg(data_dir)
            .env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_LOG__FORMAT", "json")
            .env("WAYSTATION_SPOOL__MIN_FREE_BYTES", "0")
            .env("WAYSTATION_VERIFY__ENABLED", "false") // there is no DNS
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let (started, early) = wait_for_event(&mut log, "relay.started");
        let address = |text: &str| text.trim_matches(['[', ']']).parse().expect("address");
        let smtp = address(started["smtp"].as_str().expect("smtp"));
        let http = address(started["http"].as_str().expect("http"));
        let https = started["https"].as_str().map(address);
        Self { child, smtp, http, https, early, log }
    }

    /// Ends it as systemd would, and returns its exit code.
    pub(crate) fn terminate(self) -> i32 {
        self.terminate_with_log().0
    }

    /// The same, and the lines that it logged after its start.
    pub(crate) fn terminate_with_log(mut self) -> (i32, Vec<String>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        // Its pipe must be read, or it could not write its last words.
        let lines = self.log.by_ref().lines().map(|line| line.expect("log line")).collect();
        (self.child.wait().expect("it ends").code().unwrap_or(-1), lines)
    }

    /// Ends it as a power cut would, as far as a process can tell.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("it ends");
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_event(log: &mut impl std::io::BufRead, event: &str) -> (Value, String) {
    let until = monotonic() + PATIENCE;
    let mut seen = String::new();
    for line in log.lines() {
        let line = line.expect("log line");
        assert!(monotonic() < until, "no {event} in time:\n{seen}");
        if let Ok(value) = serde_json::from_str::<Value>(&line)
            && value["event"] == event
        {
            return (value, seen);
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    panic!("the relay ended without {event}:\n{seen}");
}
