//! The program that takes over in a hand-over: where it lies, whether it can, and becoming it.
//!
//! It is the file that this process was started from, looked up again by name, so that an upgrade which put another file
//! (or another target of a link) there takes effect. A probe run comes first: whatever would make its start fail is found
//! out while this process still serves.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::io::AsyncReadExt as _;

use super::handed::{self, Handed};
use crate::systemd::{SOCKETS_MAX, Socket};

/// How long one probe may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);
/// How much of what a probe prints is read, bytes.
const PROBE_BYTES_MAX: u64 = 16 * 1024;
/// Where the kernel shows the program of a process, also when its file is gone.
const SELF: &str = "/proc/self/exe";
/// What the kernel adds to the name of a file that is gone.
const DELETED: &[u8] = b" (deleted)";
/// Descriptor numbers that are left free for whatever is opened in the last moment.
const FD_GAP: u64 = 1024;
/// The limit of open files when there is none.
const FD_MAX: u64 = 1 << 20;
/// The argument of a probe run, beside the others.
pub(super) const PROBE: &str = "--probe";
/// Where the number of the first descriptor is told; without it, it is 3.
const FIRST_FD: &str = "LISTEN_FDS_FIRST_FD";
/// What belongs to this process alone.
const OWN_VARIABLES: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    FIRST_FD,
    handed::VARIABLE,
];

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// The file that this process was started from. To be called at the start: later it may be gone.
    pub(super) fn find() -> io::Result<Self> {
        let mut args = std::env::args_os();
        let called = args.next().unwrap_or_default();
        let running = std::fs::read_link(SELF);
        let search = std::env::var_os("PATH").unwrap_or_default();
        let path = match candidate(&called, &search) {
            // A name that leads to what runs is what the operator replaces: a link stays a link.
            Some(named) if running.is_err() || is_same(&named, Path::new(SELF)) => named,
            Some(_) | None => without_mark(running?),
        };
        Ok(Self { path: std::path::absolute(path)?, args: args.collect() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it twice without letting it serve: can it run at all, and would it start with this configuration, these keys and
    /// this spool? Answers its version.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let named = self.try_run(&[OsString::from("--version")]).await?;
        let version = named.split_whitespace().nth(1).unwrap_or("?").to_owned();
        let mut args = self.args.clone();
        args.push(OsString::from(PROBE));
        self.try_run(&args).await?;
        Ok(version)
    }

    async fn try_run(&self, args: &[OsString]) -> Result<String, String> {
        let mut command = tokio::process::Command::new(&self.path);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for variable in OWN_VARIABLES {
            command.env_remove(variable);
        }
        let failed = |error: io::Error| format!("{} cannot be run: {error}", self.path.display());
        let mut child = command.spawn().map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let run = async {
            let (out, err) = tokio::join!(some_of(out), some_of(err));
            Ok((child.wait().await?, out, err))
        };
        let ended = tokio::time::timeout(PROBE_PATIENCE, run).await;
        let seconds = PROBE_PATIENCE.as_secs();
        let (status, out, err): (ExitStatus, _, _) = ended
            .map_err(|_| format!("{} did not answer in {seconds} s", self.path.display()))?
            .map_err(failed)?;
        if status.success() {
            return Ok(out);
        }
        let said = err.trim().strip_prefix("error: ").unwrap_or(err.trim()).replace('\n', " ");
        Err(format!(
            "{} refuses: {} ({status})",
            self.path.display(),
            if said.is_empty() { "no word" } else { &said }
        ))
    }

    /// Becomes it: same process, same arguments, with the sockets. Returns only when that failed; the sockets are still
    /// open then, and nothing else is.
    pub(super) fn replace(&self, sockets: Vec<Socket>, handed: &Handed) -> io::Error {
        let names = sockets.iter().map(|socket| socket.name.as_str()).collect::<Vec<_>>().join(":");
        let (count, first_fd) = (sockets.len(), first_fd());
        let inheritance = Inheritance { names, count, first_fd, handed };
        let mapped = sockets
            .into_iter()
            .zip(first_fd..)
            .map(|(socket, child_fd)| FdMapping { parent_fd: OwnedFd::from(socket.listener), child_fd });
        let mapped: Vec<FdMapping> = mapped.collect();
        let mut command = self.command(&self.path, &inheritance);
        if let Err(error) = command.fd_mappings(mapped) {
            return io::Error::other(error);
        }
        let error = command.exec();
        tracing::error!(
            event = "relay.handover.exec_failed", path = %self.path.display(), %error,
            "the new program cannot be started, the old one starts again: {error}"
        );
        // The descriptors have their places by now.
        self.command(Path::new(SELF), &inheritance).exec()
    }

    fn command(&self, path: &Path, inheritance: &Inheritance<'_>) -> Command {
        let Inheritance { names, count, first_fd, handed } = inheritance;
        let mut command = Command::new(path);
        command.arg0(&self.path).args(&self.args);
        command.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env(FIRST_FD, first_fd.to_string());
        command.env(handed::VARIABLE, handed.text());
        command
    }
}

/// What the next process finds in its environment.
struct Inheritance<'a> {
    names: String,
    count: usize,
    first_fd: i32,
    handed: &'a Handed,
}

/// The number of the first descriptor that is handed over: above all that are in use. Those belong to somebody in this
/// process, and a thread that ends in the last moment would close what has taken its place.
fn first_fd() -> i32 {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(FD_MAX);
    let highest = limit.saturating_sub(SOCKETS_MAX as u64);
    let used = std::fs::read_dir("/proc/self/fd").ok().and_then(|all| {
        let number =
            |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<u64>().ok();
        all.filter_map(number).max()
    });
    let first = used.map_or(highest, |used| used.saturating_add(FD_GAP).min(highest));
    i32::try_from(first).unwrap_or(i32::MAX).max(3)
}

async fn some_of(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What cannot be read is missing from a sentence, nothing worse.
        let _ = pipe.take(PROBE_BYTES_MAX).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The file that a shell would run under that name.
fn candidate(called: &OsStr, search: &OsStr) -> Option<PathBuf> {
    if called.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(called));
    }
    let found = |dir: PathBuf| Some(dir.join(called)).filter(|path| path.is_file());
    std::env::split_paths(search).filter(|_| !called.is_empty()).find_map(found)
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// The name that a file had which is gone.
fn without_mark(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(name) if !path.exists() => PathBuf::from(OsStr::from_bytes(name)),
        Some(_) | None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_slash_is_searched_for() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tool"), "").unwrap();
        let search = std::env::join_paths([Path::new("/nowhere"), dir.path()]).unwrap();
        assert_eq!(candidate(OsStr::new("tool"), &search), Some(dir.path().join("tool")));
        assert_eq!(candidate(OsStr::new("other"), &search), None);
        assert_eq!(candidate(OsStr::new("./other"), &search), Some(PathBuf::from("./other")));
        assert_eq!(candidate(OsStr::new(""), &search), None);
    }

    #[test]
    fn the_mark_of_a_file_that_is_gone_is_no_part_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(without_mark("/usr/bin/w (deleted)".into()), PathBuf::from("/usr/bin/w"));
        assert_eq!(without_mark("/usr/bin/w".into()), PathBuf::from("/usr/bin/w"));
        let odd = dir.path().join("w (deleted)");
        std::fs::write(&odd, "").unwrap();
        assert_eq!(without_mark(odd.clone()), odd);
    }

    #[test]
    fn a_link_to_what_runs_is_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link).unwrap();
        assert!(is_same(&link, Path::new(SELF)));
        assert!(!is_same(dir.path(), Path::new(SELF)));
    }
}
