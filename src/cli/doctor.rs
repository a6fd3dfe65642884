//! `waystation doctor`: looks at everything a relay leans on, one line each with advice.
//!
//! Promises: changes nothing (one small file is written into the data directory and removed, and free ports are listened on
//! for a moment); all of it ends within [`DEADLINE`]; checks run beside one another. How what was measured is judged is in
//! `doctor/judge`, and PURE.

pub(super) mod finding;
pub(super) mod judge;
pub(super) mod measure;
pub(super) mod probe;
mod relay;

use std::path::Path;
use std::time::Duration;

use spool::ids::WallMs;

use super::check::remarks::{self, Weight};
use super::dns::{self, Described, Egress, Scope};
use super::{Exit, Global, load};
use crate::clock;
use crate::config::{Config, Tls};
use crate::daemon::records::acme_dir;
use crate::gateway::dial::{self, Endpoint, Trust};
use crate::tls::Installed;
use crate::tls::files::Files;
use finding::{Board, Finding};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    waystation doctor --config /etc/waystation/waystation.toml\n  \
    waystation doctor --no-dns                                 this machine only\n  \
    waystation doctor --json | jq 'select(.level == \"wrong\")'\n\n\
    Works while the relay runs and while it is stopped. The home side has `waystation gateway doctor`.\n\
    Exit codes: 0 nothing is wrong, 1 something is.";

/// How long all checks may take.
const DEADLINE: Duration = Duration::from_secs(90);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look nothing up
    #[arg(long)]
    no_dns: bool,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    egress: Egress,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let file =
        global.config.as_deref().map_or("defaults and environment".to_owned(), |f| f.display().to_string());
    let config = match load::config(global) {
        Ok(config) => config,
        Err(error) => {
            let advice =
                "nothing else can be looked at before that; `waystation check-config` says it at length";
            let bad = Finding::bad("configuration", error.to_string(), advice);
            return finding::print(global, &[bad]);
        }
    };
    let board = Board::default();
    board.add(0, configuration(&config, &file));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let local = async {
        tokio::join!(
            disk(&config, &board),
            async { board.add(30, vec![measure::open_files()]) },
            async {
                let dirs = [config.data_dir.clone(), config.data_dir.join("spool")];
                board.add(31, vec![measure::clock(&dirs).await]);
            },
            relay::examine(&config, &board),
            certificate(&config, &board, args.egress.is_off()),
        );
    };
    let in_time = runtime.block_on(async { tokio::time::timeout(DEADLINE, local).await });
    if in_time.is_err() {
        let advice = "run it again when the machine is less busy, or see which check is missing";
        board.add(90, vec![Finding::warn("time", "not everything could be looked at in time", advice)]);
    }
    // A look-up or a disk that hangs may not keep the command from ending.
    runtime.shutdown_background();
    board.add(80, records(&config, args)?);
    finding::print(global, &board.all())
}

/// Whether it makes sense, and whether its files can be used.
fn configuration(config: &Config, file: &str) -> Vec<Finding> {
    let remarks = remarks::of(config);
    let bad = |weight| remarks.iter().filter(move |remark| remark.weight == weight);
    let mut findings = Vec::new();
    if bad(Weight::Wrong).next().is_none() {
        findings.push(Finding::good("configuration", file));
    } else {
        findings.push(Finding::bad("configuration", file, "`waystation check-config` exits with 2"));
    }
    findings.extend(bad(Weight::Wrong).map(|r| Finding::bad(r.key, r.problem.clone(), r.advice.clone())));
    findings.extend(bad(Weight::Doubtful).map(|r| Finding::warn(r.key, r.problem.clone(), r.advice.clone())));
    let secrets: Vec<_> = bad(Weight::Fine).filter(|r| !r.problem.is_empty()).collect();
    if !secrets.is_empty() {
        let names: Vec<_> = secrets.iter().map(|remark| remark.key).collect();
        findings.push(Finding::good("secrets", format!("private and usable: {}", names.join(", "))));
    }
    findings
}

async fn disk(config: &Config, board: &Board) {
    let (dir, floor) = (config.data_dir.clone(), config.spool.min_free_bytes);
    let measuring =
        tokio::task::spawn_blocking(move || measure::directory("data directory", &dir, Some(floor)));
    board.add(20, measuring.await.unwrap_or_default());
}

