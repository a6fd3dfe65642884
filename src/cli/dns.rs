//! `waystation dns show | check`: the DNS records this relay needs, and whether the world sees them.
//!
//! Promises: what `show` prints loads into a name server as it is; `check` changes nothing and ends within a minute. Which
//! records, and how they are judged, is in `records`.

mod check;

use std::net::IpAddr;

use serde_json::Value;

use super::backend::runtime;
use super::{Exit, Global, Stop, load, screen};
use crate::admin::client::Client;
use crate::config::Config;
use crate::daemon::records::{certificate_key, dkim_keys, site};
use crate::mail::address::domain_key;
use crate::records::{ADDRESSES_MAX, DOMAINS_MAX, DkimKey, Site, wanted, zone};

pub(crate) use check::{Egress, verdicts};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    waystation dns show --address 203.0.113.25                ready to paste into a zone file\n  \
    waystation dns show --format table                        for a form in a web page\n  \
    waystation dns check --address 203.0.113.25\n  \
    waystation dns check --json | jq 'select(.status != \"ok\")'";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Print every record that is needed
    #[command(after_help = "Examples:\n  \
        waystation dns show --address 203.0.113.25 --address 2001:db8::25 > relay.zone\n  \
        waystation dns show --format table --domain example.org\n  \
        waystation dns show --dane --format json\n\n\
        Zone files get absolute names, so it does not matter into which zone they are pasted. What others must\n\
        set (reverse DNS) and what is not known stands in comments. The MTA-STS policy is at the end.")]
    Show(Show),
    /// Look all of them up, and say what is missing, wrong or risky
    #[command(after_help = "Examples:\n  \
        waystation dns check\n  \
        waystation dns check --address 203.0.113.25 --no-egress\n  \
        waystation dns check --egress mx.example.net:25 --json\n\n\
        Asks delivery.dns_servers, fetches MTA-STS policies over HTTPS, and connects to port 25 of two large\n\
        providers (or to the smarthost) to see whether mail can leave; it sends no mail.\n\
        Exit codes: 0 nothing is missing or wrong, 1 something is, 75 nothing could be learned.")]
    Check(check::Args),
}

/// What the records are about.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Scope {
    /// Public address of the relay; may be given more than once [default: what this machine knows]
    #[arg(long, value_name = "IP")]
    pub(crate) address: Vec<IpAddr>,
    /// This domain only; may be given more than once [default: all of `domains`]
    #[arg(long, value_name = "DOMAIN")]
    domain: Vec<String>,
    /// A TLSA record for the certificate that is served, too
    #[arg(long)]
    dane: bool,
}

/// How to print records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A piece of a zone file
    #[default]
    Zone,
    /// Name, type and value, for a form
    Table,
    /// One object per record
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    scope: Scope,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Show(args) => show(global, &args),
        Verb::Check(args) => check::run(global, &args),
    }
}

fn show(global: &Global, args: &Show) -> anyhow::Result<Exit> {
    let config = load::config(global)?;
    let Described { site, notes } = describe(&config, &args.scope)?;
    if !site.is_named() {
        let message = format!(
            "this relay is `{}` for {}: nobody outside can look that up; set `hostname` and `domains` to public names",
            site.hostname,
            site.domains.join(", ")
        );
        return Err(Stop::new(Exit::Usage, message).into());
    }
    let records = wanted::records(&site);
    let json = global.json || args.format == Format::Json;
    if json {
        for record in &records {
            screen::line(&zone::object(record))?;
        }
    } else if args.format == Format::Table {
        screen::print(&zone::table(&site, &records))?;
    } else {
        screen::print(&zone::file(&site, &records))?;
    }
    for note in notes {
        eprintln!("note: {note}");
    }
    Ok(Exit::Done)
}

/// A site, and what could not be learned of it.
pub(crate) struct Described {
    pub(crate) site: Site,
    /// One sentence each.
    pub(crate) notes: Vec<String>,
}

/// The site that the records are about, with keys and certificate.
pub(crate) fn describe(config: &Config, scope: &Scope) -> anyhow::Result<Described> {
    let mut site = site(config);
    let mut notes = Vec::new();
    if scope.address.len() > ADDRESSES_MAX {
        return Err(Stop::new(Exit::Usage, format!("--address: at most {ADDRESSES_MAX}")).into());
    }
    if !scope.address.is_empty() {
        site.addresses.clone_from(&scope.address);
        site.addresses.dedup();
        site.addresses_given = true;
    }
    if !scope.domain.is_empty() {
        site.domains = scope.domain.iter().map(|text| domain_of(config, text)).collect::<Result<_, _>>()?;
    }
    if site.domains.len() > DOMAINS_MAX {
        notes.push(format!("only the first {DOMAINS_MAX} domains; name others with --domain"));
        site.domains.truncate(DOMAINS_MAX);
    }
    if site.is_named() && site.addresses.is_empty() {
        notes.push("the public address of this machine is not known; name it with --address".to_owned());
    }
    if let Some(dkim) = &mut site.dkim {
        match dkim_keys(config) {
            Ok(keys) => dkim.keys = keys,
            Err((key, error)) => match told_keys(config) {
                Some(keys) => dkim.keys = keys,
                None => notes.push(format!("no DKIM record: `{key}`: {error}")),
            },
        }
    } else {
        notes.push("outgoing mail is not signed: `waystation keys dkim` makes keys".to_owned());
    }
    match certificate_key(config) {
        Ok(key) => site.certificate_key = key,
        Err(why) => notes.push(format!("no TLSA record: {why}")),
    }
    site.dane = scope.dane;
    if scope.dane && config.tls.is_none() {
        notes.push("no TLSA record: this relay serves no TLS".to_owned());
    } else if scope.dane && site.certificate_key.is_none() && notes.is_empty() {
        notes.push("no TLSA record: there is no certificate yet".to_owned());
    }
    Ok(Described { site, notes })
}

fn domain_of(config: &Config, text: &str) -> Result<String, Stop> {
    let usage = |why: String| Stop::new(Exit::Usage, format!("--domain `{text}`: {why}"));
    let domain = domain_key(text).map_err(|error| usage(error.to_string()))?;
    if config.domains.contains(&domain) {
        Ok(domain)
    } else {
        Err(usage(format!("the configuration has {}", config.domains.join(", "))))
    }
}

/// The public keys as the running relay knows them: its key files may be readable for itself only.
fn told_keys(config: &Config) -> Option<Vec<DkimKey>> {
    let runtime = runtime().ok()?;
    let client = runtime.block_on(Client::find(&config.admin_socket)).ok()??;
    let told: Value = runtime.block_on(client.get("/dns/wanted")).ok()?;
    serde_json::from_value(told["dkim"].clone()).ok()
}
