//! Who is connected: the page of sessions, and what mailboxes say of their gateways.
//!
//! What is told here is of this moment and in memory only: nobody was seen before the relay's start.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};
use spool::ids::WallMs;

use super::ask::{AskError, LIMIT_MAX};
use super::words::rfc3339;
use crate::identity::key::KeyText;

/// Knows which gateways are connected. The daemon implements it with the tunnel's registry.
pub trait Presence: fmt::Debug + Send + Sync + 'static {
    /// How many sessions there are.
    fn sessions(&self) -> usize;
    /// Whether the gateway of that key text has a session now.
    fn connected(&self, name: &str) -> bool;
    /// When the gateway of that key text last said something, if it did since the relay's start; a bounded number of gateways
    /// is remembered.
    fn last_seen(&self, name: &str) -> Option<WallMs>;
    /// Sessions of the lanes behind `after`, sorted by lane, about `limit` of them; and the lane to go on after.
    fn page(&self, after: Option<KeyText>, limit: usize) -> (Vec<Session>, Option<KeyText>);
    /// Ends the session of a mailbox that was revoked.
    fn revoke(&self, name: &str);
}

/// One session of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Key text.
    pub lane: String,
    /// Version of its protocol, 1 or 2.
    pub tunnel: u8,
    /// What it is for.
    pub role: &'static str,
    /// Where its gateway connects from.
    pub client: IpAddr,
    /// When it logged in.
    pub connected_at: WallMs,
    /// For how long it has been there.
    pub connected_seconds: u64,
    /// Items on their way to it, not acked.
    pub in_flight_items: u32,
    /// Bytes of those.
    pub in_flight_bytes: u64,
    /// Items it acked in this session.
    pub acked: u64,
}

/// Which sessions are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsAsk {
    /// `next` of the page before.
    pub after: Option<String>,
    /// About how many; 0 or nothing: as many as fit an answer.
    pub limit: Option<usize>,
}

/// `{"sessions": [...], "next": LANE | null}`. All sessions of a lane are on one page.
///
/// # Errors
/// [`AskError::Bad`] when `after` is no lane.
pub fn sessions(presence: &dyn Presence, ask: &SessionsAsk) -> Result<Value, AskError> {
    let no_lane =
        |text: &str| AskError::Bad(format!("`{text}` is no lane; give the `next` of a page before"));
    let after = ask.after.as_deref().map(|text| KeyText::from_peer(text).map_err(|_| no_lane(text)));
    let limit = ask.limit.filter(|limit| *limit > 0).unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    let (page, next) = presence.page(after.transpose()?, limit);
    let found = page.iter().map(|session| {
        json!({
            "lane": session.lane,
            "tunnel": session.tunnel,
            "role": session.role,
            "client": session.client.to_string(),
            "connected_at": rfc3339(session.connected_at),
            "connected_seconds": session.connected_seconds,
            "in_flight_items": session.in_flight_items,
            "in_flight_bytes": session.in_flight_bytes,
            "acked": session.acked,
        })
    });
    let found: Vec<_> = found.collect();
    Ok(json!({ "sessions": found, "next": next.map(|lane| lane.to_string()) }))
}

/// Adds `connected` and `last_seen_at` to the mailboxes of an answer; without a relay nobody is connected.
pub fn tell(answer: &mut Value, presence: Option<&dyn Presence>) {
    if let Some(mailboxes) = answer.get_mut("mailboxes").and_then(Value::as_array_mut) {
        mailboxes.iter_mut().for_each(|mailbox| tell_one(mailbox, presence));
    } else if answer.get("next_seq").is_some() {
        tell_one(answer, presence);
    }
}

fn tell_one(mailbox: &mut Value, presence: Option<&dyn Presence>) {
    let lane = mailbox["lane"].as_str().unwrap_or("").to_owned();
    mailbox["connected"] = presence.is_some_and(|presence| presence.connected(&lane)).into();
    mailbox["last_seen_at"] = presence.and_then(|presence| presence.last_seen(&lane)).map(rfc3339).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct OnlyHome;

    impl Presence for OnlyHome {
        fn sessions(&self) -> usize {
            1
        }

        fn connected(&self, name: &str) -> bool {
            name == "home"
        }

        fn last_seen(&self, name: &str) -> Option<WallMs> {
            self.connected(name).then_some(WallMs(1))
        }

        fn page(&self, _after: Option<KeyText>, limit: usize) -> (Vec<Session>, Option<KeyText>) {
            let session = Session {
                lane: "home".into(),
                tunnel: 2,
                role: "inbound",
                client: IpAddr::from([192, 0, 2, 7]),
                connected_at: WallMs(1),
                connected_seconds: 2,
                in_flight_items: 3,
                in_flight_bytes: 4,
                acked: limit as u64,
            };
            (vec![session], None)
        }

        fn revoke(&self, _name: &str) {}
    }

    #[test]
    fn mailboxes_say_whether_their_gateway_is_there_and_other_answers_stay_as_they_are() {
        let mut answer = json!({ "mailboxes": [{ "lane": "home" }, { "lane": "away" }] });
        tell(&mut answer, Some(&OnlyHome));
        let seen = "1970-01-01T00:00:00.001Z";
        assert_eq!(
            answer["mailboxes"],
            json!([
                { "lane": "home", "connected": true, "last_seen_at": seen },
                { "lane": "away", "connected": false, "last_seen_at": null },
            ])
        );
        let mut one = json!({ "lane": "home", "next_seq": 1 });
        tell(&mut one, None);
        assert_eq!((&one["connected"], &one["last_seen_at"]), (&json!(false), &Value::Null));
        let mut replay = json!({ "lane": "home", "replayed": 1 });
        tell(&mut replay, Some(&OnlyHome));
        assert_eq!(replay, json!({ "lane": "home", "replayed": 1 }));
    }

    #[test]
    fn a_page_is_never_larger_than_an_answer() {
        let ask = |limit| sessions(&OnlyHome, &SessionsAsk { after: None, limit }).expect("a page");
        let asked = [None, Some(0), Some(5), Some(usize::MAX)]
            .map(|limit| ask(limit)["sessions"][0]["acked"].clone());
        assert_eq!(asked, [1000, 1000, 5, 1000]);
        assert_eq!(ask(None)["sessions"][0]["client"], "192.0.2.7");
        let wrong = sessions(&OnlyHome, &SessionsAsk { after: Some("home".into()), limit: None });
        assert!(matches!(wrong, Err(AskError::Bad(_))), "{wrong:?}");
    }
}
