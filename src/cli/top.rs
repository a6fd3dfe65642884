//! `spool top`: the relay live on a terminal.
//!
//! Asks the running relay once a second and listens to its events. Everything that is shown or typed goes through
//! [`state::Top`], which is pure; here are the terminal, the clock and the socket.
//!
//! Promises: the terminal is as it was before, however this ends: key, signal, error, panic. A relay that goes away is shown
//! as away and found again when it is back. A large relay is not asked more than it can answer on the side.

mod state;
mod view;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{Exit, Global, Stop, backend, load, screen};
use crate::admin::client::{Client, ClientError, query};
use crate::admin::events::{LAGGED, Reader, Told};
use crate::clock;
use state::{Answer, Input, Top, Want};
use view::Theme;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
Example:
  waystation top

Keys: Tab pane, arrows or j k select, Enter the items of a lane, ? help, q Esc Ctrl-C quit.
With --json it prints the relay at a glance as one object, and ends.";

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// An answer that took so long is followed by a pause of this many times as long.
const REST_FACTOR: u32 = 10;
/// Time between two looks for keys, and whether anybody still waits for them.
const KEYS_EVERY: Duration = Duration::from_millis(100);
/// Answers, events and keys that wait to be shown; events beyond it are counted as missed.
const WAITING_MAX: usize = 512;
/// Items of a lane that are listed.
const ITEMS_SHOWN: usize = 200;

/// The terminal in the state that it needs; given back when dropped, and before a panic is told.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> std::io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

pub(crate) fn run(global: &Global) -> anyhow::Result<Exit> {
    let config = load::config(global)?;
    let on_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !global.json && !on_terminal {
        let text = "this is for a terminal; `waystation spool follow` writes into pipes, and --json prints one object";
        return Err(Stop::new(Exit::Usage, text).into());
    }
    let theme = Theme { color: global.color.on_stdout() };
    backend::runtime()?.block_on(async {
        let socket = config.admin_socket;
        let Some(client) = Client::find(&socket).await.map_err(backend::stop)? else {
            let text =
                format!("no relay listens on {}, so there is nothing to watch; start it", socket.display());
            return Err(Stop::new(Exit::Later, text).into());
        };
        if global.json {
            screen::line(&client.get("/overview").await.map_err(backend::stop)?)?;
            return Ok(Exit::Done);
        }
        watch(socket, theme).await
    })
}

async fn watch(socket: PathBuf, theme: Theme) -> anyhow::Result<Exit> {
    let mut term = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut screen = Screen::open()?;
    let (told, mut inputs) = mpsc::channel(WAITING_MAX);
    let (wants, wanted) = mpsc::channel(1);
    tokio::spawn(ask(socket.clone(), told.clone(), wanted));
    tokio::spawn(listen(socket, told));
    let mut keys = keys();
    let mut top = Top::default();
    loop {
        screen.0.draw(|frame| view::draw(frame, &mut top, theme))?;
        let first = tokio::select! {
            biased;
            _ = term.recv() => break,
            _ = hangup.recv() => break,
            _ = interrupt.recv() => break,
            key = keys.recv() => match key {
                Some(event) => Input::Terminal(event),
                None => break, // the terminal is gone
            },
            Some(input) = inputs.recv() => input,
        };
        top.handle(first);
        // One frame for everything that came meanwhile.
        while let Ok(more) = inputs.try_recv() {
            top.handle(more);
        }
        if top.is_over() {
            break;
        }
        if let Some(want) = top.want() {
            // One that is under way is for the same lane, or is asked for again.
            let _ = wants.try_send(want);
        }
    }
    Ok(Exit::Done)
}

/// What is typed. A thread waits for it; it ends when nobody listens.
fn keys() -> Receiver<event::Event> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(KEYS_EVERY) {
                Ok(false) => {}
                Ok(true) => match event::read() {
                    Ok(event) => {
                        if sender.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                },
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Asks once a second, and at once for what somebody looks at.
async fn ask(socket: PathBuf, told: Sender<Input>, mut wanted: Receiver<Want>) {
    let mut stats_at = clock::monotonic();
    loop {
        let began = clock::monotonic();
        let answered = answers(&socket, &told, &mut stats_at).await;
        let input = match answered {
            Ok(()) => Input::Found,
            Err(error) => Input::Lost(error.to_string()),
        };
        if told.send(input).await.is_err() {
            return;
        }
        let took = clock::monotonic() - began;
        let pause = ASK_EVERY.saturating_sub(took).max(took.min(ASK_EVERY));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            want = wanted.recv() => match want {
                Some(Want::Items(lane)) => items(&socket, &told, lane).await,
                None => return,
            },
        }
    }
}

async fn answers(
    socket: &std::path::Path,
    told: &Sender<Input>,
    stats_at: &mut std::time::Instant,
) -> Result<(), ClientError> {
    let nobody = || ClientError::Broken("it is away".to_owned());
    let client = Client::find(socket).await?.ok_or_else(nobody)?;
    let mut answers = vec![
        Answer::Overview(client.get("/overview").await?),
        Answer::Sessions(client.get("/sessions").await?),
    ];
    let now = clock::monotonic();
    if now >= *stats_at {
        answers.push(Answer::Stats(client.get("/spool/stats").await?));
        let took = clock::monotonic() - now;
        *stats_at = clock::monotonic() + took * REST_FACTOR;
    }
    for answer in answers {
        // Nobody is there to see it when this fails.
        let _ = told.send(Input::Answer(answer)).await;
    }
    Ok(())
}

async fn items(socket: &std::path::Path, told: &Sender<Input>, lane: String) {
    let pairs = [("lane", Some(lane.clone())), ("limit", Some(ITEMS_SHOWN.to_string()))];
    let target = format!("/spool/items{}", query(&pairs));
    let page = match Client::find(socket).await {
        Ok(Some(client)) => {
            client.get(&target).await.unwrap_or_else(|error| json!({ "problem": error.to_string() }))
        }
        Ok(None) | Err(_) => json!({ "problem": "the relay is away" }),
    };
    let _ = told.send(Input::Answer(Answer::Items { lane, page })).await;
}

/// Hands on the events; again and again, when the relay comes and goes.
async fn listen(socket: PathBuf, told: Sender<Input>) {
    while !told.is_closed() {
        if let Ok(Some(client)) = Client::find(&socket).await {
            let (mut reader, mut missed) = (Reader::default(), 0_u64);
            let ended: Result<(), ClientError> = client
                .stream("/events", |bytes| {
                    for event in reader.read(bytes) {
                        hand_on(&told, event, &mut missed);
                    }
                    Ok(())
                })
                .await;
            drop(ended); // whoever asks for answers says that the relay is away
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn hand_on(told: &Sender<Input>, event: Told, missed: &mut u64) {
    if *missed > 0 {
        let lagged = Told { event: LAGGED.to_owned(), data: json!({ "missed": *missed }) };
        if told.try_send(Input::Event(lagged)).is_ok() {
            *missed = 0;
        }
    }
    if told.try_send(Input::Event(event)).is_err() {
        *missed += 1;
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

#[cfg(test)]
mod tests;
