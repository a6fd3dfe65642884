//! PURE: one paragraph that says why an item is where it is, what happens next, and when.
//!
//! Items on their way to a gateway here, submissions in [`outgoing`].

pub mod outgoing;

use spool::ids::{Seq, WallMs};
use spool::lease::Refusals;
use spool::types::{ItemInfo, State, Transition};

use super::words::{age, operators, rfc3339, size};

/// Who gets mail for the postmaster now, of an item that came when nobody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Postmaster {
    /// `postmaster` in the configuration is empty.
    Nobody,
    /// It names no mailbox.
    NoMailbox,
    /// A mailbox has the address as an alias, or it names one.
    Mailbox,
    /// The same, and that mailbox is revoked.
    Revoked,
}

/// What the paragraph needs besides the item.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The time.
    pub now: WallMs,
    /// Whether the gateway has a session; `None` when no daemon runs that could know.
    pub connected: Option<bool>,
    /// Whether the mailbox is revoked.
    pub revoked: bool,
    /// Set for what lies in the lane `operator`, which no gateway will ever fetch: who would get such mail now.
    pub postmaster: Option<Postmaster>,
    /// How often the gateway could not take it, since the relay started.
    pub refusals: Option<Refusals>,
    /// The first seq of the lane that is not done yet.
    pub first_waiting: Seq,
    /// Milliseconds acked items stay.
    pub retain_acked_ms: u64,
    /// Milliseconds until an unfetched item expires.
    pub expire_ms: u64,
}

/// The paragraph.
#[must_use]
pub fn explain(item: &ItemInfo, timeline: &[Transition], c: &Circumstances) -> String {
    let what = format!(
        "Item {} is number {} in the lane of {}; it has {} and was accepted {} ago, at {}.",
        item.id,
        item.seq,
        item.lane_name,
        size(item.size_bytes),
        age(c.now.since(item.accepted_at)),
        rfc3339(item.accepted_at)
    );
    format!("{what} {}", next(item, timeline, c))
}

fn next(item: &ItemInfo, timeline: &[Transition], c: &Circumstances) -> String {
    let since = rfc3339(item.changed_at);
    let last = timeline.last().map_or("", |t| t.reason.as_str());
    let id = item.id;
    let gone = rfc3339(item.changed_at.plus(c.retain_acked_ms));
    match item.state {
        State::Ready => ready(item, timeline, c),
        State::Acked => format!(
            "Its gateway confirmed it at {since}, so it is done. It stays until {gone} and can be offered again \
             until then with `waystation spool replay --lane {} --from-seq {}`.",
            item.lane_name, item.seq
        ),
        State::Expired => format!(
            "No gateway fetched it in time and it expired at {since}; it is not handed out any more. It stays \
             until {gone}: until then `waystation spool replay {id}` offers it again, and `waystation spool show {id} \
             --raw` or `waystation spool export` has its bytes."
        ),
        State::Held => held(item, last, c),
        State::Quarantined => format!(
            "Its stored bytes are damaged{}; it is quarantined since {since} and is never handed out, while its \
             neighbours are. `waystation spool verify` shows the place, and the journal segment is kept for a look; \
             `waystation spool purge {id}` takes the item off the list.",
            because(last)
        ),
        State::Purged => format!(
            "An operator removed it at {since}{}. Its bytes are not shown, exported or handed out any more; this \
             note is all that is left of it, until {gone}.",
            because(operators(last).unwrap_or(last))
        ),
        // States of submissions, which `outgoing` explains.
        State::Armed | State::Sent | State::Failed | State::Indeterminate => {
            format!("It is {} since {since}{}.", item.state.word(), because(last))
        }
    }
}

/// `, because: ...`, or nothing.
fn because(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(", because: {}", text.trim_end_matches('.')) }
}

fn held(item: &ItemInfo, last: &str, c: &Circumstances) -> String {
    let since = rfc3339(item.changed_at);
    let who = if let Some(words) = last.strip_prefix("rejected by the gateway") {
        let words = words.trim_start_matches([':', ' ']);
        let said = if words.is_empty() {
            String::new()
        } else {
            format!(", and said: {}", words.trim_end_matches('.'))
        };
        format!("Its gateway rejected it for good at {since}{said}. So the relay holds it")
    } else if last.starts_with("refused ") && last.ends_with(" by the gateway") {
        format!("The relay parked it at {since}, because it was {last}, one time after the other. It is held")
    } else {
        format!(
            "An operator holds it since {since}{}. It is not handed out",
            because(operators(last).unwrap_or(last))
        )
    };
    let revoked = if c.revoked {
        format!(
            " Its mailbox is revoked, too: before `waystation mailbox allow {}` nobody may fetch it.",
            item.lane_name
        )
    } else {
        String::new()
    };
    format!(
        "{who}, and does not go away, until an operator runs `waystation spool release {}`, which offers it again in its \
         old place, or purges it.{revoked}",
        item.id
    )
}

