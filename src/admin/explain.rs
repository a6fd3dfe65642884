//! PURE: one paragraph that says why an item is where it is, what happens next, and when.
//!
//! Items on their way to a gateway here, submissions in [`outgoing`].

pub mod outgoing;

use spool::ids::{Seq, WallMs};
use spool::types::{ItemInfo, State, Transition};

use super::words::{age, rfc3339, size};

/// What the paragraph needs besides the item.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The time.
    pub now: WallMs,
    /// Whether the gateway has a session; `None` when no daemon runs that could know.
    pub connected: Option<bool>,
    /// Whether the mailbox is revoked.
    pub revoked: bool,
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
    let because = if last.is_empty() { String::new() } else { format!(", because: {last}") };
    match item.state {
        State::Ready => ready(item, timeline, c),
        State::Acked => format!(
            "Its gateway confirmed it at {since}, so it is done. It stays until {} and can be offered again \
             until then with `waystation spool replay --lane {} --from-seq {}`.",
            rfc3339(item.changed_at.plus(c.retain_acked_ms)),
            item.lane_name,
            item.seq
        ),
        State::Expired => format!(
            "No gateway fetched it in time and it expired at {since}; it is not handed out any more. It stays \
             until {}.",
            rfc3339(item.changed_at.plus(c.retain_acked_ms))
        ),
        State::Held => format!(
            "It is held since {since}{because}. It is not handed out, and does not go away, until an operator \
             runs `waystation spool release {}`.",
            item.id
        ),
        State::Quarantined => format!(
            "Its stored bytes are damaged{because}; it is never handed out. `waystation spool verify` shows the \
             place, and the journal segment should be kept for a look."
        ),
        State::Purged => {
            format!("An operator removed it at {since}{because}; only this note is left of it.")
        }
        // States of submissions, which `outgoing` explains.
        State::Armed | State::Sent | State::Failed | State::Indeterminate => {
            format!("It is {} since {since}{because}.", item.state.word())
        }
    }
}

fn ready(item: &ItemInfo, timeline: &[Transition], c: &Circumstances) -> String {
    let again = if timeline.iter().any(|t| t.state == "acked") {
        "It had been delivered before and is offered again by a replay. "
    } else {
        ""
    };
    let expires = rfc3339(item.accepted_at.plus(c.expire_ms));
    let ahead = item.seq.0.saturating_sub(c.first_waiting.0);
    let queue = match ahead {
        0 => "It is the next in its lane".to_owned(),
        1 => "At most one older item goes before it".to_owned(),
        n => format!("At most {n} older items go before it"),
    };
    let happens = if c.revoked {
        format!(
            "Its mailbox is revoked, so no gateway may fetch it. It is handed out after `waystation mailbox \
             allow {}`, and expires at {expires} otherwise.",
            item.lane_name
        )
    } else if item.leased {
        "It is on its way to its gateway now, and waits for the gateway's ack. If the connection ends before \
         that, it is offered again to the next session."
            .to_owned()
    } else {
        match c.connected {
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
    };
    format!("{again}{happens}")
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
        let why = Transition { state: "held".into(), at_ms: 1, reason: "refused five times".into() };
        let text = explain(&item(State::Held), &[why], &circumstances());
        assert!(text.contains("because: refused five times"), "{text}");
        assert!(text.contains("spool release"), "{text}");
    }
}
