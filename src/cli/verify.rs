//! `spool verify`: every record, every checksum, every counter; and an index that is built anew before.

use serde_json::Value;

use super::backend::Backend;
use super::progress::Progress;
use super::screen::{self, Paint};
use super::{Exit, Global};

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Remove the index and build it from the journal first; only while no relay runs
    #[arg(long)]
    rebuild_index: bool,
}

pub(crate) fn run(global: &Global, args: &VerifyArgs) -> anyhow::Result<Exit> {
    let backend =
        if args.rebuild_index { Backend::open_without_index(global)? } else { Backend::open(global)? };
    let mut bar = Progress::new("verify");
    let answer = backend.verify(|done, of| bar.show(done, of));
    bar.clear();
    let answer = answer?;
    backend.close()?;
    let problems = answer["problems"].as_array().map_or(&[][..], Vec::as_slice);
    if global.json {
        screen::line(&answer)?;
    } else {
        screen::print(&page(Paint::new(global.color.on_stdout()), &answer, problems))?;
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}

fn page(paint: Paint, answer: &Value, problems: &[Value]) -> String {
    let read = format!(
        "{} records in {} segments, {} read, {} bodies, {} lanes, {} outboxes",
        answer["records"],
        answer["segments"],
        screen::bytes(answer["bytes"].as_u64().unwrap_or(0)),
        answer["bodies"],
        answer["lanes"],
        answer["outboxes"]
    );
    let mut page = String::new();
    for problem in problems {
        let problem = screen::clean(problem.as_str().unwrap_or(""));
        page.push_str(&format!("{} {problem}\n", paint.bad("damaged:")));
    }
    let verdict = match problems.len() {
        0 => paint.good("everything is whole"),
        1 => paint.bad("1 problem"),
        n => paint.bad(&format!("{n} problems")),
    };
    page.push_str(&format!("{verdict}: {read}\n"));
    page
}
