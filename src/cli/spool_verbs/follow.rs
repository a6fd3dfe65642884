//! `spool follow`: what happens in the running relay, one line per event.
//!
//! Promises: tells what is told from the moment it is connected on, and says on standard error when it is not: the relay went
//! away, or this end was too slow. Comes back by itself when the relay does. Ends on Ctrl-C, and when nobody reads.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde_json::Value;
use spool::ids::ItemId;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::signal::unix::{SignalKind, signal};

use super::super::screen::{self, Paint, clean};
use super::super::{Exit, Global, Stop, backend, load};
use super::text;
use crate::admin::client::{Client, ClientError, query};
use crate::admin::events::{LAGGED, Reader, Told};

/// Time between two looks whether the relay is back.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Characters of a lane that are shown.
const LANE_SHOWN: usize = 8;
/// What the names of events begin with; nobody has to type it.
const NAMES: &str = "relay.";
/// Fields that have a place of their own in a line, or say nothing to a person.
const PLACED: [&str; 9] =
    ["time", "level", "event", "message", "item.id", "submission.id", "lane", "session.id", "session_role"];

#[derive(Debug, clap::Args)]
pub(crate) struct FollowArgs {
    /// Only events of this mailbox: a key text, an alias, or an address
    #[arg(long, value_name = "KEY|ADDRESS")]
    lane: Option<String>,
    /// Only events of this item or submission
    #[arg(long, value_name = "ID")]
    id: Option<ItemId>,
    /// Only events whose name begins so, like `item.` or `outbound.failed`
    #[arg(long, value_name = "PREFIX")]
    event: Option<String>,
}

impl FollowArgs {
    fn target(&self) -> String {
        let event = self.event.as_ref().map(|prefix| match prefix.strip_prefix(NAMES) {
            Some(_) => prefix.clone(),
            None => format!("{NAMES}{prefix}"),
        });
        let pairs =
            [("item", self.id.map(|id| id.to_string())), ("lane", self.lane.clone()), ("event", event)];
        format!("/events{}", query(&pairs))
    }
}

/// Why the stream of events ended.
#[derive(Debug)]
enum End {
    /// The relay refused, or went away.
    Relay(ClientError),
    /// Standard output takes no more.
    Output(io::Error),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Relay(error)
    }
}

pub(super) fn run(global: &Global, paint: Paint, args: &FollowArgs) -> anyhow::Result<Exit> {
    let config = load::config(global)?;
    backend::runtime()?.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let socket = config.admin_socket.clone();
        let Some(client) = Client::find(&socket).await.map_err(backend::stop)? else {
            let text = format!(
                "no relay listens on {}, so nothing happens that could be followed; start it, or look at what lies there \
                 with `waystation spool ls`",
                socket.display()
            );
            return Err(Stop::new(Exit::Later, text).into());
        };
        tokio::select! {
            ended = follow(global, paint, args, client) => ended,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
            _ = term.recv() => Ok(Exit::Done),
            () = nobody_reads() => Ok(Exit::Done),
        }
    })
}

