//! What one session does about abuse, beside the conversation: the tarpit's place, block lists, the sender's domain,
//! and which refusals count as abuse.
//!
//! Promises: a session in the tarpit costs one of [`HELD_MAX`] places, and nothing is read from it; when none is free
//! it is answered at once, so that the tarpit cannot be filled to keep others out. A harvest is
//! denied from then on.
//!
//! Failure policy: what cannot be found out is no reason to refuse.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::screen::{Lookup, Senders};
use super::{Manner, Shared};
use crate::mail::address::{ForwardPath, ReversePath};
use crate::mail::smtp::receiver::{Receiver, Stage};
use crate::mail::smtp::reply::Reply;
use crate::observe::{Limited, Metrics};

/// Most sessions in the tarpit at a time; never more than a fourth of all.
const HELD_MAX: usize = 256;

/// How many places of the tarpit are taken. How many there are is asked each time: the house may have grown or shrunk.
#[derive(Debug, Default)]
pub(super) struct Tarpit(AtomicUsize);

impl Tarpit {
    /// One more, in a house of `connections_max`; false when there is none.
    fn take(&self, connections_max: usize) -> bool {
        let most = HELD_MAX.min(connections_max / 4);
        let one_more = |taken: usize| (taken < most).then(|| taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One session's.
#[derive(Debug)]
pub(super) struct Guard {
    client: IpAddr,
    held: Option<Held>,
    lookup: Lookup,
    senders: Senders,
}

impl Guard {
    /// For a client that has just connected.
    pub(super) fn new(client: IpAddr, manner: &Manner) -> Self {
        let lookup = manner.screen.as_ref().map_or(Lookup::Known(None), |screen| screen.look_up(client));
        Self { client, held: None, lookup, senders: Senders::default() }
    }

    /// Takes and gives back the place in the tarpit; to be called whenever the machine has moved. True when there
    /// was none, so that the machine has moved again.
    #[must_use]
    pub(super) fn mind(&mut self, receiver: &mut Receiver, shared: &Shared, now: Instant) -> bool {
        if !receiver.is_held() {
            self.held = None;
        } else if self.held.is_none() {
            self.held = Held::take(&shared.tarpit, shared.limits.fill().1, &shared.metrics);
            if self.held.is_none() {
                receiver.release(now);
                return true;
            }
        }
        false
    }

    /// Why nobody may send as `from`, if so.
    pub(super) async fn sender(
        &mut self,
        from: &ReversePath,
        manner: &Manner,
        shared: &Shared,
    ) -> Option<Reply> {
        let screen = manner.screen.as_ref()?;
        if !self.senders.unanswerable(screen, from).await {
            return None;
        }
        shared.metrics.abuse.limited(Limited::NullMx);
        Some(Reply::null_mx_sender())
    }

    /// Why this client may not write to `to`, if so. Whoever is listed may still tell the postmaster (RFC 5321
    /// §4.5.1).
    pub(super) async fn recipient(&mut self, to: &ForwardPath) -> Option<Reply> {
        let postmaster = match to {
            ForwardPath::Postmaster(_) => true,
            ForwardPath::Mailbox(mailbox) => mailbox.is_postmaster(),
        };
        if postmaster {
            return None;
        }
        let listing = self.lookup.listing().await?;
        Some(Reply::listed(&listing.zone, &listing.text))
    }

    /// Counts a refusal, and denies the client for a while when it was a harvest.
    pub(super) fn refused(&self, reply: &Reply, stage: Stage, hostname: &str, shared: &Shared, now: Instant) {
        let abuse = &shared.metrics.abuse;
        if *reply == Reply::too_many_unknown(hostname) {
            abuse.limited(Limited::Harvest);
            shared.deny(self.client, now);
        } else if *reply == Reply::talks_too_soon() {
            abuse.limited(Limited::EarlyTalker);
        } else if *reply == Reply::not_smtp() {
            abuse.limited(Limited::ForeignProtocol);
        } else if *reply == Reply::session_over(hostname) || *reply == Reply::timeout(hostname) {
            abuse.limited(Limited::Session);
        } else if *reply == Reply::too_many_messages() && stage == Stage::Mail {
            abuse.limited(Limited::MessageRate);
        }
    }
}

/// A place in the tarpit, counted while it is taken.
#[derive(Debug)]
struct Held {
    metrics: Arc<Metrics>,
    tarpit: Arc<Tarpit>,
}

impl Held {
    fn take(tarpit: &Arc<Tarpit>, connections_max: usize, metrics: &Arc<Metrics>) -> Option<Self> {
        tarpit.take(connections_max).then(|| {
            metrics.abuse.held.inc();
            metrics.abuse.tarpitted.inc();
            Self { metrics: Arc::clone(metrics), tarpit: Arc::clone(tarpit) }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.abuse.held.dec();
        self.tarpit.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tarpit_is_as_large_as_the_house_is_now() {
        let (tarpit, metrics) = (Arc::new(Tarpit::default()), Arc::new(Metrics::new()));
        let take = |connections_max| Held::take(&tarpit, connections_max, &metrics);
        let mut held = vec![take(8).unwrap(), take(8).unwrap()];
        assert!(take(8).is_none(), "a fourth of eight");
        held.push(take(12).expect("a reload made room for twelve"));
        assert!(take(12).is_none());
        assert!(take(4).is_none(), "and one for four has more than it would let in");
        held.truncate(1);
        assert!(take(4).is_none());
        held.clear();
        assert!(take(4).is_some());
        assert_eq!(metrics.abuse.held.get(), 0, "given back when dropped");
        let many: Vec<_> = (0..1000).map_while(|_| take(100_000)).collect();
        assert_eq!(many.len(), HELD_MAX);
    }
}
