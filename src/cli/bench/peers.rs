//! Other servers, as their manuals say for queueing that survives a power cut, each in a directory of its own.
//!
//! Their configuration is in `config/`. None of them is installed or changed on the machine; what needs users or fixed
//! directories gets a mount namespace.

mod confined;
pub(super) mod floor;
pub(super) mod postfix;
pub(super) mod sink;
mod smtp_server;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Side, stop};
use crate::clock;

/// Longest wait for a server to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Asks how many messages are stored.
pub(super) type Stored = Box<dyn Fn() -> anyhow::Result<u64>>;

/// A server that takes mail; it ends with this value.
pub(super) struct Peer {
    pub(super) smtp: SocketAddr,
    pub(super) recipients: Vec<String>,
    /// Its first process.
    pub(super) pid: u32,
    /// How many messages it has stored, as it says itself or as its queue shows. `None`: it stores nothing.
    pub(super) stored: Option<Stored>,
    /// Ends the server when it is dropped.
    pub(super) _running: Box<dyn std::any::Any>,
}

/// Starts one; the inner error says why it cannot be had here. `unpacked`: where peers are that are not installed.
pub(super) fn start(side: Side, dir: &Path, unpacked: &Path) -> anyhow::Result<Result<Peer, String>> {
    match side {
        Side::Postfix => postfix::taking(dir),
        Side::SmtpSink => sink::taking(),
        Side::Waystation | Side::Baseline | Side::Disk => Ok(Err("it is no peer".to_owned())),
        Side::Opensmtpd => confined::opensmtpd(dir, unpacked),
        Side::Exim => confined::exim(dir, unpacked),
        Side::SmtpServer => smtp_server::taking(dir, unpacked),
    }
}

/// Where a program is; Debian keeps servers where a user's PATH may not look.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    all.map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// A port of loopback that nobody has.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until somebody listens.
fn wait_for(address: SocketAddr, who: &str) -> anyhow::Result<()> {
    let until = clock::monotonic() + START_PATIENCE;
    while TcpStream::connect(address).is_err() {
        anyhow::ensure!(clock::monotonic() < until, "{who} does not listen on {address}");
        stop::sleep(Duration::from_millis(20))?;
    }
    Ok(())
}

/// Files in a directory and below it whose names count.
fn files_below(directory: &Path, counts: fn(&str) -> bool) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_below(&entry.path(), counts),
        Ok(kind) if kind.is_file() => u64::from(entry.file_name().to_str().is_some_and(counts)),
        _ => 0,
    };
    entries.flatten().map(count).sum()
}
