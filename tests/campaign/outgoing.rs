//! Mail out of a storm: submissions through the gateway's socket, exchangers that fail, and one story for each at the end.
//!
//! Numbers stand for messages here, too. The sink is emptied as it fills; what remains of a submission is its id, how many
//! copies the exchangers hold, and how many reports came home.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use waystation::gateway::outbox::State;
use waystation::gateway::socket;

use crate::support::dns::Dns;
use crate::support::sink::Sink;
use crate::support::storm::dice::Dice;
use crate::support::storm::faults::{Faults, NEVER, NOBODY};
use crate::support::storm::judge::{Story, judge};

/// Recipient domains; the last has a first exchanger that refuses connections.
const DOMAINS: [&str; 4] = ["d0.test", "d1.test", "d2.test", "d3.test"];
/// No more are made while so many wait for their result.
const OPEN_MAX: u64 = 300;
/// Looks at the sink, and at what is to be sent, are so far apart.
const STEP: Duration = Duration::from_millis(50);
/// Field that a report on a submission carries, because the message does.
pub(crate) const FIELD: &[u8] = b"X-Test-Id: ";

/// A submission as the campaign knows it.
#[derive(Clone, Debug, Default)]
struct Sub {
    /// Its id at home; empty when nobody knows whether it was taken.
    id: String,
    copies: u8,
    /// Reports in the Maildir.
    reports: u8,
    changed: bool,
    /// The gateway's last word, and the relay's id for it.
    word: Option<(&'static str, String)>,
}

impl Sub {
    /// What did not go well is reported once.
    fn reports_due(&self) -> u8 {
        u8::from(self.word.as_ref().is_some_and(|(word, _)| *word != "sent"))
    }
}

/// How the submissions ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) indeterminate: u64,
    /// In words, each.
    pub(crate) disagreeing: Vec<String>,
}

/// A record of a submission in the relay's spool.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) rcpt_to: String,
    pub(crate) result: Option<String>,
}

/// See above.
pub(crate) struct Outgoing {
    pub(crate) dns: Dns,
    sink: Sink,
    faults: Faults,
    seed: u64,
    from: String,
    socket: PathBuf,
    subs: Mutex<Vec<Sub>>,
}

impl Outgoing {
    /// For the gateway with this address and directory; `share` of a hundred faults of the exchangers happen.
    pub(crate) async fn start(seed: u64, share: u64, from: &str, home: &Path) -> Self {
        let dns = Dns::start().await;
        for domain in DOMAINS {
            let (first, second) = (format!("a.{domain}"), format!("b.{domain}"));
            dns.mx(domain, &[(10, &first), (20, &second)]);
            dns.host(&first, &[if domain == DOMAINS[3] { "127.0.0.99" } else { "127.0.0.2" }]);
            dns.host(&second, &["127.0.0.3"]);
        }
        let sink = Sink::start_on(&["127.0.0.2", "127.0.0.3"]).await;
        let faults = Faults::mild(seed, share);
        let weather = faults.clone();
        sink.play_with(move |connection, _| weather.script(connection));
        let socket = home.join("state").join("gateway.sock");
        Self { dns, sink, faults, seed, from: from.to_owned(), socket, subs: Mutex::default() }
    }

