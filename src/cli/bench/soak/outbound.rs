//! A little mail out beside the load: one gateway submits, for a relay that hands everything to `smtp-sink`.
//!
//! Each submission must be told its one result, `sent`, and what `smtp-sink` wrote must say the same. What was not accepted when a session ended is submitted again
//! under its name, which the relay knows.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use super::super::gateways::Gateway;
use super::super::{server, smtp};
use super::{STAY_MS, Scene};
use crate::clock;
use crate::tunnel::control::{RelayDeliveryResult, ToGateway};

/// Recipient of all.
const RECIPIENT: &str = "u@bench.test";
/// Bytes of each.
const BYTES: usize = 4096;
/// Time between two looks at whether the soak ends.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What became of submissions.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    next: u64,
    /// Without a result; whether the relay has said that it has it.
    open: BTreeMap<u64, bool>,
    /// Status by number.
    settled: HashMap<u64, String>,
}

impl Outbox {
    fn submitted(&mut self) -> u64 {
        let n = self.next;
        self.next += 1;
        self.open.insert(n, false);
        n
    }

    fn accepted(&mut self, stream: &str) -> Result<(), String> {
        let n = self.known(stream)?;
        if let Some(accepted) = self.open.get_mut(&n) {
            *accepted = true;
        }
        Ok(())
    }

