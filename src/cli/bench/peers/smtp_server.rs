//! The npm library smtp-server with a script that stores each message in a file: what somebody would write in an hour.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::confined::Running;
use super::{Peer, Stored, files_below, free_address, program, wait_for};

const SCRIPT: &str = include_str!("config/smtp-server.js");

/// `unpacked` holds `node_modules`.
pub(super) fn taking(dir: &Path, unpacked: &Path) -> anyhow::Result<Result<Peer, String>> {
    let Some(node) = program("node") else { return Ok(Err("there is no node".to_owned())) };
    let modules = unpacked.join("node_modules");
    if !modules.join("smtp-server").is_dir() {
        return Ok(Err(format!("it is not in {}", modules.display())));
    }
    let (script, queue, smtp) = (dir.join("smtp-server.js"), dir.join("queue"), free_address()?);
    fs::write(&script, SCRIPT)?;
    fs::create_dir(&queue)?;
    let mut command = Command::new(node);
    command.env("NODE_PATH", modules.canonicalize()?).arg(script);
    command.args([smtp.ip().to_string(), smtp.port().to_string()]).arg(&queue);
    let running = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("node")?);
    wait_for(smtp, "smtp-server")?;
    let stored: Stored = Box::new(move || Ok(files_below(&queue, |name| !name.ends_with(".new"))));
    let recipients = vec!["u@bench.test".to_owned()];
    let pid = running.0.id();
    Ok(Ok(Peer { smtp, recipients, pid, stored: Some(stored), _running: Box::new(running) }))
}
