//! `waystation gateway doctor`: looks at everything the home side leans on, one line each with advice.
//!
//! Promises: changes nothing (small files are written into the state directory and the Maildir, and removed); nobody is logged
//! in, so a gateway that runs keeps its session; nothing is delivered anywhere.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::super::doctor::finding::{self, Board, Finding};
use super::super::doctor::{judge, measure, probe};
use super::super::{Exit, Global};
use super::load;
use crate::clock;
use crate::gateway::config::Config;
use crate::gateway::dial::{self, DialError, Endpoint, Trust};
use crate::gateway::keyring::Keyring;
use crate::gateway::{proof, socket, wellknown};
use crate::identity::keyfile;
use crate::records::answers::Greeting;
use crate::records::look::greet;
use crate::secrets;

pub(super) const EXAMPLES: &str = "Examples:\n  \
    waystation gateway doctor\n  \
    waystation gateway doctor --config ~/mail/gateway.toml --json\n\n\
    Works while the gateway runs and while it is stopped; logs nobody in and delivers nothing.\n\
    Exit codes: 0 nothing is wrong, 1 something is.";

/// How long all checks may take.
const DEADLINE: Duration = Duration::from_secs(90);
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest greeting of an LMTP server that is read.
const GREETING_BYTES_MAX: usize = 512;

pub(super) async fn run(global: &Global) -> anyhow::Result<Exit> {
    let config = match load(global) {
        Ok(config) => config,
        Err(error) => {
            let advice = "nothing else can be looked at before that";
            return finding::print(global, &[Finding::bad("configuration", error.to_string(), advice)]);
        }
    };
    let file = global.config.clone().unwrap_or_else(|| PathBuf::from(super::CONFIG_NAME));
    let board = Board::default();
    board.add(0, vec![Finding::good("configuration", file.display().to_string()), key(&config)]);
    let work = async {
        tokio::join!(
            state(&config, &board),
            async { board.add(30, vec![measure::clock(std::slice::from_ref(&config.data_dir)).await]) },
            relay(&config, &board),
            destination(&config, &board),
            home(&config, &board),
        );
    };
    if tokio::time::timeout(DEADLINE, work).await.is_err() {
        let advice = "run it again when the machine is less busy, or see which check is missing";
        board.add(90, vec![Finding::warn("time", "not everything could be looked at in time", advice)]);
    }
    finding::print(global, &board.all())
}

fn key(config: &Config) -> Finding {
    if secrets::is_credential(&config.key_file) && secrets::resolve(&config.key_file).is_err() {
        return Finding::open(
            "key",
            format!("{}: systemd gives it to the service only", config.key_file.display()),
        );
    }
    match keyfile::load(&config.key_file) {
        Ok(key) => Finding::good("key", key.key_text().address(&config.mail_domain)),
        Err(error) => {
            let text = error.to_string();
            let advice = "`waystation gateway bootstrap` makes key and configuration, `waystation keys passport` a key alone";
            let (found, advice) = text.split_once("; ").unwrap_or((&text, advice));
            Finding::bad("key", found, advice)
        }
    }
}

async fn state(config: &Config, board: &Board) {
    let (dir, floor) = (config.data_dir.clone(), config.outbox.min_free_bytes);
    let measuring = tokio::task::spawn_blocking(move || measure::directory("state", &dir, Some(floor)));
    board.add(20, measuring.await.unwrap_or_default());
}

/// The relay: reachable, itself, and of the same time.
async fn relay(config: &Config, board: &Board) {
    let extra = Some(config.extra_ca_file.as_path()).filter(|path| !path.as_os_str().is_empty());
    let (endpoint, trust) = match (Endpoint::relay(&config.relay_url), Trust::new(extra)) {
        (Ok(endpoint), Ok(trust)) => (endpoint, trust),
        (Err(error), _) | (_, Err(error)) => {
            board.add(
                40,
                vec![Finding::bad("relay", error.to_string(), "look at relay_url and extra_ca_file")],
            );
            return;
        }
    };
    let opening = async {
        let stream =
            dial::open(&endpoint, &trust).await.map_err(|error| (advice(&error), error.to_string()))?;
        let now = clock::wall();
        let answer = probe::get_over(stream, &endpoint.authority, "/health", false).await;
        answer.map(|answer| (answer, now)).map_err(|error| ("is it a relay that listens there?", error))
    };
    let opened = tokio::time::timeout(2 * PATIENCE, opening).await;
    let (answer, asked_at) = match opened {
        Ok(Ok(found)) => found,
        Ok(Err((advice, error))) => {
            board.add(40, vec![Finding::bad("relay", error, advice)]);
            return;
        }
        Err(_) => {
            board.add(
                40,
                vec![Finding::bad(
                    "relay",
                    format!("{} does not answer in time", endpoint.host),
                    CONNECT_ADVICE,
                )],
            );
            return;
        }
    };
    let mut findings = Vec::new();
    let health: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let line = if endpoint.tls { "TLS" } else { "without TLS" };
    findings.push(match (answer.status, health["version"].as_str()) {
        (200, Some(version)) => {
            Finding::good("relay", format!("{} answers, {line}, version {version}", endpoint.url))
        }
        (200, None) => Finding::good("relay", format!("{} answers, {line}", endpoint.url)),
        (status, _) => Finding::bad(
            "relay",
            format!("/health answers {status}"),
            "is relay_url the relay's, and is the proxy before it set up?",
        ),
    });
    if !endpoint.tls && !is_inside(&endpoint.host) {
        let advice = "use a relay_url that begins with wss://: everybody on the way can read your mail";
        findings.push(Finding::warn("encryption", format!("none on the way to {}", endpoint.host), advice));
    }
    if let Some(date) = answer.date_ms {
        findings.push(judge::skew(asked_at.0, date));
    }
    findings.extend(about(config, &endpoint, &trust).await);
    board.add(40, findings);
}

