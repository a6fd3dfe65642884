//! `gateway audit`: reads what is kept at home and says the first thing that does not add up. Changes nothing, asks
//! nobody, and may be run while a gateway runs.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::super::{Exit, Global, screen};
use crate::gateway::audit::{self, Evidence, Report};
use crate::gateway::keyring::Keyring;
use crate::gateway::receipts::{self, Archive, Entry, Fate, Line};
use crate::gateway::{maildir, memory};
use crate::identity::keyfile;
use crate::mail::relay_keys::TrustedKeys;

/// How much of a file is hashed at once, bytes.
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    /// Also compare the delivered files of this Maildir; by default the configured one
    #[arg(long, value_name = "DIR")]
    maildir: Option<PathBuf>,
}

pub(crate) fn audit(global: &Global, args: &Audit) -> anyhow::Result<Exit> {
    let config = super::load(global)?;
    let key = keyfile::load(&config.key_file)?.key_text();
    let keys = Keyring::open(&config.data_dir, &config.pins())?.trusted();
    // The memory first: what is delivered while this reads has its receipt before it is in the memory.
    let memory = memory::delivered(&config.data_dir).context("memory of delivered items")?;
    let delivered: BTreeSet<u64> = memory.into_values().filter(|seq| *seq > 0).collect();
    let archive = receipts::read_all(&config.data_dir).context("receipts")?;
    let evidence = Evidence { archive: &archive, keys: &keys, lane: key.as_str(), delivered: &delivered };
    let mut report = audit::audit(&evidence);
    if let Some(dir) = args.maildir.as_deref().or(config.maildir.as_ref().map(|table| table.path.as_path())) {
        compare(&mut report, &archive, &keys, dir)?;
    }
    if global.json {
        let mut object = serde_json::to_value(&report)?;
        object["ok"] = serde_json::Value::Bool(report.findings.is_empty());
        screen::line(&object)?;
    } else {
        screen::print(&screen::clean_lines(&report.to_text()))?;
    }
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Compares the files of a Maildir with the receipts of their items.
fn compare(report: &mut Report, archive: &Archive, keys: &TrustedKeys, dir: &Path) -> anyhow::Result<()> {
    let mut entries: HashMap<String, &Entry> = HashMap::new();
    let mut first = u64::MAX;
    for line in &archive.lines {
        if let Line::Entry(entry) = line
            && entry.fate == Fate::Stored
        {
            if entry.seq > 0 {
                first = first.min(entry.seq);
            }
            entries.insert(maildir::name_id(&entry.id), entry);
        }
    }
    for found in maildir::files(dir) {
        let shown = found.path.display().to_string();
        let Some(entry) = entries.get(found.id.as_str()) else {
            // Reports on our own mail have no position; what is older than the receipts has none.
            if found.seq > first {
                report.file_without_receipt(&shown, found.seq, &found.id);
            }
            continue;
        };
        let Some((size, sha256)) = audit::expected(entry, keys) else { continue };
        report.files += 1;
        match tail(&found.path, size).with_context(|| shown.clone())? {
            None => report.changed_file(&shown, entry.seq, &entry.id, "it is shorter"),
            Some(tail) if tail != sha256 => {
                report.changed_file(&shown, entry.seq, &entry.id, "its SHA-256 is another");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// SHA-256 of the last `size` bytes; `None` when there are fewer, or the file has gone meanwhile.
fn tail(path: &Path, size: u64) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let Some(at) = file.metadata()?.len().checked_sub(size) else { return Ok(None) };
    file.seek(SeekFrom::Start(at))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Some(HEXLOWER.encode(&hash.finalize()))),
            n => hash.update(&piece[..n]),
        }
    }
}
