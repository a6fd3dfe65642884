//! Is a copy what its report says?

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{FileEntry, REPORT, REPORT_VERSION, Report, SPOOL, UNFINISHED};
use crate::admin::ask::AskError;
use crate::admin::jobs::Tell;

/// Longest report that is read, bytes.
const REPORT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most problems listed; the count goes on.
const PROBLEMS_MAX: usize = 1000;
/// Bytes read at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// Reads every file of the copy in `dir` and compares it with the report.
///
/// # Errors
/// [`AskError::Conflict`] when there is no report that can be read; a file that differs is a line of the answer.
pub fn check(dir: &Path, tell: Tell<'_>) -> Result<Value, AskError> {
    let report = read(dir)?;
    let (mut problems, mut unlisted, mut done) = (Vec::new(), 0_u64, 0_u64);
    for file in &report.files {
        if !tell(done, report.bytes) {
            return Err(AskError::Conflict("the check was broken off".to_owned()));
        }
        done = done.saturating_add(file.bytes);
        let Some(problem) = problem(dir, file) else { continue };
        if problems.len() < PROBLEMS_MAX {
            problems.push(format!("{}: {problem}", file.name));
        } else {
            unlisted += 1;
        }
    }
    tell(done, report.bytes);
    if unlisted > 0 {
        problems.push(format!("{unlisted} more files"));
    }
    if !problems.is_empty() && dir.join("spool/index").exists() {
        problems
            .push("a relay was started on this copy, which is a data directory of its own since".to_owned());
    }
    Ok(json!({
        "ok": problems.is_empty(), "problems": problems, "dir": dir, "made_at": report.made_at,
        "waystation": report.waystation, "epoch": report.epoch, "lsn": report.lsn, "files": report.files.len(),
        "bytes": report.bytes, "left_out": report.left_out,
        // Only a relay makes an index.
        "started_on": dir.join(SPOOL).join("index").exists(),
    }))
}

fn read(dir: &Path) -> Result<Report, AskError> {
    let path = dir.join(REPORT);
    let no = |why: String| AskError::Conflict(format!("{} is no finished backup: {why}", dir.display()));
    let size = match fs::metadata(&path) {
        Ok(facts) => facts.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir.join(UNFINISHED).exists() => {
            return Err(no("it was cut off before its end".to_owned()));
        }
        Err(error) => return Err(no(format!("{REPORT} cannot be read: {error}"))),
    };
    if size > REPORT_BYTES_MAX {
        return Err(no(format!("{REPORT} is larger than {REPORT_BYTES_MAX} bytes")));
    }
    let text = fs::read(&path).map_err(|error| no(format!("{REPORT} cannot be read: {error}")))?;
    let report: Report =
        serde_json::from_slice(&text).map_err(|error| no(format!("{REPORT} is damaged: {error}")))?;
    if report.version > REPORT_VERSION {
        return Err(no(format!("waystation {} made it, which is newer than this one", report.waystation)));
    }
    Ok(report)
}

/// What is wrong with one file.
fn problem(dir: &Path, file: &FileEntry) -> Option<String> {
    let plain = Path::new(&file.name).components().all(|part| matches!(part, Component::Normal(_)));
    if file.name.is_empty() || !plain {
        return Some("it is no name of a file in the copy".to_owned());
    }
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(dir.join(&file.name));
    let hashed = opened.and_then(|opened| hash(&opened));
    match hashed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("it is missing".to_owned()),
        Err(error) => Some(format!("it cannot be read: {error}")),
        Ok((bytes, _)) if bytes != file.bytes => {
            Some(format!("it has {bytes} bytes and should have {}", file.bytes))
        }
        Ok((_, sha256)) if sha256 != file.sha256 => {
            Some("its contents are not those that were copied".to_owned())
        }
        Ok(_) => None,
    }
}

fn hash(mut file: &File) -> io::Result<(u64, String)> {
    let (mut piece, mut sha256, mut bytes) = (vec![0; PIECE_BYTES], Sha256::new(), 0);
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            return Ok((bytes, data_encoding::HEXLOWER.encode(&sha256.finalize())));
        }
        sha256.update(&piece[..len]);
        bytes += len as u64;
    }
}
