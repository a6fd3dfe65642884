//! PURE: the records a relay needs, from what it is.

use core::net::IpAddr;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::{Dkim, Site, StsMode, is_at_or_below};
use crate::mail::outbound::prepare::dkim::record_name;

/// Preference of our only exchanger.
const MX_PREFERENCE: u16 = 10;
/// How long senders keep a policy that is tried out, seconds: a day.
const TESTING_AGE_SECONDS: u64 = 86_400;
/// How long senders keep a policy in force, seconds: a week.
const ENFORCED_AGE_SECONDS: u64 = 604_800;
/// Hexadecimal digits of a policy's id; the limit is 32 characters.
const STS_ID_CHARS: usize = 16;

/// Types of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias.
    Cname,
    /// Mail exchanger.
    Mx,
    /// Text.
    Txt,
    /// Certificate association.
    Tlsa,
    /// Who may issue certificates.
    Caa,
    /// Name of an address.
    Ptr,
}

impl Kind {
    /// As in a zone file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Tlsa => "TLSA",
            Self::Caa => "CAA",
            Self::Ptr => "PTR",
        }
    }
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the zone of its name.
    Zone,
    /// To whoever gave us the address.
    Provider,
    /// Nowhere yet: its value must be filled in first.
    Unknown,
}

/// One wanted record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner, without the final dot.
    pub name: String,
    /// Type.
    pub kind: Kind,
    /// Value: names in it without the final dot, texts without quotes.
    pub value: String,
    /// Where it goes.
    pub place: Place,
    /// What a person should know.
    pub note: String,
}

impl Record {
    fn new(name: impl Into<String>, kind: Kind, value: impl Into<String>) -> Self {
        Self { name: name.into(), kind, value: value.into(), place: Place::Zone, note: String::new() }
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// All of them: of the host first, then domain by domain, then what others must set.
#[must_use]
pub fn records(site: &Site) -> Vec<Record> {
    let mut all = host(site);
    for domain in &site.domains {
        for record in of_domain(site, domain) {
            // Keys are of the signing domain, and sign for all domains below it.
            if !all.contains(&record) {
                all.push(record);
            }
        }
    }
    all.extend(site.addresses.iter().map(|address| pointer(site, *address)));
    if site.addresses.is_empty() {
        let unknown = Record::new("<address of this machine>", Kind::Ptr, &site.hostname);
        all.push(Record { place: Place::Unknown, ..unknown }.note(pointer_note(site)));
    }
    all
}

fn pointer_note(site: &Site) -> &'static str {
    if site.smarthost.is_some() {
        "not needed while mail leaves through the smarthost"
    } else {
        "set by whoever gave you the address: look for \"reverse DNS\" in the provider's panel"
    }
}

fn host(site: &Site) -> Vec<Record> {
    let name = &site.hostname;
    let mut all: Vec<_> = site.addresses.iter().map(|address| address_record(name, *address)).collect();
    if all.is_empty() {
        let note = "public address unknown: name it with --address";
        for (kind, value) in [(Kind::A, "<IPv4 address>"), (Kind::Aaaa, "<IPv6 address, if there is one>")] {
            all.push(Record { place: Place::Unknown, ..Record::new(name, kind, value) }.note(note));
        }
    }
    if !site.domains.contains(name) {
        all.push(Record::new(name, Kind::Txt, helo_spf()).note("SPF of bounces, which have no sender"));
    }
    if let (true, Some(key)) = (site.dane, &site.certificate_key) {
        let note = "only in a zone signed with DNSSEC; ACME renewals keep the key: publish a new one before it changes";
        all.push(Record::new(tlsa_name(name), Kind::Tlsa, tlsa_value(key)).note(note));
    }
    if let Some(issuer) = &site.issuer {
        let note = "only this authority may issue certificates for the name";
        all.push(Record::new(name, Kind::Caa, caa_value(issuer)).note(note));
    }
    all
}

fn of_domain(site: &Site, domain: &str) -> Vec<Record> {
    let spf = Record::new(domain, Kind::Txt, spf(site));
    let spf = match &site.smarthost {
        Some(_) => spf.note("mail leaves through the smarthost: its operator names the right `include:`"),
        None => spf,
    };
    let mut all = vec![Record::new(domain, Kind::Mx, format!("{MX_PREFERENCE} {}", site.hostname)), spf];
    for (name, record) in dkim(site.dkim_for(domain)) {
        all.push(Record::new(name, Kind::Txt, record));
    }
    all.push(Record::new(format!("_dmarc.{domain}"), Kind::Txt, dmarc(site, domain)));
    if site.sts.is_some() {
        all.push(Record::new(format!("_mta-sts.{domain}"), Kind::Txt, sts_record(site)));
        let host = format!("mta-sts.{domain}");
        let note = format!("the certificate must be valid for {host}, too");
        all.push(Record::new(host, Kind::Cname, &site.hostname).note(note));
        all.push(Record::new(format!("_smtp._tls.{domain}"), Kind::Txt, tls_rpt(domain)));
    }
    all
}

fn address_record(name: &str, address: IpAddr) -> Record {
    let kind = if address.is_ipv4() { Kind::A } else { Kind::Aaaa };
    Record::new(name, kind, address.to_string())
}

fn pointer(site: &Site, address: IpAddr) -> Record {
    let record = Record::new(reverse_name(address), Kind::Ptr, &site.hostname).note(pointer_note(site));
    Record { place: Place::Provider, ..record }
}

/// The name below which an address's names are (RFC 1035 section 3.5, RFC 3596 section 2.5).
#[must_use]
pub fn reverse_name(address: IpAddr) -> String {
    let top = if address.to_canonical().is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
    crate::mail::blocklist::question(address, top)
}

/// The SPF record of a domain: whoever takes its mail sends its mail.
#[must_use]
pub fn spf(site: &Site) -> String {
    let smarthost = site.smarthost.as_deref().and_then(|target| target.rsplit_once(':'));
    match smarthost.map(|(host, _)| host.trim_matches(['[', ']'])) {
        None => "v=spf1 mx -all".to_owned(),
        Some(host) => match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(v4)) => format!("v=spf1 mx ip4:{v4} ~all"),
            Ok(IpAddr::V6(v6)) => format!("v=spf1 mx ip6:{v6} ~all"),
            Err(_) => format!("v=spf1 mx a:{host} ~all"),
        },
    }
}