    fn subs(&self) -> MutexGuard<'_, Vec<Sub>> {
        self.subs.lock().expect("nobody panics with it")
    }

    /// Lines of the relay's configuration.
    pub(crate) fn delivery(&self, expire_seconds: u64) -> String {
        format!(
            "[delivery]\ndns_servers = [\"{}\"]\nport = {}\nallow_private_targets = true\n\
             retry_schedule_seconds = [1]\ngreylist_wait_seconds = 0\nexpire_after_seconds = {expire_seconds}\n\
             final_dot_timeout_seconds = 1\ntimeouts_percent = 1\nmax_concurrent_per_destination = 20\n",
            self.dns.address(),
            self.sink.port()
        )
    }

    fn rcpt_to(&self, number: usize) -> String {
        let mut dice = Dice::about(self.seed, "recipient", number);
        let kind = match dice.below(20) {
            0 => NOBODY,
            1 => NEVER,
            _ => "u",
        };
        format!("{kind}-{number}@{}", dice.one(&DOMAINS))
    }

    fn message(&self, number: usize) -> Vec<u8> {
        let mut dice = Dice::about(self.seed, "submission", number);
        let (from, to) = (&self.from, self.rcpt_to(number));
        let mut text = format!(
            "X-Test-Id: {number}\r\nFrom: <{from}>\r\nTo: <{to}>\r\nSubject: {number}\r\n\
             Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <out-{number}@storm.example>\r\n\r\n"
        );
        let size = dice.one(&[500, 500, 1_000, 3_000, 70_000]);
        while text.len() < size {
            let word = dice.next();
            let dot = if word.is_multiple_of(5) { "." } else { "" };
            text.push_str(&format!("{dot}line {word:x} of {number}\r\n"));
        }
        text.into_bytes()
    }

    /// Submits until there are `wanted()`, and empties the sink, for ever.
    pub(crate) async fn run(self: Arc<Self>, wanted: impl Fn() -> usize + Send) {
        loop {
            self.empty_sink();
            let open =
                socket::ask(&self.socket).await.map(|report| report.outbox.queued + report.outbox.accepted);
            let room = usize::try_from(OPEN_MAX.saturating_sub(open.unwrap_or(OPEN_MAX))).expect("small");
            let due = wanted().saturating_sub(self.subs().len()).min(room);
            for _ in 0..due {
                if !self.submit_one().await {
                    break;
                }
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Whether it went well.
    async fn submit_one(&self) -> bool {
        let number = self.subs().len();
        let (to, message) = ([self.rcpt_to(number)], self.message(number));
        // Written down before: a result may come before the answer does.
        self.subs().push(Sub::default());
        let taken = socket::submit(&self.socket, &self.from, &to, &message).await;
        let mut subs = self.subs();
        match taken {
            Ok(taken) if !taken.ids.is_empty() => {
                subs[number].id = taken.ids[0].clone();
                true
            }
            // Certainly not taken: the number is free again.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                subs.pop();
                false
            }
            // Nobody knows: at most one copy, and one story.
            Ok(taken) => {
                assert!(taken.temporary, "a submission of ours is not fit to be sent: {}", taken.error);
                false
            }
            Err(_) => false,
        }
    }

    fn empty_sink(&self) {
        for received in self.sink.take_received() {
            let number = received.test_id.parse::<usize>().expect("a number of ours");
            let whole = received.bytes.ends_with(&self.message(number));
            let right = received.rcpt_to == [format!("<{}>", self.rcpt_to(number))];
            let mut subs = self.subs();
            let sub = subs.get_mut(number).expect("it was submitted");
            sub.changed |= !whole || !right;
            sub.copies += u8::from(!received.refused);
        }
    }

    /// A report on a submission is in the Maildir. `false`: on none of ours.
    pub(crate) fn reported(&self, bytes: &[u8]) -> bool {
        let at = bytes.windows(FIELD.len()).position(|window| window == FIELD);
        let number = at.and_then(|at| {
            let line = bytes[at + FIELD.len()..].split(|byte| *byte == b'\r').next()?;
            std::str::from_utf8(line).ok()?.parse::<usize>().ok()
        });
        let mut subs = self.subs();
        let sub = number.and_then(|number| subs.get_mut(number));
        sub.map(|sub| sub.reports = sub.reports.saturating_add(1)).is_some()
    }

    /// How many there are.
    pub(crate) fn made(&self) -> usize {
        self.subs().len()
    }

    /// Faults that the exchangers played.
    pub(crate) fn faults_played(&self) -> usize {
        self.faults.counts().values().sum()
    }

    /// From now on exchangers take everything.
    pub(crate) fn calm_down(&self) {
        self.faults.calm_down();
    }

    /// Asks the gateway about those without a last word; how many are left, and reports on the way.
    pub(crate) async fn settle(&self) -> usize {
        let open: Vec<(usize, String)> = {
            let subs = self.subs();
            let open = |(_, sub): &(usize, &Sub)| sub.word.is_none() && !sub.id.is_empty();
            subs.iter().enumerate().filter(open).map(|(number, sub)| (number, sub.id.clone())).collect()
        };
        let mut left = 0;
        for (number, id) in open {
            let Ok(Some(story)) = socket::ask_about(&self.socket, &id).await else {
                left += 1;
                continue;
            };
            let is_final = match story.entry.state {
                State::Queued | State::Accepted => false,
                State::Sent | State::Failed | State::Indeterminate => !story.entry.pending,
            };
            if is_final {
                self.subs()[number].word = Some((story.entry.state.word(), story.entry.relay_id));
            } else {
                left += 1;
            }
        }
        let subs = self.subs();
        left + subs.iter().filter(|sub| sub.reports < sub.reports_due()).count()
    }

    /// What the witnesses say: gateway, relay (its `records`), exchangers, Maildir. `lie`: one story is told wrongly.
    pub(crate) fn judge(&self, records: Vec<Record>, lie: bool) -> Results {
        self.empty_sink();
        let mut by_recipient: HashMap<String, Vec<(String, Option<String>)>> = HashMap::new();
        for record in records {
            by_recipient.entry(record.rcpt_to).or_default().push((record.id, record.result));
        }
        let mut results = Results::default();
        let mut lie = lie;
        for (number, sub) in self.subs().iter().enumerate() {
            let mut story = Story {
                stream: format!("submission {number}"),
                // A submission of which nobody knows whether it was taken may be nobody's.
                hears_all: !sub.id.is_empty(),
                records: by_recipient.remove(&self.rcpt_to(number)).unwrap_or_default(),
                copies: usize::from(sub.copies),
                ..Story::default()
            };
            match &sub.word {
                Some((word, relay_id)) => {
                    story.texts.push((*word).to_owned());
                    story.words.push((*word).to_owned());
                    story.accepted.extend(Some(relay_id.clone()).filter(|id| !id.is_empty()));
                }
                None if !sub.id.is_empty() => {
                    results.disagreeing.push(format!("submission {number} ({}) has no result", sub.id));
                }
                None => {}
            }
            if lie && story.copies == 1 {
                story.copies = 2;
                lie = false;
            }
            results.disagreeing.extend(judge(&story).err());
            if sub.changed {
                results.disagreeing.push(format!("submission {number} left changed"));
            }
            let word = sub.word.as_ref().map(|(word, _)| *word);
            if word.is_some() && sub.reports != sub.reports_due() {
                results.disagreeing.push(format!(
                    "submission {number} is {} and was reported {} times",
                    word.unwrap_or_default(),
                    sub.reports
                ));
            }
            match word {
                Some("sent") => results.sent += 1,
                Some("failed") => results.failed += 1,
                Some("indeterminate") => results.indeterminate += 1,
                _ => {}
            }
        }
        let strange =
            by_recipient.into_keys().map(|to| format!("the relay has a submission to {to} of nobody"));
        results.disagreeing.extend(strange);
        results
    }
}
