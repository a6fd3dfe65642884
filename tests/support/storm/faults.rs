//! What goes wrong at the mail exchangers of a storm: chosen by seed, submission and try, so that a seed is a storm.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::dice::Dice;
use crate::support::sink::{Act, Moment, Script, Step};

/// From this time on at one step, a submission meets no more faults: every storm must end.
const FAULTS_MAX: usize = 3;
/// Recipients with this in their local part are refused for ever.
pub(crate) const NOBODY: &str = "nobody";
/// Recipients with this in their local part are told to come later for ever.
pub(crate) const NEVER: &str = "never";

/// The weather at all exchangers.
#[derive(Clone)]
pub(crate) struct Faults {
    seed: u64,
    /// Of a hundred faults, so many happen.
    share: u64,
    times: Arc<Mutex<HashMap<(String, Step), usize>>>,
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    calm: Arc<AtomicBool>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self::mild(seed, 100)
    }

    /// The same with fewer of them: `share` of a hundred.
    pub(crate) fn mild(seed: u64, share: u64) -> Self {
        Self { seed, share, times: Arc::default(), counts: Arc::default(), calm: Arc::default() }
    }

    /// Nothing more goes wrong, but for [`NOBODY`] and [`NEVER`].
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Release);
    }

    /// How often each fault happened.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.counts.lock().expect("no panic inside").clone()
    }

    /// What connection number `n` does.
    pub(crate) fn script(&self, n: usize) -> Script {
        let mut dice = Dice::about(self.seed, "offers", n);
        let mut script = Script::offering(&["8BITMIME", "SMTPUTF8", "SIZE 104857600"]);
        for extension in ["PIPELINING", "CHUNKING"] {
            if dice.chance(50) {
                script = script.and_offers(extension);
            }
        }
        let this = self.clone();
        script.judge(move |moment| this.act(n, moment))
    }

    fn act(&self, connection: usize, moment: Moment<'_>) -> Option<Act> {
        if moment.step == Step::Rcpt && moment.line.contains(NOBODY) {
            return Some(Act::say("550 5.1.1 nobody here"));
        }
        if moment.step == Step::Rcpt && moment.line.contains(NEVER) {
            return Some(Act::say("450 4.2.1 never now"));
        }
        if self.calm.load(Ordering::Acquire) {
            return None;
        }
        // Steps that know which submission it is about are remembered with it, the others with the connection.
        let about = match moment.step {
            Step::Rcpt => local_part(moment.line),
            Step::Dot => moment.line.to_owned(),
            Step::Banner
            | Step::Ehlo
            | Step::Helo
            | Step::StartTls
            | Step::Handshake
            | Step::Mail
            | Step::Data
            | Step::Body
            | Step::Bdat
            | Step::Rset
            | Step::Quit
            | Step::Other => format!("connection {connection}"),
        };
        let n = {
            let mut times = self.times.lock().expect("no panic inside");
            let n = times.entry((about.clone(), moment.step)).or_default();
            *n += 1;
            *n
        };
        if n > FAULTS_MAX {
            return None;
        }
        let mut dice = Dice::about(self.seed, &format!("{about} {:?}", moment.step), n);
        let (name, act) = fault(moment.step, &mut dice).filter(|_| dice.below(100) < self.share)?;
        *self.counts.lock().expect("no panic inside").entry(name).or_default() += 1;
        Some(act)
    }
}

fn local_part(line: &str) -> String {
    let path = line.split(['<', '@']).nth(1).unwrap_or_default();
    path.to_owned()
}

fn last(bytes: &[u8]) -> Act {
    Act::Last(bytes.to_vec())
}

