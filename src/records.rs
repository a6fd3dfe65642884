//! The DNS records that a relay needs: which they are, and whether the world sees them.
//!
//! [`wanted`] makes the list from what the relay is ([`Site`]), [`zone`] writes it down ready to paste, [`judge`] turns
//! the answers of the DNS into one verdict per record. All of that is PURE; [`look`] asks the questions that a judgement
//! leaves open, [`desk`] remembers the outcome for the admin API, [`machine`] knows the addresses of this machine.
//!
//! Promises: what `dns show` prints is what `dns check` is content with; "there is none" and "nobody could say" never
//! share a verdict; every check ends within a deadline, with bounded questions.
//! Failure policy: a question without an answer makes its record unknown, never wrong.

pub mod answers;
pub mod desk;
pub mod judge;
pub mod look;
pub mod machine;
pub mod spf;
pub mod wanted;
pub mod zone;

use core::net::IpAddr;

/// Most domains that one check looks at.
pub const DOMAINS_MAX: usize = 50;
/// Most addresses of this machine that one check looks at.
pub const ADDRESSES_MAX: usize = 16;

/// Everything of the relay that its DNS records depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The relay's name, A-labels, lower case.
    pub hostname: String,
    /// Domains it takes mail for, in the same form.
    pub domains: Vec<String>,
    /// Where mail comes to and leaves from; empty when that is not known.
    pub addresses: Vec<IpAddr>,
    /// The operator named the addresses; this machine may not know them, behind a translating router.
    pub addresses_given: bool,
    /// Every address of this machine.
    pub local: Vec<IpAddr>,
    /// What outgoing mail is signed with; `None`: nothing is signed.
    pub dkim: Option<Dkim>,
    /// `host:port` that takes all outgoing mail.
    pub smarthost: Option<String>,
    /// STARTTLS is offered.
    pub tls: bool,
    /// The MTA-STS policy the relay serves; `None`: none.
    pub sts: Option<StsMode>,
    /// What a CAA record must name, when certificates come by ACME from an issuer that is known.
    pub issuer: Option<String>,
    /// Names that certificates are asked for, by ACME.
    pub certificate_names: Vec<String>,
    /// SHA-256 of the public key in the certificate that is served.
    pub certificate_key: Option<[u8; 32]>,
    /// TLSA records are wanted.
    pub dane: bool,
    /// Block lists that are asked about us.
    pub dnsbl_zones: Vec<String>,
    /// Loopback and private addresses are as good as others: tests, and networks of one's own.
    pub allow_private: bool,
}

/// `[dkim]`, with the records of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dkim {
    /// Signing domain.
    pub domain: String,
    /// The keys; empty when they could not be read.
    pub keys: Vec<DkimKey>,
}

/// One public key.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DkimKey {
    /// `rsa` or `ed25519`.
    pub algorithm: String,
    /// Name of the record.
    pub selector: String,
    /// The TXT record.
    pub record: String,
}

/// How strictly senders shall take the MTA-STS policy (RFC 8461 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsMode {
    /// Report only.
    Testing,
    /// No TLS, no delivery.
    Enforce,
}

impl StsMode {
    /// As in the policy.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Testing => "testing",
            Self::Enforce => "enforce",
        }
    }
}

impl Site {
    /// Whether the relay has a name that the DNS could know.
    #[must_use]
    pub fn is_named(&self) -> bool {
        let public = |name: &str| name.contains('.') && !name.ends_with(".localhost");
        public(&self.hostname) && self.domains.iter().all(|domain| public(domain))
    }

    /// Whether an address is of this machine, as far as is known.
    #[must_use]
    pub fn is_ours(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.local.contains(&address)
    }

    /// What signs for a domain: for the signing domain and all below it.
    #[must_use]
    pub fn dkim_for(&self, domain: &str) -> Option<&Dkim> {
        self.dkim.as_ref().filter(|dkim| is_at_or_below(domain, &dkim.domain))
    }
}

/// Whether a name is another one, or lies below it.
#[must_use]
pub fn is_at_or_below(name: &str, top: &str) -> bool {
    name.strip_suffix(top).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
