//! Events of the running relay as they happen, as server-sent events, and the reading of them.
//!
//! Promises: what the log tells at `info` and above, one event each, from the moment of the request on; an onlooker who is
//! slow is told how many events it missed; at most [`ONLOOKERS_MAX`] look on at once; the stream ends when the relay stops.
//! Does not: keep a history; `spool show` has the timeline of every item.

use serde::Deserialize;
use serde_json::{Value, json};

use super::words::rfc3339;
use crate::observe::live::Happening;

/// Most onlookers at the same time; each costs a connection and its place in the backlog of events.
pub const ONLOOKERS_MAX: usize = 32;
/// The event that says that events were missed.
pub const LAGGED: &str = "lagged";
/// Longest line that a reader keeps, bytes; a longer one is cut.
const LINE_BYTES_MAX: usize = 256 * 1024;
/// Fields that name an item or a submission.
const IDS: [&str; 3] = ["item.id", "submission.id", "new"];

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsAsk {
    /// Of this item or submission.
    pub item: Option<String>,
    /// Of this lane.
    pub lane: Option<String>,
    /// Whose name begins so.
    pub event: Option<String>,
}

impl EventsAsk {
    /// Whether this one is wanted.
    #[must_use]
    pub fn admits(&self, happening: &Happening) -> bool {
        let says =
            |field: &str, wanted: &str| happening.fields.get(field).is_some_and(|value| value == wanted);
        self.item.as_ref().is_none_or(|id| IDS.iter().any(|field| says(field, id)))
            && self.lane.as_ref().is_none_or(|lane| says("lane", lane))
            && self.event.as_ref().is_none_or(|prefix| happening.name.starts_with(prefix))
    }
}

/// `{"time", "level", "event", "message", ...}`: the log's fields under the log's names.
#[must_use]
pub fn object(happening: &Happening) -> Value {
    let mut object = happening.fields.clone();
    object.insert("time".to_owned(), rfc3339(happening.at).into());
    object.insert("level".to_owned(), happening.level.into());
    object.insert("event".to_owned(), happening.name.as_str().into());
    object.entry("message").or_insert_with(|| "".into());
    Value::Object(object)
}

/// `{"missed": N}`
#[must_use]
pub fn lagged(missed: u64) -> Value {
    json!({ "missed": missed })
}

/// One event as it arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its name.
    pub event: String,
    /// Its object.
    pub data: Value,
}

/// Reads server-sent events from bytes that come in any pieces.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    event: String,
    data: String,
}

impl Reader {
    /// The events that `bytes` complete.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Told> {
        let mut told = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() < LINE_BYTES_MAX {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            told.extend(self.line(line.trim_end_matches('\r')));
        }
        told
    }

    fn line(&mut self, line: &str) -> Option<Told> {
        if line.is_empty() {
            let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
            return serde_json::from_str(&data).ok().map(|data| Told { event, data });
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event),
            "data" if self.data.len() + value.len() <= LINE_BYTES_MAX => self.data.push_str(value),
            _ => {} // a comment, or what this reader has no use for
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use spool::ids::WallMs;

    use super::*;

    fn happening(fields: Value) -> Happening {
        let fields = fields.as_object().cloned().unwrap_or_default();
        Happening { name: "relay.item.acked".into(), level: "info", at: WallMs(5), fields }
    }

    #[test]
    fn filters_go_by_item_submission_lane_and_name() {
        let acked = happening(json!({ "item.id": "a", "lane": "home" }));
        let sent = happening(json!({ "submission.id": "b" }));
        let ask = |item: Option<&str>, lane: Option<&str>, event: Option<&str>| EventsAsk {
            item: item.map(str::to_owned),
            lane: lane.map(str::to_owned),
            event: event.map(str::to_owned),
        };
        assert!(EventsAsk::default().admits(&acked) && EventsAsk::default().admits(&sent));
        assert!(ask(Some("a"), None, None).admits(&acked) && !ask(Some("a"), None, None).admits(&sent));
        assert!(ask(Some("b"), None, None).admits(&sent));
        assert!(ask(None, Some("home"), Some("relay.item.")).admits(&acked));
        assert!(!ask(None, Some("other"), None).admits(&acked));
        assert!(!ask(None, None, Some("relay.outbound")).admits(&acked));
    }

    #[test]
    fn an_object_has_the_logs_fields_and_the_four_that_are_always_there() {
        let object =
            object(&happening(json!({ "item.id": "a", "message": "gateway has the item", "time": "x" })));
        assert_eq!(
            object,
            json!({ "time": "1970-01-01T00:00:00.005Z", "level": "info", "event": "relay.item.acked",
                    "message": "gateway has the item", "item.id": "a" })
        );
    }

    #[test]
    fn events_are_read_whatever_the_pieces_are() {
        let text = ": here\n\nevent: relay.x\ndata: {\"a\":\"gr\u{fc}n\"}\n\n:\n\nevent: lagged\r\ndata: {\"missed\":3}\r\n\r\n";
        for size in [1, 2, 7, text.len()] {
            let mut reader = Reader::default();
            let told: Vec<Told> = text.as_bytes().chunks(size).flat_map(|piece| reader.read(piece)).collect();
            let events: Vec<_> = told.iter().map(|told| told.event.as_str()).collect();
            assert_eq!(events, ["relay.x", "lagged"], "pieces of {size}");
            assert_eq!((&told[0].data["a"], &told[1].data["missed"]), (&json!("gr\u{fc}n"), &json!(3)));
        }
    }

    #[test]
    fn a_reader_keeps_no_more_than_its_limit() {
        let mut reader = Reader::default();
        assert!(reader.read(&vec![b'x'; 3 * LINE_BYTES_MAX]).is_empty());
        assert_eq!(reader.line.len(), LINE_BYTES_MAX);
        assert_eq!(reader.read(b"\nevent: a\ndata: 1\n\n"), [Told { event: "a".into(), data: json!(1) }]);
    }
}
