//! One connection: a loop that performs the machine's outputs, then waits for one thing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spool::ids::ItemId;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::guard::Guard;
use super::ledger::{self, StoreSettings, Stored};
use super::passage::{self, Passage};
use super::stream::Stream;
use super::{Manner, Shared};
use crate::mail::limits::Lately;
use crate::mail::smtp::receiver::{Acceptance, Answer, Grace, Output, Question, Receiver, Stage};
use crate::mail::smtp::reply::Reply;
use crate::mail::verdict::Budget;
use crate::observe::RefusalStage;
use crate::tls::handshake::Handshakes;
use crate::{clock, crashpoint};

/// Read buffer of one connection.
const READ_BYTES: usize = 16 * 1024;
/// Replies gathered before they are sent although more input waits.
const REPLIES_BYTES_MAX: usize = 16 * 1024;
/// After closing: how much of what the client still sends is thrown away, so that it can read our last word.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// And for how long.
const LINGER: Duration = Duration::from_millis(500);

/// The other end is gone.
#[derive(Debug)]
struct Gone;

/// A `250` of which we do not know yet whether the client has heard it.
#[derive(Debug)]
struct Unheard {
    fingerprint: [u8; 32],
    id: ItemId,
}

struct Session<'a> {
    shared: &'a Shared,
    manner: Arc<Manner>,
    client: IpAddr,
    name: String,
    stream: Stream,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    replies: Vec<u8>,
    body: Option<Passage>,
    unheard: Option<Unheard>,
    guard: Guard,
    /// What this connection may still make the checks of senders ask for.
    lookups: Budget,
    /// The end of what the client sends was seen.
    at_end: bool,
}

/// Runs one session to its end.
pub(super) async fn serve(stream: TcpStream, client: IpAddr, number: u64, shared: &Shared) {
    let _ = stream.set_nodelay(true); // replies are small and waited for
    let manner = shared.manner.get();
    let receiver = Receiver::new(manner.with(client), manner.normalizes(client), clock::monotonic());
    let mut session = Session {
        shared,
        guard: Guard::new(client, &manner),
        manner,
        client,
        name: format!("smtp-{number}"),
        stream: Stream::Plain(stream),
        input: vec![0; READ_BYTES].into_boxed_slice(),
        start: 0,
        end: 0,
        replies: Vec::new(),
        body: None,
        unheard: None,
        lookups: Budget::default(),
        at_end: false,
    };
    let orderly = session.converse(receiver).await;
    drop(session.body.take());
    if let Some(unheard) = session.unheard.take().filter(|_| orderly.is_err()) {
        ledger::remember(&shared.spooler, unheard.fingerprint, unheard.id).await;
    }
    if orderly.is_ok() {
        session.linger().await;
    }
}

