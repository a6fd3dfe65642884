//! Driver: the overview, the sessions, and the events as they happen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, Stream, StreamExt as _};
use spool::types::SpoolStats;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

use super::asked::Asked;
use super::{Admin, Shared, problem, respond};
use crate::admin::ask::{self, AskError};
use crate::admin::events::{self, EventsAsk, LAGGED, ONLOOKERS_MAX};
use crate::admin::overview::{self, Glance};
use crate::admin::presence::{self, SessionsAsk};
use crate::admin::{deliveries, request};
use crate::clock;
use crate::observe::live::Happening;

/// How long the spool may take to be counted, before what was counted a moment ago has to do.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two signs of life in a stream of events.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /admin/overview`
pub(super) async fn overview(State(admin): Shared) -> Response {
    let stats = match count(&admin).await {
        Ok(stats) => stats,
        Err(error) => return problem(&error),
    };
    let now = clock::wall();
    let (condition, terms) = (&admin.condition, admin.terms.get());
    let glance = Glance {
        terms: &terms,
        now,
        started_at: condition.started_at(),
        uptime_seconds: condition.uptime_seconds(),
        problems: condition.problems(),
        warnings: condition.warnings(),
        certificate_until: condition.certificate_until(),
        sessions: admin.presence.sessions(),
        stats,
        deliveries: &deliveries::Now::look(&admin.switch, Some(&admin.standing), now),
        history: condition.history(),
    };
    Json(overview::object(&glance)).into_response()
}

/// The spool's counters now; those of a moment ago when it is busy.
async fn count(admin: &Admin) -> Result<SpoolStats, AskError> {
    let asked = admin.spooler.query(|spool| spool.stats());
    let problem = match tokio::time::timeout(COUNT_TIMEOUT, asked).await {
        Ok(Ok(Ok(stats))) => return Ok(stats),
        Ok(Ok(Err(error)) | Err(error)) => AskError::Spool(error),
        Err(_) => AskError::Busy("the spool is busy".to_owned()),
    };
    admin.condition.stats().ok_or(problem)
}

/// `GET /admin/sessions`
pub(super) async fn sessions(State(admin): Shared, Asked(ask): Asked<SessionsAsk>) -> Response {
    respond(presence::sessions(admin.presence.as_ref(), &ask))
}

/// `GET /admin/events`
pub(super) async fn events(State(admin): Shared, Asked(ask): Asked<EventsAsk>) -> Response {
    let Ok(place) = Arc::clone(&admin.onlookers).try_acquire_owned() else {
        let words = format!("{ONLOOKERS_MAX} others look on already; no more are let in");
        return problem(&AskError::Busy(words));
    };
    let ask = match checked(&admin, ask).await {
        Ok(ask) => ask,
        Err(error) => return problem(&error),
    };
    let watch = Watch { told: admin.live.look_on(), ask, stop: admin.stop.clone(), _place: place };
    // At once, so that whoever asks knows that it is told everything from now on.
    let hello = stream::iter([Ok(Event::default().comment("from now on"))]);
    Sse::new(hello.chain(watch.stream())).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// The id is one, and the lane is named as the log names it.
async fn checked(admin: &Admin, mut ask: EventsAsk) -> Result<EventsAsk, AskError> {
    if let Some(id) = &ask.item {
        ask.item = Some(request::item_id(id)?.to_string());
    }
    if let Some(name) = ask.lane.take() {
        let domains = admin.terms.get().domains.clone();
        let found = admin.spooler.query(move |spool| ask::resolve(spool, &name, &domains)).await??;
        ask.lane = Some(found.name);
    }
    Ok(ask)
}

/// One onlooker.
struct Watch {
    told: Receiver<Arc<Happening>>,
    ask: EventsAsk,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watch| async move {
            let event = watch.next().await?;
            Some((Ok(event), watch))
        })
    }

    /// The next event that is wanted; `None` when the relay stops and everything was told.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let told = tokio::select! {
                told = self.told.recv() => told,
                () = self.stop.cancelled() => match self.told.try_recv() {
                    Ok(happening) => Ok(happening),
                    Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
                },
            };
            match told {
                Ok(happening) if self.ask.admits(&happening) => {
                    let data = events::object(&happening).to_string();
                    return Some(Event::default().event(&happening.name).data(data));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    return Some(Event::default().event(LAGGED).data(events::lagged(missed).to_string()));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use spool::ids::WallMs;
    use tokio::sync::{Semaphore, broadcast};

    use super::*;

    fn happening(name: &str) -> Arc<Happening> {
        Arc::new(Happening { name: name.to_owned(), level: "info", at: WallMs(1), fields: Map::new() })
    }

    #[tokio::test]
    async fn a_stop_ends_the_stream_behind_what_was_told_before_it() {
        let (sender, told) = broadcast::channel(2);
        let (stop, places) = (CancellationToken::new(), Arc::new(Semaphore::new(1)));
        let place = Arc::clone(&places).try_acquire_owned().expect("free");
        let ask = EventsAsk { event: Some("relay.item.".into()), ..EventsAsk::default() };
        let mut watch = Watch { told, ask, stop: stop.clone(), _place: place };
        for name in ["relay.item.a", "relay.other", "relay.item.b"] {
            sender.send(happening(name)).expect("heard");
        }
        stop.cancel();
        let words = |event: Option<Event>| format!("{:?}", event.expect("an event"));
        let first = words(watch.next().await);
        assert!(first.contains(LAGGED) && first.contains("missed"), "{first}");
        let second = words(watch.next().await);
        assert!(second.contains("relay.item.b"), "{second}");
        assert!(watch.next().await.is_none());
        drop(watch);
        assert_eq!(places.available_permits(), 1, "the place is free again");
    }
}
