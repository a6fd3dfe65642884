//! PURE: what `top` knows and where its reader looks: keys, answers and events in; [`super::view`] draws it.
//!
//! What is on its way is known from events since the start of `top` only; the sessions' own counters are whole. Bounded: so
//! many events, items and lanes are kept, and no more.

use std::collections::{BTreeMap, VecDeque};

use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::Value;

use super::text;
use crate::admin::events::{LAGGED, Told};

/// Events that are kept.
pub(super) const EVENTS_MAX: usize = 500;
/// Attempts and results that are kept.
const DELIVERIES_MAX: usize = 200;
/// Items on their way that are kept.
const FLYING_MAX: usize = 10_000;
/// Lines that one key turns a page by.
const PAGE: usize = 10;

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Lanes,
    Sessions,
    Flying,
    Deliveries,
    Events,
}

impl Pane {
    pub(super) const ALL: [Self; 5] =
        [Self::Lanes, Self::Sessions, Self::Flying, Self::Deliveries, Self::Events];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Lanes => "lanes",
            Self::Sessions => "sessions",
            Self::Flying => "in flight",
            Self::Deliveries => "deliveries",
            Self::Events => "events",
        }
    }

    /// Whether it shares a place with others when there is little room.
    pub(super) fn is_lower(self) -> bool {
        match self {
            Self::Lanes | Self::Sessions => false,
            Self::Flying | Self::Deliveries | Self::Events => true,
        }
    }

    fn at(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).unwrap_or(0)
    }
}

/// What comes in.
#[derive(Debug)]
pub(super) enum Input {
    /// Something was typed, or the terminal has another size.
    Terminal(Event),
    /// The relay answered.
    Answer(Answer),
    /// Something happened there.
    Event(Told),
    /// It answers.
    Found,
    /// It does not; why.
    Lost(String),
}

/// An answer of the admin API.
#[derive(Debug)]
pub(super) enum Answer {
    Overview(Value),
    Sessions(Value),
    Stats(Value),
    Items { lane: String, page: Value },
}

/// What has to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The items of this lane.
    Items(String),
}

/// How it stands with the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Looking,
    Live,
    /// It is away; the words of the attempt.
    Lost(String),
}

/// One mailbox with something waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) key: String,
    pub(super) ready: u64,
    pub(super) held: u64,
    pub(super) bytes: u64,
    pub(super) oldest: Option<u64>,
}

/// One item lent to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flying {
    pub(super) lane: String,
    pub(super) session: String,
    pub(super) size: u64,
    pub(super) since: String,
}

/// The items of one lane, opened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Open {
    pub(super) lane: String,
    /// `None` until they are there.
    pub(super) page: Option<Value>,
    pub(super) at: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Top {
    pub(super) overview: Value,
    pub(super) sessions: Vec<Value>,
    pub(super) more_sessions: bool,
    pub(super) lanes: Vec<Lane>,
    pub(super) names: BTreeMap<String, String>,
    pub(super) flying: BTreeMap<String, Flying>,
    pub(super) deliveries: VecDeque<Value>,
    pub(super) events: VecDeque<Value>,
    pub(super) missed: u64,
    pub(super) link: Link,
    pub(super) pane: Pane,
    /// The lower pane that was looked at last.
    pub(super) lower: Pane,
    pub(super) open: Option<Open>,
    pub(super) help: bool,
    /// Lines of each pane above the selected one.
    at: [usize; Pane::ALL.len()],
    want: Option<Want>,
    over: bool,
}

impl Default for Top {
    fn default() -> Self {
        Self {
            overview: Value::Null,
            sessions: Vec::new(),
            more_sessions: false,
            lanes: Vec::new(),
            names: BTreeMap::new(),
            flying: BTreeMap::new(),
            deliveries: VecDeque::new(),
            events: VecDeque::new(),
            missed: 0,
            link: Link::Looking,
            pane: Pane::Lanes,
            lower: Pane::Events,
            open: None,
            help: false,
            at: [0; Pane::ALL.len()],
            want: None,
            over: false,
        }
    }
}