impl Session<'_> {
    /// Ends with an error when the client vanished, or was lost while we waited for it.
    async fn converse(&mut self, mut receiver: Receiver) -> Result<(), Gone> {
        let mut load = self.shared.load.subscribe();
        receiver.set_load(*load.borrow_and_update());
        let mut draining = false;
        loop {
            while let Some(output) = receiver.poll() {
                self.perform(output, &mut receiver).await?;
            }
            if receiver.is_closed() {
                return self.flush().await;
            }
            if self.guard.mind(&mut receiver, self.shared, clock::monotonic()) {
                continue;
            }
            if self.start < self.end && receiver.wants_input() {
                receiver.set_tls_ready(self.manner.settings.tls.as_ref().is_some_and(Handshakes::ready));
                let pending = &self.input[self.start..self.end];
                self.start += receiver.receive(pending, clock::monotonic());
                continue;
            }
            self.flush().await?;
            if self.at_end {
                receiver.hang_up();
                continue;
            }
            let deadline = receiver.deadline();
            tokio::select! {
                biased;
                () = self.shared.kill.cancelled() => {
                    receiver.hang_up();
                }
                () = self.shared.stop.cancelled(), if !draining => {
                    draining = true;
                    let leave = self.shared.leave.get();
                    let until = clock::monotonic() + leave.commands;
                    receiver.drain(Grace { until, newcomers: leave.newcomers });
                }
                Ok(()) = load.changed() => receiver.set_load(*load.borrow_and_update()),
                read = self.stream.read(&mut self.input), if receiver.wants_input() => {
                    let read = read.map_err(|_| Gone)?;
                    (self.start, self.end) = (0, read);
                    if read == 0 {
                        self.at_end = true;
                    } else {
                        self.unheard = None; // whoever goes on has heard us
                    }
                }
                () = sleep_until(deadline) => {
                    receiver.tick(clock::monotonic());
                    if receiver.is_closed() && self.unheard.is_some() {
                        return Err(Gone); // not a word since our 250
                    }
                }
            }
        }
    }

    async fn perform(&mut self, output: Output, receiver: &mut Receiver) -> Result<(), Gone> {
        match output {
            Output::Write { reply, stage, about } => {
                self.note(&reply, stage, about.as_deref());
                reply.encode(&mut self.replies);
                if self.replies.len() >= REPLIES_BYTES_MAX {
                    self.flush().await?;
                }
            }
            Output::Ask(question) => {
                let answer = self.ask(question).await;
                receiver.answer(answer, clock::monotonic());
            }
            Output::Begin { .. } => {
                let ours = &self.manner.session.hostname;
                let checks = self.manner.verifier.is_some();
                self.body = Some(Passage::begin(&self.shared.spooler, ours, checks));
            }
            Output::Body(bytes) => self.keep(&bytes, receiver).await,
            Output::Abandon => self.body = None,
            Output::Persist(acceptance) => self.persist(*acceptance, receiver).await,
            Output::StartTls => self.shake_hands(receiver).await?,
            Output::Close => {}
        }
        Ok(())
    }

    /// Goes over to TLS, or ends: there is no way back (J4).
    async fn shake_hands(&mut self, receiver: &mut Receiver) -> Result<(), Gone> {
        self.flush().await?;
        // Nothing that came in the clear may be read inside TLS (J3). The machine has looked; this is the second lock.
        let leftover = self.start < self.end;
        let plain = self.stream.take_plain().filter(|_| !leftover);
        let (Some(tls), Some(plain)) = (&self.manner.settings.tls, plain) else {
            receiver.tls_failed();
            return Ok(());
        };
        let now = clock::monotonic();
        let patience = receiver.deadline().map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let shaken = tokio::select! {
            () = self.shared.kill.cancelled() => return Err(Gone),
            shaken = tls.accept(plain, patience) => shaken,
        };
        match shaken {
            Ok((stream, info)) => {
                self.stream = Stream::Tls(Box::new(stream));
                tracing::debug!(
                    event = "relay.tls.established", session.id = self.name, client.ip = %self.client,
                    tls = info.text(), "session goes on inside TLS",
                );
                receiver.tls_established(info.text(), clock::monotonic());
            }
            Err(error) => {
                if self.shared.lines.allows(&self.shared.metrics.abuse, clock::monotonic()) {
                    tracing::info!(
                        event = "relay.tls.handshake_failed", listener = "smtp", session.id = self.name,
                        client.ip = %self.client, reason = %error, "TLS handshake failed: {error}",
                    );
                }
                receiver.tls_failed();
            }
        }
        Ok(())
    }

    async fn ask(&mut self, question: Question) -> Answer {
        let (shared, settings) = (self.shared, &self.manner.settings);
        match question {
            Question::Transaction(_) if self.lookups.is_spent() => Answer::Spent,
            Question::Transaction(_) if !shared.limits.message(self.client) => Answer::Busy,
            Question::Transaction(from) => match self.guard.sender(&from, &self.manner, shared).await {
                Some(refusal) => Answer::Refused(refusal),
                None => ledger::transaction(&shared.spooler),
            },
            Question::Recipient(path) => match self.guard.recipient(&path).await {
                Some(refusal) => Answer::Refused(refusal),
                None => ledger::recipient(&shared.spooler, settings, &path).await,
            },
            Question::Offence => {
                let Lately { own, around } = shared.limits.offence(self.client, clock::monotonic());
                Answer::Offences { own, around }
            }
        }
    }

    /// Hands octets to the spool; waits while the disk is behind.
    async fn keep(&mut self, bytes: &[u8], receiver: &mut Receiver) {
        let Some(body) = &mut self.body else { return };
        let kept = timeout(self.manner.settings.commit_timeout, body.write(bytes)).await;
        let answer = match kept {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::warn!(event = "relay.ingress.not_stored", session.id = self.name, %error, "body was not taken: {error}");
                ledger::refusal(&error)
            }
            Err(_) => {
                tracing::warn!(
                    event = "relay.spool.unavailable",
                    session.id = self.name,
                    "spool takes no bodies, answering 451"
                );
                Answer::Failed
            }
        };
        self.body = None;
        receiver.body_failed(&answer);
    }

    async fn persist(&mut self, acceptance: Acceptance, receiver: &mut Receiver) {
        let started = clock::monotonic();
        let ticket = acceptance.ticket;
        crashpoint::reach("intake.before_commit");
        let Some(body) = self.body.take() else {
            return receiver.store_failed(ticket, Answer::Failed, started);
        };
        let (body, inspected) = match timeout(self.manner.settings.commit_timeout, body.end()).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => {
                return receiver.store_failed(ticket, ledger::refusal(&error), clock::monotonic());
            }
            Err(_) => return receiver.store_failed(ticket, Answer::Failed, clock::monotonic()),
        };
        let verifier = self.manner.verifier.as_ref();
        let dated = inspected.dated;
        let judged = passage::judge(verifier, self.client, &acceptance, inspected, &mut self.lookups).await;
        if judged.refuse {
            return receiver.refused(ticket, Reply::dmarc_reject(), clock::monotonic());
        }
        let [spf, dkim, dmarc] = judged.verdicts.words3();
        let settings = StoreSettings {
            client: self.client,
            hostname: self.manner.session.hostname.clone(),
            fingerprint: (dated && self.manner.settings.suppress_twins)
                .then(|| ledger::fingerprint(self.client, &acceptance, &body)),
            judged,
        };
        let fingerprint = settings.fingerprint;
        let (bytes, from, tls) = (acceptance.bytes, acceptance.from.to_string(), acceptance.tls.clone());
        let lanes: Vec<_> =
            acceptance.recipients.iter().map(|r| (r.lane_name.clone(), r.path.to_string())).collect();
        let spooler = self.shared.spooler.clone();
        let mut storing = Box::pin(ledger::store(spooler.clone(), settings, acceptance, body));
        let stored = match timeout(self.manner.settings.commit_timeout, &mut storing).await {
            Ok(stored) => stored,
            Err(_) => {
                // We say 451 now; should the commit come through after all, the repeat is a twin.
                tracing::error!(
                    event = "relay.spool.unavailable",
                    session.id = self.name,
                    "commit takes too long, answering 451"
                );
                tokio::spawn(async move {
                    if let Ok(Stored::New(late)) = storing.await
                        && let Some(fingerprint) = fingerprint
                        && let Some(&id) = late.ids.first()
                    {
                        ledger::remember(&spooler, fingerprint, id).await;
                    }
                });
                Err(Answer::Failed)
            }
        };
        let now = clock::monotonic();
        let metrics = &self.shared.metrics;
        let duration = now.saturating_duration_since(started);
        metrics.histograms.intake.observe(duration.as_secs_f64());
        match stored {
            Ok(Stored::New(accepted)) => {
                self.shared.limits.fruitful(self.client, now);
                metrics.inbound_accepted.inc();
                metrics.inbound_accepted_bytes.inc_by(bytes);
                metrics.tls.message(&tls);
                for (id, (lane, to)) in accepted.ids.iter().zip(&lanes) {
                    tracing::info!(
                        event = "relay.ingress.accepted", item.id = %id, lane, session.id = self.name,
                        client.ip = %self.client, from, to, size_bytes = accepted.size_bytes, tls, spf, dkim, dmarc,
                        duration_ms = ms(duration), "accepted item {id}",
                    );
                }
                crashpoint::reach("intake.after_commit");
                if let Some(&id) = accepted.ids.first() {
                    // The span of a session with several messages names the last one; its events name all.
                    let span = tracing::Span::current();
                    span.record("item.id", tracing::field::display(id));
                    span.record("size_bytes", accepted.size_bytes).record("tls", tls.as_str());
                    if let Some(fingerprint) = fingerprint {
                        self.heard_later(fingerprint, id);
                    }
                    receiver.persisted(ticket, id, now);
                }
            }
            Ok(Stored::Twin(first)) => {
                metrics.inbound_twins.inc();
                tracing::info!(
                    event = "relay.ingress.repeated", item.id = %first, lane = lanes.first().map(|(lane, _)| lane.as_str()),
                    session.id = self.name, client.ip = %self.client, from, "suppressed twin of {first}",
                );
                // Not remembered anew: whoever repeats a message for days means it.
                receiver.persisted(ticket, first, now);
            }
            Err(answer) => receiver.store_failed(ticket, answer, now),
        }
    }

    /// Expects a sign that the coming `250` was heard. A client that has already left will not give one.
    fn heard_later(&mut self, fingerprint: [u8; 32], id: ItemId) {
        self.unheard = Some(Unheard { fingerprint, id });
        if self.start < self.end {
            return; // it has sent more already
        }
        match self.stream.read_now(&mut self.input) {
            None => {}
            Some(Ok(0) | Err(_)) => self.at_end = true,
            Some(Ok(read)) => (self.start, self.end) = (0, read),
        }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let gone_before = self.at_end && self.unheard.is_some();
        // Who does not read holds a place, as who does not write.
        let patience = self.manner.session.command_patience(*self.shared.load.borrow());
        let write = timeout(patience, self.stream.write(&self.replies));
        let written = tokio::select! {
            written = write => written,
            () = self.shared.kill.cancelled() => return Err(Gone),
        };
        self.replies.clear();
        if self.unheard.is_some() {
            crashpoint::reach("intake.after_reply");
        }
        match written {
            Ok(Ok(())) if !gone_before => Ok(()),
            Ok(Ok(()) | Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// Counts and logs what was refused.
    fn note(&self, reply: &Reply, stage: Stage, about: Option<&str>) {
        if !reply.is_refusal() {
            return;
        }
        let at = match stage {
            Stage::Session => RefusalStage::Connect,
            Stage::Command => RefusalStage::Command,
            Stage::Mail => RefusalStage::Mail,
            Stage::Rcpt => RefusalStage::Rcpt,
            Stage::Data => RefusalStage::Data,
        };
        self.shared.metrics.refused(reply.code(), at);
        let now = clock::monotonic();
        self.guard.refused(reply, stage, &self.manner.session.hostname, self.shared, now);
        let about = about.unwrap_or("");
        if matches!(stage, Stage::Command) {
            tracing::debug!(session.id = self.name, smtp.code = reply.code(), "refused: {}", reply.text());
        } else if self.shared.lines.allows(&self.shared.metrics.abuse, now) {
            tracing::info!(
                event = "relay.ingress.rejected", session.id = self.name, client.ip = %self.client,
                smtp.code = reply.code(), to = about, reason = reply.text(), "rejected: {}", reply.text(),
            );
        }
    }

    /// Lets the client read our last word: closing with unread input would reset the connection.
    async fn linger(&mut self) {
        let farewell = async {
            self.stream.finish().await?;
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match self.stream.read(&mut self.input).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok::<(), std::io::Error>(())
        };
        let _ = timeout(LINGER, farewell).await;
    }
}

/// For the log.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
