//! What was found out about the sender of a message, as values (RFC 8601 §2.7), and how it is found out.
//!
//! * [`inspector`], [`claims`], [`body`]: while the message passes by: forged results go, what the checks need stays.
//! * [`evaluate`], [`spf`], `lookups`: the drivers: DNS and mail-auth. [`patience`]: how long they may take.
//! * [`signatures`], [`key`], [`tags`], [`policy`], [`record`]: what can be said about signatures, keys and policies without
//!   asking anybody.
//! * [`results`]: our `Authentication-Results` field.
//!
//! Promises: a check that was not made or did not get its answers says so; it never counts as failed.
//!
//! Where we are stricter than mail-auth: syntax of SPF, several SPF or DMARC records at a name, void lookups, keys and signatures
//! that RFC 8301 forbids, `l=`, `From` outside of `h=`, more than one address in `From`, fields whose names readers take for
//! others, names that macros of SPF cannot make. Where we are more patient: a fault in a DMARC record costs that tag only.

pub mod body;
pub mod claims;
pub mod evaluate;
pub mod inspector;
pub mod key;
mod lookups;
pub mod patience;
pub mod policy;
pub mod record;
pub mod results;
pub mod signatures;
pub mod spf;
pub mod tags;

pub use lookups::{Budget, NAMES_PER_CONNECTION_MAX};

/// Most DKIM signatures of one message that are looked at.
pub const DKIM_SIGNATURES_MAX: usize = 10;
/// The reason of a signature that fits the header but not the body: [`Dkim::attested`] reads it.
pub const BODY_HASH_REASON: &str = "body hash did not verify";

/// Result of one check, in the words of RFC 8601 §2.7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Word {
    /// Not checked, or nothing to check.
    #[default]
    None,
    /// As it should be.
    Pass,
    /// Forged or broken.
    Fail,
    /// SPF: probably forged.
    SoftFail,
    /// Nothing is said either way.
    Neutral,
    /// Valid, but not good enough to count: a short key, a body that is signed in part.
    Policy,
    /// DNS did not answer in time; another time it may.
    TempError,
    /// What was published or signed makes no sense.
    PermError,
}

impl Word {
    /// As it stands in `Authentication-Results`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
            Self::Policy => "policy",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// SPF (RFC 7208).
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Spf {
    /// The result.
    pub word: Word,
    /// Domain that was checked, lower case; empty when none was.
    pub domain: String,
    /// The name of `EHLO` was checked, because the reverse-path is null.
    pub helo: bool,
    /// Why it is no pass, a few words; may be empty.
    pub reason: String,
}

/// One DKIM signature (RFC 6376).
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Dkim {
    /// The result.
    pub word: Word,
    /// `d=`, lower case.
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// `a=`
    pub algorithm: String,
    /// Why it is no pass, a few words; may be empty.
    pub reason: String,
}

impl Dkim {
    /// The word that counts for the attested signals (mail-tunnel 10.1), which follow another library there: a body that
    /// does not match is `fail` in RFC 8601 and `neutral` in them.
    #[must_use]
    pub fn attested(&self) -> Word {
        if self.word == Word::Fail && self.reason == BODY_HASH_REASON { Word::Neutral } else { self.word }
    }
}

/// DMARC (RFC 7489, RFC 9989).
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Dmarc {
    /// The result.
    pub word: Word,
    /// Domain of the `From` field, lower case; empty when there is not exactly one.
    pub domain: String,
    /// Published policy: `none`, `quarantine`, `reject`; empty when there is none.
    pub policy: String,
    /// Why it is no pass, a few words; may be empty.
    pub reason: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Verdicts {
    /// SPF.
    pub spf: Spf,
    /// DKIM, in the order of the signatures, at most [`DKIM_SIGNATURES_MAX`].
    pub dkim: Vec<Dkim>,
    /// DMARC.
    pub dmarc: Dmarc,
    /// The ARC chain as a whole (RFC 8617).
    pub arc: Word,
}

impl Verdicts {
    /// DKIM in one word: that of the best signature.
    #[must_use]
    pub fn dkim_word(&self) -> Word {
        let order = [Word::Pass, Word::TempError, Word::Policy, Word::Fail, Word::PermError, Word::Neutral];
        let best = order.into_iter().find(|word| self.dkim.iter().any(|dkim| dkim.word == *word));
        best.unwrap_or_default()
    }

    /// Results of SPF, DKIM and DMARC, for the log.
    #[must_use]
    pub fn words3(&self) -> [&'static str; 3] {
        [self.spf.word, self.dkim_word(), self.dmarc.word].map(Word::as_str)
    }

    /// Method and result of each check, as `Authentication-Results` has them.
    pub fn words(&self) -> impl Iterator<Item = (&'static str, Word)> {
        [("spf", self.spf.word), ("dkim", self.dkim_word()), ("dmarc", self.dmarc.word), ("arc", self.arc)]
            .into_iter()
    }
}
