//! Reads every record of the journal and every body, and compares the counters with what is there.
//!
//! Works beside the running daemon. What is read was stable when the reading began, but it may go meanwhile: a segment whose
//! records were moved becomes the space for a later one, and a body is given up when its item has its result. So the ledger is
//! asked about whatever looks damaged, and what it does not have any more is none.
//! Bounded memory: one segment's scan, one page of items, and a list of problems with an end. Each question to the ledger is
//! bounded, too: mail goes on between them.

use std::collections::VecDeque;

use serde_json::{Value, json};
use spool::Spool;
use spool::engine::Handle;
use spool::error::SpoolError;
use spool::ids::{LaneId, Seq};
use spool::inspect::{LaneChecked, SegmentCheck, VerifyPlan};
use spool::reader::JournalReader;
use spool::types::{Filter, ItemInfo, State};

use super::jobs::Tell;

/// Most problems listed; the count goes on.
const PROBLEMS_MAX: usize = 1000;
/// Items of one page.
const PAGE: usize = 500;
/// Mailboxes of one page.
const MAILBOXES_PAGE: usize = 100;
/// Blocks of entries that one question to the ledger looks into.
const BLOCKS_MAX: usize = 512;
/// How often a body that is somewhere else each time is looked for.
const MOVES_MAX: usize = 10;

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
    segments(look, &plan, &mut report, &mut progress)?;
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

fn segments(
    look: &impl Look,
    plan: &VerifyPlan,
    report: &mut Report,
    progress: &mut Progress<'_>,
) -> Result<(), SpoolError> {
    progress.went(0)?;
    for number in plan.segments() {
        let mut problems = Vec::new();
        let check = plan.check_segment(number).unwrap_or_else(|error| {
            problems.push(format!("segment {number}: {error}"));
            SegmentCheck::default()
        });
        let damaged = check.damaged.iter();
        problems.extend(damaged.map(|(lsn, bytes)| format!("journal at {lsn}: {bytes} bytes are no record")));
        progress.went(check.bytes)?;
        // Its file may be another segment's by now. A number is never used again, and one with damaged records stays.
        if !problems.is_empty() && look.look(move |spool| !spool.segment_numbers().contains(&number))? {
            continue;
        }
        report.segments += 1;
        report.records += check.records;
        report.bytes += check.bytes;
        problems.into_iter().for_each(|problem| report.problem(problem));
    }
    Ok(())
}

fn lanes(look: &impl Look, report: &mut Report) -> Result<(), SpoolError> {
    let mut after: Option<LaneId> = None;
    loop {
        let page = look.look(move |spool| -> Result<_, SpoolError> {
            let mailboxes = spool.mailboxes(after, MAILBOXES_PAGE)?;
            let found = mailboxes.into_iter().map(|m| Ok((m.lane, m.name, spool.outbox(m.lane)?)));
            found.collect::<Result<Vec<_>, SpoolError>>()
        })??;
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after = Some(*last);
        let mut counted = VecDeque::new();
        for (lane, name, outbox) in &page {
            counted.push_back((*lane, format!("lane {name}")));
            counted.extend(outbox.map(|outbox| (outbox, format!("outbox {name}"))));
        }
        counters(look, counted, report)?;
        for (_, name, outbox) in page {
            report.lanes += 1;
            if let Some(outbox) = outbox {
                report.outboxes += 1;
                queued(look, outbox, &name, report)?;
            }
        }
    }
}

/// Compares the counters of these lanes with their entries.
fn counters(
    look: &impl Look,
    mut left: VecDeque<(LaneId, String)>,
    report: &mut Report,
) -> Result<(), SpoolError> {
    let mut part = None;
    while !left.is_empty() {
        let (problems, lanes, next) = look.look(move |spool| {
            let (mut blocks, mut problems) = (BLOCKS_MAX, Vec::new());
            while let Some((lane, name)) = left.front() {
                let problem = match spool.verify_lane_part(*lane, part.take(), &mut blocks) {
                    Ok(LaneChecked::GoOn(next)) => {
                        part = Some(next);
                        break;
                    }
                    Ok(LaneChecked::Done(problem)) => problem,
                    Err(error) => Some(error.to_string()),
                };
                problems.extend(problem.map(|problem| format!("{name}: {problem}")));
                left.pop_front();
            }
            (problems, left, part)
        })?;
        (left, part) = (lanes, next);
        problems.into_iter().for_each(|problem| report.problem(problem));
    }
    Ok(())
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
            if let Some(problem) = body(look, reader, item)? {
                report.problem(format!("item {}: {problem}", item.id));
            }
        }
        after = next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// What is wrong with the body of an item, as long as the item has one.
fn body(look: &impl Look, reader: &JournalReader, item: &ItemInfo) -> Result<Option<SpoolError>, SpoolError> {
    let Err(mut problem) = reader.check_body(item) else { return Ok(None) };
    let (id, mut chunks) = (item.id, item.chunks.clone());
    for _ in 0..MOVES_MAX {
        let again = match look.look(move |spool| spool.item(id))? {
            Ok(Some(again)) if spool::life::keeps_body(again.state) => again,
            // Since its page was made it was purged or taken by the next hop, or its retention is over.
            Ok(Some(_) | None) => return Ok(None),
            Err(_) => return Ok(Some(problem)),
        };
        // Compaction has not moved it: it lies where it was read.
        if again.chunks == chunks {
            return Ok(Some(problem));
        }
        match reader.check_body(&again) {
            Ok(()) => return Ok(None),
            Err(error) => problem = error,
        }
        chunks = again.chunks;
    }
    Ok(Some(problem))
}

#[cfg(test)]
mod tests;
