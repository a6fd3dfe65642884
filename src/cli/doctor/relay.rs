//! Driver: the relay itself: is it there, does it answer, how is its spool.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use spool::Spool;
use spool::disk::real::RealDisk;
use spool::error::SpoolError;
use spool::types::State;

use super::super::backend::owner::Owner;
use super::finding::{Board, Finding};
use super::judge::{self, net};
use super::probe;
use crate::admin::client::{Client, ClientError};
use crate::admin::words::rfc3339;
use crate::clock;
use crate::config::Config;
use crate::daemon::ledger;
use crate::mail::outbound::delivery::switch::Switch;
use crate::records::answers::Greeting;
use crate::records::look::greet;

/// How long the relay may take for one answer on its socket.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long the spool of a stopped relay is read; a large one takes longer, and `spool verify` reads all of it.
const SPOOL_PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn examine(config: &Config, board: &Board) {
    let client = match Client::find(&config.admin_socket).await {
        Ok(client) => client,
        Err(error) => {
            let advice = "ask as the account that the relay runs as, or as root";
            board.add(40, vec![Finding::bad("relay", error.to_string(), advice)]);
            return;
        }
    };
    board.add(40, vec![socket(config, client.is_some())]);
    let relay = match &client {
        Some(client) => {
            board.add(70, running(config, client).await);
            Some(process(client).await)
        }
        None => {
            board.add(70, stopped(config).await);
            None
        }
    };
    board.add(50, ports(config, relay).await);
}

/// The admin socket.
fn socket(config: &Config, runs: bool) -> Finding {
    let path = config.admin_socket.display();
    match (std::fs::symlink_metadata(&config.admin_socket), runs) {
        (Ok(meta), _) if !meta.file_type().is_socket() => Finding::bad(
            "relay",
            format!("{path} is no socket"),
            "remove it, or name another with admin.socket",
        ),
        (Ok(meta), true) if meta.mode() & 0o077 != 0 => {
            let found = format!("runs, admin socket {path}, mode {:04o}", meta.mode() & 0o7777);
            Finding::bad("relay", found, format!("whoever opens it is the operator: chmod 600 {path}"))
        }
        (Ok(_), true) => Finding::good("relay", format!("runs, admin socket {path}")),
        (Ok(_) | Err(_), false) => Finding::open("relay", "does not run"),
        (Err(error), true) => Finding::open("relay", format!("runs; {path}: {error}")),
    }
}

/// Everything the running relay says about itself.
async fn running(config: &Config, client: &Client) -> Vec<Finding> {
    let mut findings = Vec::new();
    let http = probe::own(config.http.listen);
    if !config.http.proxy_protocol
        && let Ok(answer) = probe::get(http, "/health", false).await
        && let Ok(health) = serde_json::from_slice::<Value>(&answer.body)
        && let Some(theirs) = health["version"].as_str()
    {
        findings.push(judge::version(env!("CARGO_PKG_VERSION"), theirs));
    }
    let asked = async { tokio::join!(client.get("/overview"), client.get("/spool/stats")) };
    let Ok((overview, stats)) = tokio::time::timeout(ANSWER_PATIENCE, asked).await else {
        let advice = "restart it when that stays so; nothing that was acknowledged is lost";
        findings.push(Finding::bad("ready", "the relay does not answer on its socket", advice));
        return findings;
    };
    let refused = |error: ClientError| Finding::bad("ready", error.to_string(), "look at the relay's log");
    match overview {
        Err(error) => findings.push(refused(error)),
        Ok(overview) => {
            let problems = overview["problems"].as_array().into_iter().flatten();
            let problems: Vec<_> = problems.filter_map(|text| text.as_str().map(str::to_owned)).collect();
            let oldest = overview["oldest_ready_seconds"].as_u64();
            findings.push(judge::readiness(&problems, judge::waiting(&overview), oldest));
            let warnings = overview["warnings"].as_array().into_iter().flatten();
            let warnings: Vec<_> = warnings.filter_map(|text| text.as_str().map(str::to_owned)).collect();
            findings.extend(judge::warnings(&warnings));
            let lies_ready = super::ready_certificate(config).map(rfc3339);
            findings.extend(net::served(overview["certificate_not_after"].as_str(), lies_ready.as_deref()));
            let paused = &overview["deliveries"]["paused"];
            findings.push(judge::deliveries(if paused.is_null() {
                None
            } else {
                Some(paused.as_str().unwrap_or(""))
            }));
        }
    }
    match stats {
        Err(error) => findings.push(refused(error)),
        Ok(stats) => {
            let items = stats["items"]["quarantined"].as_u64().unwrap_or_default();
            let records = stats["quarantined_records"].as_u64().unwrap_or_default();
            findings.push(judge::damage(items, records));
        }
    }
    findings
}