const CONNECT_ADVICE: &str = "is the relay up, and does the firewall let this machine out to it?";

fn advice(error: &DialError) -> &'static str {
    match error {
        DialError::Url { .. } | DialError::Trust { .. } => "look at relay_url and extra_ca_file",
        DialError::Connect { .. } => CONNECT_ADVICE,
        DialError::Tls { .. } => {
            "the relay's certificate must be valid for the name in relay_url; for a private authority set extra_ca_file"
        }
    }
}

fn is_inside(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What the relay says about itself, against what is pinned here.
async fn about(config: &Config, endpoint: &Endpoint, trust: &Trust) -> Vec<Finding> {
    let document = match wellknown::fetch(&config.relay_url, trust).await {
        Ok(Some(document)) => document,
        Ok(None) => {
            let found = "the relay publishes none: one of tunnel 1, or a proxy hides /.well-known/waystation";
            return vec![if config.relay_keys.is_empty() {
                Finding::open("relay key", found)
            } else {
                Finding::warn(
                    "relay key",
                    found,
                    "keys are pinned here: let the proxy pass /.well-known/waystation on",
                )
            }];
        }
        Err(error) => {
            return vec![Finding::warn(
                "relay key",
                error.to_string(),
                "what the relay signs cannot be compared",
            )];
        }
    };
    let mut findings = Vec::new();
    let expected =
        if config.relay_name.is_empty() { endpoint.host.as_str() } else { config.relay_name.as_str() };
    findings.push(if proof::host_matches(&document.hostname, expected) {
        Finding::good("relay name", document.hostname.clone())
    } else {
        let advice = format!(
            "logins are refused here: set relay_name = {:?} if that is its right name",
            document.hostname
        );
        Finding::bad("relay name", format!("{} and not {expected}", document.hostname), advice)
    });
    if !document.domains.is_empty() && !document.domains.contains(&config.mail_domain.to_ascii_lowercase()) {
        let found = format!(
            "the relay takes mail for {}, and mail_domain is {}",
            document.domains.join(", "),
            config.mail_domain
        );
        findings.push(Finding::warn("mail domain", found, "set mail_domain to one of the relay's"));
    }
    findings.push(match Keyring::open(&config.data_dir, &config.pins()) {
        Err(error) => Finding::bad("relay key", error.to_string(), "look at [[relay_keys]]"),
        Ok(keyring) => {
            let mut trusted = keyring.trusted();
            let pinned = trusted.len();
            let strangers = trusted
                .accept(&document.keys)
                .into_iter()
                .filter_map(|change| stranger(&change))
                .collect::<Vec<_>>();
            judge::relay_keys(pinned, document.keys.len(), &strangers)
        }
    });
    findings
}

/// What is wrong with an announced key, if anything is.
fn stranger(change: &crate::mail::relay_keys::Change) -> Option<String> {
    use crate::mail::relay_keys::Change;
    match change {
        Change::Succeeded { .. } => None,
        Change::Unknown { key_id, fingerprint } | Change::Conflict { key_id, fingerprint } => {
            Some(format!("{key_id} {fingerprint}"))
        }
    }
}

/// Whether what comes can be stored.
async fn destination(config: &Config, board: &Board) {
    let findings = if let Some(table) = &config.maildir {
        let path = table.path.clone();
        tokio::task::spawn_blocking(move || maildir(&path)).await.unwrap_or_default()
    } else if let Some(table) = &config.lmtp {
        vec![lmtp(&table.address).await]
    } else if let Some(table) = &config.command {
        vec![command(table.argv.first().map_or("", String::as_str))]
    } else if let Some(table) = &config.webhook {
        webhook(config, &table.url, &table.bearer_token_file).await
    } else {
        Vec::new()
    };
    board.add(60, findings);
}

fn maildir(path: &Path) -> Vec<Finding> {
    let tmp = path.join("tmp");
    if !path.exists() {
        return vec![Finding::open(
            "Maildir",
            format!("{} is not there yet; the first start makes it", path.display()),
        )];
    }
    let missing: Vec<_> =
        ["tmp", "new", "cur"].into_iter().filter(|name| !path.join(name).is_dir()).collect();
    if missing.len() == 3 && std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        let found = format!("{} is no Maildir, and not empty", path.display());
        return vec![Finding::warn(
            "Maildir",
            found,
            "tmp, new and cur are made beside what is there: name another directory if that is not meant",
        )];
    }
    if !missing.is_empty() {
        return vec![Finding::open(
            "Maildir",
            format!("{} lacks {}; the first start makes them", path.display(), missing.join(", ")),
        )];
    }
    let synced = measure::sync(&tmp, None);
    let found = format!("{}, {}", path.display(), synced.found);
    vec![Finding { check: "Maildir".to_owned(), found, ..synced }]
}

