//! PURE: what a configuration says that cannot work together, or is hardly what was meant.

use core::net::{IpAddr, SocketAddr};

use super::remarks::Remark;
use crate::config::{Config, MtaSts, Tls};
use crate::mail::address::Mailbox;
use crate::mail::outbound::route::addresses::is_public;
use crate::records::is_at_or_below;
use crate::tls::Installed;
use spool::ids::WallMs;

/// Everything that needs no file; `local`: the addresses of this machine, empty when they are not known.
pub(super) fn of(config: &Config, local: &[IpAddr]) -> Vec<Remark> {
    let mut remarks = conflicts(config);
    remarks.extend(strangers(config, local));
    remarks.extend(reach(config));
    remarks.extend(names(config));
    remarks.extend(acme(config));
    remarks
}

/// Every listener with its key.
fn listeners(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let mut all = vec![("http.listen", config.http.listen)];
    all.extend(config.http.tls_listen.map(|address| ("http.tls_listen", address)));
    if config.smtp.enabled {
        all.extend(config.smtp.listen.iter().map(|address| ("smtp.listen", *address)));
    }
    all.retain(|(_, address)| address.port() != 0);
    all
}

/// Addresses that are in one another's way.
fn conflicts(config: &Config) -> Vec<Remark> {
    let all = listeners(config);
    let mut remarks = Vec::new();
    for (n, (key, address)) in all.iter().enumerate() {
        for (other_key, other) in &all[..n] {
            let wide = |one: &SocketAddr| one.ip().is_unspecified();
            // Beside an IPv4 address, [::] takes IPv6 only.
            let clash = address.port() == other.port()
                && address.is_ipv4() == other.is_ipv4()
                && (address.ip() == other.ip() || wide(address) || wide(other));
            if clash {
                let problem = if address == other {
                    format!("{address} is listened on twice ({other_key})")
                } else {
                    format!("{address} is in the way of {other} ({other_key})")
                };
                remarks.push(Remark::wrong(key, problem, "keep one of them"));
            }
        }
    }
    remarks
}

/// Addresses that are not of this machine.
fn strangers(config: &Config, local: &[IpAddr]) -> Vec<Remark> {
    if local.is_empty() {
        return Vec::new();
    }
    let here =
        |address: &IpAddr| address.is_unspecified() || address.is_loopback() || local.contains(address);
    let mut remarks = Vec::new();
    for (key, address) in listeners(config) {
        if !here(&address.ip()) {
            let problem = format!("{} is no address of this machine", address.ip());
            remarks.push(Remark::doubtful(
                key,
                problem,
                "the relay does not start here; `ip address` lists what there is",
            ));
        }
    }
    for address in &config.delivery.source_addresses {
        if !here(address) {
            let problem = format!("{address} is no address of this machine");
            remarks.push(Remark::doubtful(
                "delivery.source_addresses",
                problem,
                "no mail leaves from here; `ip address` lists what there is",
            ));
        }
    }
    remarks
}

/// Who can reach what.
fn reach(config: &Config) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let public_name = config.hostname.contains('.') && !config.hostname.ends_with(".localhost");
    let loopback = config.smtp.listen.iter().all(|address| address.ip().is_loopback());
    let proxied = config.smtp.proxy_protocol;
    if config.smtp.enabled && public_name && loopback && !proxied {
        let problem = "only this machine can bring mail: every address is loopback";
        remarks.push(Remark::doubtful(
            "smtp.listen",
            problem,
            "write [\"0.0.0.0:25\", \"[::]:25\"], or let systemd open port 25",
        ));
    }
    // [::] alone takes both families.
    let v6_only = config.smtp.listen.iter().all(|a| a.is_ipv6() && !a.ip().is_unspecified());
    if config.smtp.enabled && public_name && v6_only && !loopback {
        let problem = "IPv6 only: most senders have none, or prefer IPv4";
        remarks.push(Remark::doubtful("smtp.listen", problem, "add \"0.0.0.0:25\""));
    }
    if !config.smtp.enabled {
        remarks.push(Remark::doubtful(
            "smtp.enabled",
            "is false: no mail comes in",
            "set it to true unless that is meant",
        ));
    }
    let http = config.http.listen.ip();
    if !http.is_loopback() && config.http.tls_listen.is_none() && !config.http.proxy_protocol {
        let (problem, advice) = if is_public(http) || http.is_unspecified() {
            (
                "gateways connect in the clear: everybody on the way reads their mail",
                "set http.tls_listen and a certificate, or put a proxy with TLS before it and listen on loopback",
            )
        } else {
            (
                "gateways of this network connect in the clear",
                "set http.tls_listen and a certificate when the network is not yours alone",
            )
        };
        remarks.push(Remark::doubtful("http.listen", problem, advice));
    }
    if config.http.trusted_proxies.iter().any(|net| net.prefix_len() == 0) {
        remarks.push(Remark::wrong(
            "http.trusted_proxies",
            "trusts the whole world: whoever connects says where he comes from",
            "name the addresses of your proxies",
        ));
    }
    let delivery = &config.delivery;
    if let Some(smarthost) = &delivery.smarthost {
        let host = smarthost.rsplit_once(':').map_or(smarthost.as_str(), |(host, _)| host);
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        if ip.is_some_and(|ip| !is_public(ip)) && !delivery.allow_private_targets {
            let problem = format!(
                "{smarthost} is not on the public internet, and such targets are refused: all mail fails"
            );
            remarks.push(Remark::wrong(
                "delivery.smarthost",
                problem,
                "set delivery.allow_private_targets = true",
            ));
        }
    }
    if delivery.allow_private_targets && delivery.smarthost.is_none() && public_name {
        let problem = "strangers' MX records can point mail at services inside your network";
        remarks.push(Remark::doubtful(
            "delivery.allow_private_targets",
            problem,
            "set it to false, unless this is a test",
        ));
    }
    if delivery.port != 25 && delivery.smarthost.is_none() {
        let problem = format!("is {}, where no other mail server listens", delivery.port);
        remarks.push(Remark::doubtful("delivery.port", problem, "write 25, unless this is a test"));
    }
    remarks
}

