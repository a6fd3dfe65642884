//! Proof that a peer holds the secret key it names.
//!
//! 1. The peer names a key; [`Challenges::issue`] makes a text that nobody can have signed before:
//!    `relay-auth:<challenge id>:<nonce>`, in tunnel 2 with `:<relay host>` behind it, so that a hostile
//!    relay cannot pass our challenge on to one of our gateways.
//! 2. The peer signs exactly that text; [`Challenges::prove`] checks it.
//!
//! Promises: a proof counts once, for one key, on the connection that asked, before the challenge expires;
//! memory is bounded by [`CHALLENGES_MAX`]. Time, ids and nonces are handed in.
//!
//! Does not know messages, sockets, or who is admitted.
//!
//! Failure policy: the first check that fails names the [`AuthCode`]; nothing else is said to the peer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use spool::ids::WallMs;
use uuid::Uuid;

use super::key::KeyText;

/// Most challenges remembered; beyond it the oldest is forgotten and its owner has to ask again.
pub const CHALLENGES_MAX: usize = 10_000;

/// Why a peer is turned away; the words are the protocol's (mail-tunnel protocol, section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthCode {
    /// Too many attempts from this client address.
    RateLimited,
    /// Not a message of the handshake, or too long, or one too many.
    InvalidMessage,
    /// No challenge of that id, or forgotten.
    ChallengeNotFound,
    /// The challenge was made for another key or another connection.
    ChallengeMismatch,
    /// The challenge served for a login before.
    ChallengeAlreadyUsed,
    /// The challenge is too old.
    ChallengeExpired,
    /// The signature holds no base64 at all.
    InvalidSignatureEncoding,
    /// The signature does not verify.
    InvalidSignature,
    /// After the login: a binary message that is no frame.
    InvalidTunnelFrame,
    /// The key is right and the relay does not serve it (admission by list).
    NotAdmitted,
    /// The invitation is unknown, expired, used or withdrawn.
    InvitationRefused,
    /// The key was revoked.
    Revoked,
}

impl AuthCode {
    /// The word on the wire and in logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::InvalidMessage => "invalid_message",
            Self::ChallengeNotFound => "challenge_not_found",
            Self::ChallengeMismatch => "challenge_mismatch",
            Self::ChallengeAlreadyUsed => "challenge_already_used",
            Self::ChallengeExpired => "challenge_expired",
            Self::InvalidSignatureEncoding => "invalid_signature_encoding",
            Self::InvalidSignature => "invalid_signature",
            Self::InvalidTunnelFrame => "invalid_tunnel_frame",
            Self::NotAdmitted => "not_admitted",
            Self::InvitationRefused => "invitation_refused",
            Self::Revoked => "revoked",
        }
    }

    /// The WebSocket close code that goes with it.
    #[must_use]
    pub fn close_code(self) -> u16 {
        if self == Self::RateLimited { 4408 } else { 4401 }
    }
}

/// Fresh random names for one challenge.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Names the challenge.
    pub id: Uuid,
    /// Makes its text unpredictable.
    pub nonce: Uuid,
}

/// A challenge to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Names it in the answer.
    pub id: String,
    /// What is to be signed.
    pub text: String,
    /// First moment at which it is too old, wall clock, for the peer to read.
    pub expires_at: WallMs,
}

/// The challenges that are out.
#[derive(Debug)]
pub struct Challenges {
    ttl: Duration,
    records: HashMap<Uuid, Record>,
    /// Ids by age; all live equally long, so the front expires first.
    by_age: VecDeque<Uuid>,
}

#[derive(Debug)]
struct Record {
    key: KeyText,
    connection: Uuid,
    text: String,
    expires_at: Instant,
    used: bool,
}

