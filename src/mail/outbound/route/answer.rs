//! PURE: what the DNS said, told apart as far as mail must (RFC 5321 section 5.1), and why there is no way to a domain.
//!
//! Promise: "there is none" and "we could not learn whether there is one" never share a variant, so that a broken
//! name server cannot turn into a lost message (O4).

/// Answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// At least one record.
    Found(Found<T>),
    /// The name exists, and has no record of this type.
    NoRecords,
    /// The name does not exist.
    NxDomain,
    /// Nothing certain: no answer, SERVFAIL, REFUSED, or DNSSEC says that the answer is forged.
    Temporary(String),
}

/// Records, at least one, and where they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// The records in the order of the answer.
    pub records: Vec<T>,
    /// DNSSEC vouches for every link: aliases and records.
    pub secure: bool,
    /// Name that owns the records, behind all aliases; A-labels, lower case, no final dot.
    pub owner: String,
}

impl<T> Answer<T> {
    /// The records, when there are any.
    #[must_use]
    pub fn found(&self) -> Option<&Found<T>> {
        match self {
            Self::Found(found) => Some(found),
            Self::NoRecords | Self::NxDomain | Self::Temporary(_) => None,
        }
    }

    /// Why nothing is certain.
    #[must_use]
    pub fn temporary(&self) -> Option<&str> {
        match self {
            Self::Temporary(why) => Some(why),
            Self::Found(_) | Self::NoRecords | Self::NxDomain => None,
        }
    }
}

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Lower is better.
    pub preference: u16,
    /// Name as found, without the final dot; empty for the root, which says "no mail" (RFC 7505).
    pub host: String,
}

/// There is no way to the domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Try again later.
    #[error("{text}")]
    Temporary {
        /// One line for a person.
        text: String,
        /// RFC 3463 status, class 4.
        enhanced: &'static str,
    },
    /// Never try again.
    #[error("{text}")]
    Permanent {
        /// One line for a person.
        text: String,
        /// RFC 3463 status, class 5.
        enhanced: &'static str,
    },
}

impl RouteError {
    /// The DNS did not say anything certain about `name` (4.4.3: directory server failure).
    #[must_use]
    pub fn dns(name: &str, why: &str) -> Self {
        Self::Temporary { text: format!("the DNS look-up for {name} failed: {why}"), enhanced: "4.4.3" }
    }

    /// The domain leads back to this relay (L7).
    #[must_use]
    pub fn looped(domain: &str) -> Self {
        Self::Permanent {
            text: format!("mail for {domain} loops back to this relay, which does not host it"),
            enhanced: "5.4.6",
        }
    }

    /// The domain exists, and nothing of it takes mail.
    #[must_use]
    pub fn unroutable(text: String) -> Self {
        Self::Permanent { text, enhanced: "5.4.4" }
    }
}
