//! The events of the log as they happen, for `spool follow`, the dashboard and anybody at `/admin/events`.
//!
//! Promises: what is told here is what the log tells, whatever `log.level` is; an onlooker who is slow loses events and is
//! told how many, and never slows the relay. Costs next to nothing while nobody looks on.
//! Does not: keep a history (the spool does).

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use spool::ids::WallMs;
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

/// Events that wait for an onlooker, at most.
pub const BACKLOG_MAX: usize = 1024;
/// What the names of all events begin with.
const NAMES: &str = "relay.";

/// One event: its name, when it was, and its fields, `message` among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// Its name, like `relay.ingress.accepted`.
    pub name: String,
    /// `error`, `warn` or `info`.
    pub level: &'static str,
    /// When it was told.
    pub at: WallMs,
    /// Everything else that the log line says.
    pub fields: Map<String, Value>,
}

/// Where events are told.
#[derive(Clone, Debug)]
pub struct Live {
    sender: broadcast::Sender<Arc<Happening>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG_MAX) }
    }
}

impl Live {
    /// Everything that happens from now on.
    #[must_use]
    pub fn look_on(&self) -> broadcast::Receiver<Arc<Happening>> {
        self.sender.subscribe()
    }

    fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }
}

/// The layer that tells the events of the subscriber to `live`.
pub(super) fn layer<S>(live: Live) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Onlooker { live }.with_filter(OurEvents)
}

/// What operators are told: our own events, never the chatter of a debug level.
struct OurEvents;

impl<S> Filter<S> for OurEvents {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        meta.is_event() && *meta.level() <= Level::INFO && meta.target().starts_with(env!("CARGO_PKG_NAME"))
    }

    // Asked once per line of code, so that what nobody wants costs nothing, as without us.
    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        if meta.is_event()
            && *meta.level() <= Level::INFO
            && meta.target().starts_with(env!("CARGO_PKG_NAME"))
        {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

struct Onlooker {
    live: Live,
}

impl<S: Subscriber> Layer<S> for Onlooker {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !self.live.is_watched() {
            return;
        }
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let name = match fields.0.remove("event") {
            Some(Value::String(name)) if name.starts_with(NAMES) => name,
            _ => return,
        };
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => "info",
        };
        // Nobody may have stayed; then it is lost, as it should be.
        let _ =
            self.live.sender.send(Arc::new(Happening { name, level, at: clock::wall(), fields: fields.0 }));
    }
}

/// Fields as JSON, as the JSON log writes them.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn onlookers_are_told_our_events_with_their_fields_and_nothing_else() {
        let live = Live::default();
        let subscriber = tracing_subscriber::registry().with(layer(live.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(event = "relay.before", "nobody looks on");
            let mut told = live.look_on();
            tracing::info!(event = "relay.item.acked", item.id = %"06h4", size_bytes = 7_u64, "acked item `06h4`");
            tracing::info!("a line without a name");
            tracing::debug!(event = "relay.chatter", "too fine");
            tracing::info!(target: "hyper", event = "relay.fake", "a library's");
            let happening = told.try_recv().expect("one event");
            assert_eq!((happening.name.as_str(), happening.level), ("relay.item.acked", "info"));
            assert_eq!(happening.fields["item.id"], "06h4");
            assert_eq!(happening.fields["size_bytes"], 7);
            assert_eq!(happening.fields["message"], "acked item `06h4`");
            assert!(told.try_recv().is_err());
        });
    }

    #[test]
    fn a_slow_onlooker_loses_events_and_holds_nobody_up() {
        let live = Live::default();
        let subscriber = tracing_subscriber::registry().with(layer(live.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let mut slow = live.look_on();
            for n in 0..=BACKLOG_MAX {
                tracing::info!(event = "relay.tick", n, "tick");
            }
            let missed = slow.try_recv().expect_err("some are lost");
            assert_eq!(missed, broadcast::error::TryRecvError::Lagged(1));
        });
    }
}