/// The SPF record of the host's own name.
#[must_use]
pub fn helo_spf() -> String {
    "v=spf1 a -all".to_owned()
}

/// Names and records of the keys.
#[must_use]
pub fn dkim(dkim: Option<&Dkim>) -> Vec<(String, String)> {
    let Some(dkim) = dkim else { return Vec::new() };
    dkim.keys.iter().map(|key| (record_name(&key.selector, &dkim.domain), key.record.clone())).collect()
}

/// The DMARC record of a domain; mail that nobody signed is not asked to be put away.
#[must_use]
pub fn dmarc(site: &Site, domain: &str) -> String {
    let policy = if site.dkim_for(domain).is_some() { "quarantine" } else { "none" };
    format!("v=DMARC1; p={policy}; rua=mailto:postmaster@{domain}")
}

/// Where senders report trouble with TLS (RFC 8460).
#[must_use]
pub fn tls_rpt(domain: &str) -> String {
    format!("v=TLSRPTv1; rua=mailto:postmaster@{domain}")
}

/// The MTA-STS policy file; `None`: the relay serves none.
#[must_use]
pub fn sts_policy(site: &Site) -> Option<String> {
    let mode = site.sts?;
    let age = match mode {
        StsMode::Testing => TESTING_AGE_SECONDS,
        StsMode::Enforce => ENFORCED_AGE_SECONDS,
    };
    let host = &site.hostname;
    Some(format!("version: STSv1\r\nmode: {}\r\nmx: {host}\r\nmax_age: {age}\r\n", mode.word()))
}

/// The record that announces the policy. Its id is a hash of the policy, so that it changes with it.
#[must_use]
pub fn sts_record(site: &Site) -> String {
    let digest = HEXLOWER.encode(&Sha256::digest(sts_policy(site).unwrap_or_default()));
    format!("v=STSv1; id={}", digest.get(..STS_ID_CHARS).unwrap_or_default())
}

/// Where the TLSA records of a mail server are (RFC 7672 section 2.2).
#[must_use]
pub fn tlsa_name(host: &str) -> String {
    format!("_25._tcp.{host}")
}

/// `3 1 1`: this very public key (RFC 7672 section 3.1).
#[must_use]
pub fn tlsa_value(key: &[u8; 32]) -> String {
    format!("3 1 1 {}", HEXLOWER.encode(key))
}

/// Who may issue (RFC 8659).
#[must_use]
pub fn caa_value(issuer: &str) -> String {
    format!("0 issue \"{issuer}\"")
}

