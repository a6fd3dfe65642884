//! `spool export`: messages as files that every mail program reads, and a manifest that says what each of them is.
//!
//! Promises: reads only; messages are stable before the manifest is, and the manifest gets its name last, so that a
//! directory without `manifest.jsonl` was cut off; an item whose bytes are gone or damaged is in the manifest with the
//! reason and hides none of its neighbours.
//! Failure policy: trouble with the target ends the export; trouble with one item is that item's.

mod maildir;
mod manifest;
mod mbox;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use spool::ids::ItemId;

use super::super::backend::{Backend, Unread};
use super::super::progress::Progress;
use super::super::screen::{self, Paint};
use super::super::{Exit, Global, Stop};
use super::listing::{Selection, pages};
use super::text;
use maildir::Maildir;
use manifest::Manifest;
use mbox::Mbox;

/// Damaged items that are named on the terminal; the manifest has them all.
const DAMAGED_SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Where to: made if it is missing, refused if there is anything in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// `maildir`: a file per message; `mbox`: one file (mboxrd)
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "maildir|mbox")]
    format: Format,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Maildir,
    Mbox,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Self::Maildir => "maildir",
            Self::Mbox => "mbox",
        }
    }
}

/// Where one message came to lie.
#[derive(Debug, PartialEq, Eq)]
struct Placed {
    file: String,
    /// Of a part of the file: where it begins, how long it is, and whether the bytes can be had back from it.
    part: Option<(u64, u64, bool)>,
}

/// What messages are written to.
trait Shelf: Write {
    /// The next message begins.
    fn begin(&mut self, item: &Value) -> io::Result<()>;
    /// It is whole.
    fn keep(&mut self) -> io::Result<Placed>;
    /// It is not, and leaves nothing behind.
    fn discard(&mut self) -> io::Result<()>;
    /// That was the last one: everything is stable when this returns.
    fn finish(&mut self) -> io::Result<()>;
}

#[derive(Debug, Default)]
struct Count {
    listed: u64,
    exported: u64,
    bytes: u64,
    gone: u64,
    damaged: u64,
}

pub(super) fn run(global: &Global, args: &ExportArgs) -> anyhow::Result<Exit> {
    let dir = &args.dir;
    refuse_full(dir)?;
    let backend = Backend::open(global)?;
    let mut export = Export {
        backend: &backend,
        dir,
        format: args.format,
        open: None,
        count: Count::default(),
        damaged: Vec::new(),
        bar: Progress::new("export"),
    };
    let walked = export.walk(&args.selection);
    export.bar.clear();
    walked?;
    let Export { open, count, damaged, .. } = export;
    let Some(open) = open else {
        if !global.json {
            eprintln!("nothing matches; nothing was written");
        }
        return Ok(Exit::Nothing);
    };
    open.finish().map_err(|error| cannot_write(dir, &error))?;
    if global.json {
        screen::line(&json!({
            "dir": dir, "format": args.format.word(), "listed": count.listed, "exported": count.exported,
            "bytes": count.bytes, "missing": count.gone + count.damaged, "gone": count.gone,
            "damaged": count.damaged, "manifest": dir.join(manifest::NAME),
        }))?;
    } else {
        screen::print(&page(Paint::new(global.color.on_stdout()), dir, &count, &damaged))?;
    }
    Ok(if count.damaged == 0 { Exit::Done } else { Exit::Failed })
}

fn page(paint: Paint, dir: &Path, count: &Count, damaged: &[String]) -> String {
    let s = |n: u64| if n == 1 { "" } else { "s" };
    let mut page = String::new();
    for one in damaged {
        page.push_str(&format!("{} {one}\n", paint.bad("damaged:")));
    }
    page.push_str(&format!(
        "{} message{} ({}) in {}\n",
        count.exported,
        s(count.exported),
        screen::bytes(count.bytes),
        dir.display()
    ));
    if count.gone > 0 {
        page.push_str(&format!(
            "{} item{} without bytes: they are not kept any more; {} says why\n",
            count.gone,
            s(count.gone),
            manifest::NAME
        ));
    }
    if count.damaged > 0 {
        let text =
            format!("{} damaged item{}; {} has them all\n", count.damaged, s(count.damaged), manifest::NAME);
        page.push_str(&paint.bad(&text));
    }
    page
}

/// An export under way.
struct Export<'a> {
    backend: &'a Backend,
    dir: &'a Path,
    format: Format,
    open: Option<Open>,
    count: Count,
    damaged: Vec<String>,
    bar: Progress,
}

/// What is written to, made at the first item.
struct Open {
    shelf: Box<dyn Shelf>,
    manifest: Manifest,
}

impl Open {
    fn finish(mut self) -> io::Result<()> {
        self.shelf.finish()?;
        self.manifest.finish()
    }
}

