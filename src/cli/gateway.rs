//! `gateway bootstrap | run | status | send | audit`: the home side.

mod audit;
mod doctor;
pub(super) mod send;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backend::owner::Owner;
use super::{Exit, Global, Stop, screen};
use crate::clock;
use crate::gateway::bootstrap::{self, BootstrapError, CONFIG_NAME};
use crate::gateway::config::Config;
use crate::gateway::dial::{self, Endpoint, Trust};
use crate::gateway::keyring::Pin;
use crate::gateway::outbox::{OutboxError, Story};
use crate::gateway::redeem::{self, RedeemError};
use crate::gateway::{ClientError, run, socket, wellknown};
use crate::identity::invite::Code;
use crate::identity::keyfile;
use crate::observe::{self, LogFormat, LogSettings};
use crate::systemd::Manager;

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    waystation gateway bootstrap wss://relay.example.org/ws      a key and gateway.toml, here\n  \
    waystation gateway run                                       connect and deliver into ./Maildir\n  \
    echo hello | waystation gateway send you@example.org         mail out, by way of the relay\n  \
    waystation gateway status\n  \
    waystation gateway doctor                                    what is wrong, if anything is\n  \
    waystation gateway audit                                     do the relay's receipts add up?";

/// How long `bootstrap --check` waits for the relay.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a key and a configuration for a relay, and pin the relay's keys; overwrites nothing
    #[command(after_help = "Examples:\n  \
        waystation gateway bootstrap wss://relay.example.org/ws\n  \
        waystation gateway bootstrap wss://relay.example.org/ws --invite CODE\n  \
        waystation gateway bootstrap ws://127.0.0.1:8080/ws --dir ~/mail --maildir ~/Maildir\n  \
        waystation gateway bootstrap wss://relay.example.org/ws --relay-key relay-1:BASE64\n\n\
        Asks https://HOST/.well-known/waystation for the relay's keys and domain, and nobody else.")]
    Bootstrap(Bootstrap),
    /// Connect to the relay and deliver what comes
    #[command(after_help = "Examples:\n  \
        waystation gateway run\n  \
        waystation gateway run --config ~/mail/gateway.toml")]
    Run,
    /// Show how a running gateway does
    #[command(after_help = "Examples:\n  \
        waystation gateway status\n  \
        waystation gateway status --config ~/mail/gateway.toml --json\n  \
        waystation gateway status 06FQ3Z7K0G2S5Y8V1B4N7D0H3M         what became of one submission\n\n\
        States of a submission: queued (here), accepted (the relay has it), sent, failed, indeterminate.\n\
        Exit code 3 when no gateway runs, or the submission is unknown.")]
    Status(Status),
    /// Check the relay's receipts and the delivered files: gaps, swaps, changes
    #[command(after_help = "Examples:\n  \
        waystation gateway audit\n  \
        waystation gateway audit --maildir ~/Maildir --json\n\n\
        Says the first thing that does not add up. Asks nobody and changes nothing.\n\
        Exit codes: 0 everything adds up, 1 something does not.")]
    Audit(audit::Audit),
    /// Look at everything this gateway leans on, one line each with advice
    #[command(after_help = doctor::EXAMPLES)]
    Doctor,
    /// Take a message from standard input and send it, as sendmail does
    #[command(after_help = "Examples:\n  \
        printf 'Subject: hi\\n\\nhello\\n' | waystation gateway send you@example.org\n  \
        waystation gateway send -t -oi < message.eml\n  \
        ln -s \"$(command -v waystation)\" /usr/local/sbin/sendmail      with WAYSTATION_CONFIG set\n\n\
        Exit codes: 0 it is on stable storage, 1 refused, 2 bad usage, 75 try again later.\n\
        What became of it: `waystation gateway status`; a failure comes back as a report.")]
    Send(send::Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Tell the story of one submission
    #[arg(value_name = "ID")]
    id: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Bootstrap {
    /// The relay's tunnel, ws:// or wss://
    #[arg(value_name = "RELAY_URL")]
    relay_url: String,
    /// Where key and configuration go
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where mail will be delivered; relative to DIR
    #[arg(long, value_name = "PATH", default_value = "Maildir")]
    maildir: PathBuf,
    /// Domain of the address; by default what the relay says, else inferred from the URL
    #[arg(long, value_name = "DOMAIN")]
    mail_domain: Option<String>,
    /// Pin this key of the relay instead of fetching its keys, KEYID:BASE64; may be given more than once
    #[arg(long, value_name = "KEY", conflicts_with = "offline")]
    relay_key: Vec<String>,
    /// PEM file with certificates to trust besides the built-in ones, for a relay with a private CA
    #[arg(long, value_name = "FILE")]
    extra_ca_file: Option<PathBuf>,
    /// Redeem an invitation of the relay's operator: admits this key and gives it its addresses
    #[arg(long, value_name = "CODE", conflicts_with = "offline")]
    invite: Option<String>,
    /// Contact nobody and pin nothing: nothing the relay says is verified until a key is put into gateway.toml
    #[arg(long, conflicts_with = "check")]
    offline: bool,
    /// Also see whether the relay can be reached
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    match verb {
        Verb::Bootstrap(args) => runtime.block_on(make(global, &args)),
        Verb::Run => runtime.block_on(serve(global)),
        Verb::Status(args) => runtime.block_on(status(global, args.id.as_deref())),
        Verb::Audit(args) => audit::audit(global, &args),
        Verb::Doctor => runtime.block_on(doctor::run(global)),
        Verb::Send(args) => runtime.block_on(send::send(global, args)),
    }
}

async fn make(global: &Global, args: &Bootstrap) -> anyhow::Result<Exit> {
    let failed = |error: BootstrapError| {
        let exit = match error {
            BootstrapError::Url(_) | BootstrapError::Exists(_) | BootstrapError::Config(_) => Exit::Usage,
            BootstrapError::Key(_) | BootstrapError::Io { .. } => Exit::Failed,
        };
        Stop::new(exit, error.to_string())
    };
    let code = args.invite.as_deref().map(|text| {
        Code::parse(text).ok_or_else(|| {
            Stop::new(
                Exit::Usage,
                "--invite: not a code; `waystation mailbox invite` on the relay prints one".to_owned(),
            )
        })
    });
    let code = code.transpose()?;
    let trust = Trust::new(args.extra_ca_file.as_deref())
        .map_err(|error| Stop::new(Exit::Usage, format!("--extra-ca-file: {error}")))?;
    let Found { pins, mut mail_domain, note } = find(args, &trust).await?;
    let mut aliases = Vec::new();
    if let Some(code) = code {
        let key = bootstrap::prepare_key(&args.dir).map_err(failed)?;
        let redeemed = redeem::redeem(&args.relay_url, &trust, key, code).await.map_err(|error| {
            let exit = match error {
                RedeemError::Refused(_) => Exit::Failed,
                RedeemError::Lost(_) => Exit::Later,
            };
            Stop::new(
                exit,
                format!("{error}; no configuration was written, and the key stays for the next try"),
            )
        })?;
        mail_domain = redeemed.domains.into_iter().next().or(mail_domain);
        aliases = redeemed.aliases;
    }
    mail_domain = args.mail_domain.clone().or(mail_domain);
    let plan = bootstrap::Plan {
        relay_url: &args.relay_url,
        dir: &args.dir,
        maildir: &args.maildir,
        mail_domain: mail_domain.as_deref(),
        extra_ca_file: args.extra_ca_file.as_deref(),
        aliases: &aliases,
        pins: &pins,
    };
    let made = bootstrap::bootstrap(&plan).map_err(failed)?;
    let reached = if args.check { Some(reach(&args.relay_url, &trust).await) } else { None };
    if global.json {
        let mut object = serde_json::to_value(&made)?;
        if let Some(reached) = &reached {
            object["relay_answers"] = serde_json::Value::Bool(reached.is_ok());
        }
        screen::line(&object)?;
    } else {
        let key = if made.key_is_new { "made" } else { "kept" };
        let at = made.config_file.display();
        let aliases: String = made.aliases.iter().map(|alias| format!("address  {alias}\n")).collect();
        let relay_keys: String = made.relay_keys.iter().map(|key| format!("relay    {key}\n")).collect();
        // Addresses and keys are the relay's words.
        screen::print(&screen::clean_lines(&format!(
            "address  {}\n{aliases}key      {} ({key})\nconfig   {at}\n{relay_keys}\n{note}\nNext: waystation gateway run --config {at}\n",
            made.address,
            made.key_file.display(),
        )))?;
    }
    match reached {
        Some(Err(problem)) => Err(Stop::new(Exit::Later, problem).into()),
        Some(Ok(())) | None => Ok(Exit::Done),
    }
}

/// What is known of the relay before the configuration is written.
struct Found {
    pins: Vec<Pin>,
    mail_domain: Option<String>,
    /// One line for the user about the keys.
    note: String,
}

/// Reads the relay's keys from the arguments, or fetches them.
async fn find(args: &Bootstrap, trust: &Trust) -> anyhow::Result<Found> {
    let none = |note: &str| Found { pins: Vec::new(), mail_domain: None, note: format!("{note}\n") };
    // A URL that is none is said so before anything is dialled; so is a configuration that exists.
    Endpoint::relay(&args.relay_url).map_err(|error| Stop::new(Exit::Usage, error.to_string()))?;
    let config_file = args.dir.join(CONFIG_NAME);
    if config_file.exists() {
        return Err(Stop::new(Exit::Usage, BootstrapError::Exists(config_file).to_string()).into());
    }
    if args.offline {
        return Ok(none("No key of the relay is pinned: nothing it says is verified."));
    }
    if !args.relay_key.is_empty() {
        let read = |text: &String| {
            let advice = "`waystation keys attestation --show` on the relay prints it";
            Pin::read(text).ok_or_else(|| {
                Stop::new(
                    Exit::Usage,
                    format!("--relay-key {text}: not KEYID:BASE64 of an Ed25519 key; {advice}"),
                )
            })
        };
        let pins = args.relay_key.iter().map(read).collect::<Result<_, _>>()?;
        return Ok(Found { pins, ..none("The relay's keys are the given ones.") });
    }
    let document = wellknown::fetch(&args.relay_url, trust).await.map_err(|error| {
        let ways = "a relay with a private CA needs --extra-ca-file; or give the relay's key with --relay-key KEYID:BASE64 (`waystation keys attestation --show` on the relay \
                    prints it), or use --offline to pin none";
        Stop::new(Exit::Later, format!("cannot fetch the relay's keys: {error}; {ways}"))
    })?;
    let Some(document) = document else {
        return Ok(none("The relay is one that publishes no keys: nothing it says is verified."));
    };
    let pins = document.pins();
    let note = match (pins.is_empty(), args.relay_url.starts_with("wss:")) {
        (true, _) => "The relay signs nothing, so no key of it is pinned.",
        (false, true) => {
            "Compare the relay's fingerprint with `waystation keys attestation --show` on the relay, if you can."
        }
        (false, false) => {
            "The relay's keys came over a connection without TLS: compare the fingerprint with \
             `waystation keys attestation --show` on the relay."
        }
    };
    Ok(Found { pins, mail_domain: document.domains.into_iter().next(), ..none(note) })
}

/// Whether something answers at the relay's address.
async fn reach(relay_url: &str, trust: &Trust) -> Result<(), String> {
    let endpoint = Endpoint::relay(relay_url).map_err(|error| error.to_string())?;
    match tokio::time::timeout(CHECK_TIMEOUT, dial::open(&endpoint, trust)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{relay_url} does not answer")),
    }
}

fn load(global: &Global) -> anyhow::Result<Config> {
    let file = global.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG_NAME));
    let text = std::fs::read_to_string(&file).map_err(|error| {
        let advice = "make one with `waystation gateway bootstrap RELAY_URL`, or name it with --config";
        Stop::new(Exit::Usage, format!("{}: {error}; {advice}", file.display()))
    })?;
    let mut config =
        Config::parse(&text, &file).map_err(|error| Stop::new(Exit::Usage, error.to_string()))?;
    observe::check_level(&config.log_level)
        .map_err(|error| Stop::new(Exit::Usage, format!("{}: log_level: {error}", file.display())))?;
    if let Some(data_dir) = &global.data_dir {
        if config.status_socket == config.data_dir.join("gateway.sock") {
            config.status_socket = data_dir.join("gateway.sock");
        }
        config.data_dir.clone_from(data_dir);
    }
    Ok(config)
}