/// What lies in the directory of a relay that does not run.
async fn stopped(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dir = ledger::spool_dir(&config.data_dir);
    if !dir.is_dir() {
        return vec![Finding::open("spool", "there is none yet")];
    }
    let switch = Switch::open(&config.data_dir);
    let paused = switch.reason();
    let options = ledger::options(config);
    // Looking takes the lock, and makes it where there is none: a service of another account could not open that.
    let owner = (!dir.join("LOCK").exists()).then(|| Owner::of(&config.data_dir));
    let opening = tokio::task::spawn_blocking(move || {
        let _owner = owner;
        let (spool, recovery) = Spool::open_read_only(Arc::new(RealDisk::new(dir)), options, clock::wall())?;
        let stats = spool.stats()?;
        Ok::<_, SpoolError>((stats, recovery))
    });
    match tokio::time::timeout(SPOOL_PATIENCE, opening).await {
        Err(_) => {
            findings.push(Finding::open("spool", "it is large; `waystation spool verify` reads all of it"))
        }
        Ok(Ok(Err(SpoolError::Locked))) => {
            let advice = "a relay that is still starting, or another program, has the directory open and does not listen on the admin socket: is admin.socket the one it uses?";
            findings.push(Finding::bad("spool", "in use", advice));
        }
        Ok(Ok(Err(error))) => {
            findings.push(Finding::bad("spool", error.to_string(), "`waystation spool verify` says more; keep a copy of the directory before you repair anything"));
        }
        Ok(Err(error)) => {
            findings.push(Finding::bad("spool", error.to_string(), "`waystation spool verify` says more"))
        }
        Ok(Ok(Ok((stats, recovery)))) => {
            let socket_left = std::fs::symlink_metadata(&config.admin_socket).is_ok();
            findings.push(judge::stopped(socket_left, recovery.torn_bytes));
            let quarantined = State::ALL.iter().position(|state| *state == State::Quarantined);
            let items = quarantined.and_then(|at| stats.items.get(at)).copied().unwrap_or_default();
            let damaged = stats.quarantined_records.max(recovery.damaged.len() as u64);
            findings.push(judge::damage(items, damaged));
        }
    }
    findings.push(judge::deliveries(paused.as_deref()));
    findings
}

/// Which process answers on the admin socket; by its program's name alone it would be a stranger on its own ports
/// whenever somebody calls the program otherwise.
async fn process(client: &Client) -> net::Running {
    let asked = tokio::time::timeout(ANSWER_PATIENCE, client.get("/restart")).await;
    let pid = asked.ok().and_then(Result::ok).and_then(|answer| answer["pid"].as_u64());
    net::Running { what: "relay", pid: pid.and_then(|pid| u32::try_from(pid).ok()) }
}

/// Every listener, and what answers there.
async fn ports(config: &Config, relay: Option<net::Running>) -> Vec<Finding> {
    let mut wanted = vec![("HTTP", config.http.listen)];
    wanted.extend(config.http.tls_listen.map(|address| ("HTTPS", address)));
    if config.smtp.enabled {
        wanted.extend(config.smtp.listen.iter().map(|address| ("SMTP", *address)));
    }
    wanted.retain(|(_, address)| address.port() != 0);
    let looking = tokio::task::spawn_blocking(move || {
        let look = |(what, address)| (what, address, probe::bound(address));
        wanted.into_iter().map(look).collect::<Vec<_>>()
    });
    let mut findings = Vec::new();
    for (what, address, bound) in looking.await.unwrap_or_default() {
        let finding = net::port(what, address, &bound, relay);
        let answers = relay.is_some() && matches!(bound, net::Bound::Taken { .. } | net::Bound::Forbidden);
        findings.push(finding);
        if !answers {
            continue;
        }
        match what {
            "SMTP" if config.smtp.proxy_protocol => {
                findings.push(Finding::open("SMTP answers", "not asked: it wants a PROXY header"));
            }
            "SMTP" => findings.push(match greet(probe::own(address)).await {
                Greeting::Said(line) => net::greeting(Ok(&line), &config.hostname),
                Greeting::Silent => net::greeting(Err("no greeting in time"), &config.hostname),
                Greeting::Failed(why) | Greeting::Unresolved(why) => {
                    net::greeting(Err(&why), &config.hostname)
                }
            }),
            "HTTP" if config.http.proxy_protocol => {
                findings.push(Finding::open("HTTP answers", "not asked: it wants a PROXY header"));
            }
            "HTTP" => {
                let at = probe::own(address);
                let (health, upgrade) =
                    tokio::join!(probe::get(at, "/health", false), probe::get(at, "/ws", true));
                let status = |answer: &Result<probe::Answer, String>| match answer {
                    Ok(answer) => Ok(answer.status),
                    Err(why) => Err(why.clone()),
                };
                let (health, upgrade) = (status(&health), status(&upgrade));
                findings.push(net::http(
                    health.as_ref().map(|status| *status).map_err(String::as_str),
                    upgrade.as_ref().map(|status| *status).map_err(String::as_str),
                ));
            }
            _ => {}
        }
    }
    findings
}
