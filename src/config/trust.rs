//! PURE: the keys of encryption, sender checks and signatures.

use core::net::SocketAddr;

use super::load::Loader;
use super::{Acme, AcmeChallenge, Attestation, Tls, Verify};

/// Directory of the ACME server that is used when none is named.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Longest key name, bytes.
const KEY_ID_BYTES_MAX: usize = 64;

impl Loader {
    /// `http.tls_listen`.
    pub(super) fn tls_listen(&mut self) -> Option<SocketAddr> {
        let text = self.text("http.tls_listen");
        if text.is_empty() { None } else { self.address("http.tls_listen", &text) }
    }

    /// `[tls]`, and what cannot be without it.
    pub(super) fn tls(&mut self, hostname: &str, https: bool) -> Option<Tls> {
        let (cert, key) = (self.path("tls.cert_file"), self.path("tls.key_file"));
        let acme = self.bool("tls.acme.enabled");
        match (cert, key) {
            (Some(_), _) | (_, Some(_)) if acme => {
                self.refuse("tls.acme.enabled", "is true, and there are files too", "remove one of the two");
                None
            }
            (Some(cert), Some(key)) => Some(Tls::Files { cert, key }),
            (Some(_), None) => {
                self.refuse(
                    "tls.cert_file",
                    "is set, but tls.key_file is empty",
                    "name its private key there",
                );
                None
            }
            (None, Some(_)) => {
                self.refuse(
                    "tls.key_file",
                    "is set, but tls.cert_file is empty",
                    "name its certificate there",
                );
                None
            }
            (None, None) if acme => Some(Tls::Acme(self.acme(hostname, https))),
            (None, None) => {
                for (path, on) in
                    [("http.tls_listen", https), ("smtp.require_tls", self.bool("smtp.require_tls"))]
                {
                    if on {
                        self.refuse(
                            path,
                            "needs a certificate",
                            "set tls.cert_file and tls.key_file, or tls.acme",
                        );
                    }
                }
                None
            }
        }
    }

    fn acme(&mut self, hostname: &str, https: bool) -> Acme {
        let url = Some(self.text("tls.acme.directory_url")).filter(|url| !url.is_empty());
        let directory_url = url.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
        if !directory_url.starts_with("https://") {
            self.refuse(
                "tls.acme.directory_url",
                "is no https:// URL",
                "copy it from the ACME server's documentation",
            );
        }
        let named = self.list("tls.acme.names");
        let mut names: Vec<_> = named.iter().map(|name| self.host("tls.acme.names", name)).collect();
        if names.is_empty() {
            names.push(hostname.to_owned());
        }
        let public = |name: &String| {
            // No top-level domain begins with a digit: that would be an address.
            name.rsplit_once('.').is_some_and(|(_, top)| !top.starts_with(|c: char| c.is_ascii_digit()))
        };
        if let Some(name) = names.iter().find(|name| directory_url == LETS_ENCRYPT && !public(name)) {
            let problem = format!("`{name}` is no public name, and gets no certificate");
            self.refuse(
                "tls.acme.enabled",
                problem,
                "set hostname, or tls.acme.names, to the relay's name in DNS",
            );
        }
        let challenge = match self.text("tls.acme.challenge").as_str() {
            "http-01" => AcmeChallenge::Http01,
            "tls-alpn-01" => AcmeChallenge::TlsAlpn01,
            _ if https => AcmeChallenge::TlsAlpn01,
            _ => AcmeChallenge::Http01,
        };
        if challenge == AcmeChallenge::TlsAlpn01 && !https {
            self.refuse("tls.acme.challenge", "tls-alpn-01 needs http.tls_listen", "set it, or use http-01");
        }
        Acme {
            directory_url,
            contact: Some(self.text("tls.acme.contact")).filter(|text| !text.is_empty()),
            names,
            challenge,
            ca_file: self.path("tls.acme.ca_file"),
        }
    }

    /// `[verify]`
    pub(super) fn verify(&mut self) -> Verify {
        let (enabled, refuse_dmarc_reject) =
            (self.bool("verify.enabled"), self.bool("verify.refuse_dmarc_reject"));
        if refuse_dmarc_reject && !enabled {
            self.refuse(
                "verify.refuse_dmarc_reject",
                "is true, but nothing is checked",
                "set verify.enabled = true",
            );
        }
        Verify {
            enabled,
            timeout_ms: self.whole("verify.timeout_ms"),
            refuse_dmarc_reject,
            refuse_null_mx_senders: self.bool("verify.refuse_null_mx_senders"),
        }
    }

    /// `[attestation]`
    pub(super) fn attestation(&mut self) -> Attestation {
        let key_id = self.text("attestation.key_id");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if key_id.is_empty() || key_id.len() > KEY_ID_BYTES_MAX || !key_id.chars().all(plain) {
            let problem = format!("`{key_id}` is no key name");
            self.refuse("attestation.key_id", problem, "use 1 to 64 letters, digits, `-`, `_` and `.`");
        }
        Attestation {
            enabled: self.bool("attestation.enabled"),
            key_id,
            key_file: self.path("attestation.key_file"),
            overlap_seconds: self.whole("attestation.overlap_seconds"),
        }
    }
}
