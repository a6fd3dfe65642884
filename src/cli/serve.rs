//! `serve`: runs the relay until a signal. SIGHUP: the certificate files are read again.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Exit, Global, Stop, load, screen};
use crate::config::{Config, LogShape};
use crate::daemon::{self, Daemon, Given};
use crate::observe::{self, LogControl, LogFormat, LogSettings, TraceSettings};

/// Longest wait for a collector of traces at the end.
const TRACES_PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn run(global: &Global) -> anyhow::Result<Exit> {
    let config = load::config(global)?;
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let ended = runtime.block_on(serve(global, &config, &log));
    // A look-up or a read that hangs may not keep a stopped relay from ending.
    runtime.shutdown_background();
    log.flush(TRACES_PATIENCE);
    ended
}

/// Every gateway and every sender costs a descriptor, and the usual soft limit is 1024.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused: fewer gateways fit, and accepting says so when it comes to that.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn serve(global: &Global, config: &Config, log: &LogControl) -> anyhow::Result<Exit> {
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    let given = Given { live: log.live.clone() };
    let daemon = daemon::start(config, given, stop.clone()).await.map_err(|error| {
        // systemd does not start it again then.
        let wrong = error.is_configuration();
        if wrong { Stop::new(Exit::Usage, error.to_string()).into() } else { anyhow::Error::from(error) }
    })?;
    if global.config.is_none() && !global.json {
        let text = introduction(config, &daemon, screen::Paint::new(global.color.on_stdout()));
        // Nobody has to read it.
        let _ = screen::print(&text);
    }
    let tls = daemon.tls.clone();
    let ended = daemon.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            outcome = &mut ended => return Ok(outcome.map(|()| Exit::Done)?),
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if let Some(tls) = &tls {
                    tls.reload();
                }
            }
        }
    }
    stop.cancel();
    tokio::select! {
        outcome = &mut ended => Ok(outcome.map(|()| Exit::Done)?),
        // Asked twice: what is stable is stable, the rest was not answered.
        _ = term.recv() => Ok(Exit::Failed),
        _ = interrupt.recv() => Ok(Exit::Failed),
    }
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
