//! Results that a gateway of tunnel 1 cannot hear any more: a failure, or an outcome that nobody knows, becomes a
//! report in its own lane (RFC 3464); a success needs no words.
//!
//! Promises: a report is made once for a submission, whatever is torn by a stop: it and the note that the gateway has
//! the result are one commit, and a report that is there already is found by its key. Not before the gateway has
//! ceased to wait; a failure that it was told, and that it may have read too late, it hears of twice.
//!
//! Failure policy: a report that cannot be stored now is tried again after [`AGAIN`]; the result stays untold.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use spool::Spool;
use spool::error::{AcceptError, RequestError, SpoolError};
use spool::ids::{ItemId, LaneId, WallMs};
use spool::types::NewMessage;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Submissions;
use super::results::{self, Ended};
use crate::clock;
use crate::mail::envelope::Meta;
use crate::mail::outbound::prepare::bounce::{self, Outcome, Report};
use crate::mail::signer::OWN_PROTOCOL;
use crate::tunnel::session::ResultStatus;

/// A mailbox is looked at this long after it had a result: the gateway is to hear of it first, and many results are
/// worth one look.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// Pause after trouble with the spool or a full mailbox.
const AGAIN: Duration = Duration::from_secs(60);
/// How often the limits forget who has been quiet.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Mailboxes asked for in one question.
const MAILBOXES_PAGE: usize = 256;
/// A mailbox is looked at again after so many times what the last look took, so that many results that wait for an
/// absent gateway cost a bounded share of the ledger's time.
const REST_FACTOR: u32 = 10;
/// How long a report's key is remembered: far longer than a commit can be torn.
const REPORT_KEY_MS: u64 = 24 * 3600 * 1000;

/// Mailboxes to look at, and when.
#[derive(Debug, Default)]
pub(super) struct Late {
    due: Mutex<Due>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Due {
    of: HashMap<LaneId, WallMs>,
    order: BTreeSet<(WallMs, LaneId)>,
}

impl Late {
    /// There may be something for this mailbox; looked at not before `at`.
    fn look_at(&self, mailbox: LaneId, at: WallMs) {
        let mut due = self.lock();
        let known = due.of.get(&mailbox).copied();
        if known.is_none_or(|known| at < known) {
            if let Some(known) = known {
                due.order.remove(&(known, mailbox));
            }
            due.of.insert(mailbox, at);
            due.order.insert((at, mailbox));
        }
        drop(due);
        self.bell.notify_one();
    }