async fn certificate(config: &Config, board: &Board, stay_inside: bool) {
    let findings = match &config.tls {
        None => vec![Finding::open("certificate", "none: this relay speaks no TLS itself")],
        Some(Tls::Files { cert, key }) => {
            let files = Files { cert: cert.clone(), key: key.clone() };
            match files.read() {
                // What cannot be read was said with the configuration.
                Err(_) => Vec::new(),
                Ok(pair) => vec![judged(config, pair.installed(), false)],
            }
        }
        Some(Tls::Acme(acme)) => {
            let mut findings = match crate::acme::kept(&acme_dir(&config.data_dir), &acme.directory_url) {
                Ok(Some(pair)) => vec![judged(config, pair.installed(), true)],
                Ok(None) => vec![Finding::warn(
                    "certificate",
                    "none yet",
                    "the running relay orders one: look for relay.acme in its log when it takes longer than minutes",
                )],
                Err(error) => vec![Finding::bad(
                    "certificate",
                    error.to_string(),
                    "the relay orders another when it starts",
                )],
            };
            if !stay_inside {
                findings.push(directory(&acme.directory_url, acme.ca_file.as_deref()).await);
            }
            findings
        }
    };
    board.add(60, findings);
}

/// When the certificate runs out that lies ready to be served; `None`: there is none, or it cannot be read.
fn ready_certificate(config: &Config) -> Option<WallMs> {
    let pair = match config.tls.as_ref()? {
        Tls::Files { cert, key } => Files { cert: cert.clone(), key: key.clone() }.read().ok(),
        Tls::Acme(acme) => crate::acme::kept(&acme_dir(&config.data_dir), &acme.directory_url).ok().flatten(),
    };
    pair.map(|pair| pair.installed().not_after)
}

fn judged(config: &Config, installed: &Installed, renews_itself: bool) -> Finding {
    let lacks = |name: &String| !installed.covers(name);
    let acme_names = match &config.tls {
        Some(Tls::Acme(acme)) => acme.names.clone(),
        Some(Tls::Files { .. }) | None => vec![config.hostname.clone()],
    };
    let policies = crate::daemon::records::site(config).sts.is_some();
    let policy_hosts = config.domains.iter().map(|domain| format!("mta-sts.{domain}"));
    let facts = judge::net::Certificate {
        names: installed.names.clone(),
        lacking: acme_names.into_iter().filter(lacks).collect(),
        wishes: policy_hosts.filter(|_| policies).filter(lacks).collect(),
        not_before_ms: installed.not_before.0,
        not_after_ms: installed.not_after.0,
    };
    judge::net::certificate(&facts, clock::wall().0, renews_itself)
}

/// Whether the ACME server answers.
async fn directory(url: &str, ca_file: Option<&Path>) -> Finding {
    let asking = async {
        let endpoint = Endpoint::http(url).map_err(|error| error.to_string())?;
        let trust = Trust::new(ca_file).map_err(|error| error.to_string())?;
        let stream = dial::open(&endpoint, &trust).await.map_err(|error| error.to_string())?;
        probe::get_over(stream, &endpoint.authority, &endpoint.target, false).await
    };
    let answer = tokio::time::timeout(probe::HTTP_PATIENCE, asking).await;
    let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let advice = "certificates cannot be renewed without it: is HTTPS to the outside open?";
    match answer {
        Ok(answer) if answer.status == 200 => Finding::good("ACME server", format!("{url} answers")),
        Ok(answer) => Finding::warn("ACME server", format!("{url} answers {}", answer.status), advice),
        Err(why) => Finding::warn("ACME server", why, advice),
    }
}

fn records(config: &Config, args: &Args) -> anyhow::Result<Vec<Finding>> {
    if args.no_dns {
        return Ok(vec![Finding::open("DNS", "not looked up")]);
    }
    let Described { site, .. } = dns::describe(config, &args.scope)?;
    if !site.is_named() {
        return Ok(vec![Finding::open("DNS", format!("`{}` is no public name", site.hostname))]);
    }
    let extent = args.egress.extent(config)?;
    Ok(vec![judge::dns(&dns::verdicts(config, &site, &extent, None)?)])
}
