//! Reads every record of the journal and every body, and compares the counters with what is there.
//!
//! Works beside the running daemon: the journal only grows, and what is read was stable when the reading
//! began. Bounded memory: one segment's scan, one page of items, and a list of problems with an end.

use serde_json::{Value, json};
use spool::Spool;
use spool::engine::Handle;
use spool::error::SpoolError;
use spool::ids::{LaneId, Seq};
use spool::inspect::VerifyPlan;
use spool::reader::JournalReader;
use spool::types::{Filter, State};

use super::jobs::Tell;

/// Most problems listed; the count goes on.
const PROBLEMS_MAX: usize = 1000;
/// Items or lanes of one page.
const PAGE: usize = 500;

/// Where a question can be put, on a thread that may block.
pub trait Look {
    /// Answers `f` about the spool.
    ///
    /// # Errors
    /// When the spool is gone.
    fn look<T: Send + 'static>(&self, f: impl FnOnce(&Spool) -> T + Send + 'static) -> Result<T, SpoolError>;
}

impl Look for &Spool {
    fn look<T: Send + 'static>(&self, f: impl FnOnce(&Spool) -> T + Send + 'static) -> Result<T, SpoolError> {
        Ok(f(self))
    }
}

impl Look for Handle {
    fn look<T: Send + 'static>(&self, f: impl FnOnce(&Spool) -> T + Send + 'static) -> Result<T, SpoolError> {
        let (answer, wait) = std::sync::mpsc::sync_channel(1);
        self.query(Box::new(move |spool| {
            let _ = answer.send(f(spool));
        }))?;
        wait.recv().map_err(|_| SpoolError::Closed)
    }
}

#[derive(Default)]
struct Report {
    problems: Vec<String>,
    unlisted: u64,
    records: u64,
    bytes: u64,
    segments: u64,
    bodies: u64,
    lanes: u64,
    outboxes: u64,
}

impl Report {
    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        } else {
            self.unlisted += 1;
        }
    }
}

/// Checks everything. `tell` is told bytes read and bytes to read, the journal's and then the bodies' in it.
///
/// # Errors
/// When the spool is gone or its index cannot be read, or `tell` wants no more; damage is no error but a line of the
/// answer.
pub fn verify(look: &impl Look, tell: Tell<'_>) -> Result<Value, SpoolError> {
    let mut report = Report::default();
    let (plan, reader, stats) = look.look(|spool| (spool.verify_plan(), spool.reader(), spool.stats()))?;
    let kept = stats.map_or(0, |stats| {
        let states = State::ALL.iter().zip(stats.bytes);
        states.filter(|(state, _)| spool::life::keeps_body(**state)).map(|(_, bytes)| bytes).sum()
    });
    let mut progress = Progress { done: 0, of: plan.total_bytes().saturating_add(kept), tell };
    segments(&plan, &mut report, &mut progress)?;
    lanes(look, &mut report)?;
    queues(look, &mut report)?;
    bodies(look, &reader, &mut report, &mut progress)?;
    if report.unlisted > 0 {
        report.problems.push(format!("{} more problems", report.unlisted));
    }
    Ok(json!({
        "ok": report.problems.is_empty(),
        "problems": report.problems,
        "records": report.records,
        "bytes": report.bytes,
        "segments": report.segments,
        "bodies": report.bodies,
        "lanes": report.lanes,
        "outboxes": report.outboxes,
    }))
}

/// How far it is.
struct Progress<'a> {
    done: u64,
    of: u64,
    tell: Tell<'a>,
}

impl Progress<'_> {
    fn went(&mut self, bytes: u64) -> Result<(), SpoolError> {
        // What came in meanwhile is read too.
        self.done = self.done.saturating_add(bytes).min(self.of);
        if (self.tell)(self.done, self.of) { Ok(()) } else { Err(SpoolError::Closed) }
    }
}

fn segments(plan: &VerifyPlan, report: &mut Report, progress: &mut Progress<'_>) -> Result<(), SpoolError> {
    progress.went(0)?;
    for number in plan.segments() {
        match plan.check_segment(number) {
            Ok(check) => {
                report.segments += 1;
                report.records += check.records;
                report.bytes += check.bytes;
                progress.went(check.bytes)?;
                for (lsn, bytes) in check.damaged {
                    report.problem(format!("journal at {lsn}: {bytes} bytes are no record"));
                }
            }
            Err(error) => report.problem(format!("segment {number}: {error}")),
        }
    }
    Ok(())
}

fn lanes(look: &impl Look, report: &mut Report) -> Result<(), SpoolError> {
    let mut after: Option<LaneId> = None;
    loop {
        let page = look.look(move |spool| -> Result<_, SpoolError> {
            let lanes = spool.mailboxes(after, PAGE)?;
            let checked = lanes.into_iter().map(|m| {
                let outbox = spool.outbox(m.lane)?;
                let problem = outbox.map_or(Ok(None), |outbox| spool.verify_lane(outbox));
                Ok((m.lane, m.name, spool.verify_lane(m.lane), outbox, problem))
            });
            checked.collect::<Result<Vec<_>, SpoolError>>()
        })??;
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (_, name, outcome, outbox, outgoing) in page {
            for (what, outcome) in [("lane", outcome), ("outbox", outgoing)] {
                match outcome {
                    Ok(None) => {}
                    Ok(Some(problem)) => report.problem(format!("{what} {name}: {problem}")),
                    Err(error) => report.problem(format!("{what} {name}: {error}")),
                }
            }
            report.lanes += 1;
            if let Some(outbox) = outbox {
                report.outboxes += 1;
                queued(look, outbox, &name, report)?;
            }
        }
    }
}

/// Every submission is in the queues that its state asks for.
fn queued(look: &impl Look, outbox: LaneId, name: &str, report: &mut Report) -> Result<(), SpoolError> {
    let mut from = Seq(1);
    loop {
        let (problems, next) = look.look(move |spool| spool.verify_outbox(outbox, from))??;
        problems.into_iter().for_each(|problem| report.problem(format!("outbox {name}: {problem}")));
        match next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// Every key of the queues leads to a submission that belongs there.
fn queues(look: &impl Look, report: &mut Report) -> Result<(), SpoolError> {
    let mut from = None;
    loop {
        let (problems, next) = look.look(move |spool| spool.verify_queues(from))??;
        problems.into_iter().for_each(|problem| report.problem(problem));
        match next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

fn bodies(
    look: &impl Look,
    reader: &JournalReader,
    report: &mut Report,
    progress: &mut Progress<'_>,
) -> Result<(), SpoolError> {
    let mut after = None;
    loop {
        let (items, next) = look.look(move |spool| spool.list(&Filter::default(), after, PAGE))??;
        for item in items.iter().filter(|item| spool::life::keeps_body(item.state)) {
            report.bodies += 1;
            progress.went(item.size_bytes)?;
            let Err(error) = reader.check_body(item) else { continue };
            // Compaction may have moved it, or retention ended, since the page was made.
            let id = item.id;
            let problem = match look.look(move |spool| spool.item(id))? {
                Ok(Some(again)) if again.chunks != item.chunks => reader.check_body(&again).err(),
                Ok(Some(_)) | Err(_) => Some(error),
                Ok(None) => None,
            };
            if let Some(problem) = problem {
                report.problem(format!("item {id}: {problem}"));
            }
        }
        after = next;
        if after.is_none() {
            return Ok(());
        }
    }
}
