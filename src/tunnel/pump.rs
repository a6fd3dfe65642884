//! Driver: one session's loop between its socket, its machine and its lane.
//!
//! Waits for one thing, hands it to the machine, performs what the machine says, and again. At most one batch
//! and one piece are under way. Decides nothing.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use spool::ids::ItemId;
use tokio::time::sleep_until;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::session::{Batch, Input, Note, OutboundWord, Output, PieceError, Session, Settled};
use super::tally::Tally;
use super::wake::{Told, Wake};
use super::wire::{Happened, Wire};
use super::ws::{Answered, Lane, LaneLost, Tunnel, close_deadline};
use crate::clock;
use crate::identity::key::KeyText;

/// Everything one session's task holds.
pub(super) struct Pump<'a> {
    pub(super) tunnel: &'a Tunnel,
    pub(super) id: Uuid,
    pub(super) key: KeyText,
    pub(super) wire: Wire,
    pub(super) session: Box<Session>,
    pub(super) lane: Arc<dyn Lane>,
    pub(super) wake: Arc<Wake>,
    pub(super) tally: Arc<Tally>,
}

/// What the lane is doing for us.
#[derive(Default)]
struct Work {
    batch: Option<BoxFuture<'static, Result<Answered, LaneLost>>>,
    /// What batches that were answered have left to do; as many as there can be before one commit.
    rest: Vec<BoxFuture<'static, ()>>,
    piece: Option<Fetch>,
    outbound: Option<BoxFuture<'static, Result<Vec<OutboundWord>, LaneLost>>>,
}

/// One piece of a body on its way to us.
struct Fetch {
    item: ItemId,
    n: usize,
    bytes: BoxFuture<'static, Result<Bytes, PieceError>>,
}

enum Event {
    Wire(Happened),
    Settled(Result<Settled, LaneLost>),
    Piece(ItemId, usize, Result<Bytes, PieceError>),
    Words(Result<Vec<OutboundWord>, LaneLost>),
    Told(Told),
    Stop,
    Time,
}

