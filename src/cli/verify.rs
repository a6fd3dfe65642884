//! `spool verify`: every record, every checksum, every counter.

use super::backend::Backend;
use super::screen::{self, Paint};
use super::{Exit, Global};

pub(crate) fn run(global: &Global) -> anyhow::Result<Exit> {
    let backend = Backend::open(global)?;
    let mut bar = screen::Progress::new("verify");
    let answer = backend.verify(|done, of| bar.show(done, of))?;
    bar.clear();
    let problems = answer["problems"].as_array().map_or(&[][..], Vec::as_slice);
    if global.json {
        screen::line(&answer)?;
    } else {
        let paint = Paint::new(global.color.on_stdout());
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
            page.push_str(&format!("{} {}\n", paint.bad("damaged:"), problem.as_str().unwrap_or("")));
        }
        let verdict = match problems.len() {
            0 => paint.good("everything is whole"),
            1 => paint.bad("1 problem"),
            n => paint.bad(&format!("{n} problems")),
        };
        page.push_str(&format!("{verdict}: {read}\n"));
        screen::print(&page)?;
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}
