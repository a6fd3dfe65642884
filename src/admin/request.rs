//! PURE: path and JSON body of a change, as the admin socket and the command line write them.

use std::path::PathBuf;

use serde::Deserialize;
use spool::ids::{ItemId, ItemIdError};
use spool::types::State;

use super::ask::AskError;
use super::change::{Change, ItemVerb, ReplayAsk};
use super::deliveries::SwitchAsk;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AliasBody {
    address: String,
    #[serde(default)]
    remove: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaBody {
    items: Option<u64>,
    bytes: Option<u64>,
    submissions_per_hour: Option<u32>,
    recipients_per_day: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    #[serde(default)]
    hold_outgoing: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonBody {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    #[serde(default)]
    reason: String,
    state: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupBody {
    dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResendBody {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    i_know_it_may_duplicate: bool,
}

/// The change that a request asks for.
///
/// * `target` – the path below `/admin`, its pieces percent-encoded.
/// * `body` – JSON; fields nobody knows are refused.
///
/// # Errors
/// [`AskError::NotFound`] for another path, [`AskError::Bad`] for a wrong body.
pub fn change(target: &str, body: &[u8]) -> Result<Change, AskError> {
    let pieces: Vec<&str> = target.split('/').skip(1).collect();
    match pieces.as_slice() {
        ["mailboxes"] => parse(body).map(|AddBody { key }| Change::Add { key }),
        ["invitations"] => parse(body).map(Change::Invite),
        ["invitations", id, "withdraw"] => Ok(Change::Withdraw { id: unescape(id)? }),
        ["mailboxes", name, verb] => mailbox(unescape(name)?, verb, body),
        ["spool", "replay"] => parse::<ReplayAsk>(body).map(Change::Replay),
        ["spool", "items", id, "resend"] => {
            let ResendBody { reason, i_know_it_may_duplicate } = parse(body)?;
            Ok(Change::Resend { id: item_id(id)?, sure: i_know_it_may_duplicate, reason })
        }
        ["spool", "items", id, verb] => {
            let Some(verb) = ItemVerb::ALL.into_iter().find(|known| known.word() == *verb) else {
                let words = ItemVerb::ALL.map(ItemVerb::word).join(", ");
                return Err(AskError::NotFound(format!("no verb `{verb}`; verbs are {words}")));
            };
            let ItemBody { reason, state } = parse(body)?;
            let seen = state.as_deref().map(state_of).transpose()?;
            Ok(Change::Item { id: item_id(id)?, verb, seen, reason })
        }
        _ => Err(AskError::NotFound(format!("no request {target}"))),
    }
}

/// What `POST delivery/VERB` asks for.
///
/// # Errors
/// As [`change`].
pub fn switch(verb: &str, body: &[u8]) -> Result<SwitchAsk, AskError> {
    match verb {
        "pause" => parse(body).map(|ReasonBody { reason }| SwitchAsk::Pause { reason }),
        "resume" => Ok(SwitchAsk::Resume),
        _ => Err(AskError::NotFound(format!("no verb `{verb}`; verbs are pause, resume"))),
    }
}

/// Where `POST backup` wants the copy.
///
/// # Errors
/// As [`change`]; for a path that depends on where the relay was started.
pub fn backup(body: &[u8]) -> Result<PathBuf, AskError> {
    let BackupBody { dir } = parse(body)?;
    if dir.is_absolute() {
        return Ok(dir);
    }
    Err(AskError::Bad(format!("`{}` is no absolute path on the relay's machine", dir.display())))
}

fn mailbox(name: String, verb: &str, body: &[u8]) -> Result<Change, AskError> {
    match verb {
        "allow" => Ok(Change::Allow { name }),
        "revoke" => {
            let RevokeBody { hold_outgoing } =
                if body.is_empty() { RevokeBody::default() } else { parse(body)? };
            Ok(Change::Revoke { name, hold_outgoing })
        }
        "alias" => {
            let AliasBody { address, remove } = parse(body)?;
            Ok(Change::Alias { name, address, remove })
        }
        "quota" => {
            let QuotaBody { items, bytes, submissions_per_hour, recipients_per_day } = parse(body)?;
            Ok(Change::Quota { name, items, bytes, submissions_per_hour, recipients_per_day })
        }
        _ => Err(AskError::NotFound(format!("no verb `{verb}`; verbs are allow, revoke, alias, quota"))),
    }
}

/// Reads an item id.
///
/// # Errors
/// [`AskError::Bad`].
pub fn item_id(text: &str) -> Result<ItemId, AskError> {
    text.parse().map_err(|e: ItemIdError| AskError::Bad(format!("`{text}` is {e}")))
}

/// The state that a word of a listing stands for: what is lent is `ready` all the same.
fn state_of(word: &str) -> Result<State, AskError> {
    if word == "leased" {
        return Ok(State::Ready);
    }
    State::from_word(word).ok_or_else(|| {
        let words = State::ALL.map(State::word).join(", ");
        AskError::Bad(format!("no state `{word}`; states are leased, {words}"))
    })
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, AskError> {
    serde_json::from_slice(body).map_err(|e| AskError::Bad(format!("the request is wrong: {e}")))
}

/// Undoes [`super::client::escape`].
fn unescape(text: &str) -> Result<String, AskError> {
    let wrong = || AskError::Bad(format!("`{text}` is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                return Err(wrong());
            };
            bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::client::escape;

    #[test]
    fn every_verb_is_read_and_other_paths_are_refused() {
        let alias = change("/mailboxes/a%40b/alias", br#"{"address":"x@y"}"#);
        assert_eq!(alias, Ok(Change::Alias { name: "a@b".into(), address: "x@y".into(), remove: false }));
        assert_eq!(change("/mailboxes/k/allow", b""), Ok(Change::Allow { name: "k".into() }));
        assert!(matches!(change("/spool/replay", br#"{"lane":"l","from_seq":1}"#), Ok(Change::Replay(_))));
        assert!(matches!(change("/mailboxes/k/sell", b"{}"), Err(AskError::NotFound(_))));
        assert!(matches!(change("/spool", b"{}"), Err(AskError::NotFound(_))));
        assert!(matches!(change("/mailboxes", br#"{"key":"k","x":1}"#), Err(AskError::Bad(_))));
        assert!(matches!(change("/spool/items/short/hold", b"{}"), Err(AskError::Bad(_))));
    }

    #[test]
    fn an_item_may_be_asked_for_in_one_state_only() {
        let id = ItemId([7; 16]);
        let asked = |body: &str| change(&format!("/spool/items/{id}/purge"), body.as_bytes());
        let purge = |seen| Ok(Change::Item { id, verb: ItemVerb::Purge, seen, reason: String::new() });
        assert_eq!(asked("{}"), purge(None));
        assert_eq!(asked(r#"{"state":"acked"}"#), purge(Some(State::Acked)));
        assert_eq!(asked(r#"{"state":"leased"}"#), purge(Some(State::Ready)));
        for wrong in [r#"{"state":""}"#, r#"{"state":"lost"}"#, r#"{"state":"acked,held"}"#] {
            assert!(matches!(asked(wrong), Err(AskError::Bad(_))), "{wrong}");
        }
    }

    #[test]
    fn copies_go_to_absolute_paths() {
        assert_eq!(backup(br#"{"dir":"/backups/a"}"#), Ok(PathBuf::from("/backups/a")));
        assert!(matches!(backup(br#"{"dir":"backups"}"#), Err(AskError::Bad(_))));
        assert!(matches!(backup(b"{}"), Err(AskError::Bad(_))));
    }

    #[test]
    fn unescape_inverts_escape_and_refuses_broken_text() {
        for text in ["home@mail.example", "a/b c", "gr\u{fc}n", ""] {
            assert_eq!(unescape(&escape(text)), Ok(text.to_owned()));
        }
        for text in ["%", "%4", "%zz", "%ff"] {
            assert!(unescape(text).is_err(), "{text}");
        }
    }
}