async fn serve(global: &Global) -> anyhow::Result<Exit> {
    let config = load(global)?;
    let format = if global.json { LogFormat::Json } else { LogFormat::Text };
    observe::init_log(&LogSettings {
        format,
        level: config.log_level.clone(),
        color: global.color,
        traces: None,
    })?;
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        signalled.cancel();
    });
    match run::run(config, Manager::find(), stop).await {
        Ok(()) => Ok(Exit::Done),
        Err(run::RunError::Client(ClientError::InUse(dir))) => {
            Err(Stop::new(Exit::Later, format!("{} is in use by another gateway", dir.display())).into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn status(global: &Global, id: Option<&str>) -> anyhow::Result<Exit> {
    let config = load(global)?;
    if let Some(id) = id {
        return tell(global, &config, id).await;
    }
    let report = match socket::ask(&config.status_socket).await {
        Ok(report) => report,
        Err(error) => return Err(not_running(&config.status_socket, &error).into()),
    };
    if global.json {
        screen::line(&serde_json::to_value(&report)?)?;
    } else {
        screen::print(&screen::clean_lines(&report.to_text(clock::wall())))?;
    }
    Ok(Exit::Done)
}

/// The story of one submission, asked of the running gateway or read from the outbox.
async fn tell(global: &Global, config: &Config, id: &str) -> anyhow::Result<Exit> {
    let until = clock::monotonic() + CHECK_TIMEOUT;
    let mut owner = None;
    let story = loop {
        match socket::ask_about(&config.status_socket, id).await {
            Ok(story) => break story,
            Err(error) if send::is_nobody(&error) => {}
            Err(error) => return Err(not_running(&config.status_socket, &error).into()),
        }
        owner.get_or_insert_with(|| Owner::of(&config.data_dir));
        match read_story(config, id).await {
            // A gateway that starts will answer soon.
            Err(OutboxError::InUse(_)) if clock::monotonic() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(Stop::new(Exit::Later, error.to_string()).into()),
            Ok(story) => break story?,
        }
    };
    let Some(story) = story else {
        return Err(Stop::new(Exit::Nothing, format!("no submission {id} here")).into());
    };
    if global.json {
        screen::line(&serde_json::to_value(&story)?)?;
    } else {
        screen::print(&screen::clean_lines(&story.to_text()))?;
    }
    Ok(Exit::Done)
}

async fn read_story(config: &Config, id: &str) -> Result<anyhow::Result<Option<Story>>, OutboxError> {
    let key = match keyfile::load(&config.key_file) {
        Ok(key) => key.key_text(),
        Err(error) => return Ok(Err(error.into())),
    };
    let (outbox, keeper) = run::open_outbox(&run::outbox_settings(config, &key), Duration::ZERO).await?;
    let story = match id.parse() {
        Ok(id) => outbox.story(id).await,
        Err(_) => Ok(None),
    };
    drop(outbox);
    keeper.close().await;
    Ok(story.map_err(Into::into))
}

fn not_running(socket: &Path, error: &std::io::Error) -> Stop {
    Stop::new(Exit::Nothing, format!("no gateway answers at {}: {error}", socket.display()))
}
