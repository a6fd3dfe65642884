//! `waystation keys`: makes keys, and prints what belongs to them.
//!
//! Promises: a key file has mode 0600 and is never overwritten; nothing is written when one of the files is there
//! already. What is printed is ready to paste.

mod attestation;
mod passport;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;
use zeroize::Zeroizing;

use super::backend::owner::Owner;
use super::{Exit, Global, Stop, load, screen};
use crate::identity::keyfile;
use crate::mail::address::domain_key;
use crate::mail::outbound::prepare::dkim::keys::{self, NewKey};
use crate::mail::outbound::prepare::dkim::{ed25519_selector, record_name};
use crate::records::zone;

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    waystation keys dkim --dir /etc/waystation --selector 2026a --domain mail.example\n  \
    waystation keys dkim --json | jq -r .value\n  \
    waystation keys token --file /etc/waystation/admin.token\n  \
    waystation keys attestation --show\n  \
    waystation keys passport --domain mail.example";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Make the two keys that sign outgoing mail, and print their DNS records
    #[command(after_help = "Example:\n  \
        waystation keys dkim --dir /etc/waystation --selector 2026a --domain mail.example\n\n\
        Writes an RSA-2048 and an Ed25519 key, PKCS#8 PEM, mode 0600. Existing files are never overwritten:\n\
        to change keys, make new ones with another --selector and publish both until old mail has arrived.")]
    Dkim(Dkim),
    /// Draw a token for the admin API over HTTP
    #[command(after_help = "Examples:\n  \
        waystation keys token --file /etc/waystation/admin.token      mode 0600, never overwritten\n  \
        (umask 077; waystation keys token > admin.token)\n\n\
        Name the file in admin.http_token_file, and send the token as `Authorization: Bearer TOKEN`.")]
    Token(TokenArgs),
    /// Make, show or rotate the key that signs attestations and receipts for gateways
    #[command(after_help = attestation::HELP)]
    Attestation(attestation::Args),
    /// Make the identity key of a gateway, or show what belongs to one
    #[command(after_help = passport::HELP)]
    Passport(passport::Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// Write it into this file, mode 0600, instead of printing it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dkim {
    /// Where the key files go; made when missing [default: DATA_DIR/dkim]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Name of the key pair in DNS; the Ed25519 key gets `-ed25519` behind it
    #[arg(long, value_name = "NAME", default_value = "default")]
    selector: String,
    /// Domain to sign for [default: the first of `domains`]
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Dkim(args) => dkim(global, args),
        Verb::Token(args) => token(global, &args),
        Verb::Attestation(args) => attestation::run(global, &args),
        Verb::Passport(args) => passport::run(global, &args),
    }
}

/// Bytes drawn for a token.
const TOKEN_BYTES: usize = 32;

fn token(global: &Global, args: &TokenArgs) -> anyhow::Result<Exit> {
    let drawn = Zeroizing::new(rand::random::<[u8; TOKEN_BYTES]>());
    let line = Zeroizing::new(format!("{}\n", &*Zeroizing::new(BASE64URL_NOPAD.encode(drawn.as_slice()))));
    match &args.file {
        Some(file) => {
            keyfile::write_new(file, line.as_bytes())?;
            if global.json {
                screen::line(&json!({ "file": file.display().to_string() }))?;
            } else {
                screen::print(&format!("wrote {} (mode 0600)\n", file.display()))?;
            }
        }
        None if global.json => screen::line(&json!({ "token": line.trim_end() }))?,
        None => screen::print(&line)?,
    }
    Ok(Exit::Done)
}

/// One key with its names.
struct Made {
    algorithm: &'static str,
    setting: &'static str,
    file: PathBuf,
    selector: String,
    key: NewKey,
}

fn dkim(global: &Global, args: Dkim) -> anyhow::Result<Exit> {
    let config = load::config(global);
    // Whoever names both a directory and a domain needs no configuration: then one that is wrong is no error.
    let _owner = config.as_ref().ok().map(|config| Owner::of(&config.data_dir));
    let (dir, domain) = match (args.dir, args.domain) {
        (Some(dir), Some(domain)) => (dir, domain),
        (dir, domain) => {
            let config = config?;
            let first = domain.or_else(|| config.domains.first().cloned()).unwrap_or_default();
            (dir.unwrap_or_else(|| config.data_dir.join("dkim")), first)
        }
    };
    let usage = |what: &str, text: &str| Stop::new(Exit::Usage, format!("{what} `{text}` is no domain name"));
    let domain = domain_key(&domain).map_err(|_| usage("--domain", &domain))?;
    let selector = domain_key(&args.selector).map_err(|_| usage("--selector", &args.selector))?;
    let ed_selector = domain_key(&ed25519_selector(&selector)).map_err(|_| usage("--selector", &selector))?;
    let file = |kind: &str| dir.join(format!("dkim-{selector}-{kind}.pem"));
    let files = [file("rsa"), file("ed25519")];
    for file in &files {
        if file.symlink_metadata().is_ok() {
            let message =
                format!("{} exists and is not overwritten; choose another --selector", file.display());
            return Err(Stop::new(Exit::Failed, message).into());
        }
    }
    make_private(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let [rsa, ed25519] = files;
    let made = [
        Made {
            algorithm: "rsa",
            setting: "rsa_key_file",
            file: rsa,
            selector: selector.clone(),
            key: keys::generate_rsa()?,
        },
        Made {
            algorithm: "ed25519",
            setting: "ed25519_key_file",
            file: ed25519,
            selector: ed_selector,
            key: keys::generate_ed25519()?,
        },
    ];
    for one in &made {
        keyfile::write_new(&one.file, one.key.pem.as_bytes())?;
    }
    if global.json { print_json(&made, &domain) } else { print_text(&made, &domain, &selector) }
}

/// Makes a directory that only its owner enters; one that is there stays as it is.
fn make_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn print_json(made: &[Made], domain: &str) -> anyhow::Result<Exit> {
    for one in made {
        screen::line(&json!({
            "algorithm": one.algorithm,
            "file": one.file.display().to_string(),
            "domain": domain,
            "selector": one.selector,
            "name": record_name(&one.selector, domain),
            "type": "TXT",
            "value": one.key.record,
        }))?;
    }
    Ok(Exit::Done)
}

fn print_text(made: &[Made], domain: &str, selector: &str) -> anyhow::Result<Exit> {
    let mut text = String::new();
    for one in made {
        text.push_str(&format!("wrote {} (mode 0600)\n", one.file.display()));
    }
    text.push_str("\nDNS records to publish:\n\n");
    for one in made {
        let name = record_name(&one.selector, domain);
        text.push_str(&format!("{name}. IN TXT {}\n\n", zone::txt(&one.key.record)));
    }
    text.push_str(&format!(
        "Configuration:\n\n[dkim]\nenabled = true\ndomain = \"{domain}\"\nselector = \"{selector}\"\n"
    ));
    for one in made {
        text.push_str(&format!("{} = \"{}\"\n", one.setting, one.file.display()));
    }
    screen::print(&text)?;
    Ok(Exit::Done)
}