impl Export<'_> {
    fn walk(&mut self, selection: &Selection) -> anyhow::Result<()> {
        let backend = self.backend;
        if selection.id.is_empty() {
            pages(backend, selection.ask(), usize::MAX, &mut |item| self.item(item))?;
            return Ok(());
        }
        let mut items = Vec::new();
        for id in selection.id.iter().collect::<BTreeSet<_>>() {
            match backend.item(*id) {
                Ok(item) => items.push(item),
                Err(error) => match error.downcast::<Stop>()? {
                    Stop { exit: Exit::Nothing, message } => eprintln!("{message}"),
                    Stop { exit: Exit::Failed, message } => {
                        items.push(json!({ "id": id.to_string(), "unreadable": message }));
                    }
                    other => return Err(other.into()),
                },
            }
        }
        items.sort_by_key(|item| (text(&item["lane"]).to_owned(), item["seq"].as_u64()));
        items.iter().try_for_each(|item| self.item(item))
    }

    fn item(&mut self, item: &Value) -> anyhow::Result<()> {
        self.count.listed += 1;
        self.bar.count(&format!("{} items, {}", self.count.listed, screen::bytes(self.count.bytes)));
        let (dir, backend) = (self.dir, self.backend);
        let wrong = |error: io::Error| anyhow::Error::from(cannot_write(dir, &error));
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::new(dir, self.format).map_err(wrong)?),
        };
        let read = match (text(&item["id"]).parse::<ItemId>(), item["sha256"].is_null()) {
            (Ok(id), false) => {
                open.shelf.begin(item).map_err(wrong)?;
                let mut sink =
                    Sink { shelf: open.shelf.as_mut(), sha256: Sha256::new(), bytes: 0, failed: None };
                let read = backend.raw(id, &mut sink);
                if let Some(error) = sink.failed {
                    return Err(wrong(error));
                }
                let (sha256, bytes) = (sink.sha256.finalize(), sink.bytes);
                match read {
                    Ok(()) => Ok((data_encoding::HEXLOWER.encode(&sha256), bytes)),
                    Err(why) => {
                        open.shelf.discard().map_err(wrong)?;
                        Err(match why {
                            // Whoever still answers did not fail: this item did, while it was read.
                            Unread::Failed(error) if backend.item(id).is_ok() => {
                                Unread::Damaged(format!("its bytes broke off: {error:#}"))
                            }
                            Unread::Gone(_) | Unread::Damaged(_) | Unread::Failed(_) => why,
                        })
                    }
                }
            }
            (_, _) => Err(Unread::Damaged(match item["unreadable"].as_str() {
                Some(why) => why.to_owned(),
                None => "the record of this item is damaged".to_owned(),
            })),
        };
        match read {
            Ok((sha256, bytes)) => {
                let placed = open.shelf.keep().map_err(wrong)?;
                self.count.exported += 1;
                self.count.bytes += bytes;
                open.manifest.exported(item, &sha256, &placed).map_err(wrong)
            }
            Err(Unread::Gone(why)) => {
                self.count.gone += 1;
                open.manifest.missing(item, &why, false).map_err(wrong)
            }
            Err(Unread::Damaged(why)) => {
                self.count.damaged += 1;
                if self.damaged.len() < DAMAGED_SHOWN {
                    let place = match item["seq"].as_u64() {
                        Some(seq) => format!("number {seq} of {}", text(&item["lane"])),
                        None => text(&item["id"]).to_owned(),
                    };
                    self.damaged.push(format!("{place}: {why}"));
                }
                open.manifest.missing(item, &why, true).map_err(wrong)
            }
            Err(Unread::Failed(error)) => Err(error),
        }
    }
}

impl Open {
    fn new(dir: &Path, format: Format) -> io::Result<Self> {
        make_dir(dir)?;
        let manifest = Manifest::new(dir)?;
        let shelf: Box<dyn Shelf> = match format {
            Format::Maildir => Box::new(Maildir::new(dir)?),
            Format::Mbox => Box::new(Mbox::new(dir)?),
        };
        Ok(Self { shelf, manifest })
    }
}

/// Bytes on their way to the shelf, hashed and counted.
struct Sink<'a> {
    shelf: &'a mut dyn Shelf,
    sha256: Sha256,
    bytes: u64,
    /// The shelf's own trouble, which is none of the item's.
    failed: Option<io::Error>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.shelf.write_all(bytes) {
            let kind = error.kind();
            self.failed = Some(error);
            return Err(kind.into());
        }
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing of somebody else's is mixed with an export.
fn refuse_full(dir: &Path) -> anyhow::Result<()> {
    let refused = |why: String| Stop::new(Exit::Usage, why);
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(false) => {
            let why = format!("{} is not empty; an export needs a directory of its own", dir.display());
            Err(refused(why).into())
        }
        Err(error) => Err(refused(format!("{} cannot be used: {error}", dir.display())).into()),
    }
}

fn cannot_write(dir: &Path, error: &io::Error) -> Stop {
    Stop::new(Exit::Failed, format!("cannot write to {}: {error}; the export is not complete", dir.display()))
}

/// A directory that only its owner may enter; one that is there stays as it is.
fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match std::path::absolute(dir)?.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// A new file that only its owner may read.
fn make_file(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_with_anything_in_them_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_full(dir.path()).is_ok());
        assert!(refuse_full(&dir.path().join("new")).is_ok());
        fs::write(dir.path().join("x"), "").unwrap();
        assert!(refuse_full(dir.path()).unwrap_err().to_string().contains("not empty"));
        assert!(refuse_full(&dir.path().join("x")).unwrap_err().to_string().contains("cannot be used"));
    }
}