/// `None`: all goes well.
fn fault(step: Step, dice: &mut Dice) -> Option<(&'static str, Act)> {
    let percent = match step {
        Step::Dot => 65,
        Step::Body => 25,
        Step::Rcpt => 20,
        Step::Banner | Step::Ehlo | Step::Mail | Step::Data | Step::Rset | Step::Bdat => 6,
        Step::Quit => 20,
        Step::Helo | Step::StartTls | Step::Handshake | Step::Other => 0,
    };
    if !dice.chance(percent) {
        return None;
    }
    let choice = dice.below(100);
    let at = usize::try_from(dice.below(3000)).expect("small");
    Some(match step {
        Step::Banner => match choice {
            0..30 => ("banner 421", Act::say_and_close("421 4.3.2 not now")),
            30..50 => ("banner 554", Act::say_and_close("554 5.3.2 never")),
            50..70 => ("banner RST", Act::reset()),
            70..90 => ("banner FIN", Act::close()),
            _ => ("banner silence", Act::Silence),
        },
        Step::Ehlo => match choice {
            0..40 => ("EHLO 502", Act::say("502 5.5.1 what?")),
            40..70 => ("EHLO 421", Act::say_and_close("421 4.3.2 not now")),
            _ => ("EHLO FIN", Act::close()),
        },
        Step::Mail => match choice {
            0..50 => ("MAIL 451", Act::say("451 4.3.0 later")),
            50..80 => ("MAIL FIN", Act::close()),
            _ => ("MAIL RST", Act::reset()),
        },
        Step::Rcpt => match choice {
            0..50 => ("RCPT 450", Act::say("450 4.2.0 greylisted")),
            50..65 => ("RCPT 452", Act::say("452 4.5.3 too many")),
            65..80 => ("RCPT FIN", Act::close()),
            80..90 => ("RCPT RST", Act::reset()),
            _ => ("RCPT half a 250", last(b"25")),
        },
        Step::Data => match choice {
            0..35 => ("DATA 451", Act::say("451 4.3.0 later")),
            35..60 => ("DATA 250", Act::say("250 2.0.0 odd")),
            60..80 => ("DATA FIN", Act::close()),
            _ => ("DATA RST", Act::reset()),
        },
        Step::Body => match choice {
            0..35 => ("body RST", Act::After(at, Box::new(Act::reset()))),
            35..65 => ("body FIN", Act::After(at, Box::new(Act::close()))),
            65..90 => ("body 451 and FIN", Act::After(at, Box::new(Act::say_and_close("451 4.3.0 full")))),
            _ => ("body stops", Act::After(at, Box::new(Act::StopReading))),
        },
        Step::Bdat => match choice {
            0..50 => ("BDAT 451", Act::say("451 4.3.0 later")),
            _ => ("BDAT RST", Act::reset()),
        },
        Step::Dot => match choice {
            0..8 => ("dot FIN", Act::close()),
            8..16 => ("dot RST", Act::reset()),
            16..22 => ("dot half 25", last(b"25")),
            22..28 => ("dot 250-queued and FIN", last(b"250-queued\r\n")),
            28..32 => ("dot 250 without line end", last(b"250 2.0.0 ok")),
            32..38 => ("dot 354", Act::say("354 3.0.0 odd")),
            38..42 => ("dot nonsense", Act::say("HTTP/1.1 200 OK")),
            42..47 => ("dot silence", Act::Silence),
            47..53 => ("dot 251", Act::say("251 2.0.0 odd")),
            53..61 => ("dot 451", Act::say("451 4.3.0 later")),
            61..67 => ("dot 421 and FIN", Act::say_and_close("421 4.3.2 not now")),
            67..74 => ("dot 554", Act::say("554 5.7.1 never")),
            74..78 => ("dot 552 and RST", Act::Reset(b"552 5.3.4 never\r\n".to_vec())),
            78..86 => ("dot 250 and FIN", last(b"250 2.0.0 ok\r\n")),
            86..90 => ("dot 250 and RST", Act::Reset(b"250 2.0.0 ok\r\n".to_vec())),
            90..94 => {
                ("dot 250 in pieces", Act::Trickle(b"250-a\r\n250 b\r\n".to_vec(), Duration::from_millis(5)))
            }
            _ => {
                // Around the patience of the relay, which is a second.
                let wait = Duration::from_millis(800 + dice.below(400));
                ("dot slow 250", Act::Delay(wait, Box::new(Act::Usual)))
            }
        },
        Step::Rset => ("RSET FIN", Act::close()),
        Step::Quit => ("QUIT silence", Act::Silence),
        Step::Helo | Step::StartTls | Step::Handshake | Step::Other => return None,
    })
}
