//! What was found out about the sender of a message, as values (RFC 8601 §2.7).
//!
//! Promises: a check that was not made or did not get its answers says so; it never counts as failed. Nothing here
//! looks anything up.

/// Most DKIM signatures of one message that are looked at.
pub const DKIM_SIGNATURES_MAX: usize = 10;

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
