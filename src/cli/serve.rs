//! `serve`: runs the relay until a signal ends it, changes it (SIGHUP) or replaces the process (SIGUSR2).

mod handed;
mod program;
mod steer;

use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{Exit, Global, Stop, load, screen};
use crate::admin::control::Control;
use crate::clock;
use crate::config::{Adjusted, Config, Keys, LogShape};
use crate::daemon::{self, Daemon, Given, StartError};
use crate::observe::{self, LogControl, LogFormat, LogSettings, TraceSettings};
use crate::systemd::{self, Manager, Socket};
use handed::Handed;
use program::Program;
use steer::{Next, Signals, Steer};

/// Longest wait for a collector of traces at the end.
const TRACES_PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait for a service manager that does not read, when a start is broken off.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(1);
/// How long the service manager is asked to wait for a start: recovery reads what the last end left.
const START_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Check everything that a start would need, and end
    #[arg(long, hide = true)]
    probe: bool,
}

/// What was given to this process by whoever started it.
struct Birth {
    sockets: Vec<Socket>,
    handed: Option<Handed>,
    program: std::io::Result<Program>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    if args.probe {
        return probe(global);
    }
    // Before there are other threads: it changes the environment.
    let sockets = systemd::sockets().map_err(|error| Stop::new(Exit::Usage, error.to_string()))?;
    let birth = Birth { sockets, handed: Handed::find(), program: Program::find() };
    let program = birth.program.as_ref().ok().cloned();
    let count = birth.handed.as_ref().map_or(0, |handed| handed.count);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let (config, keys) = load::keys(global)?;
    let log = observe::init_log(&LogSettings {
        format: match config.log.format {
            LogShape::Text => LogFormat::Text,
            LogShape::Json => LogFormat::Json,
        },
        level: config.log.level.clone(),
        color: global.color,
        traces: config.log.otlp_endpoint.clone().map(|endpoint| TraceSettings {
            endpoint,
            sample_percent: config.log.otlp_sample_percent,
            hostname: config.hostname.clone(),
        }),
    })?;
    raise_open_files();
    for field in &config.unused {
        tracing::warn!(event = "relay.config.not_used", field, "this relay has no use for `{field}`");
    }
    for Adjusted { key, problem, used } in &config.adjusted {
        tracing::warn!(event = "relay.config.adjusted", key, problem, used, "{key}: {problem}; {used}");
    }
    let ended = runtime.block_on(serve(global, (config, keys), &log, birth, &mut signals));
    log.flush(TRACES_PATIENCE);
    // Signals are heard for as long as the runtime lives. One that comes in the moment from here to `exec` is lost, and one that
    // comes before the next program listens ends it: to hold them back takes a call that Rust counts as unsafe.
    let called_off = match &ended {
        Ok(Next::Replace(..)) => runtime.block_on(signals.have_ended()),
        Ok(Next::Exit(_)) | Err(_) => None,
    };
    // A look-up or a read that hangs may not keep a stopped relay from ending.
    runtime.shutdown_background();
    match (ended?, program) {
        (Next::Exit(exit), _) => Ok(exit),
        (Next::Replace(..), _) if called_off.is_some() => {
            let signal = called_off;
            tracing::info!(event = "relay.stopped", signal, "stopped in a hand-over: nobody comes after");
            Ok(Exit::Done)
        }
        (Next::Replace(sockets, since_ms), Some(program)) => {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let error = program.replace(sockets, &Handed { count: count + 1, since_ms, version });
            Err(anyhow::Error::from(error).context("the hand-over failed; start the relay again"))
        }
        (Next::Replace(..), None) => Ok(Exit::Failed),
    }
}

/// What the next process of a hand-over would need, without touching anything.
fn probe(global: &Global) -> anyhow::Result<Exit> {
    let config = load::config(global)?;
    daemon::probe(&config).map_err(started)?;
    screen::line(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "can_start": true }))?;
    Ok(Exit::Done)
}

/// Every gateway and every sender costs a descriptor, and the usual soft limit is 1024.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused: fewer gateways fit, and accepting says so when it comes to that.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// systemd does not start it again when it is the configuration that is wrong.
fn started(error: StartError) -> anyhow::Error {
    let wrong = error.is_configuration();
    if wrong { Stop::new(Exit::Usage, error.to_string()).into() } else { anyhow::Error::from(error) }
}