async fn follow(
    global: &Global,
    paint: Paint,
    args: &FollowArgs,
    mut client: Client,
) -> anyhow::Result<Exit> {
    let target = args.target();
    let socket = client.socket().to_owned();
    // What is said when the relay has begun to tell, and not before: from then on nothing is missed.
    let mut greeting = Some(format!("following the running relay at {}; Ctrl-C ends", socket.display()));
    let back = "the relay is back; what happened meanwhile is in `waystation spool ls`";
    let mut is_away = false;
    loop {
        let mut reader = Reader::default();
        let ended: Result<(), End> = client
            .stream(&target, |bytes| {
                is_away = false;
                if let Some(words) = greeting.take() {
                    note(global, &words);
                }
                reader.read(bytes).iter().try_for_each(|told| show(global, paint, told)).map_err(End::Output)
            })
            .await;
        match ended {
            Err(End::Output(error)) => return Err(error.into()),
            Err(End::Relay(error @ (ClientError::Refused { .. } | ClientError::Socket { .. }))) => {
                let gone = matches!(&error, ClientError::Socket { error, .. } if is_nobody(error));
                if !gone {
                    return Err(backend::stop(error).into());
                }
            }
            Err(End::Relay(ClientError::Broken(_))) | Ok(()) => {}
        }
        if !std::mem::replace(&mut is_away, true) {
            note(global, "the relay went away; waiting until it is back");
        }
        greeting = Some(back.to_owned());
        client = loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Some(found) = Client::find(&socket).await.map_err(backend::stop)? {
                break found;
            }
        };
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Ends when standard output is a pipe that nobody reads any more; never otherwise.
async fn nobody_reads() {
    // Waited for and not written with: what is written goes on to block. A file cannot be waited for, and nobody closes it.
    if let Ok(output) = io::stdout().as_fd().try_clone_to_owned()
        && let Ok(output) = Sender::from_owned_fd_unchecked(output)
        && output.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Says something on standard error, whatever standard output is.
fn note(global: &Global, words: &str) {
    eprintln!("{}", Paint::new(global.color.on_stderr()).dim(&format!("({words})")));
}

fn show(global: &Global, paint: Paint, told: &Told) -> io::Result<()> {
    if told.event == LAGGED {
        note(global, &format!("{} events were missed: this end was too slow", told.data["missed"]));
        return Ok(());
    }
    if global.json {
        screen::line(&told.data)
    } else {
        screen::print(&format!("{}\n", line(paint, &told.data)))
    }
}

/// Time, event, id, lane, words.
fn line(paint: Paint, event: &Value) -> String {
    let time = text(&event["time"]).split('T').nth(1).unwrap_or("").trim_end_matches('Z');
    let name = format!("{:<20}", clean(text(&event["event"]).trim_start_matches(NAMES)));
    let id = [&event["item.id"], &event["submission.id"]].into_iter().find_map(Value::as_str).unwrap_or("-");
    let lane = match event["lane"].as_str().unwrap_or("") {
        "" => "-".to_owned(),
        lane if lane.chars().count() <= LANE_SHOWN => clean(lane),
        lane => format!("{}…", clean(lane).chars().take(LANE_SHOWN - 1).collect::<String>()),
    };
    let name = match text(&event["level"]) {
        "error" => paint.bad(&name),
        "warn" => paint.warn(&name),
        _ => kind(paint, &name),
    };
    format!(
        "{}  {name}  {}  {lane:<LANE_SHOWN$}  {}{}",
        paint.dim(time),
        paint.strong(&format!("{:<26}", clean(id))),
        clean(text(&event["message"])),
        paint.dim(&details(event))
    )
}

/// The colour of what an event means for the mail.
fn kind(paint: Paint, name: &str) -> String {
    match name.trim_end() {
        "item.acked" | "outbound.sent" | "outbound.told" | "ready" | "ws.auth.accepted" => paint.good(name),
        "item.expired" | "item.held" | "outbound.failed" | "outbound.held" | "ingress.rejected"
        | "ws.auth.rejected" => paint.warn(name),
        _ => name.to_owned(),
    }
}

/// The fields that have no place of their own.
fn details(event: &Value) -> String {
    let fields = event.as_object().into_iter().flatten().filter(|(name, _)| !PLACED.contains(&name.as_str()));
    fields.fold(String::new(), |mut words, (name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), clean);
        if !value.is_empty() && value != "null" {
            words.push_str(&format!("  {name}={value}"));
        }
        words
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_has_time_event_id_lane_and_words() {
        let event = json!({
            "time": "2026-01-02T03:04:05.678Z", "level": "info", "event": "relay.item.acked",
            "message": "gateway has the item", "item.id": "06h4k2v0c8q1r5t7u9v3s6d0ag", "lane": "abcdefghijklmnop",
            "session.id": "x", "size_bytes": 12, "tls": null,
        });
        assert_eq!(
            line(Paint::new(false), &event),
            "03:04:05.678  item.acked            06h4k2v0c8q1r5t7u9v3s6d0ag  abcdefg…  gateway has the item  size_bytes=12"
        );
        assert!(line(Paint::new(true), &event).contains("\x1b[32mitem.acked"));
    }

    #[test]
    fn what_strangers_said_steers_no_terminal() {
        let event =
            json!({ "event": "relay.outbound.failed", "message": "\x1b[2Jno", "text": "a\x07b\r\nc" });
        let line = line(Paint::new(false), &event);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains(" -  ") && line.contains("text=a b  c"), "{line}");
    }

    #[test]
    fn a_prefix_may_leave_out_what_all_names_begin_with() {
        let args = |event: &str| FollowArgs { lane: Some("a@b".into()), id: None, event: Some(event.into()) };
        assert_eq!(args("item.").target(), "/events?lane=a%40b&event=relay.item.");
        assert_eq!(args("relay.item.").target(), "/events?lane=a%40b&event=relay.item.");
    }
}