impl Top {
    pub(super) fn handle(&mut self, input: Input) {
        match input {
            Input::Terminal(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                self.key(key.code, key.modifiers.contains(KeyModifiers::CONTROL));
            }
            Input::Terminal(_) => {}
            Input::Answer(answer) => self.answer(answer),
            Input::Event(told) => self.event(told),
            Input::Found => self.link = Link::Live,
            Input::Lost(why) => {
                self.link = Link::Lost(why);
                self.sessions.clear();
                self.flying.clear();
            }
        }
        for pane in Pane::ALL {
            let last = self.len(pane).saturating_sub(1);
            self.at[pane.at()] = self.at[pane.at()].min(last);
        }
    }

    /// Whether its reader has seen enough.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// What has to be asked for now; said once.
    pub(super) fn want(&mut self) -> Option<Want> {
        self.want.take()
    }

    /// The selected line of a pane.
    pub(super) fn selected(&self, pane: Pane) -> usize {
        self.at[pane.at()]
    }

    /// Lines of a pane.
    pub(super) fn len(&self, pane: Pane) -> usize {
        match pane {
            Pane::Lanes => self.lanes.len(),
            Pane::Sessions => self.sessions.len(),
            Pane::Flying => self.flying.len(),
            Pane::Deliveries => self.deliveries.len(),
            Pane::Events => self.events.len(),
        }
    }

