//! `backup`: a copy of the data directory that a relay can be started on, and the check of one.

use std::path::PathBuf;

use serde_json::Value;

use super::backend::{Backend, ask_stop};
use super::progress::Progress;
use super::screen::{self, Paint};
use super::{Exit, Global};
use crate::admin::backup;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
Examples:
  waystation backup /var/backups/waystation/2026-01-31
  waystation backup /var/backups/waystation/2026-01-31 --check
  waystation spool verify --data-dir /var/backups/waystation/2026-01-31
  waystation serve --data-dir /var/backups/waystation/2026-01-31

Works while the relay runs, which then writes the copy itself, and while it does not. The copy has the
journal, the signing keys and all else in the data directory but the index, which is built anew. It
does not have what the configuration names elsewhere: the configuration itself, DKIM and TLS keys.";

#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// Where the copy goes: made if it is missing, refused if there is anything in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Make none: read the copy in DIR, and compare every file with what was written down about it
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(global: &Global, args: &BackupArgs) -> anyhow::Result<Exit> {
    let paint = Paint::new(global.color.on_stdout());
    let dir = std::path::absolute(&args.dir)?;
    if args.check {
        let mut bar = Progress::new("check");
        let checked = backup::check(&dir, &mut |done, of| {
            bar.show(done, of);
            true
        });
        bar.clear();
        let answer = checked.map_err(|error| ask_stop(&error))?;
        let whole = answer["ok"] == true;
        if global.json {
            screen::line(&answer)?;
        } else {
            screen::print(&checked_page(paint, &answer))?;
        }
        return Ok(if whole { Exit::Done } else { Exit::Failed });
    }
    let mut backend = Backend::open(global)?;
    let mut bar = Progress::new("backup");
    let made = backend.backup(&dir, |done, of| bar.show(done, of));
    bar.clear();
    let answer = made?;
    if global.json {
        screen::line(&answer)?;
    } else {
        screen::print(&made_page(&answer))?;
    }
    Ok(Exit::Done)
}

fn made_page(answer: &Value) -> String {
    let mut page = format!(
        "{} files, {}, in {}: all that was taken before {}\n",
        answer["files"],
        screen::bytes(answer["bytes"].as_u64().unwrap_or(0)),
        answer["dir"].as_str().unwrap_or(""),
        answer["made_at"].as_str().unwrap_or(""),
    );
    left_out(&mut page, answer);
    page
}

fn checked_page(paint: Paint, answer: &Value) -> String {
    let mut page = String::new();
    let problems = answer["problems"].as_array().map_or(&[][..], Vec::as_slice);
    for problem in problems {
        page.push_str(&format!("{} {}\n", paint.bad("damaged:"), problem.as_str().unwrap_or("")));
    }
    let verdict = match problems.len() {
        0 => paint.good("everything is whole"),
        1 => paint.bad("1 problem"),
        n => paint.bad(&format!("{n} problems")),
    };
    page.push_str(&format!(
        "{verdict}: {} files, {}, made at {} by waystation {}\n",
        answer["files"],
        screen::bytes(answer["bytes"].as_u64().unwrap_or(0)),
        answer["made_at"].as_str().unwrap_or(""),
        answer["waystation"].as_str().unwrap_or(""),
    ));
    if answer["started_on"] == true {
        page.push_str("a relay was started on this copy since; it is a data directory of its own now\n");
    }
    left_out(&mut page, answer);
    page
}

fn left_out(page: &mut String, answer: &Value) {
    for one in answer["left_out"].as_array().into_iter().flatten() {
        page.push_str(&format!("not in the copy: {}\n", one.as_str().unwrap_or("")));
    }
}
