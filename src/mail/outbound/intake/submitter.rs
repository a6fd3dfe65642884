//! One session's submissions: its streams, and the results it is told.
//!
//! Promises: a stream that has ended is carried through even when its session has gone; one of tunnel 1 that has not ended
//! by then, or of which nothing is kept, is told as failed by the next sessions; a result is in flight in one session until
//! it is acked, at most [`super::RESULTS_IN_FLIGHT_MAX`] at a time; empty when idle.
//!
//! Failure policy: that of [`super`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use spool::error::{AcceptError, RequestError, SpoolError};
use spool::ids::{ItemId, LaneId, WallMs};
use spool::submission::{Settlement, Submitted};
use uuid::Uuid;

use super::decide::{self, Question, Verdict};
use super::desks::Place;
use super::hand::{Hand, Repeat};
use super::noted;
use super::receipts::{self, Taken};
use super::results::{self, Ended};
use super::stream::{Collected, Stream};
use super::{Submissions, submission_key, twin_key};
use crate::clock;
use crate::crashpoint;
use crate::identity::key::KeyText;
use crate::mail::address::Mailbox;
use crate::mail::envelope::{BodyType, OutboundMeta};
use crate::mail::outbound::prepare::{self, Draft, Refusal, Stamp};
use crate::mail::outbound::values::{Note, remote_text};
use crate::observe::SubmissionOutcome;
use crate::spooler::{BodyWriter, Made, Outgoing};
use crate::tunnel::Dialect;
use crate::tunnel::control::SessionRole;
use crate::tunnel::frame::StartBody;
use crate::tunnel::session::{OutboundPiece, OutboundWord, ResultStatus};
use crate::tunnel::ws::LaneLost;

/// Longest forward-path that is kept, bytes; a longer one is refused, and shown clipped.
const PATH_KEPT_BYTES_MAX: usize = 512;
/// Most of a refused message's header that is kept for who looks after the mail, bytes.
const REFUSED_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Told of a stream that was cut off with an earlier line.
const CUT_OFF: &str = "4.4.2 the line broke before the mail was stored";
/// Told with the result of a stream id that came with other content.
const CONFLICT: &str = "id_conflict: this stream id was used before with other content";

/// One session's submissions. One piece is under way at a time.
pub struct Submitter {
    shared: Arc<Submissions>,
    who: Who,
    hand: Mutex<Hand>,
    _place: Place,
}

/// Whose session it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) session: Uuid,
    pub(super) key: KeyText,
    pub(super) mailbox: LaneId,
    pub(super) dialect: Dialect,
    pub(super) role: SessionRole,
    /// The gateway acks results.
    pub(super) results: bool,
}

impl fmt::Debug for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter").field("session", &self.who.session).finish_non_exhaustive()
    }
}

impl Drop for Submitter {
    /// Nobody else knows of these streams, and a gateway of tunnel 1 still waits.
    fn drop(&mut self) {
        let cut = self.hand(Hand::cut);
        if self.who.dialect == Dialect::One {
            for name in &cut {
                tracing::info!(
                    event = "relay.outbound.ignored", session.id = %self.who.session, lane = %self.who.key,
                    stream_bytes = name.len(), reason = "line_lost",
                    "nothing is kept of a stream, and its line is gone"
                );
            }
            let until = clock::monotonic() + self.shared.settings().legacy_wait;
            self.shared.cut.note(self.who.mailbox, cut, until);
        }
    }
}

type Words = Result<Vec<OutboundWord>, LaneLost>;

impl Submitter {
    pub(super) fn new(shared: Arc<Submissions>, who: Who, place: Place) -> Arc<Self> {
        Arc::new(Self { shared, who, hand: Mutex::new(Hand::new(clock::monotonic())), _place: place })
    }