    /// What a person calls a lane: its first alias, or the beginning of its key.
    pub(super) fn name(&self, lane: &str) -> String {
        const KEY_SHOWN: usize = 10;
        match self.names.get(lane) {
            Some(alias) => alias.clone(),
            None if lane.chars().count() > KEY_SHOWN => {
                format!("{}…", lane.chars().take(KEY_SHOWN).collect::<String>())
            }
            None => lane.to_owned(),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other key means nothing here")]
    fn key(&mut self, code: KeyCode, control: bool) {
        match code {
            KeyCode::Char('c') if control => self.over = true,
            KeyCode::Char('q') => self.over = true,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc if self.open.is_some() => self.open = None,
            KeyCode::Esc => self.over = true,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.step(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.step(|at, _| at + 1),
            KeyCode::PageUp => self.step(|at, _| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.step(|at, _| at + PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.step(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.step(|_, last| last),
            KeyCode::Enter => self.enter(),
            KeyCode::Backspace => self.open = None,
            KeyCode::Char('r') => {
                if let Some(open) = &self.open {
                    self.want = Some(Want::Items(open.lane.clone()));
                }
            }
            _ => {}
        }
    }

    fn turn(&mut self, by: usize) {
        self.pane = Pane::ALL[(self.pane.at() + by) % Pane::ALL.len()];
        if self.pane.is_lower() {
            self.lower = self.pane;
        }
    }

    /// Moves the selection of what is looked at: `to` gets where it is and where the end is.
    fn step(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        if let Some(open) = &mut self.open {
            let items = open.page.as_ref().and_then(|page| page["items"].as_array()).map_or(0, Vec::len);
            let last = items.saturating_sub(1);
            open.at = to(open.at, last).min(last);
            return;
        }
        let last = self.len(self.pane).saturating_sub(1);
        let at = &mut self.at[self.pane.at()];
        *at = to(*at, last).min(last);
    }

    /// Opens the lane of the selected line.
    fn enter(&mut self) {
        let at = self.selected(self.pane);
        let lane = match self.pane {
            Pane::Lanes => self.lanes.get(at).map(|lane| lane.key.clone()),
            Pane::Sessions => self.sessions.get(at).map(|session| text(&session["lane"]).to_owned()),
            Pane::Flying => self.flying.values().nth(at).map(|flying| flying.lane.clone()),
            Pane::Deliveries => self.deliveries.get(at).map(|event| text(&event["lane"]).to_owned()),
            Pane::Events => self.events.get(at).map(|event| text(&event["lane"]).to_owned()),
        };
        if let Some(lane) = lane.filter(|lane| !lane.is_empty() && self.open.is_none() && !self.help) {
            self.want = Some(Want::Items(lane.clone()));
            self.open = Some(Open { lane, page: None, at: 0 });
        }
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Overview(overview) => self.overview = overview,
            Answer::Sessions(mut page) => {
                self.more_sessions = !page["next"].is_null();
                self.sessions = list(&mut page["sessions"]);
                let busy = |session: &Value| session["in_flight_items"].as_u64().unwrap_or(0);
                self.sessions.sort_by_key(|session| std::cmp::Reverse(busy(session)));
            }
            Answer::Stats(stats) => {
                let selected = self.lanes.get(self.selected(Pane::Lanes)).map(|lane| lane.key.clone());
                self.lanes = stats["lanes"].as_array().into_iter().flatten().map(lane).collect();
                self.lanes.sort_by(|a, b| (b.ready + b.held, &a.key).cmp(&(a.ready + a.held, &b.key)));
                self.names = stats["lanes"].as_array().into_iter().flatten().filter_map(alias).collect();
                // The one that is looked at stays the same, wherever it went.
                let at = self.lanes.iter().position(|lane| Some(&lane.key) == selected.as_ref());
                self.at[Pane::Lanes.at()] = at.unwrap_or(self.selected(Pane::Lanes));
            }
            Answer::Items { lane, page } => {
                if let Some(open) = self.open.as_mut().filter(|open| open.lane == lane) {
                    let items = page["items"].as_array().map_or(0, Vec::len);
                    open.at = open.at.min(items.saturating_sub(1));
                    open.page = Some(page);
                }
            }
        }
    }

    fn event(&mut self, told: Told) {
        if told.event == LAGGED {
            self.missed += told.data["missed"].as_u64().unwrap_or(0);
            self.flying.clear(); // who knows what became of them
            return;
        }
        let event = told.data;
        self.fly(&told.event, &event);
        if matches!(
            told.event.as_str(),
            "relay.outbound.attempted"
                | "relay.outbound.sent"
                | "relay.outbound.failed"
                | "relay.outbound.indeterminate"
        ) {
            let at = self.at[Pane::Deliveries.at()];
            keep(&mut self.deliveries, event.clone(), DELIVERIES_MAX);
            self.at[Pane::Deliveries.at()] = if at == 0 { 0 } else { at + 1 };
        }
        keep(&mut self.events, event, EVENTS_MAX);
        // Whoever looks at an older one goes on looking at it.
        let at = self.at[Pane::Events.at()];
        self.at[Pane::Events.at()] = if at == 0 { 0 } else { at + 1 };
    }

    /// What an event says of items on their way.
    fn fly(&mut self, name: &str, event: &Value) {
        let id = text(&event["item.id"]);
        match name {
            "relay.item.offered" if self.flying.len() < FLYING_MAX => {
                let flying = Flying {
                    lane: text(&event["lane"]).to_owned(),
                    session: text(&event["session.id"]).to_owned(),
                    size: event["size_bytes"].as_u64().unwrap_or(0),
                    since: text(&event["time"]).to_owned(),
                };
                self.flying.insert(id.to_owned(), flying);
            }
            "relay.item.acked"
            | "relay.item.nacked"
            | "relay.item.held"
            | "relay.item.quarantined"
            | "relay.item.purged" => {
                self.flying.remove(id);
            }
            "relay.ws.closed" => {
                let session = text(&event["session.id"]);
                self.flying.retain(|_, flying| flying.session != session);
            }
            _ => {}
        }
    }
}

/// The elements of an array, taken out of it.
fn list(value: &mut Value) -> Vec<Value> {
    value.as_array_mut().map(std::mem::take).unwrap_or_default()
}

/// The newest first, and no more than `most`.
fn keep(list: &mut VecDeque<Value>, event: Value, most: usize) {
    list.push_front(event);
    list.truncate(most);
}

fn lane(lane: &Value) -> Lane {
    let of = |what: &str, state: &str| lane[what][state].as_u64().unwrap_or(0);
    Lane {
        key: text(&lane["lane"]).to_owned(),
        ready: of("items", "ready"),
        held: of("items", "held"),
        bytes: of("bytes", "ready") + of("bytes", "held"),
        oldest: lane["oldest_ready_seconds"].as_u64(),
    }
}

fn alias(lane: &Value) -> Option<(String, String)> {
    Some((lane["lane"].as_str()?.to_owned(), lane["aliases"][0].as_str()?.to_owned()))
}