    /// Notes a result. A relay repeats what was not acked; another result is a fault.
    fn result(&mut self, result: &RelayDeliveryResult) -> Result<(), String> {
        let n = self.known(&result.stream_id)?;
        self.open.remove(&n);
        match self.settled.insert(n, result.status.clone()) {
            Some(before) if before != result.status => {
                Err(format!("submission {n} was {before}, and is {} now", result.status))
            }
            None if result.status != "sent" => {
                let why = result.error.as_deref().unwrap_or_default();
                Err(format!("submission {n} is {}: {why}", result.status))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn known(&self, stream: &str) -> Result<u64, String> {
        let number = stream.parse().ok().filter(|n| *n < self.next);
        number.ok_or_else(|| format!("a submission that nobody made: {stream}"))
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// All that were told their result.
    pub(super) fn told(&self) -> u64 {
        u64::try_from(self.settled.len()).unwrap_or(u64::MAX)
    }

    /// What does not fit to the numbers of the messages that `smtp-sink` took: each that was told its result must be there
    /// once, whoever says so, and nothing twice.
    pub(super) fn compare(&self, taken: impl Iterator<Item = u64>) -> Vec<String> {
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        taken.for_each(|n| *times.entry(n).or_default() += 1);
        let missing = self.settled.keys().filter(|n| !times.contains_key(*n));
        let missing = missing.map(|n| format!("submission {n} is sent, and smtp-sink never got it"));
        let often = times.iter().filter(|(n, times)| **times > 1 || **n >= self.next);
        missing.chain(often.map(|(n, times)| format!("smtp-sink got submission {n} {times} times"))).collect()
    }

    /// Those that never were.
    pub(super) fn close(&self) -> impl Iterator<Item = String> {
        self.open.keys().map(|n| format!("submission {n} was told no result"))
    }
}

/// Gateway `n` submits `rate` messages a second until the soak ends and all have their result.
pub(super) async fn live(scene: &Scene, n: u32, rate: f64) -> anyhow::Result<()> {
    let from = server::key(n).key_text().address(server::DOMAIN);
    let next_due = Cell::new(clock::monotonic());
    while !(scene.ending.get() && scene.outbox.borrow().open() == 0) {
        let mut gateway = Gateway::login_to_submit(scene.relay.http, n).await?;
        let again: Vec<u64> = {
            let outbox = scene.outbox.borrow();
            outbox.open.iter().filter(|(_, accepted)| !**accepted).map(|(n, _)| *n).collect()
        };
        for n in again {
            gateway.submit(&n.to_string(), &from, RECIPIENT, message(&from, n)).await?;
        }
        let stay = Duration::from_millis(rand::random_range(STAY_MS));
        let begun = clock::monotonic();
        loop {
            let now = clock::monotonic();
            let over =
                if scene.ending.get() { scene.outbox.borrow().open() == 0 } else { now - begun > stay };
            if over {
                break;
            }
            if now >= next_due.get() && !scene.ending.get() {
                next_due.set(now + Duration::from_secs_f64(1.0 / rate));
                let n = scene.outbox.borrow_mut().submitted();
                gateway.submit(&n.to_string(), &from, RECIPIENT, message(&from, n)).await?;
            }
            let wait = match scene.ending.get() {
                true => LOOK_EVERY,
                false => next_due.get().saturating_duration_since(now).min(LOOK_EVERY),
            };
            let Ok(heard) = tokio::time::timeout(wait, gateway.heard()).await else { continue };
            let Some(heard) = heard? else { anyhow::bail!("the relay hung up") };
            let noted = match heard {
                ToGateway::OutboundAccepted(accepted) => {
                    scene.outbox.borrow_mut().accepted(&accepted.stream_id)
                }
                ToGateway::RelayDeliveryResult(result) => {
                    let noted = scene.outbox.borrow_mut().result(&result);
                    if let Some(id) = result.result_id {
                        gateway.noted(id).await?;
                    }
                    noted
                }
                ToGateway::AuthChallenge(_)
                | ToGateway::AuthOk(_)
                | ToGateway::AuthError(_)
                | ToGateway::ReplayAccepted(_)
                | ToGateway::RelayKeys(_)
                | ToGateway::Drain(_)
                | ToGateway::Unknown(_) => Ok(()),
            };
            if let Err(fault) = noted {
                scene.book.borrow_mut().fault(fault);
            }
        }
        gateway.close().await;
    }
    Ok(())
}

/// Numbers of the messages in what `smtp-sink` wrote.
pub(super) fn taken(file: &Path) -> anyhow::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for line in BufReader::new(File::open(file)?).split(b'\n') {
        let line = line?;
        let number = line.strip_prefix(b"Subject: ").and_then(|rest| std::str::from_utf8(rest).ok());
        numbers.extend(number.and_then(|text| text.trim_end().parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn message(from: &str, n: u64) -> Vec<u8> {
    let mut message = Vec::new();
    smtp::content(&mut message, from, n, BYTES);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(stream: &str, status: &str) -> RelayDeliveryResult {
        let (stream_id, status) = (stream.to_owned(), status.to_owned());
        RelayDeliveryResult { stream_id, status, message_id: None, error: None, result_id: None }
    }

    #[test]
    fn one_result_is_right_and_everything_else_is_a_fault() {
        let mut outbox = Outbox::default();
        assert_eq!((outbox.submitted(), outbox.submitted(), outbox.submitted()), (0, 1, 2));
        outbox.accepted("0").expect("known");
        outbox.result(&result("0", "sent")).expect("sent");
        outbox.result(&result("0", "sent")).expect("told again");
        assert!(outbox.result(&result("0", "failed")).is_err());
        assert!(outbox.result(&result("1", "indeterminate")).is_err());
        assert!(outbox.result(&result("9", "sent")).is_err());
        assert!(outbox.accepted("x").is_err());
        assert_eq!((outbox.open(), outbox.told(), outbox.close().count()), (1, 2, 1));
    }

    #[test]
    fn what_the_sink_took_must_be_what_was_told() {
        let mut outbox = Outbox::default();
        assert_eq!((outbox.submitted(), outbox.submitted()), (0, 1));
        outbox.result(&result("0", "sent")).expect("sent");
        let faults = |taken: &[u64]| outbox.compare(taken.iter().copied()).len();
        assert_eq!((faults(&[0]), faults(&[1, 0])), (0, 0));
        assert_eq!(
            (faults(&[]), faults(&[1]), faults(&[0, 0]), faults(&[0, 1, 1]), faults(&[0, 7])),
            (1, 1, 1, 1, 1)
        );
    }

    #[test]
    fn numbers_are_found_in_what_the_sink_wrote() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let wrote = [message("a@b.test", 0), b"\n".to_vec(), message("a@b.test", 41)].concat();
        let lines = String::from_utf8(wrote).expect("text").replace('\r', "");
        std::fs::write(file.path(), format!("X-Client-Addr: 127.0.0.1\n{lines}")).expect("written");
        assert_eq!(taken(file.path()).expect("read"), [0, 41]);
    }
}