async fn serve(
    global: &Global,
    (config, keys): (Config, Keys),
    log: &LogControl,
    birth: Birth,
    signals: &mut Signals,
) -> anyhow::Result<Next> {
    let Birth { sockets, handed, program } = birth;
    let stop = CancellationToken::new();
    let manager = Manager::find();
    let (control, orders) = Control::new(handed.as_ref().map_or(0, |handed| handed.count));
    let given =
        Given { live: log.live.clone(), sockets, control: Some(control), handed_over: handed.is_some() };
    let starting = daemon::start(&config, given, stop.clone());
    let daemon = tokio::select! {
        begun = manager.patiently(starting, START_MAX) => begun.map_err(started)?,
        signal = signals.end() => {
            // Recovery may be cut short anywhere: the next start does it again.
            tracing::info!(event = "relay.stopped", signal, "stopped by {signal} before the relay had started");
            let _ = tokio::time::timeout(LAST_WORD_PATIENCE, manager.stopping()).await;
            return Ok(Next::Exit(Exit::Done));
        }
    };
    daemon.metrics.operate.loaded(clock::wall().0);
    match &handed {
        Some(handed) => {
            let gap_ms = clock::wall().0.saturating_sub(handed.since_ms);
            daemon.metrics.operate.took_over(handed.count, gap_ms);
            tracing::info!(
                event = "relay.handover.done",
                from = handed.version,
                version = env!("CARGO_PKG_VERSION"),
                count = handed.count,
                gap_ms,
                "took over from version {}: {gap_ms} ms without gateways",
                handed.version
            );
        }
        None if global.config.is_none() && !global.json => {
            let text = introduction(&config, &daemon, screen::Paint::new(global.color.on_stdout()));
            // Nobody has to read it.
            let _ = screen::print(&text);
        }
        None => {}
    }
    manager.ready().await;
    let kept = CancellationToken::new();
    tokio::spawn(manager.clone().keep(daemon.life(), kept.clone()));
    let _kept = kept.drop_guard();
    let steer = Steer::new(global, (&config, keys), log, manager, program, &daemon, stop);
    steer.run(daemon, signals, orders).await
}

/// What a first-time user needs: where it listens, where data lies, and three commands to a first mail.
fn introduction(config: &Config, daemon: &Daemon, paint: screen::Paint) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "waystation".to_owned());
    let domain = config.domains.first().map_or("mail.localhost", String::as_str);
    let smtp = daemon.smtp.first().map_or("no SMTP".to_owned(), ToString::to_string);
    let data_dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let (host, port) = smtp.rsplit_once(':').unwrap_or(("127.0.0.1", "2526"));
    let field = |name: &str, value: &str| format!("  {} {value}\n", paint.dim(&format!("{name:<8}")));
    let mut text = format!("\n{}\n\n", paint.strong("Waystation is running."));
    text.push_str(&field("mail", &format!("smtp://{smtp} for {domain}")));
    text.push_str(&field("gateways", &format!("ws://{}/ws", daemon.http)));
    if let Some(https) = daemon.https {
        text.push_str(&field("", &format!("wss://{}:{}/ws", config.hostname, https.port())));
    }
    text.push_str(&field("status", &format!("http://{}/ready and /metrics", daemon.http)));
    if let Some(token) = daemon::dashboard_token(config, daemon.http) {
        let token = std::path::absolute(&token).unwrap_or(token);
        text.push_str(&field("look", &format!("http://{}/ (token in {})", daemon.http, token.display())));
    }
    text.push_str(&field("data", &data_dir.display().to_string()));
    text.push_str(&format!("\n{}\n", paint.strong("Connect a gateway, in a second terminal:")));
    let http = daemon.http;
    text.push_str(&format!(
        "  {program} gateway bootstrap ws://{http}/ws --dir ./gateway --mail-domain {domain}\n"
    ));
    text.push_str(&format!("  {program} gateway run --config ./gateway/gateway.toml\n"));
    text.push_str(&format!(
        "\n{}\n  bootstrap prints the address; mail waits here while the gateway is away.\n",
        paint.strong("Send it a first mail, in a third:")
    ));
    text.push_str(&format!(
        "  swaks --server {host} --port {port} --from me@example.org --to ADDRESS --header 'Subject: hello'\n  \
         or: python3 -c \"import smtplib; smtplib.SMTP('{host}', {port}).sendmail('me@example.org', \
         'ADDRESS', 'Subject: hello\\n\\nhello')\"\n"
    ));
    text.push_str(&format!(
        "\n{}\n  {program} spool ls     {program} spool explain ID     stop with Ctrl-C\n\n",
        paint.strong("Look at what it holds:")
    ));
    text
}
