//! PURE: `[delivery]` and `[dkim]`, checked.

use core::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::load::Loader;
use super::{Delivery, Dkim, TlsWord};

/// Port of a resolver that is named without one.
const DNS_PORT: u16 = 53;
/// Longest name of a header field, octets; longer ones do not fit a signature's line.
const FIELD_NAME_MAX: usize = 76;

impl Loader {
    pub(super) fn delivery(&mut self) -> Delivery {
        let retry_schedule_seconds = self.wholes("delivery.retry_schedule_seconds");
        if retry_schedule_seconds.is_empty() {
            self.refuse("delivery.retry_schedule_seconds", "is empty", "name at least one wait, like [60]");
        }
        let total = self.size("delivery.max_concurrent_total");
        let each = self.size("delivery.max_concurrent_per_destination");
        Delivery {
            dns_servers: self.dns_servers(),
            dns_probe_seconds: self.whole("delivery.dns_probe_seconds"),
            port: u16::try_from(self.whole("delivery.port")).unwrap_or(25),
            source_addresses: self.source_addresses(),
            smarthost: self.smarthost(),
            retry_schedule_seconds,
            greylist_wait_seconds: self.whole("delivery.greylist_wait_seconds"),
            expire_after_seconds: self.whole("delivery.expire_after_seconds"),
            final_dot_timeout_seconds: self.whole("delivery.final_dot_timeout_seconds"),
            timeouts_percent: self.whole("delivery.timeouts_percent"),
            max_concurrent_total: total,
            max_concurrent_per_destination: each.min(total),
            interval_per_destination_ms: self.whole("delivery.interval_per_destination_ms"),
            allow_private_targets: self.bool("delivery.allow_private_targets"),
            resubmission_window_seconds: self.whole("delivery.resubmission_window_seconds"),
            tls_policy: match self.text("delivery.tls_policy").as_str() {
                "dane+mta-sts" => TlsWord::DaneMtaSts,
                "require" => TlsWord::Require,
                _ => TlsWord::Opportunistic,
            },
            require_tls_domains: self
                .list("delivery.require_tls_domains")
                .iter()
                .map(|text| self.host("delivery.require_tls_domains", text))
                .collect(),
        }
    }

    fn dns_servers(&mut self) -> Vec<SocketAddr> {
        let path = "delivery.dns_servers";
        let mut servers = Vec::new();
        for text in self.list(path) {
            let with_port = text.parse::<SocketAddr>().ok();
            let bare = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
            match with_port.or_else(bare) {
                Some(server) if server.port() != 0 => servers.push(server),
                Some(_) => self.refuse(
                    path,
                    format!("`{text}` has port 0, where nobody can be asked"),
                    "write the port of the resolver, or none: 53 is meant then",
                ),
                None => self.refuse(
                    path,
                    format!("`{text}` is not an address"),
                    "write it like \"127.0.0.1:53\" or \"[::1]:53\"; names cannot be looked up without a resolver",
                ),
            }
        }
        servers
    }

    fn source_addresses(&mut self) -> Vec<IpAddr> {
        let path = "delivery.source_addresses";
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in self.list(path) {
            match text.parse::<IpAddr>() {
                Ok(ip) if addresses.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                    self.refuse(
                        path,
                        format!("`{text}` is a second address of its family"),
                        "name one IPv4 and one IPv6 address at most; greylisting servers want one face",
                    );
                }
                Ok(ip) => addresses.push(ip),
                Err(_) => {
                    self.refuse(path, format!("`{text}` is not an address"), "write it like \"192.0.2.1\"");
                }
            }
        }
        addresses
    }

    fn smarthost(&mut self) -> Option<String> {
        let path = "delivery.smarthost";
        let text = self.text(path);
        if text.is_empty() {
            return None;
        }
        let advice = "write it like \"smtp.example.org:587\" or \"[2001:db8::1]:25\"";
        if text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0) {
            return Some(text);
        }
        match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => {
                let host = self.host(path, host);
                Some(format!("{host}:{port}"))
            }
            Some(_) | None => {
                self.refuse(path, format!("`{text}` is not a host and a port"), advice);
                None
            }
        }
    }

    pub(super) fn dkim(&mut self, first_domain: &str) -> Dkim {
        let enabled = self.bool("dkim.enabled");
        let domain = self.text("dkim.domain");
        let domain =
            if domain.is_empty() { first_domain.to_owned() } else { self.host("dkim.domain", &domain) };
        let selector = self.text("dkim.selector");
        let selector = self.host("dkim.selector", &selector);
        let file = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
        let rsa_key_file = file(self.text("dkim.rsa_key_file"));
        let ed25519_key_file = file(self.text("dkim.ed25519_key_file"));
        if enabled && rsa_key_file.is_none() {
            self.refuse(
                "dkim.enabled",
                "is true, but dkim.rsa_key_file is empty",
                "`waystation keys dkim` makes keys and prints the records; an Ed25519 key alone is not enough, \
                 because many receivers cannot check it",
            );
        }
        let sign_headers = self.field_names("dkim.sign_headers");
        let oversign_headers = self.field_names("dkim.oversign_headers");
        if enabled && !sign_headers.iter().any(|name| name.eq_ignore_ascii_case("from")) {
            self.refuse("dkim.sign_headers", "lacks From", "RFC 6376 section 5.4: From must be signed");
        }
        Dkim { enabled, domain, selector, rsa_key_file, ed25519_key_file, sign_headers, oversign_headers }
    }

    fn field_names(&mut self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for text in self.list(path) {
            let is_name = |b: u8| b.is_ascii_graphic() && b != b':' && b != b';';
            if text.is_empty() || text.len() > FIELD_NAME_MAX || !text.bytes().all(is_name) {
                self.refuse(
                    path,
                    format!("`{text}` is not the name of a header field"),
                    "write it like \"Subject\"",
                );
            } else if !names.iter().any(|name| name.eq_ignore_ascii_case(&text)) {
                names.push(text);
            }
        }
        names
    }
}