    /// The mailbox that is due first, if it is due; else when one is.
    fn next(&self, now: WallMs) -> Result<LaneId, Option<WallMs>> {
        let mut due = self.lock();
        match due.order.first().copied() {
            Some((at, mailbox)) if at <= now => {
                due.order.remove(&(at, mailbox));
                due.of.remove(&mailbox);
                Ok(mailbox)
            }
            Some((at, _)) => Err(Some(at)),
            None => Err(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Submissions {
    /// Wakes sessions for their results and makes reports, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (desks, late) = (Arc::clone(&self.desks), Arc::clone(&self.late));
        let wait_ms =
            u64::try_from(self.settings().legacy_wait.min(LOOK_AFTER).as_millis()).unwrap_or(u64::MAX);
        let bell = Arc::new(move |mailbox: LaneId| {
            desks.ring(mailbox);
            late.look_at(mailbox, clock::wall().plus(wait_ms));
        });
        if let Err(error) = self.spooler.call(move |spool| spool.set_results_bell(bell)).await {
            tracing::error!(event = "relay.spool.unavailable", %error, "results are not told: the spool does not answer");
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.look_after() => {}
        }
    }

    async fn look_after(&self) {
        while let Err(error) = self.look_at_all().await {
            tracing::warn!(event = "relay.spool.unavailable", %error, "cannot look for results of the time before");
            tokio::time::sleep(AGAIN).await;
        }
        let mut tidied = clock::monotonic();
        loop {
            if clock::monotonic() > tidied + TIDY_EVERY {
                tidied = clock::monotonic();
                self.quotas.tidy();
                self.cut.tidy(tidied);
            }
            let now = clock::wall();
            match self.late.next(now) {
                Ok(mailbox) => self.look(mailbox).await,
                Err(due) => {
                    let wait = due.map_or(TIDY_EVERY, |at| Duration::from_millis(at.since(now) + 1));
                    let _ = tokio::time::timeout(wait.min(TIDY_EVERY), self.late.bell.notified()).await;
                }
            }
        }
    }

    /// After a start: some mailboxes have results that nobody was told.
    async fn look_at_all(&self) -> Result<(), SpoolError> {
        let mut behind = None;
        loop {
            let asked = self.spooler.query(move |spool| spool.untold_mailboxes(behind, MAILBOXES_PAGE));
            let (page, next) = asked.await??;
            for mailbox in page {
                self.late.look_at(mailbox, WallMs(0));
            }
            match next {
                Some(next) => behind = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn look(&self, mailbox: LaneId) {
        let began = clock::monotonic();
        let next = match self.report_late(mailbox).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(event = "relay.outbound.report_failed", %error, "a report has to wait");
                Some(clock::wall().plus(u64::try_from(AGAIN.as_millis()).unwrap_or(u64::MAX)))
            }
        };
        if let Some(at) = next {
            self.late.look_at(mailbox, at);
        }
        let rest = (clock::monotonic() - began) * REST_FACTOR;
        if rest > Duration::from_millis(1) {
            tokio::time::sleep(rest.min(AGAIN)).await;
        }
    }

    /// Reports what is late; when to look again, if something will be.
    async fn report_late(&self, mailbox: LaneId) -> Result<Option<WallMs>, AcceptError> {
        let (mut after, mut again) = (None, None::<WallMs>);
        loop {
            let page = self.spooler.query(move |spool| results::untold(spool, mailbox, after, &[])).await??;
            let (page, next) = page;
            for ended in page.into_iter().filter(|ended| !ended.meta.results) {
                let late_at = self.settings().perhaps_awaited_until(&ended);
                if clock::wall() < late_at {
                    again = Some(again.map_or(late_at, |at| at.min(late_at)));
                } else {
                    self.report(mailbox, ended).await?;
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(again),
            }
        }
    }

    async fn report(&self, mailbox: LaneId, ended: Ended) -> Result<(), AcceptError> {
        let (id, now) = (ended.id(), clock::wall());
        let outcome = match ended.status {
            ResultStatus::Sent => None,
            ResultStatus::Failed => Some(Outcome::Failed),
            ResultStatus::Indeterminate => Some(Outcome::Indeterminate),
        };
        let report = match outcome {
            Some(outcome) => self.written(&ended, outcome).await?,
            None => None,
        };
        let Some(report) = report else {
            // A success, or a null sender, to whom nothing is ever reported (N4).
            return self.told(&ended, now).await;
        };
        let mut body = self.spooler.body();
        body.write(&report).await?;
        let item = body.id();
        let meta = Meta {
            protocol: OWN_PROTOCOL.to_owned(),
            helo: self.settings().hostname.clone(),
            received_at_ms: now.0,
            transaction: item.to_string(),
            ..Meta::default()
        };
        let targets = vec![(mailbox, ended.meta.mail_from.clone().into_bytes())];
        let stored = body
            .commit_by(Vec::new(), meta.encode(), targets, move |spool, message| {
                store(spool, message, id, now)
            })
            .await;
        match stored {
            Ok(()) => {
                tracing::info!(
                    event = "relay.outbound.reported", submission.id = %id, item.id = %item, lane = ended.info.lane_name,
                    result = ended.status.word(), "a result comes back as mail"
                );
                Ok(())
            }
            // Nobody is there any more who could read it.
            Err(AcceptError::Revoked | AcceptError::UnknownLane) => self.told(&ended, now).await,
            Err(error) => Err(error),
        }
    }

    /// Nobody is told, now or later.
    async fn told(&self, ended: &Ended, now: WallMs) -> Result<(), AcceptError> {
        let id = ended.id();
        self.spooler.call(move |spool| tell(spool, id, now)).await??;
        tracing::info!(
            event = "relay.outbound.told", submission.id = %id, lane = ended.info.lane_name,
            result = ended.status.word(), "nobody has to be told of the result"
        );
        Ok(())
    }

    /// The report; `None` when there must be none.
    async fn written(&self, ended: &Ended, outcome: Outcome) -> Result<Option<Vec<u8>>, SpoolError> {
        let info = &ended.info;
        let mut original = info.head.clone();
        if !info.chunks.is_empty() {
            match self.spooler.read_chunk(info, 0).await {
                Ok(chunk) => original.extend_from_slice(&chunk),
                // Better a report without the header than none.
                Err(SpoolError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let domain = ended.meta.mail_from.rsplit_once('@').map(|(_, domain)| domain.to_ascii_lowercase());
        let settings = self.settings();
        let ours = domain.filter(|domain| settings.domains.contains(domain));
        let mail_domain = ours.or_else(|| settings.domains.first().cloned());
        let last = ended.note.attempts.last();
        Ok(bounce::report(Report {
            hostname: &settings.hostname,
            mail_domain: mail_domain.as_deref().unwrap_or(&settings.hostname),
            mail_from: &ended.meta.mail_from,
            rcpt_to: &ended.rcpt_to(),
            submission: info.id,
            accepted_at: info.accepted_at,
            at: ended.settled_at,
            outcome,
            status: &ended.note.enhanced_code,
            remote: last.map_or("", |attempt| attempt.host.as_str()),
            text: &ended.note.text,
            original: &original,
        }))
    }
}

/// On the ledger's thread: report and note in one commit. First the key, then the report, then the note: whatever a torn
/// batch keeps of the three, the next look finds either nothing or the report.
fn store(spool: &mut Spool, message: NewMessage, id: ItemId, now: WallMs) -> Result<(), AcceptError> {
    let body = message.body;
    let needed = spool.submission(id)?.is_some_and(|submission| !submission.told);
    let key: [u8; 32] = {
        let mut hash = Sha256::new_with_prefix("waystation report 1");
        hash.update(id.0);
        hash.finalize().into()
    };
    let there = match spool.twin(&key, now)? {
        Some(report) => spool.item(report)?.is_some(),
        None => false,
    };
    if !needed || there {
        spool.abandon_body(body);
    } else {
        spool.remember_twin(key, body, now.plus(REPORT_KEY_MS))?;
        spool.accept(message, now)?;
    }
    if needed { tell(spool, id, now) } else { Ok(()) }
}

/// On the ledger's thread: the result needs no more telling.
fn tell(spool: &mut Spool, id: ItemId, now: WallMs) -> Result<(), AcceptError> {
    match spool.tell(id, now) {
        Ok(_) => Ok(()),
        Err(RequestError::Spool(error)) => Err(error.into()),
        // Purged in the meantime.
        Err(
            RequestError::UnknownItem(_)
            | RequestError::UnknownMailbox(_)
            | RequestError::NameTaken(_)
            | RequestError::WrongState { .. }
            | RequestError::NoSession,
        ) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_come_when_they_are_due_each_once_at_its_earliest_time() {
        let late = Late::default();
        assert_eq!(late.next(WallMs(9)), Err(None));
        late.look_at(LaneId(1), WallMs(30));
        late.look_at(LaneId(2), WallMs(20));
        late.look_at(LaneId(1), WallMs(10));
        late.look_at(LaneId(2), WallMs(40));
        assert_eq!(late.next(WallMs(9)), Err(Some(WallMs(10))));
        assert_eq!(late.next(WallMs(10)), Ok(LaneId(1)));
        assert_eq!(late.next(WallMs(10)), Err(Some(WallMs(20))));
        assert_eq!(late.next(WallMs(50)), Ok(LaneId(2)));
        assert_eq!(late.next(WallMs(50)), Err(None));
    }
}
