//! `waystation keys passport`: the identity key of a gateway.
//!
//! Promises: PKCS#8 PEM as the seed's gateways have it in `passport.key`, mode 0600, never overwritten. The secret is never
//! printed; what is printed is what the operator of a relay needs to let the key in.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::super::{Exit, Global, Stop, screen};
use super::make_private;
use crate::gateway::bootstrap::KEY_NAME;
use crate::identity::keyfile::{self, KeyFileError};
use crate::mail::address::domain_key;

pub(super) const HELP: &str = "Examples:\n  \
    waystation keys passport --out /etc/waystation/passport.key --domain mail.example.org\n  \
    waystation keys passport --show --out ~/mail/passport.key\n  \
    waystation keys passport --json | jq -r .key\n\n\
    `gateway bootstrap` makes one by itself; this is for keys that are made elsewhere. An existing file is never\n\
    overwritten. `waystation mailbox allow KEY` on the relay lets the key in.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the key goes
    #[arg(long, value_name = "FILE", default_value = KEY_NAME)]
    out: PathBuf,
    /// Domain of the address, as the relay has it
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Make nothing: print what belongs to the key that is there
    #[arg(long)]
    show: bool,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let domain = match &args.domain {
        None => None,
        Some(text) => Some(
            domain_key(text)
                .map_err(|_| Stop::new(Exit::Usage, format!("--domain `{text}` is no domain name")))?,
        ),
    };
    let file = &args.out;
    let key = if args.show {
        keyfile::load(file)?
    } else {
        if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            make_private(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let key = keyfile::generate();
        keyfile::save_new(file, &key).map_err(|error| match &error {
            KeyFileError::Exists { path } => Stop::new(
                Exit::Failed,
                format!("{} exists and is not overwritten; --show prints what belongs to it", path.display()),
            )
            .into(),
            KeyFileError::Io { .. } | KeyFileError::Secret(_) | KeyFileError::Content { .. } => {
                anyhow::Error::from(error)
            }
        })?;
        key
    };
    let key = key.key_text();
    let address = domain.map(|domain| key.address(&domain));
    if global.json {
        screen::line(&json!({
            "file": file.display().to_string(),
            "made": !args.show,
            "key": key.to_string(),
            "address": address,
            "public_key_pem": key.to_spki_pem(),
        }))?;
        return Ok(Exit::Done);
    }
    let mut text = String::new();
    if !args.show {
        text.push_str(&format!("wrote {} (mode 0600)\n\n", file.display()));
    }
    text.push_str(&format!("key      {key}\n"));
    match address {
        Some(address) => text.push_str(&format!("address  {address}\n")),
        None => text.push_str(&format!("address  {}\n", key.address("DOMAIN"))),
    }
    text.push_str(&format!("\nOn the relay: waystation mailbox allow {key}\n"));
    screen::print(&text)?;
    Ok(Exit::Done)
}