impl Pump<'_> {
    pub(super) async fn run(mut self) {
        let mut work = Work::default();
        let mut closing = None;
        let mut stopping = false;
        loop {
            if self.perform(&mut work) {
                closing = closing.or_else(|| Some(close_deadline(clock::monotonic())));
            }
            self.tally.carries(self.session.under_way(), self.session.acked());
            let deadline = closing.or_else(|| self.session.deadline());
            let event = tokio::select! {
                biased; // what others say comes first, so that a busy gateway cannot keep it waiting
                told = self.wake.told() => Event::Told(told),
                () = self.tunnel.stop.cancelled(), if !stopping => Event::Stop,
                event = next(&mut self.wire, &mut work, closing.is_some() || !self.session.is_full()) => event,
                () = sleep_until(deadline.unwrap_or_else(clock::monotonic).into()), if deadline.is_some() => Event::Time,
            };
            let input = match event {
                Event::Wire(Happened::Ended) => break,
                Event::Time if closing.is_some() => break,
                Event::Wire(Happened::Broken(code)) => {
                    self.wire.close(code, "");
                    closing = closing.or_else(|| Some(close_deadline(clock::monotonic())));
                    Input::Gone
                }
                Event::Wire(Happened::Message(message)) => match read(message) {
                    Some(input) => {
                        self.tally.heard(clock::wall());
                        input
                    }
                    None => {
                        // The socket answers the close by itself; it needs a little time for that.
                        closing = closing.or_else(|| Some(close_deadline(clock::monotonic())));
                        Input::Gone
                    }
                },
                Event::Wire(Happened::Flushed) => Input::Progress,
                Event::Settled(Ok(settled)) => Input::Settled(settled),
                Event::Words(Ok(words)) => Input::Words(words),
                Event::Settled(Err(LaneLost)) | Event::Words(Err(LaneLost)) => match self.wake.take().evict {
                    Some(eviction) => Input::Evict(eviction),
                    None => Input::LaneLost,
                },
                Event::Piece(item, n, bytes) => Input::Piece { item, n, bytes },
                Event::Told(Told { evict: Some(eviction), .. }) => Input::Evict(eviction),
                Event::Told(Told { evict: None, bell, results, keys }) => {
                    if keys {
                        let keys = Input::Keys(self.tunnel.relay_keys());
                        self.session.handle(keys, clock::monotonic(), clock::wall());
                    }
                    if results {
                        self.session.handle(Input::Results, clock::monotonic(), clock::wall());
                    }
                    if bell { Input::Bell } else { Input::Tick }
                }
                Event::Stop => {
                    stopping = true;
                    let farewell = self.tunnel.farewell();
                    let wait = farewell.hint(self.tunnel.sessions(), rand::random());
                    let reconnect_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    Input::Drain { reconnect_after_ms, settle: farewell.settle }
                }
                Event::Time => Input::Tick,
            };
            self.session.handle(input, clock::monotonic(), clock::wall());
        }
        self.settle(work).await;
        tracing::info!(event = "relay.ws.closed", session.id = %self.id, lane = %self.key, "session ended");
    }

    /// Performs what the machine says, and fills the socket while it has room. True once it is to be closed.
    fn perform(&mut self, work: &mut Work) -> bool {
        let mut closed = false;
        loop {
            while let Some(output) = self.session.poll() {
                match output {
                    Output::Send(message) => self.wire.send(message),
                    Output::Lane(batch) => work.batch = Some(self.ask(batch)),
                    Output::Read { item, n } => {
                        work.piece = Some(Fetch { item, n, bytes: Arc::clone(&self.lane).read(item, n) });
                    }
                    Output::Outbound(piece) => work.outbound = Some(Arc::clone(&self.lane).outbound(piece)),
                    Output::Note(note) => self.log(&note),
                    Output::Close(code, reason) => {
                        tracing::debug!(session.id = %self.id, code, reason, "closing");
                        self.wire.close(code, reason);
                        closed = true;
                    }
                }
            }
            if closed || !self.wire.has_room() {
                return closed;
            }
            match self.session.pull(clock::monotonic()) {
                Some(message) => self.wire.send(message),
                None if self.session.is_quiet() => return closed,
                None => {}
            }
        }
    }

    fn ask(&self, batch: Batch) -> BoxFuture<'static, Result<Answered, LaneLost>> {
        Arc::clone(&self.lane).settle(batch)
    }

    /// The socket is gone: what was acked still has to reach the lane.
    async fn settle(&mut self, mut work: Work) {
        self.session.handle(Input::Gone, clock::monotonic(), clock::wall());
        work.piece = None;
        work.outbound = None;
        loop {
            while let Some(output) = self.session.poll() {
                if let Output::Lane(batch) = output {
                    work.batch = Some(self.ask(batch));
                }
            }
            if self.session.is_done() {
                break;
            }
            let Some(batch) = work.batch.take() else { break };
            let input = match batch.await {
                Ok(answered) => {
                    work.rest.extend(answered.rest);
                    Input::Settled(answered.settled)
                }
                Err(LaneLost) => Input::LaneLost,
            };
            self.session.handle(input, clock::monotonic(), clock::wall());
        }
        for rest in work.rest {
            rest.await;
        }
    }

    fn log(&self, note: &Note) {
        match note {
            Note::AckIgnored(what) => {
                tracing::info!(
                    event = "relay.item.ack_ignored", session.id = %self.id, lane = %self.key, what,
                    "gateway answered for an item that is not in flight to it"
                );
            }
            Note::StreamIgnored(stream) => {
                tracing::info!(
                    event = "relay.outbound.ignored", session.id = %self.id, lane = %self.key,
                    stream_bytes = stream.len(), reason = "stream_not_started", "frame of an unknown stream"
                );
            }
            Note::StreamSilent(stream) => {
                tracing::info!(
                    event = "relay.outbound.ignored", session.id = %self.id, lane = %self.key,
                    stream_bytes = stream.len(), reason = "stream_silent", "half a stream, and no more of it"
                );
            }
            Note::StreamRefused(stream) => {
                tracing::info!(
                    event = "relay.outbound.ignored", session.id = %self.id, lane = %self.key,
                    stream_bytes = stream.len(), reason = "too_many_streams", "no room for another open stream"
                );
            }
            Note::BadFrame(error) => {
                tracing::info!(
                    event = "relay.ws.frame_invalid", session.id = %self.id, lane = %self.key, %error,
                    "gateway sent what is no frame"
                );
            }
            Note::AckTimeout(item) => {
                tracing::warn!(
                    event = "relay.ws.ack_timeout", item.id = %item, session.id = %self.id, lane = %self.key,
                    "gateway answers pings but not for this item; it is sent away and offered the item again"
                );
            }
            Note::PeerDead => {
                self.tunnel.metrics.tunnel_dead_peers.inc();
                tracing::info!(
                    event = "relay.ws.peer_dead", session.id = %self.id, lane = %self.key,
                    "gateway fell silent"
                );
            }
        }
    }
}

/// The next thing from the socket or the lane.
fn next<'a>(wire: &'a mut Wire, work: &'a mut Work, may_read: bool) -> impl Future<Output = Event> + 'a {
    poll_fn(move |cx| {
        if let Some(batch) = &mut work.batch
            && let Poll::Ready(settled) = batch.as_mut().poll(cx)
        {
            work.batch = None;
            return Poll::Ready(Event::Settled(settled.map(|answered| {
                work.rest.extend(answered.rest);
                answered.settled
            })));
        }
        work.rest.retain_mut(|rest| rest.as_mut().poll(cx).is_pending());
        if let Some(fetch) = &mut work.piece
            && let Poll::Ready(bytes) = fetch.bytes.as_mut().poll(cx)
        {
            let (item, n) = (fetch.item, fetch.n);
            work.piece = None;
            return Poll::Ready(Event::Piece(item, n, bytes));
        }
        if let Some(outbound) = &mut work.outbound
            && let Poll::Ready(words) = outbound.as_mut().poll(cx)
        {
            work.outbound = None;
            return Poll::Ready(Event::Words(words));
        }
        wire.poll(cx, may_read).map(Event::Wire)
    })
}

/// A message as the machine's input; `None` for the peer's close.
fn read(message: Message) -> Option<Input> {
    match message {
        Message::Text(text) => Some(Input::Text(text.as_str().to_owned())),
        Message::Binary(bytes) => Some(Input::Binary(bytes)),
        Message::Ping(_) => Some(Input::Ping),
        Message::Pong(payload) => Some(Input::Pong(payload)),
        Message::Frame(_) => Some(Input::Tick),
        Message::Close(_) => None,
    }
}
