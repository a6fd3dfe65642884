//! Postfix's side: its queue is filled while it has no queue manager.

use std::path::Path;
use std::process::{Command, Stdio};

use super::super::figures::Outcome;
use super::super::peers::postfix::Postfix;
use super::super::peers::program;
use super::super::peers::sink::Sink;
use super::super::usage::Watch;
use super::{Load, wait_until_empty};
use crate::clock;

/// Sessions that fill the queue.
const FILLERS: &str = "10";

/// Measures; the inner error says why it cannot be done here.
pub(super) fn measure(root: &Path, sink: &mut Sink, load: Load) -> anyhow::Result<Result<Outcome, String>> {
    let Some(filler) = program("smtp-source") else { return Ok(Err("smtp-source is missing".to_owned())) };
    let postfix = match Postfix::start(root, Some(sink.address), load.concurrency)? {
        Ok(postfix) => postfix,
        Err(why) => return Ok(Err(why)),
    };
    let mut fill = Command::new(filler);
    fill.args(["-s", FILLERS, "-m", &load.messages.to_string(), "-l", &load.size.to_string()]);
    fill.args(["-f", "bench@from.test", "-t", "u@bench.test", &format!("inet:{}", postfix.intake)]);
    anyhow::ensure!(
        fill.stdin(Stdio::null()).status()?.success(),
        "smtp-source could not fill postfix's queue"
    );
    anyhow::ensure!(postfix.queued() > 0, "postfix's queue is empty before its queue manager runs");
    // What filled the queue is done before the release: its processes are idle, their time is in the first reading.
    let mut removals = postfix.removals()?;
    let watch = Watch::start(postfix.pid()?, root);
    let released = clock::monotonic();
    postfix.release()?;
    let wall = wait_until_empty(released, sink, || Ok(removals.count()? >= load.messages))?;
    let mut outcome = Outcome::default();
    watch.finish(wall, load.messages, &mut outcome);
    anyhow::ensure!(postfix.queued() == 0, "postfix's queue is not empty");
    let sent = postfix.sent();
    anyhow::ensure!(sent == load.messages, "postfix sent {sent} of {} messages", load.messages);
    Ok(Ok(outcome))
}