    /// Does one piece of work.
    pub fn take(self: Arc<Self>, piece: OutboundPiece) -> BoxFuture<'static, Words> {
        Box::pin(async move {
            let came = clock::monotonic();
            let is_stream = !matches!(piece, OutboundPiece::Results { .. });
            // Our own wish to tell something says nothing of the gateway.
            if is_stream || matches!(&piece, OutboundPiece::Results { told } if !told.is_empty()) {
                self.hand(Hand::has_ended);
            }
            let waiting = if is_stream { self.hand(|hand| hand.uplink.comes(came)) } else { Duration::ZERO };
            let words = match piece {
                OutboundPiece::Start { stream, start } => {
                    self.begin(stream, *start, waiting);
                    Ok(Vec::new())
                }
                OutboundPiece::Chunk { stream, bytes } => self.chunk(stream, &bytes).await,
                OutboundPiece::End { stream } => self.clone().end(stream, None).await,
                OutboundPiece::TooLarge { stream, limit_bytes } => {
                    self.clone().end(stream, Some(Refusal::TooLarge { limit_bytes })).await
                }
                OutboundPiece::Abort { stream } => {
                    self.hand(|hand| hand.streams.remove(&stream));
                    Ok(Vec::new())
                }
                OutboundPiece::Results { told } => self.results(&told).await,
            };
            let done = clock::monotonic();
            self.hand(|hand| {
                if is_stream {
                    hand.uplink.goes_on(done);
                } else {
                    hand.uplink.was_kept(done.saturating_duration_since(came));
                }
                hand.rest();
            });
            words
        })
    }

    fn hand<T>(&self, f: impl FnOnce(&mut Hand) -> T) -> T {
        f(&mut self.hand.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `waiting`: how long its gateway may have been waiting for its result by now.
    fn begin(&self, name: String, start: StartBody, waiting: Duration) {
        let (settings, spooler) = (self.shared.settings(), &self.shared.spooler);
        let waiting_ms = u64::try_from(waiting.as_millis()).unwrap_or(u64::MAX);
        let began_at = WallMs(clock::wall().0.saturating_sub(waiting_ms));
        let (max, host) = (settings.message_bytes_max, &settings.hostname);
        let begun = Stream::begin(start, max, host, spooler, began_at);
        self.shared.cut.comes_again(self.who.mailbox, &name);
        self.hand(|hand| hand.streams.insert(name, Some(begun)));
    }

    async fn chunk(&self, name: String, bytes: &[u8]) -> Words {
        let Some(mut stream) = self.hand(|hand| hand.lend(&name)) else { return Ok(Vec::new()) };
        match stream.take(bytes).await {
            Ok(()) => {
                self.hand(|hand| hand.streams.insert(name, Some(stream)));
                Ok(Vec::new())
            }
            Err(error) => {
                self.hand(|hand| hand.fails(&name));
                self.not_kept(name, &error)
            }
        }
    }

    /// Runs to its end even when the session is gone by then: the gateway has sent everything.
    async fn end(self: Arc<Self>, name: String, refusal: Option<Refusal>) -> Words {
        let Some(mut stream) = self.hand(|hand| hand.end(&name)) else { return Ok(Vec::new()) };
        if let Some(refusal) = refusal {
            stream.refuse(refusal);
        }
        let done = tokio::spawn(async move {
            match stream.end().await {
                Ok(collected) if !collected.is_whole => {
                    Ok(vec![self.later(name, "the stream is not what its start announced".to_owned())])
                }
                Ok(collected) => self.submit(name, collected).await,
                Err(error) => self.not_kept(name, &error),
            }
        });
        done.await.unwrap_or(Err(LaneLost))
    }

    async fn submit(&self, name: String, collected: Collected) -> Words {
        let Submissions { spooler, quotas, .. } = &*self.shared;
        let settings = self.shared.settings();
        let now = clock::wall();
        let key = submission_key(&self.who.key, &name);
        let recipient = prepare::recipient(&collected.rcpt_to);
        let draft = collected.content.as_ref().ok().map(|(draft, _)| draft);
        // A gateway that acks results names its submissions; any other repeats with new names.
        let twin = draft
            .filter(|_| !self.who.results)
            .map(|draft| prepare::fingerprint(draft, &collected.mail_from, &collected.rcpt_to))
            .map(|fingerprint| twin_key(&self.who.key, &fingerprint));
        let names = decide::recipient_names(&settings, &recipient);
        let question = Question { mailbox: self.who.mailbox, key, twin, recipient: names };
        let facts = match spooler.query(move |spool| question.ask(spool, now)).await {
            Ok(Ok(Some(facts))) => facts,
            Ok(Ok(None)) => return Err(LaneLost),
            Ok(Err(error)) | Err(error) => return self.not_kept(name, &AcceptError::Spool(error)),
        };
        let verdict = decide::decide(&settings, quotas, self.who.mailbox, &collected, &recipient, &facts);
        let refused = matches!(verdict, Verdict::Refuse { .. });
        if let Verdict::Refuse { note, .. } = &verdict
            && !facts.known
            && !quotas.may_record(self.who.mailbox)
        {
            self.shared.metrics.submitted(SubmissionOutcome::Refused);
            return Ok(vec![failed(name, results::error_text(note))]);
        }
        let smtputf8 = recipient.as_ref().is_ok_and(needs_utf8)
            || Mailbox::parse(&collected.mail_from, true).is_ok_and(|sender| needs_utf8(&sender));
        let (body, out) = match self.outgoing(&name, collected, verdict, smtputf8, now) {
            Ok(outgoing) => outgoing,
            Err(reason) => return Ok(vec![self.later(name, reason.to_owned())]),
        };
        let until = now.plus(settings.resubmission_window_ms);
        let out = Outgoing {
            mailbox: self.who.mailbox,
            key,
            key_until: now.plus(settings.remember_ms),
            twin: twin.filter(|_| settings.resubmission_window_ms > 0).map(|twin| (twin, until)),
            ..out
        };
        let settled = out.settled.as_ref().map(|(to, note)| (*to, Note::from_reason(note)));
        let size_bytes = body.len();
        let submission = body.id();
        let (sha256, head_sha256) = (body.sha256(), Sha256::digest(&out.head).into());
        crashpoint::reach("outbound.before_accept");
        // Until the spool has answered it may be kept, also when the session has gone by then.
        self.hand(Hand::has_ended);
        let Made { submitted, place, items } = match body.submit(out, now).await {
            Ok(made) => made,
            Err(error) => {
                if !facts.known && !matches!(error, AcceptError::Spool(_)) {
                    self.hand(|hand| hand.fails(&name));
                }
                return self.not_now(name, &error);
            }
        };
        crashpoint::reach("outbound.after_accept");
        let open = settled.is_none();
        noted::note(&self.shared, &self.who, &name, submitted, refused, settled, size_bytes);
        for (id, lane) in items {
            tracing::info!(
                event = "relay.ingress.accepted", item.id = %id, lane, submission.id = %submission,
                session.id = %self.who.session, size_bytes, "accepted item {id} from a mailbox here"
            );
        }
        match submitted {
            Submitted::New(id) if open => {
                let taken =
                    |place| Taken { id, place, sha256, size_bytes, head_sha256, at: now, stream: &name };
                let receipt = place.and_then(|place| receipts::fresh(&self.shared, &self.who, &taken(place)));
                Ok(vec![OutboundWord::Accepted { stream: name, submission: id.to_string(), receipt }])
            }
            Submitted::Conflict(_) => Ok(vec![failed(name, CONFLICT.to_owned())]),
            Submitted::New(id) | Submitted::Known(id) => self.answer(name, id, false, now).await,
            Submitted::Twin(id) => self.answer(name, id, true, now).await,
        }
    }

    /// What goes into the spool; the reason when nothing can.
    fn outgoing(
        &self,
        name: &str,
        collected: Collected,
        verdict: Verdict,
        smtputf8: bool,
        now: WallMs,
    ) -> Result<(BodyWriter, Outgoing), &'static str> {
        let (settings, spooler) = (self.shared.settings(), &self.shared.spooler);
        let Collected { mail_from, rcpt_to, began_at, identity, content, .. } = collected;
        let mut meta = OutboundMeta {
            mail_from: clip(&mail_from),
            stream: name.to_owned(),
            session: self.who.session.into_bytes(),
            results: self.who.results,
            started_at_ms: began_at.0,
            smtputf8,
            ..OutboundMeta::default()
        };
        if let Ok((draft, _)) = &content {
            meta.smtputf8 |= draft.needs_utf8();
            meta.body = if draft.has_eight_bit_body() { BodyType::EightBit } else { BodyType::SevenBit };
            meta.message_id = draft.message_id().unwrap_or_default();
            meta.subject = remote_text(draft.value("Subject").unwrap_or_default().as_bytes());
        }
        let (destination, here, settled) = match verdict {
            Verdict::Queue { destination } => (destination, None, None),
            Verdict::Here { destination, lane } => {
                (destination, Some(lane), Some((Settlement::Sent, Note::line("delivered to a mailbox here"))))
            }
            Verdict::Refuse { destination, note } => (destination, None, Some((Settlement::Failed, note))),
            Verdict::NotNow(reason) => return Err(reason),
        };
        let failed = matches!(settled, Some((Settlement::Failed, _)));
        let (mut body, head) = match content {
            Ok((draft, body)) if !failed => {
                let stamp = Stamp {
                    hostname: &settings.hostname,
                    id: body.id(),
                    at: now,
                    complete: self.who.results,
                };
                if meta.message_id.is_empty() && self.who.results && draft.count("Message-ID") == 0 {
                    meta.message_id = format!("<{}@{}>", body.id(), settings.hostname);
                }
                let head = prepare::head(stamp, &draft);
                (body, head)
            }
            // What does not go out is not kept, but for what tells which mail it was.
            Ok((draft, _)) => (spooler.body(), kept_header(&draft)),
            Err(_) => (spooler.body(), Vec::new()),
        };
        body.set_fingerprint(identity);
        let tag = clip(&rcpt_to).into_bytes();
        let out = Outgoing {
            head,
            meta: meta.encode(),
            items: here.map(|lane| (lane, tag.clone())).into_iter().collect(),
            mailbox: self.who.mailbox,
            tag,
            key: [0; 32],
            key_until: now,
            twin: None,
            destination,
            due: now,
            settled: settled.map(|(to, note)| (to, note.to_reason())),
        };
        Ok((body, out))
    }

    /// What the gateway is told of a stream that is, or was before, a submission that may have ended.
    async fn answer(&self, stream: String, id: ItemId, twin: bool, now: WallMs) -> Words {
        let mut words = Vec::new();
        // By a call: what is told must be stable.
        let known = self.shared.spooler.call(move |spool| results::look(spool, id)).await;
        let (info, ended) = self.or_lost(known)?;
        if !twin {
            let receipt = info.and_then(|info| receipts::again(&self.shared, &self.who, &info, now));
            words.push(OutboundWord::Accepted {
                stream: stream.clone(),
                submission: id.to_string(),
                receipt,
            });
        }
        match ended {
            Some(ended) if !self.who.results && ended.status == ResultStatus::Indeterminate => {}
            Some(ended) if twin => words.push(ended.word(stream, false)),
            Some(ended) => {
                let repeated = self.hand(|hand| hand.may_say(id));
                if repeated {
                    words.push(ended.word(stream, true));
                }
            }
            None if twin => {
                let until = now.plus(self.shared.settings().legacy_wait_ms());
                self.hand(|hand| hand.waits(Repeat { first: id, stream, until }));
            }
            None => {}
        }
        Ok(words)
    }

    /// Writes down what the gateway has, and looks what there is to tell.
    async fn results(&self, told: &[String]) -> Words {
        let told: Vec<ItemId> = told.iter().filter_map(|id| id.parse().ok()).collect();
        let told: Vec<ItemId> =
            told.into_iter().filter(|id| self.hand(|hand| hand.said.remove(id))).collect();
        if !told.is_empty() {
            let now = clock::wall();
            let settings = (!self.who.results).then(|| self.shared.settings());
            crashpoint::reach("outbound.before_told");
            let asked = told.clone();
            let written = self
                .shared
                .spooler
                .call(move |spool| results::tell(spool, &asked, settings.as_deref(), now))
                .await;
            let written = self.or_lost(written)?;
            if !self.who.results {
                let late = told.into_iter().filter(|id| !written.contains(id));
                let until = now.plus(self.shared.settings().legacy_wait_ms());
                self.hand(|hand| hand.heard_late(late, until));
            }
            for id in written {
                tracing::info!(
                    event = "relay.outbound.told", submission.id = %id, lane = %self.who.key,
                    session.id = %self.who.session, "gateway has the result"
                );
            }
            crashpoint::reach("outbound.after_told");
        }
        let mut words = self.repeats().await?;
        words.extend(self.cut_off());
        let mut after = None;
        loop {
            let (skip, room) = self.hand(|hand| hand.skip(clock::wall()));
            if room == 0 {
                return Ok(words);
            }
            let mailbox = self.who.mailbox;
            let page =
                self.shared.spooler.query(move |spool| results::untold(spool, mailbox, after, &skip)).await;
            let (page, next) = self.or_lost(page)?;
            let now = clock::wall();
            for ended in page.iter().filter(|ended| self.tells(ended, now)).take(room) {
                if self.hand(|hand| hand.may_say(ended.id())) {
                    words.push(ended.word(ended.meta.stream.clone(), true));
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(words),
            }
        }
    }

    /// Whether this session is to tell it.
    fn tells(&self, ended: &Ended, now: WallMs) -> bool {
        let meta = &ended.meta;
        let owner = Uuid::from_bytes(meta.session);
        let teller = self.shared.desks.teller(self.who.mailbox, owner, meta.results);
        let is_awaited = now < self.shared.settings().perhaps_awaited_until(ended);
        let hears = meta.results || (ended.status != ResultStatus::Indeterminate && is_awaited);
        teller == Some(self.who.session) && hears
    }

    /// Streams that earlier lines of the mailbox have not brought to their end, each once in this session.
    fn cut_off(&self) -> Vec<OutboundWord> {
        if self.who.dialect == Dialect::Two {
            return Vec::new();
        }
        let after = self.hand(|hand| hand.cut_told);
        let (cut, told) = self.shared.cut.news(self.who.mailbox, after, clock::monotonic());
        self.hand(|hand| hand.cut_told = told);
        cut.into_iter().map(|name| failed(name, CUT_OFF.to_owned())).collect()
    }

    /// Repeats whose first has ended, or that nobody waits for any more.
    async fn repeats(&self) -> Words {
        let repeats = self.hand(|hand| std::mem::take(&mut hand.repeats));
        if repeats.is_empty() {
            return Ok(Vec::new());
        }
        let (now, mut words, mut waiting) = (clock::wall(), Vec::new(), Vec::new());
        for repeat in repeats.into_iter().filter(|repeat| now < repeat.until) {
            let first = repeat.first;
            let ended = self.shared.spooler.call(move |spool| results::ended(spool, first)).await;
            match self.or_lost(ended)? {
                Some(ended) if ended.status == ResultStatus::Indeterminate => {}
                Some(ended) => words.push(ended.word(repeat.stream, false)),
                None => waiting.push(repeat),
            }
        }
        self.hand(|hand| hand.repeats = waiting);
        Ok(words)
    }

    /// The spool did not take it.
    fn not_now(&self, stream: String, error: &AcceptError) -> Words {
        tracing::warn!(
            event = "relay.outbound.not_stored", lane = %self.who.key, session.id = %self.who.session, %error,
            "a submission cannot be stored now"
        );
        match error {
            AcceptError::NoSpace | AcceptError::OverQuota | AcceptError::NoBody => {
                Ok(vec![self.later(stream, error.to_string())])
            }
            AcceptError::UnknownLane | AcceptError::Revoked => {
                Ok(vec![self.later(stream, error.to_string())])
            }
            AcceptError::Spool(_) => Err(LaneLost),
        }
    }

    /// The spool did not take it, and was not asked yet to keep it: a gateway of tunnel 1 is told so, whatever the
    /// trouble is. Of a commit that failed nobody knows what became, and there is no word for that.
    fn not_kept(&self, stream: String, error: &AcceptError) -> Words {
        match self.not_now(stream.clone(), error) {
            Err(LaneLost) if self.who.dialect == Dialect::One => {
                Ok(vec![self.later(stream, error.to_string())])
            }
            words => words,
        }
    }

    fn later(&self, stream: String, reason: String) -> OutboundWord {
        self.shared.metrics.submitted(SubmissionOutcome::NotNow);
        OutboundWord::NotNow { stream, reason }
    }

    fn or_lost<T, E: Into<Trouble>>(&self, answer: Result<Result<T, E>, SpoolError>) -> Result<T, LaneLost> {
        let trouble = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.into(),
            Err(error) => Trouble(error.to_string()),
        };
        tracing::warn!(
            event = "relay.spool.unavailable", lane = %self.who.key, error = trouble.0,
            "the spool does not answer for submissions"
        );
        Err(LaneLost)
    }
}

