//! `waystation keys attestation`: the relay's signing key.
//!
//! Promises: no key file is ever overwritten; a rotation goes through the running relay, or into its directory when none
//! runs. What gateways need is printed ready to paste.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::super::backend::owner::Owner;
use super::super::backend::{ask_stop, runtime, signer, stop};
use super::super::{Exit, Global, Stop, load, screen};
use super::make_private;
use crate::admin::client::Client;
use crate::admin::keys;
use crate::clock;
use crate::config::Config;
use crate::identity::key::KeyText;
use crate::identity::keyfile;
use crate::mail::relay_keys::{fingerprint, key_base64};
use crate::mail::signer::Signer;
use crate::mail::signer::store::Store;

pub(super) const HELP: &str = "Examples:\n  \
    waystation keys attestation --show\n  \
    waystation keys attestation --rotate\n  \
    waystation keys attestation --out /etc/waystation/attestation.key\n\n\
    The relay makes its key on the first start; --out makes one to be named by\n\
    `attestation.key_file`. Existing files are never overwritten. Beside the key, FILE.pub has the\n\
    public key for gateways that are told by hand.\n\n\
    --rotate makes the next key, endorsed by the current one. It is announced at once and signs after\n\
    `attestation.overlap_seconds`; the old one is announced for as long again. Gateways that follow\n\
    announcements need nothing; others need the next key among their trusted relays before it signs.\n\
    Nothing is restarted.";

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what"))]
pub(crate) struct Args {
    /// Print the keys, and what a gateway that is told by hand needs
    #[arg(long, group = "what")]
    show: bool,
    /// Make the next key and announce it
    #[arg(long, group = "what")]
    rotate: bool,
    /// Where to make a key [default: attestation.key_file, or DATA_DIR/attestation.key]
    #[arg(long, value_name = "FILE", group = "what")]
    out: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    if !args.show && !args.rotate {
        return make(global, args.out.as_deref());
    }
    let config = load::config(global)?;
    if !config.attestation.enabled {
        return Err(ask_stop(&keys::off()).into());
    }
    let runtime = runtime()?;
    let now = clock::wall();
    let found = match runtime.block_on(Client::find(&config.admin_socket)).map_err(stop)? {
        Some(client) if args.rotate => {
            runtime.block_on(client.post("/attestation/rotate", &json!({}))).map_err(stop)?
        }
        Some(client) => runtime.block_on(client.get("/attestation")).map_err(stop)?,
        None => {
            let _owner = Owner::of(&config.data_dir);
            let signer = opened(&config)?;
            if args.rotate {
                keys::rotate(&signer, now).map_err(|error| ask_stop(&error))?
            } else {
                keys::object(Some(&signer), now)
            }
        }
    };
    if global.json {
        screen::line(&found)?
    } else {
        screen::print(&text(&found, args.rotate))?
    }
    Ok(Exit::Done)
}

fn opened(config: &Config) -> anyhow::Result<std::sync::Arc<Signer>> {
    signer(config)?.ok_or_else(|| ask_stop(&keys::off()).into())
}

/// Makes a key file, and a file with its public key beside it.
fn make(global: &Global, out: Option<&Path>) -> anyhow::Result<Exit> {
    let config = load::config(global)?;
    let _owner = Owner::of(&config.data_dir);
    let given = &config.attestation;
    let store = Store::new(&config.data_dir, given.key_file.as_deref(), &given.key_id);
    let file = out.map_or_else(|| store.first_file(), Path::to_owned);
    let mut public = file.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    for file in [&file, &public] {
        if file.symlink_metadata().is_ok() {
            let message = format!(
                "{} exists and is not overwritten; --show prints the key, --rotate makes the next one",
                file.display()
            );
            return Err(Stop::new(Exit::Failed, message).into());
        }
    }
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        make_private(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let key = keyfile::generate();
    keyfile::save_new(&file, &key)?;
    let text = key.key_text();
    keyfile::write_new(&public, text.to_spki_pem().as_bytes())?;
    if global.json {
        screen::line(&json!({
            "file": file.display().to_string(),
            "public_file": public.display().to_string(),
            "key_id": given.key_id,
            "public_key": key_base64(&text),
            "public_key_pem": text.to_spki_pem(),
            "fingerprint": fingerprint(&text),
        }))?;
    } else {
        screen::print(&made(&config, &file, &public, &text))?;
    }
    Ok(Exit::Done)
}

fn made(config: &Config, file: &Path, public: &Path, key: &KeyText) -> String {
    let mut text = format!(
        "wrote {} (mode 0600)\nwrote {}\n\nkey id       {}\npublic key   {}\nfingerprint  {}\n",
        file.display(),
        public.display(),
        config.attestation.key_id,
        key_base64(key),
        fingerprint(key),
    );
    if *file != Store::new(&config.data_dir, config.attestation.key_file.as_deref(), "").first_file() {
        text.push_str(&format!("\nConfiguration:\n\n[attestation]\nkey_file = \"{}\"\n", file.display()));
    }
    text
}

/// The keys for a person, and the lines of an unmodified gateway's `configs/security.json`.
fn text(found: &Value, rotated: bool) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    let mut trusted = Vec::new();
    for key in found["keys"].as_array().into_iter().flatten() {
        let mut status = word(&key["status"]);
        match (status.as_str(), &key["signs_from"], &key["announced_until"]) {
            ("next", Value::String(from), _) => status.push_str(&format!(", signs from {from}")),
            (_, _, Value::String(until)) => status.push_str(&format!(", announced until {until}")),
            _ => {}
        }
        text.push_str(&format!("key id       {} ({status})\n", word(&key["key_id"])));
        text.push_str(&format!("public key   {}\n", word(&key["public_key"])));
        text.push_str(&format!("fingerprint  {}\n", word(&key["fingerprint"])));
        if let Value::String(by) = &key["endorsed_by"] {
            text.push_str(&format!("endorsed by  {by}\n"));
        }
        text.push('\n');
        trusted.push(json!({ "key_id": key["key_id"], "public_key_pem": key["public_key_pem"] }));
    }
    if rotated {
        text.push_str("Gateways that are told by hand need the next key before it signs.\n");
    }
    text.push_str("For gateways that are told by hand, in `gateway_auth` of configs/security.json:\n\n");
    let trusted = json!({ "trusted_relays": trusted });
    text.push_str(&format!("{}\n", serde_json::to_string_pretty(&trusted).unwrap_or_default()));
    text
}
