//! What the DNS records of this relay depend on, from its configuration.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::acme;
use crate::config::{Config, MtaSts, Tls};
use crate::http::StsPolicy;
use crate::mail::outbound::prepare::dkim::ed25519_selector;
use crate::mail::outbound::prepare::dkim::keys::{self, KeyError};
use crate::mail::outbound::route::addresses::is_public;
use crate::mail::outbound::route::dns::DnsSettings;
use crate::mail::outbound::route::fetch::FetchSettings;
use crate::records::desk::Desk;
use crate::records::look::Settings;
use crate::records::{Dkim, DkimKey, Site, StsMode, machine, wanted};
use crate::tls::Store;
use crate::tls::files::Files;

/// What the configuration says, with addresses as far as this machine knows them. Reads no key: [`dkim_keys`] and
/// [`certificate_key`] do.
#[must_use]
pub fn site(config: &Config) -> Site {
    let acme = match &config.tls {
        Some(Tls::Acme(acme)) => Some(acme),
        Some(Tls::Files { .. }) | None => None,
    };
    Site {
        hostname: config.hostname.clone(),
        domains: config.domains.clone(),
        addresses: addresses(config),
        addresses_given: false,
        local: machine::local(),
        dkim: config.dkim.enabled.then(|| Dkim { domain: config.dkim.domain.clone(), keys: Vec::new() }),
        smarthost: config.delivery.smarthost.clone(),
        tls: config.tls.is_some(),
        sts: config.tls.as_ref().and_then(|_| sts_mode(config.smtp.mta_sts)),
        issuer: acme.and_then(|acme| wanted::issuer(&acme.directory_url)).map(str::to_owned),
        certificate_names: acme.map(|acme| acme.names.clone()).unwrap_or_default(),
        certificate_key: None,
        dane: false,
        dnsbl_zones: config.smtp.dnsbl_zones.clone(),
        allow_private: config.delivery.allow_private_targets,
    }
}

fn sts_mode(word: MtaSts) -> Option<StsMode> {
    match word {
        MtaSts::Off => None,
        MtaSts::Testing => Some(StsMode::Testing),
        MtaSts::Enforce => Some(StsMode::Enforce),
    }
}

/// Public addresses that mail comes to or leaves from: those of the configuration, else those the system chooses.
fn addresses(config: &Config) -> Vec<IpAddr> {
    let public = |address: &IpAddr| is_public(*address);
    let mut known: Vec<IpAddr> = config.delivery.source_addresses.iter().copied().filter(public).collect();
    let listening = config.smtp.listen.iter().map(|address| address.ip()).filter(public);
    let others: Vec<_> = listening.chain(machine::leaving().into_iter().filter(public)).collect();
    for address in others {
        // One of each family: the one that was named first.
        if !known.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            known.push(address);
        }
    }
    known
}

/// The public keys that outgoing mail is signed with.
///
/// # Errors
/// The key of the configuration whose file cannot be used, and why.
pub fn dkim_keys(config: &Config) -> Result<Vec<DkimKey>, (&'static str, KeyError)> {
    let dkim = &config.dkim;
    let mut found = Vec::new();
    if !dkim.enabled {
        return Ok(found);
    }
    if let Some(file) = &dkim.rsa_key_file {
        let key = keys::load_rsa(file).map_err(|error| ("dkim.rsa_key_file", error))?;
        found.push(DkimKey {
            algorithm: "rsa".to_owned(),
            selector: dkim.selector.clone(),
            record: keys::rsa_record(&key.public_key()),
        });
    }
    if let Some(file) = &dkim.ed25519_key_file {
        let key = keys::load_ed25519(file).map_err(|error| ("dkim.ed25519_key_file", error))?;
        found.push(DkimKey {
            algorithm: "ed25519".to_owned(),
            selector: ed25519_selector(&dkim.selector),
            record: keys::ed25519_record(&key),
        });
    }
    Ok(found)
}

/// SHA-256 of the public key in the certificate of the configuration; `None`: there is none yet.
///
/// # Errors
/// Why it cannot be read.
pub fn certificate_key(config: &Config) -> Result<Option<[u8; 32]>, String> {
    let installed = match &config.tls {
        None => return Ok(None),
        Some(Tls::Files { cert, key }) => {
            let files = Files { cert: cert.clone(), key: key.clone() };
            files.read().map_err(|error| error.to_string())?.installed().clone()
        }
        Some(Tls::Acme(acme)) => match acme::kept(&acme_dir(&config.data_dir), &acme.directory_url) {
            Ok(Some(pair)) => pair.installed().clone(),
            Ok(None) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        },
    };
    Ok(installed.key_sha256())
}

/// Where the ACME client keeps its things.
#[must_use]
pub fn acme_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("acme")
}

/// How to ask.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    Settings {
        dns: DnsSettings { servers: config.delivery.dns_servers.clone(), ..DnsSettings::default() },
        fetch: FetchSettings {
            allow_private_targets: config.delivery.allow_private_targets,
            ..FetchSettings::default()
        },
        ..Settings::default()
    }
}

/// The site with its keys. Deliveries have read the same files, or the relay would not run with them.
fn signed_site(config: &Config) -> Site {
    let mut site = site(config);
    if let Some(dkim) = &mut site.dkim {
        dkim.keys = dkim_keys(config).unwrap_or_default();
    }
    site
}

/// What answers `/admin/dns`.
pub(super) fn desk(config: &Config, store: Option<Arc<Store>>) -> Arc<Desk> {
    Arc::new(Desk::new(signed_site(config), settings(config), store))
}

/// The same with a changed configuration. Blocks for key files.
pub(super) fn followed(config: &Config) -> (Site, Settings) {
    (signed_site(config), settings(config))
}

/// The MTA-STS policy, and for whom it is answered.
pub(super) fn sts_policy(config: &Config) -> Option<StsPolicy> {
    let text = wanted::sts_policy(&site(config))?;
    let hosts = config.domains.iter().map(|domain| format!("mta-sts.{domain}")).collect();
    Some(StsPolicy { hosts, text })
}