/// What the spool said, in words.
struct Trouble(String);

impl From<SpoolError> for Trouble {
    fn from(error: SpoolError) -> Self {
        Self(error.to_string())
    }
}

impl From<RequestError> for Trouble {
    fn from(error: RequestError) -> Self {
        Self(error.to_string())
    }
}

fn failed(stream: String, error: String) -> OutboundWord {
    let status = ResultStatus::Failed;
    OutboundWord::Result { stream, status, message_id: None, error: Some(error), result: None }
}

/// Whether only a server with `SMTPUTF8` can be told this address; a domain alone can be written in A-labels (I8).
fn needs_utf8(mailbox: &Mailbox) -> bool {
    !mailbox.local().is_ascii()
}

/// A path as it is kept. One that needs clipping or has controls is refused, but goes into records and a report.
fn clip(path: &str) -> String {
    let end = path.floor_char_boundary(PATH_KEPT_BYTES_MAX.min(path.len()));
    path[..end].chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The first fields of a header, whole lines.
fn kept_header(draft: &Draft) -> Vec<u8> {
    let header = draft.header();
    let most = &header[..header.len().min(REFUSED_HEADER_BYTES_MAX)];
    let end = memchr::memrchr(b'\n', most).map_or(0, |at| at + 1);
    most[..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_outside_ascii_alone_asks_for_no_smtputf8() {
        let needs = |text: &str| needs_utf8(&Mailbox::parse(text, true).unwrap());
        assert!(!needs("a@b.example") && !needs("a@b\u{fc}cher.example")); // I8
        assert!(needs("\u{f6}@b.example") && needs("\u{f6}@b\u{fc}cher.example"));
    }

    #[test]
    fn long_paths_are_clipped_between_characters() {
        assert_eq!(clip("a@b"), "a@b");
        assert_eq!(clip("a@b>\r\nBcc: c@d\u{85}"), "a@b>??Bcc: c@d?"); // no line of a report is theirs
        assert_eq!(clip(&"ä".repeat(1000)).len(), PATH_KEPT_BYTES_MAX);
        assert_eq!(clip(&format!("x{}", "ä".repeat(1000))).len(), PATH_KEPT_BYTES_MAX - 1);
    }
}
