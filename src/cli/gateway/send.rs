//! `gateway send`: what `sendmail` does for local programs, into the gateway's outbox.
//!
//! Promise: exit code 0 means that the message is on stable storage for all its recipients; every other code that nothing
//! was taken, except where the words say that nobody knows.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use super::super::backend::owner::Owner;
use super::super::{Exit, Global, Stop, screen};
use super::load;
use crate::clock;
use crate::gateway::config::Config;
use crate::gateway::outbox::{DraftError, OutboxError};
use crate::gateway::sendmail;
use crate::gateway::socket::{self, Taken};
use crate::gateway::{run, submission};
use crate::identity::key::KeyText;
use crate::identity::keyfile;

/// How long to look for a gateway that takes the message, or for the outbox to be free.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often.
const EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Envelope sender; by default the gateway's address
    #[arg(
        short = 'f',
        visible_short_alias = 'r',
        long = "from",
        value_name = "SENDER",
        allow_hyphen_values = true
    )]
    from: Option<String>,
    /// Full name for a From field that has to be added
    #[arg(short = 'F', value_name = "NAME", default_value = "")]
    full_name: String,
    /// Send to the addresses in To, Cc and Bcc, too
    #[arg(short = 't')]
    from_header: bool,
    /// A line with a lone dot does not end the message; also -oi
    #[arg(short = 'i')]
    ignore_dots: bool,
    /// Options of sendmail; only `i` means something here
    #[arg(short = 'o', value_name = "OPTION", hide = true)]
    options: Vec<String>,
    /// Mode of sendmail; only `m` (take a message) is possible
    #[arg(short = 'b', value_name = "MODE", hide = true)]
    mode: Option<String>,
    /// Taken and ignored, for programs that say it to sendmail
    #[arg(short = 'O', short_alias = 'B', value_name = "X", hide = true)]
    ignored_long: Vec<String>,
    /// Taken and ignored
    #[arg(short = 'N', value_name = "DSN", hide = true)]
    ignored_dsn: Vec<String>,
    /// Taken and ignored
    #[arg(short = 'R', value_name = "RETURN", hide = true)]
    ignored_return: Vec<String>,
    /// Taken and ignored
    #[arg(short = 'e', value_name = "ERRORS", hide = true)]
    ignored_errors: Vec<String>,
    /// Taken and ignored
    #[arg(short = 'm', short_aliases = ['n', 'U', 'v'], action = clap::ArgAction::Count, hide = true)]
    ignored: u8,
    /// Envelope recipients
    #[arg(value_name = "RECIPIENT")]
    recipients: Vec<String>,
}

/// Reads the message from standard input and hands it to the gateway, or puts it into the outbox itself.
pub(super) async fn send(global: &Global, args: Args) -> anyhow::Result<Exit> {
    if let Some(mode) = args.mode.as_deref().filter(|mode| *mode != "m") {
        return Err(Stop::new(
            Exit::Usage,
            format!("-b{mode} is not possible; a message is read from standard input"),
        )
        .into());
    }
    let config = load(global)?;
    let key = keyfile::load(&config.key_file)
        .map_err(|error| Stop::new(Exit::Failed, error.to_string()))?
        .key_text();
    let own = run::own(&config, &key);
    let limit = config.submission.max_message_bytes;
    let mut input = Vec::new();
    std::io::stdin().lock().take(limit.saturating_add(1)).read_to_end(&mut input)?;
    if input.len() as u64 > limit {
        return Err(Stop::new(Exit::Failed, format!("the message is larger than {limit} bytes")).into());
    }
    let dot_ends = !args.ignore_dots && !args.options.iter().any(|option| option == "i");
    let message = sendmail::message(&input, dot_ends);
    let mut recipients = args.recipients;
    if args.from_header {
        recipients.extend(sendmail::recipients(message));
    }
    let mail_from = match args.from.as_deref() {
        None => own.address(),
        Some("<>" | "") => "",
        Some(sender) => sender,
    };
    let refused = |refusal: submission::Refusal| {
        let exit = match refusal {
            submission::Refusal::NoRecipients | submission::Refusal::NoDomain(_) => Exit::Usage,
            submission::Refusal::NotOwned { .. }
            | submission::Refusal::Address { .. }
            | submission::Refusal::TooMany(_) => Exit::Failed,
        };
        Stop::new(exit, refusal.to_string())
    };
    let recipients = own.check(mail_from, &recipients, config.submission.max_recipients).map_err(refused)?;
    let message = sendmail::compose(message, mail_from, &args.full_name, &own, limit)
        .map_err(|refusal| Stop::new(Exit::Failed, refusal.to_string()))?;
    let taken = hand_over(&config, &key, mail_from, &recipients, &message).await?;
    if !taken.error.is_empty() {
        let exit = if taken.temporary { Exit::Later } else { Exit::Failed };
        return Err(Stop::new(exit, taken.error).into());
    }
    if global.json {
        for (id, rcpt_to) in taken.ids.iter().zip(&recipients) {
            screen::line(&serde_json::json!({ "id": id, "rcpt_to": rcpt_to, "state": "queued" }))?;
        }
    }
    Ok(Exit::Done)
}

/// To the running gateway, or into the outbox when none runs.
async fn hand_over(
    config: &Config,
    key: &KeyText,
    mail_from: &str,
    recipients: &[String],
    message: &[u8],
) -> anyhow::Result<Taken> {
    let until = clock::monotonic() + PATIENCE;
    let mut owner = None;
    loop {
        match socket::submit(&config.status_socket, mail_from, recipients, message).await {
            Ok(taken) => return Ok(taken),
            Err(error) if is_nobody(&error) => {}
            Err(error) => {
                let problem = "the gateway broke off, and nobody knows whether it has the message";
                return Err(Stop::new(Exit::Later, format!("{problem}: {error}")).into());
            }
        }
        owner.get_or_insert_with(|| Owner::of(&config.data_dir));
        match run::open_outbox(&run::outbox_settings(config, key), Duration::ZERO).await {
            Ok((outbox, keeper)) => {
                let mut draft = outbox.draft(recipients.len());
                let stored = match draft.write(message).await {
                    Ok(()) => draft.commit(mail_from, recipients).await,
                    Err(error) => Err(error),
                };
                drop(outbox);
                keeper.close().await;
                return Ok(match stored {
                    Ok(ids) => {
                        Taken { ids: ids.iter().map(ToString::to_string).collect(), ..Taken::default() }
                    }
                    Err(error) => Taken {
                        temporary: !matches!(error, DraftError::Recipients),
                        error: error.to_string(),
                        ids: Vec::new(),
                    },
                });
            }
            // A gateway that starts, or another `send`.
            Err(OutboxError::InUse(_)) if clock::monotonic() < until => tokio::time::sleep(EVERY).await,
            Err(error) => return Err(Stop::new(Exit::Later, error.to_string()).into()),
        }
    }
}

/// Nobody listens there.
pub(super) fn is_nobody(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

/// Whether the program was started under the name of `sendmail`.
pub(crate) fn is_sendmail(program: &std::ffi::OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == "sendmail")
}
