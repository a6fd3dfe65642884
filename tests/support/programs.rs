//! Programs that we did not write, found and started for tests. What is not installed is skipped, with a line that
//! says so.

pub(crate) mod opensmtpd;
pub(crate) mod postfix;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// Longest time one program may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a program is, if it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

/// Runs a program to its end, with `input` on its stdin; fails when it fails.
pub(crate) async fn run(command: &mut Command, input: &[u8]) -> String {
    let (well, said) = try_run(command, input).await;
    assert!(well, "{command:?} failed:\n{said}");
    said
}

/// The same; whether it ended well, and all it said.
pub(crate) async fn try_run(command: &mut Command, input: &[u8]) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("program starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let _ = stdin.write_all(input).await; // it may have ended before
    drop(stdin);
    let output =
        timeout(PATIENCE, child.wait_with_output()).await.expect("program ends").expect("program runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Lets programs that give up root get in.
pub(crate) fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// Whether we may do what only root may; says so when not.
pub(crate) async fn is_root(what: &str) -> bool {
    let uid = run(Command::new("id").arg("-u"), b"").await;
    if uid.trim() != "0" {
        eprintln!("SKIPPED: {what} needs root to start");
    }
    uid.trim() == "0"
}

/// Contents of all files of a Maildir's `new/`.
pub(crate) fn maildir_new(maildir: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(maildir.join("new")) else { return Vec::new() };
    entries.map(|entry| std::fs::read(entry.expect("entry").path()).expect("read")).collect()
}