fn ready(item: &ItemInfo, timeline: &[Transition], c: &Circumstances) -> String {
    let was = |word: &str| timeline.iter().rev().nth(1).is_some_and(|t| t.state == word);
    let again = if was("held") {
        "It had been held and was released. "
    } else if timeline.iter().any(|t| t.state == "acked") {
        "It had been delivered before and is offered again by a replay. "
    } else {
        ""
    };
    format!("{again}{}{}", refusals(c), waits(item, c))
}

/// How the gateway took it so far; ends with a space when it says anything.
fn refusals(c: &Circumstances) -> String {
    let Some(refusals) = c.refusals else { return String::new() };
    let n = refusals.count;
    let left = refusals.most.saturating_sub(n);
    let when = match refusals.retry_at.filter(|at| *at > c.now) {
        Some(at) => format!("is offered again in {}, at {}, and ", age(at.since(c.now)), rfc3339(at)),
        None => String::new(),
    };
    let (s, more) = (if n == 1 { "" } else { "s" }, if left == 1 { "" } else { "s" });
    format!(
        "Its gateway could not take it {n} time{s} so far; it {when}is parked for an operator after {left} more refusal{more}. "
    )
}

fn waits(item: &ItemInfo, c: &Circumstances) -> String {
    let expires = rfc3339(item.accepted_at.max(item.changed_at).plus(c.expire_ms));
    let ahead = item.seq.0.saturating_sub(c.first_waiting.0);
    let queue = match ahead {
        0 => "It is the next in its lane".to_owned(),
        1 => "At most one older item goes before it".to_owned(),
        n => format!("At most {n} older items go before it"),
    };
    if let Some(postmaster) = c.postmaster {
        return for_postmaster(item, postmaster, &expires);
    }
    if c.revoked {
        return format!(
            "Its mailbox is revoked, so no gateway may fetch it. It is handed out after `waystation mailbox \
             allow {}`, and expires at {expires} otherwise.",
            item.lane_name
        );
    }
    if item.leased {
        return "It is on its way to its gateway now, and waits for the gateway's ack. If the connection ends before \
                that, it is offered again to the next session."
            .to_owned();
    }
    match c.connected {
        Some(true) if c.refusals.is_some_and(|r| r.retry_at.is_some_and(|at| at > c.now)) => {
            "Its gateway is connected; mail behind it goes on meanwhile.".to_owned()
        }
        Some(true) => format!(
            "Its gateway is connected. {queue}, and it is sent as soon as the gateway acks what is on its \
             way, or when the pause that the gateway asked for is over."
        ),
        Some(false) => format!(
            "Its gateway is not connected. {queue}, and it is sent when the gateway connects; if none \
             does, it expires at {expires}."
        ),
        None => format!(
            "No relay runs on this directory. {queue}, and it is sent when the relay runs and the gateway \
             connects; if none does, it expires at {expires}."
        ),
    }
}

fn for_postmaster(item: &ItemInfo, postmaster: Postmaster, expires: &str) -> String {
    let (id, lane) = (item.id, &item.lane_name);
    let why = match postmaster {
        Postmaster::Nobody => {
            "which no gateway fetches: `postmaster` in the configuration names nobody".to_owned()
        }
        Postmaster::NoMailbox => {
            "which no gateway fetches: `postmaster` in the configuration names no mailbox of this relay"
                .to_owned()
        }
        Postmaster::Mailbox => format!(
            "and came when nobody got such mail. By now an alias, or `postmaster` in the configuration, leads to a mailbox, and \
             what comes goes there; this one stays in the lane `{lane}`, which no gateway fetches"
        ),
        Postmaster::Revoked => format!(
            "and came when nobody got such mail. By now an alias, or `postmaster` in the configuration, leads to a mailbox, but \
             that is revoked, and what comes is refused; this one stays in the lane `{lane}`, which no gateway fetches"
        ),
    };
    format!(
        "It is mail for the postmaster, {why}. `waystation spool show {id} --raw` shows it, `waystation spool export DIR \
         --id {id}` makes a file of it for whoever should read it, and it expires at {expires}."
    )
}

#[cfg(test)]
mod tests {
    use spool::ids::{ItemId, LaneId};

    use super::*;

    fn item(state: State) -> ItemInfo {
        ItemInfo {
            id: ItemId::new(WallMs(1000), [1; 10]),
            lane: LaneId(1),
            lane_name: "operator".to_owned(),
            seq: Seq(4),
            state,
            leased: false,
            size_bytes: 2048,
            accepted_at: WallMs(1_790_000_000_000),
            changed_at: WallMs(1_790_000_060_000),
            sha256: [0; 32],
            chain: [0; 32],
            meta: Vec::new(),
            tag: Vec::new(),
            head: Vec::new(),
            chunks: Vec::new(),
            outbound: None,
        }
    }

    fn circumstances() -> Circumstances {
        Circumstances {
            now: WallMs(1_790_000_120_000),
            connected: Some(false),
            revoked: false,
            postmaster: None,
            refusals: None,
            first_waiting: Seq(2),
            retain_acked_ms: 1000,
            expire_ms: 86_400_000,
        }
    }

