//! What a sink is told to do: acts at the steps of a conversation.

use std::sync::Arc;
use std::time::Duration;

use super::certificates::Identity;

/// Where in a conversation the sink decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Before the greeting.
    Banner,
    Ehlo,
    Helo,
    /// The command; the usual answer is 220.
    StartTls,
    /// After that 220, before the handshake. `Reply` puts its bytes where the handshake should be.
    Handshake,
    Mail,
    Rcpt,
    /// The command; the usual answer is 354.
    Data,
    /// At the first octet of a body; [`Act::After`] waits for more of them.
    Body,
    /// A chunk that is not the last.
    Bdat,
    /// The message is here completely: the final dot, or the last octet of `BDAT LAST`.
    Dot,
    Rset,
    Quit,
    /// Every other command; the usual answer is 500.
    Other,
}

/// What the sink does at a step.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// What a good server would do.
    Usual,
    /// These octets, exactly, instead of the usual answer. The first digit of the last line decides how it goes on.
    Reply(Vec<u8>),
    /// These octets and then an orderly end: TLS close_notify, FIN.
    Last(Vec<u8>),
    /// FIN without a TLS goodbye.
    Cut,
    /// These octets and then RST.
    Reset(Vec<u8>),
    /// Reads on and says nothing for ever.
    Silence,
    /// Reads nothing and says nothing for ever: the window closes.
    StopReading,
    /// Waits first.
    Delay(Duration, Box<Act>),
    /// These octets, one per `Duration`.
    Trickle(Vec<u8>, Duration),
    /// Only at [`Step::Body`]: the act comes when so many octets of the body (as sent, with dot-stuffing) were read.
    After(usize, Box<Act>),
}

impl Act {
    /// One reply line; CRLF is added.
    pub(crate) fn say(line: &str) -> Self {
        Self::Reply(format!("{line}\r\n").into_bytes())
    }

    /// One reply line, and then an orderly end.
    pub(crate) fn say_and_close(line: &str) -> Self {
        Self::Last(format!("{line}\r\n").into_bytes())
    }

    /// An orderly end without a word.
    pub(crate) fn close() -> Self {
        Self::Last(Vec::new())
    }

    /// RST without a word.
    pub(crate) fn reset() -> Self {
        Self::Reset(Vec::new())
    }
}

/// What an act is chosen for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    pub(crate) step: Step,
    /// How often this connection came to this step, from 1.
    pub(crate) nth: usize,
    /// The command line without CRLF; for `Body` and `Dot` the value of the message's `X-Test-Id`, if it is known.
    pub(crate) line: &'a str,
}

type Judge = Arc<dyn Fn(Moment<'_>) -> Option<Act> + Send + Sync>;

/// How the sink behaves in one connection.
#[derive(Clone)]
pub(crate) struct Script {
    pub(super) offers: Vec<String>,
    pub(super) offers_in_tls: Option<Vec<String>>,
    pub(super) identity: Option<Identity>,
    rules: Vec<Judge>,
}

impl Default for Script {
    fn default() -> Self {
        Self::usual()
    }
}

impl Script {
    /// A good server with PIPELINING, SIZE, 8BITMIME and SMTPUTF8, without CHUNKING and TLS.
    pub(crate) fn usual() -> Self {
        Self::offering(&["PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"])
    }

    /// A good server with exactly these extensions (and STARTTLS after [`Script::tls`]).
    pub(crate) fn offering(extensions: &[&str]) -> Self {
        Self { offers: owned(extensions), offers_in_tls: None, identity: None, rules: Vec::new() }
    }

    /// Offers other extensions after STARTTLS.
    pub(crate) fn offering_in_tls(mut self, extensions: &[&str]) -> Self {
        self.offers_in_tls = Some(owned(extensions));
        self
    }

    /// Adds an extension.
    pub(crate) fn and_offers(mut self, extension: &str) -> Self {
        self.offers.push(extension.to_owned());
        self
    }

    /// Offers STARTTLS with this certificate.
    pub(crate) fn tls(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// Each time at `step`. Rules are asked in the order they were added; the first that matches decides.
    pub(crate) fn on(self, step: Step, act: Act) -> Self {
        self.judge(move |moment| (moment.step == step).then(|| act.clone()))
    }

    /// The `nth` time of this connection at `step`, from 1.
    pub(crate) fn on_nth(self, step: Step, nth: usize, act: Act) -> Self {
        self.judge(move |moment| (moment.step == step && moment.nth == nth).then(|| act.clone()))
    }

    /// At `RCPT TO:<address>`.
    pub(crate) fn on_rcpt(self, address: &str, act: Act) -> Self {
        let path = format!("<{address}>");
        self.judge(move |moment| {
            (moment.step == Step::Rcpt && moment.line.contains(&path)).then(|| act.clone())
        })
    }

    /// Any other rule; `None` lets the next one decide.
    pub(crate) fn judge(mut self, judge: impl Fn(Moment<'_>) -> Option<Act> + Send + Sync + 'static) -> Self {
        self.rules.push(Arc::new(judge));
        self
    }

    pub(super) fn act(&self, moment: Moment<'_>) -> Act {
        self.rules.iter().find_map(|rule| rule(moment)).unwrap_or(Act::Usual)
    }
}

fn owned(extensions: &[&str]) -> Vec<String> {
    extensions.iter().map(|extension| (*extension).to_owned()).collect()
}