async fn lmtp(address: &str) -> Finding {
    let greeting = match address.strip_prefix("unix:") {
        Some(path) => greet_unix(Path::new(path)).await,
        None => match tokio::time::timeout(PATIENCE, tokio::net::lookup_host(address)).await {
            Ok(Ok(mut found)) => match found.next() {
                Some(address) => greet(address).await,
                None => Greeting::Unresolved("the name has no address".to_owned()),
            },
            Ok(Err(error)) => Greeting::Unresolved(error.to_string()),
            Err(_) => Greeting::Silent,
        },
    };
    let advice =
        "is the LMTP server running, and may this account connect? mail waits at the relay meanwhile";
    match greeting {
        Greeting::Said(line) if line.starts_with("220") => {
            Finding::good("LMTP", format!("{address}: {line}"))
        }
        Greeting::Said(line) => Finding::bad("LMTP", format!("{address}: {line}"), advice),
        Greeting::Silent => Finding::bad("LMTP", format!("{address} does not answer"), advice),
        Greeting::Failed(why) | Greeting::Unresolved(why) => {
            Finding::bad("LMTP", format!("{address}: {why}"), advice)
        }
    }
}

async fn greet_unix(path: &Path) -> Greeting {
    let talk = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut line = [0; GREETING_BYTES_MAX];
        let n = stream.read(&mut line).await?;
        Ok::<_, std::io::Error>(
            String::from_utf8_lossy(&line[..n]).lines().next().unwrap_or_default().to_owned(),
        )
    };
    match tokio::time::timeout(PATIENCE, talk).await {
        Ok(Ok(line)) => Greeting::Said(line),
        Ok(Err(error)) => Greeting::Failed(error.to_string()),
        Err(_) => Greeting::Silent,
    }
}

fn command(program: &str) -> Finding {
    let path = Path::new(program);
    let found = if program.contains('/') {
        Some(path.to_owned()).filter(|path| path.is_file())
    } else {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&dirs).map(|dir| dir.join(program)).find(|path| path.is_file())
    };
    match found {
        None => Finding::bad(
            "command",
            format!("there is no {program}"),
            "name the program with its whole path in command.argv",
        ),
        Some(path) => {
            let mode = std::fs::metadata(&path).map_or(0, |meta| meta.permissions().mode());
            if mode & 0o111 == 0 {
                let advice = format!("chmod +x {}", path.display());
                Finding::bad(
                    "command",
                    format!("{} is no program, mode {:04o}", path.display(), mode & 0o7777),
                    advice,
                )
            } else {
                Finding::good("command", path.display().to_string())
            }
        }
    }
}

async fn webhook(config: &Config, url: &str, token_file: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !token_file.as_os_str().is_empty()
        && let Err(error) = secrets::read_text(token_file)
    {
        let text = error.to_string();
        let (found, advice) = text.split_once("; ").unwrap_or((&text, "look at webhook.bearer_token_file"));
        findings.push(Finding::bad("webhook token", found, advice));
    }
    let extra = Some(config.extra_ca_file.as_path()).filter(|path| !path.as_os_str().is_empty());
    let opening = async {
        let endpoint = Endpoint::http(url)?;
        dial::open(&endpoint, &Trust::new(extra)?).await
    };
    let advice = "is the service up? mail waits at the relay meanwhile";
    findings.push(match tokio::time::timeout(2 * PATIENCE, opening).await {
        Ok(Ok(_)) => Finding::good("webhook", format!("{url} can be reached")),
        Ok(Err(error)) => Finding::bad("webhook", error.to_string(), advice),
        Err(_) => Finding::bad("webhook", format!("{url} does not answer in time"), advice),
    });
    findings
}

/// The running gateway, and the port for local programs.
async fn home(config: &Config, board: &Board) {
    let asked = tokio::time::timeout(PATIENCE, socket::ask(&config.status_socket)).await;
    let report = asked.ok().and_then(Result::ok);
    let mut findings = Vec::new();
    findings.push(match &report {
        None => Finding::open("gateway", "does not run"),
        Some(report) if report.status.connected_since_ms.is_some() => {
            Finding::good("gateway", "runs and is connected")
        }
        Some(_) => {
            Finding::warn("gateway", "runs and is not connected", "`waystation gateway status` says why")
        }
    });
    if let Ok(address) = config.submission.listen.parse::<std::net::SocketAddr>()
        && address.port() != 0
    {
        let bound = tokio::task::spawn_blocking(move || probe::bound(address)).await;
        if let Ok(bound) = bound {
            let running = report.map(|report| judge::net::Running { what: "gateway", pid: report.pid });
            findings.push(judge::net::port("submission", address, &bound, running));
        }
    }
    board.add(70, findings);
}