impl Challenges {
    /// None yet; each lives for `ttl`.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, records: HashMap::new(), by_age: VecDeque::new() }
    }

    /// Those made from now on live for `ttl`.
    pub fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// Makes a challenge for `key` on `connection`; `host` is named in its text when the peer knows tunnel 2.
    pub fn issue(
        &mut self,
        key: KeyText,
        connection: Uuid,
        host: Option<&str>,
        fresh: Fresh,
        now: Instant,
        wall: WallMs,
    ) -> Issued {
        self.sweep(now);
        while self.by_age.len() >= CHALLENGES_MAX {
            if let Some(oldest) = self.by_age.pop_front() {
                self.records.remove(&oldest);
            }
        }
        let mut text = format!("relay-auth:{}:{}", fresh.id, fresh.nonce);
        if let Some(host) = host {
            text.push(':');
            text.push_str(host);
        }
        let record = Record { key, connection, text: text.clone(), expires_at: now + self.ttl, used: false };
        if self.records.insert(fresh.id, record).is_none() {
            self.by_age.push_back(fresh.id);
        }
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        Issued { id: fresh.id.to_string(), text, expires_at: wall.plus(ttl_ms) }
    }

    /// Checks an answer; `Ok` uses the challenge up.
    ///
    /// A challenge that served before is reported as such on any connection; one that is still open belongs
    /// to the connection that asked for it.
    ///
    /// # Errors
    /// The first of: not found, other key, already used, other connection, expired, no base64, wrong.
    pub fn prove(
        &mut self,
        key: KeyText,
        connection: Uuid,
        id: &str,
        signature_base64: &str,
        now: Instant,
    ) -> Result<(), AuthCode> {
        let record = Uuid::try_parse(id)
            .ok()
            .filter(|uuid| uuid.to_string() == id)
            .and_then(|uuid| self.records.get_mut(&uuid))
            .ok_or(AuthCode::ChallengeNotFound)?;
        if record.key != key {
            return Err(AuthCode::ChallengeMismatch);
        }
        if record.used {
            return Err(AuthCode::ChallengeAlreadyUsed);
        }
        if record.connection != connection {
            return Err(AuthCode::ChallengeMismatch);
        }
        if record.expires_at <= now {
            return Err(AuthCode::ChallengeExpired);
        }
        let signature = decode_signature(signature_base64);
        if signature.is_empty() {
            return Err(AuthCode::InvalidSignatureEncoding);
        }
        if !key.verifies(record.text.as_bytes(), &signature) {
            return Err(AuthCode::InvalidSignature);
        }
        record.used = true;
        Ok(())
    }

    /// How many are remembered, used ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Forgets those, used or not, that have been too old for one more lifetime: a late answer still
    /// learns that it is late.
    fn sweep(&mut self, now: Instant) {
        while let Some(id) = self.by_age.front() {
            if self.records.get(id).is_some_and(|record| record.expires_at + self.ttl > now) {
                break;
            }
            self.records.remove(id);
            self.by_age.pop_front();
        }
    }
}