    #[test]
    fn every_state_has_full_sentences_without_holes() {
        for state in
            [State::Ready, State::Acked, State::Expired, State::Held, State::Quarantined, State::Purged]
        {
            for connected in [None, Some(true), Some(false)] {
                let text = explain(&item(state), &[], &Circumstances { connected, ..circumstances() });
                assert!(text.starts_with("Item ") && text.ends_with('.'), "{text}");
                assert!(!text.contains("  ") && !text.contains('\n'), "{text}");
            }
        }
    }

    #[test]
    fn ready_items_say_what_they_wait_for() {
        let offline = explain(&item(State::Ready), &[], &circumstances());
        assert!(offline.contains("not connected") && offline.contains("At most 2 older items"), "{offline}");
        let revoked = explain(&item(State::Ready), &[], &Circumstances { revoked: true, ..circumstances() });
        assert!(revoked.contains("mailbox allow operator"), "{revoked}");
        let lent = explain(&ItemInfo { leased: true, ..item(State::Ready) }, &[], &circumstances());
        assert!(lent.contains("on its way"), "{lent}");
    }

    #[test]
    fn held_items_say_who_held_them_and_how_to_go_on() {
        let says = |reason: &str, c: &Circumstances| {
            let why = Transition { state: "held".into(), at_ms: 1, reason: reason.into() };
            let text = explain(&item(State::Held), &[why], c);
            assert!(text.contains("spool release") && !text.contains("by an operator"), "{text}");
            text
        };
        let c = circumstances();
        assert!(says("by an operator: asked by the owner", &c).contains("An operator holds it since"));
        assert!(says("by an operator: asked by the owner", &c).contains("because: asked by the owner."));
        assert!(says("by an operator", &c).contains("Z. It is not handed out"));
        assert!(
            says("refused 5 times by the gateway", &c)
                .contains("because it was refused 5 times by the gateway")
        );
        let rejected = says("rejected by the gateway: too large.", &c);
        assert!(rejected.contains("rejected it for good at") && rejected.contains("and said: too large. So"));
        let revoked = says("by an operator", &Circumstances { revoked: true, ..c });
        assert!(revoked.contains("mailbox allow operator"), "{revoked}");
    }

    #[test]
    fn refusals_are_counted_down_and_say_when_it_comes_again() {
        let refusals = Refusals { count: 4, most: 5, retry_at: Some(WallMs(1_790_000_180_000)) };
        let c = Circumstances { refusals: Some(refusals), connected: Some(true), ..circumstances() };
        let text = explain(&item(State::Ready), &[], &c);
        assert!(
            text.contains("could not take it 4 times so far; it is offered again in 1 minute, at"),
            "{text}"
        );
        assert!(text.contains("parked for an operator after 1 more refusal."), "{text}");
        assert!(text.ends_with("mail behind it goes on meanwhile."), "{text}");
        let over = Refusals { count: 1, most: 5, retry_at: None };
        let text = explain(&item(State::Ready), &[], &Circumstances { refusals: Some(over), ..c });
        assert!(
            text.contains("1 time so far; it is parked for an operator after 4 more refusals."),
            "{text}"
        );
    }

    #[test]
    fn what_was_done_to_an_item_before_is_told() {
        let step =
            |state: &str, reason: &str| Transition { state: state.into(), at_ms: 1, reason: reason.into() };
        let released =
            [step("ready", "accepted"), step("held", "by an operator"), step("ready", "by an operator")];
        assert!(
            explain(&item(State::Ready), &released, &circumstances())
                .contains("It had been held and was released.")
        );
        let replayed = [step("ready", "accepted"), step("acked", ""), step("ready", "replay asked for")];
        assert!(
            explain(&item(State::Ready), &replayed, &circumstances()).contains("offered again by a replay")
        );
        let purged = [step("ready", "accepted"), step("purged", "by an operator: asked by the sender")];
        let text = explain(&item(State::Purged), &purged, &circumstances());
        assert!(
            text.contains("An operator removed it at") && text.contains("because: asked by the sender."),
            "{text}"
        );
    }

    #[test]
    fn mail_for_the_postmaster_is_not_promised_to_anybody() {
        let says = |postmaster| {
            let c = Circumstances { postmaster: Some(postmaster), ..circumstances() };
            let text = explain(&item(State::Ready), &[], &c);
            assert!(text.contains("no gateway fetches") && text.contains("expires at"), "{text}");
            assert!(text.contains("--raw`") && text.contains("spool export DIR --id"), "{text}");
            assert!(text.ends_with('.') && !text.contains("  "), "{text}");
            text
        };
        assert!(says(Postmaster::Nobody).contains("names nobody."));
        assert!(says(Postmaster::NoMailbox).contains("names no mailbox of this relay."));
        // Whoever has set it since must not read that nobody is set.
        let cases = [(Postmaster::Mailbox, "goes there"), (Postmaster::Revoked, "is refused")];
        for (postmaster, words) in cases {
            let since = says(postmaster);
            assert!(since.contains("came when nobody got such mail"), "{since}");
            assert!(since.contains("stays in"), "{since}");
            assert!(!since.contains("names nobody") && !since.contains("names no mailbox"), "{since}");
            assert!(since.contains(words), "{since}");
        }
    }
}