/// The name in CAA records of the authority behind an ACME directory, when it is one of the known.
#[must_use]
pub fn issuer(directory_url: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 4] = [
        ("letsencrypt.org", "letsencrypt.org"),
        ("zerossl.com", "sectigo.com"),
        ("pki.goog", "pki.goog"),
        ("buypass.com", "buypass.com"),
    ];
    let rest = directory_url.strip_prefix("https://")?;
    let host = rest.split(['/', ':']).next().unwrap_or(rest);
    KNOWN.iter().find(|(domain, _)| is_at_or_below(host, domain)).map(|(_, issuer)| *issuer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::DkimKey;

    fn site() -> Site {
        Site {
            hostname: "mx.our.example".to_owned(),
            domains: vec!["our.example".to_owned()],
            addresses: vec!["192.0.2.25".parse().unwrap(), "2001:db8::25".parse().unwrap()],
            ..Site::default()
        }
    }

    fn lines(site: &Site) -> Vec<String> {
        let line = |r: &Record| format!("{} {} {}", r.name, r.kind.word(), r.value);
        records(site).iter().map(line).collect()
    }

    #[test]
    fn the_smallest_relay_needs_addresses_mx_spf_dmarc_and_names_of_its_addresses() {
        let nibbles = "5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(
            lines(&site()),
            [
                "mx.our.example A 192.0.2.25",
                "mx.our.example AAAA 2001:db8::25",
                "mx.our.example TXT v=spf1 a -all",
                "our.example MX 10 mx.our.example",
                "our.example TXT v=spf1 mx -all",
                "_dmarc.our.example TXT v=DMARC1; p=none; rua=mailto:postmaster@our.example",
                "25.2.0.192.in-addr.arpa PTR mx.our.example",
                &format!("{nibbles} PTR mx.our.example"),
            ]
        );
    }

    #[test]
    fn everything_else_comes_with_what_needs_it() {
        let key = |algorithm: &str, selector: &str| DkimKey {
            algorithm: algorithm.to_owned(),
            selector: selector.to_owned(),
            record: format!("v=DKIM1; k={algorithm}; p=AAAA"),
        };
        let full = Site {
            dkim: Some(Dkim {
                domain: "our.example".to_owned(),
                keys: vec![key("rsa", "s"), key("ed25519", "s-ed25519")],
            }),
            sts: Some(StsMode::Enforce),
            issuer: Some("ca.example".to_owned()),
            certificate_key: Some([0xab; 32]),
            dane: true,
            ..site()
        };
        let lines = lines(&full);
        for wanted in [
            &format!("_25._tcp.mx.our.example TLSA 3 1 1 {}", "ab".repeat(32)),
            "mx.our.example CAA 0 issue \"ca.example\"",
            "s._domainkey.our.example TXT v=DKIM1; k=rsa; p=AAAA",
            "s-ed25519._domainkey.our.example TXT v=DKIM1; k=ed25519; p=AAAA",
            "_dmarc.our.example TXT v=DMARC1; p=quarantine; rua=mailto:postmaster@our.example",
            "mta-sts.our.example CNAME mx.our.example",
            "_smtp._tls.our.example TXT v=TLSRPTv1; rua=mailto:postmaster@our.example",
        ] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted} is not in {lines:#?}");
        }
        let policy = sts_policy(&full).unwrap();
        assert_eq!(policy, "version: STSv1\r\nmode: enforce\r\nmx: mx.our.example\r\nmax_age: 604800\r\n");
        let id = |site: &Site| {
            crate::mail::outbound::route::mta_sts::announced_id(&[sts_record(site).into_bytes()])
        };
        let other = Site { sts: Some(StsMode::Testing), ..full.clone() };
        assert!(id(&full).is_some() && id(&full) != id(&other), "another policy has another id");
    }

    #[test]
    fn a_key_that_signs_for_several_domains_is_listed_once() {
        let key = DkimKey { algorithm: "rsa".into(), selector: "s".into(), record: "v=DKIM1; p=AAAA".into() };
        for domains in [vec!["our.example", "sub.our.example"], vec!["a.our.example", "b.our.example"]] {
            let several = Site {
                domains: domains.into_iter().map(str::to_owned).collect(),
                dkim: Some(Dkim { domain: "our.example".to_owned(), keys: vec![key.clone()] }),
                sts: Some(StsMode::Enforce),
                ..site()
            };
            let all = records(&several);
            let mut names: Vec<_> =
                all.iter().filter(|r| r.kind == Kind::Txt).map(|r| r.name.as_str()).collect();
            assert!(names.contains(&"s._domainkey.our.example"), "{names:?}");
            let before = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), before, "{names:?}");
        }
    }

    #[test]
    fn through_a_smarthost_nobody_asks_for_the_name_of_our_address() {
        let pointer = |site: &Site| records(site).into_iter().find(|r| r.kind == Kind::Ptr).unwrap().note;
        assert!(pointer(&site()).contains("reverse DNS"));
        let through = Site { smarthost: Some("smtp.isp.example:587".to_owned()), ..site() };
        assert!(pointer(&through).contains("not needed"));
    }

    #[test]
    fn a_relay_that_does_not_know_its_address_says_so_and_guesses_nothing() {
        let unknown = Site { addresses: Vec::new(), ..site() };
        let unknown: Vec<_> =
            records(&unknown).into_iter().filter(|record| record.place == Place::Unknown).collect();
        assert_eq!(unknown.iter().map(|r| r.kind.word()).collect::<Vec<_>>(), ["A", "AAAA", "PTR"]);
    }

    #[test]
    fn a_smarthost_may_send_and_known_authorities_are_named() {
        let through = |target: &str| spf(&Site { smarthost: Some(target.to_owned()), ..site() });
        assert_eq!(through("smtp.isp.example:587"), "v=spf1 mx a:smtp.isp.example ~all");
        assert_eq!(through("[2001:db8::1]:25"), "v=spf1 mx ip6:2001:db8::1 ~all");
        assert_eq!(issuer("https://acme-v02.api.letsencrypt.org/directory"), Some("letsencrypt.org"));
        assert_eq!(issuer("https://acme.zerossl.com/v2/DV90"), Some("sectigo.com"));
        assert_eq!(issuer("https://notletsencrypt.org/"), None);
        assert_eq!(issuer("https://localhost:14000/dir"), None);
    }
}