/// Names that do not go together.
fn names(config: &Config) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let local = |name: &str| name == "localhost" || name.ends_with(".localhost");
    if local(&config.hostname) && !config.domains.iter().all(|domain| local(domain)) {
        let problem = format!("is {}, and others refuse mail from a server of that name", config.hostname);
        remarks.push(Remark::doubtful(
            "hostname",
            problem,
            "write the relay's name in DNS, like \"mx.example.org\"",
        ));
    }
    if config.dkim.enabled && !config.domains.iter().any(|domain| is_at_or_below(domain, &config.dkim.domain))
    {
        let problem = format!("{} signs for none of `domains`", config.dkim.domain);
        remarks.push(Remark::doubtful(
            "dkim.domain",
            problem,
            "write the domain that mail is from, or one above it",
        ));
    }
    if let Some(postmaster) = config.postmaster.as_ref().filter(|text| text.contains('@')) {
        match Mailbox::parse(postmaster, true) {
            Err(error) => remarks.push(Remark::wrong(
                "postmaster",
                format!("`{postmaster}`: {error}"),
                "write NAME@DOMAIN, or a key text",
            )),
            Ok(mailbox) if !config.domains.iter().any(|domain| domain == mailbox.domain()) => {
                let problem = format!("{postmaster} is not at one of `domains`, so nobody here gets it");
                remarks.push(Remark::doubtful(
                    "postmaster",
                    problem,
                    "write an address of this relay, or a key text",
                ));
            }
            Ok(_) => {}
        }
    }
    if config.smtp.mta_sts == MtaSts::Enforce && config.tls.is_none() {
        let problem = "is enforce, and there is no certificate: no policy is answered";
        remarks.push(Remark::doubtful(
            "smtp.mta_sts",
            problem,
            "set tls.cert_file and tls.key_file, or tls.acme",
        ));
    }
    remarks
}

/// What the ACME server is told.
fn acme(config: &Config) -> Vec<Remark> {
    let Some(Tls::Acme(acme)) = &config.tls else { return Vec::new() };
    let mut remarks = Vec::new();
    match acme.contact.as_deref() {
        None => remarks.push(Remark::doubtful(
            "tls.acme.contact",
            "is empty: the certificate authority cannot tell you of trouble",
            "write your mail address",
        )),
        Some(contact) => {
            let bare = contact.strip_prefix("mailto:").unwrap_or(contact);
            if bare != contact || Mailbox::parse(bare, false).is_err() {
                let problem = format!("`{contact}` is no mail address, and the server refuses the account");
                remarks.push(Remark::wrong("tls.acme.contact", problem, "write it like \"you@example.org\""));
            }
        }
    }
    if !acme.names.contains(&config.hostname) {
        let problem = format!("lacks {}: gateways and senders that verify do not connect", config.hostname);
        remarks.push(Remark::doubtful("tls.acme.names", problem, "add it"));
    }
    // Also while it is only tried: `dns show` names the host, and `dns check` fetches from it. It is not added by itself, because
    // one name that does not lead here yet fails the whole order.
    if config.smtp.mta_sts != MtaSts::Off {
        let hosts = config.domains.iter().map(|domain| format!("mta-sts.{domain}"));
        let missing: Vec<String> = hosts.filter(|host| !acme.names.contains(host)).collect();
        if let Some(first) = missing.first() {
            let problem = format!("lacks {first}: senders cannot fetch the MTA-STS policy");
            let own = Some(&config.hostname).filter(|name| !acme.names.contains(name));
            let all = own.into_iter().chain(&acme.names).chain(&missing);
            let all: Vec<_> = all.map(|name| format!("\"{name}\"")).collect();
            let advice = format!(
                "write names = [{}] when each of them leads here, or smtp.mta_sts = \"off\"",
                all.join(", ")
            );
            remarks.push(Remark::doubtful("tls.acme.names", problem, advice));
        }
    }
    remarks
}