/// Reads base64 as the reference does: both alphabets, other characters skipped, ends at the first `=`.
fn decode_signature(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for character in text.bytes() {
        let six = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;

    use super::*;
    use crate::identity::key::SecretKey;

    const TTL: Duration = Duration::from_secs(60);
    const HERE: Uuid = Uuid::from_u128(1);

    fn fresh(n: u128) -> Fresh {
        Fresh { id: Uuid::from_u128(n), nonce: Uuid::from_u128(n << 64) }
    }

    fn start() -> Instant {
        crate::clock::monotonic()
    }

    struct Case {
        secret: SecretKey,
        challenges: Challenges,
        issued: Issued,
        start: Instant,
    }

    impl Case {
        fn new() -> Self {
            let secret = SecretKey::from_seed(&[1; 32]);
            let mut challenges = Challenges::new(TTL);
            let start = start();
            let issued = challenges.issue(secret.key_text(), HERE, None, fresh(7), start, WallMs(1000));
            Self { secret, challenges, issued, start }
        }

        fn signature(&self) -> String {
            BASE64.encode(&self.secret.sign(self.issued.text.as_bytes()))
        }

        fn prove(&mut self, signature: &str) -> Result<(), AuthCode> {
            self.challenges.prove(self.secret.key_text(), HERE, &self.issued.id, signature, self.start)
        }
    }

    #[test]
    fn a_right_answer_counts_once() {
        // X1
        let mut case = Case::new();
        assert!(case.issued.text.starts_with("relay-auth:00000000-0000-0000-0000-000000000007:"));
        assert_eq!(case.issued.expires_at, WallMs(61_000));
        let signature = case.signature();
        assert_eq!(case.prove(&signature), Ok(()));
        assert_eq!(case.prove(&signature), Err(AuthCode::ChallengeAlreadyUsed));
        let elsewhere = case.challenges.prove(
            case.secret.key_text(),
            Uuid::from_u128(2),
            &case.issued.id,
            &signature,
            case.start,
        );
        assert_eq!(elsewhere, Err(AuthCode::ChallengeAlreadyUsed));
    }

    #[test]
    fn a_challenge_belongs_to_its_key_and_its_connection() {
        // X1
        let mut case = Case::new();
        let signature = case.signature();
        let other = SecretKey::from_seed(&[2; 32]).key_text();
        let (id, now) = (case.issued.id.clone(), case.start);
        assert_eq!(
            case.challenges.prove(other, HERE, &id, &signature, now),
            Err(AuthCode::ChallengeMismatch)
        );
        let there = Uuid::from_u128(2);
        let key = case.secret.key_text();
        assert_eq!(case.challenges.prove(key, there, &id, &signature, now), Err(AuthCode::ChallengeMismatch));
        assert_eq!(case.prove(&signature), Ok(()));
    }

    #[test]
    fn the_moment_of_expiry_is_too_late() {
        let mut case = Case::new();
        let signature = case.signature();
        let (id, key, end) = (case.issued.id.clone(), case.secret.key_text(), case.start + TTL);
        assert_eq!(case.challenges.prove(key, HERE, &id, &signature, end), Err(AuthCode::ChallengeExpired));
        let just = end.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(case.challenges.prove(key, HERE, &id, &signature, just), Ok(()));
    }

    #[test]
    fn wrong_signatures_are_told_from_no_signature() {
        let mut case = Case::new();
        assert_eq!(case.prove("!!!!"), Err(AuthCode::InvalidSignatureEncoding));
        assert_eq!(case.prove(""), Err(AuthCode::InvalidSignatureEncoding));
        assert_eq!(case.prove("AAAA"), Err(AuthCode::InvalidSignature));
        assert_eq!(case.prove(&BASE64.encode(&[0; 64])), Err(AuthCode::InvalidSignature));
        let signature = case.signature();
        assert_eq!(case.prove(&signature), Ok(()), "a wrong answer does not use the challenge up");
    }

    #[test]
    fn unknown_ids_are_not_found() {
        let mut case = Case::new();
        for id in ["x", "", "00000000-0000-0000-0000-000000000008", "{00000000-0000-0000-0000-000000000007}"]
        {
            let key = case.secret.key_text();
            let got = case.challenges.prove(key, HERE, id, "AAAA", case.start);
            assert_eq!(got, Err(AuthCode::ChallengeNotFound), "{id}");
        }
    }

    #[test]
    fn tunnel_2_names_the_relay_in_what_is_signed() {
        // X1, X3: a text made by another relay names that relay.
        let mut case = Case::new();
        let key = case.secret.key_text();
        let issued = case.challenges.issue(key, HERE, Some("relay.example"), fresh(9), case.start, WallMs(0));
        assert!(issued.text.ends_with(":relay.example"));
        let without = issued.text.trim_end_matches(":relay.example").as_bytes().to_vec();
        let signature = BASE64.encode(&case.secret.sign(&without));
        assert_eq!(
            case.challenges.prove(key, HERE, &issued.id, &signature, case.start),
            Err(AuthCode::InvalidSignature)
        );
    }

    #[test]
    fn memory_is_bounded_and_old_records_go() {
        // X4
        let mut case = Case::new();
        let key = case.secret.key_text();
        for n in 0..CHALLENGES_MAX as u128 + 100 {
            case.challenges.issue(key, HERE, None, fresh(n + 100), case.start, WallMs(0));
        }
        assert_eq!(case.challenges.len(), CHALLENGES_MAX);
        let later = case.start + TTL * 2;
        case.challenges.issue(key, HERE, None, fresh(1), later, WallMs(0));
        assert_eq!(case.challenges.len(), 1);
    }

    #[test]
    fn signatures_are_read_leniently() {
        assert_eq!(decode_signature("AP8="), [0, 255]);
        assert_eq!(decode_signature(" A-P_\n="), [3, 227, 255]);
        assert_eq!(decode_signature("A"), Vec::<u8>::new());
    }
}