/// What is to be said of a certificate that can be used.
pub(super) fn certificate(config: &Config, installed: &Installed, now: WallMs) -> Vec<Remark> {
    let mut remarks = Vec::new();
    if !installed.covers(&config.hostname) {
        let problem =
            format!("the certificate is for {}, and not for {}", installed.names.join(", "), config.hostname);
        remarks.push(Remark::doubtful(
            "tls.cert_file",
            problem,
            "get one with `hostname` in it: gateways and senders that verify do not connect",
        ));
    }
    if installed.not_after <= now {
        remarks.push(Remark::doubtful("tls.cert_file", "the certificate has run out", "renew it"));
    } else if installed.not_before > now {
        remarks.push(Remark::doubtful(
            "tls.cert_file",
            "the certificate is not valid yet",
            "is the clock right?",
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::super::remarks::Weight;
    use super::*;
    use crate::config::Sources;

    fn remarks(text: &str) -> Vec<Remark> {
        let config = Config::load(&Sources { file: Some(("x.toml", text)), ..Sources::default() });
        of(&config.unwrap_or_else(|errors| panic!("{errors}")), &["9.9.9.25".parse().unwrap()])
    }

    #[track_caller]
    fn expect(text: &str, key: &str, weight: Weight, words: &str) {
        let remarks = remarks(text);
        let found = remarks.iter().find(|r| r.key == key && r.problem.contains(words));
        let found = found.unwrap_or_else(|| panic!("no {key}: {words} in {remarks:#?}"));
        assert_eq!(found.weight, weight, "{found:?}");
        assert!(!found.advice.is_empty(), "{found:?}");
    }

    #[test]
    fn the_defaults_and_a_usual_relay_need_no_remark() {
        assert_eq!(remarks(""), []);
        let usual = "hostname = \"mx.our.example\"\ndomains = [\"our.example\"]\npostmaster = \"me@our.example\"\n\
                     [smtp]\nlisten = [\"0.0.0.0:25\", \"[::]:25\"]\n[http]\nlisten = \"127.0.0.1:8080\"\n\
                     [delivery]\nsource_addresses = [\"9.9.9.25\"]\n";
        assert_eq!(remarks(usual), []);
    }

    #[test]
    fn addresses_that_clash_are_wrong() {
        use Weight::{Doubtful, Wrong};
        let listen =
            |smtp: &str, http: &str| format!("[smtp]\nlisten = {smtp}\n[http]\nlisten = \"{http}\"\n");
        expect(
            &listen("[\"127.0.0.1:25\", \"127.0.0.1:25\"]", "127.0.0.1:80"),
            "smtp.listen",
            Wrong,
            "twice",
        );
        expect(
            &listen("[\"127.0.0.1:25\", \"0.0.0.0:25\"]", "127.0.0.1:80"),
            "smtp.listen",
            Wrong,
            "in the way",
        );
        expect(&listen("[\"[::1]:25\", \"[::]:25\"]", "127.0.0.1:80"), "smtp.listen", Wrong, "in the way");
        expect(&listen("[\"127.0.0.1:80\"]", "127.0.0.1:80"), "smtp.listen", Wrong, "http.listen");
        expect(
            &listen("[\"9.9.9.26:25\"]", "127.0.0.1:80"),
            "smtp.listen",
            Doubtful,
            "no address of this machine",
        );
        assert_eq!(remarks(&listen("[\"0.0.0.0:25\", \"[::]:25\"]", "127.0.0.1:80")), []);
        let apart = listen("[\"127.0.0.1:25\", \"[::1]:25\", \"127.0.0.2:25\"]", "127.0.0.1:80");
        assert_eq!(remarks(&apart), []);
        assert_eq!(
            remarks(&listen("[\"127.0.0.1:0\", \"127.0.0.1:0\"]", "127.0.0.1:0")),
            [],
            "any port is none"
        );
    }

    #[test]
    fn what_hardly_can_be_meant_is_doubted() {
        use Weight::{Doubtful, Wrong};
        let named = "hostname = \"mx.our.example\"\ndomains = [\"our.example\"]\n";
        expect(named, "smtp.listen", Doubtful, "only this machine");
        expect(
            &format!("{named}[smtp]\nlisten = [\"[2001:db8::5]:25\"]\n"),
            "smtp.listen",
            Doubtful,
            "IPv6 only",
        );
        expect("domains = [\"our.example\"]", "hostname", Doubtful, "localhost");
        expect("postmaster = \"a@else.example\"", "postmaster", Doubtful, "not at one of");
        expect("postmaster = \"a b@x\"", "postmaster", Wrong, "a b@x");
        expect("[smtp]\nenabled = false", "smtp.enabled", Doubtful, "no mail comes in");
        expect("[smtp]\nmta_sts = \"enforce\"", "smtp.mta_sts", Doubtful, "no certificate");
        expect("[http]\nlisten = \"0.0.0.0:80\"", "http.listen", Doubtful, "in the clear");
        expect("[http]\nlisten = \"10.0.0.1:80\"", "http.listen", Doubtful, "of this network");
        expect("[http]\ntrusted_proxies = [\"0.0.0.0/0\"]", "http.trusted_proxies", Wrong, "whole world");
        expect("[delivery]\nsmarthost = \"10.0.0.1:25\"", "delivery.smarthost", Wrong, "all mail fails");
        expect("[delivery]\nport = 2525", "delivery.port", Doubtful, "2525");
        expect(
            "[delivery]\nsource_addresses = [\"9.9.9.1\"]",
            "delivery.source_addresses",
            Doubtful,
            "9.9.9.1",
        );
        let open = format!("{named}[delivery]\nallow_private_targets = true\n");
        expect(&open, "delivery.allow_private_targets", Doubtful, "inside your network");
        let signed = "[dkim]\nenabled = true\nrsa_key_file = \"x\"\ndomain = \"else.example\"\n";
        expect(signed, "dkim.domain", Doubtful, "none of `domains`");
    }

    #[test]
    fn an_acme_account_has_somebody_to_write_to() {
        use Weight::{Doubtful, Wrong};
        let acme = |more: &str| {
            format!(
                "hostname = \"mx.our.example\"\ndomains = [\"our.example\"]\n[smtp]\nmta_sts = \"enforce\"\n[tls.acme]\nenabled = true\n{more}"
            )
        };
        expect(&acme(""), "tls.acme.contact", Doubtful, "is empty");
        expect(&acme("contact = \"mailto:me@our.example\""), "tls.acme.contact", Wrong, "no mail address");
        expect(&acme("contact = \"me\""), "tls.acme.contact", Wrong, "no mail address");
        expect(&acme("names = [\"other.our.example\"]"), "tls.acme.names", Doubtful, "lacks mx.our.example");
        expect(&acme(""), "tls.acme.names", Doubtful, "mta-sts.our.example");
        let whole =
            acme("contact = \"me@our.example\"\nnames = [\"mx.our.example\", \"mta-sts.our.example\"]");
        assert!(remarks(&whole).iter().all(|remark| !remark.key.starts_with("tls.")));
    }

    #[test]
    fn a_policy_has_its_host_in_the_certificate_also_while_it_is_tried() {
        let acme = |mode: &str, names: &str| {
            format!(
                "hostname = \"mx.our.example\"\ndomains = [\"our.example\", \"also.example\"]\n{mode}\
                 [tls.acme]\nenabled = true\ncontact = \"me@our.example\"\n{names}"
            )
        };
        for mode in ["", "[smtp]\nmta_sts = \"testing\"\n", "[smtp]\nmta_sts = \"enforce\"\n"] {
            expect(&acme(mode, ""), "tls.acme.names", Weight::Doubtful, "lacks mta-sts.our.example");
        }
        let one = "names = [\"mx.our.example\", \"mta-sts.our.example\"]\n";
        expect(&acme("", one), "tls.acme.names", Weight::Doubtful, "lacks mta-sts.also.example");
        let said = remarks(&acme("", one));
        let advised = "names = [\"mx.our.example\", \"mta-sts.our.example\", \"mta-sts.also.example\"]";
        assert!(said.iter().any(|remark| remark.advice.contains(advised)), "{said:#?}");
        for fine in [acme("", &format!("{advised}\n")), acme("[smtp]\nmta_sts = \"off\"\n", "")] {
            let said = remarks(&fine);
            assert!(said.iter().all(|remark| remark.key != "tls.acme.names"), "{said:#?}");
        }
    }
}
