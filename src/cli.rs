//! The command line: definitions, and the road from arguments to an exit code.
//!
//! Promises: help with examples on every level; exit codes 0 done, 1 failed, 2 bad usage or configuration,
//! 3 nothing matched, 75 try again later; results on standard output, everything else on standard error.
//! Does not: contain rules of the relay; each subcommand calls the part that has them.
//! Failure policy: one sentence on standard error that says what to do, never a backtrace.

mod backend;
mod backup;
mod bench;
mod check;
mod delivery_verbs;
mod demo;
mod dns;
mod doctor;
mod gateway;
mod health;
mod keys;
mod load;
mod mailbox_verbs;
mod manual;
mod process_verbs;
mod progress;
mod reference;
mod report;
mod screen;
mod serve;
mod spool_verbs;
mod top;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::ConfigErrors;
use crate::observe::Color;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Failed; the reason was printed.
    Failed,
    /// Bad usage or configuration; systemd does not restart on it.
    Usage,
    /// Nothing matched.
    Nothing,
    /// Try again later.
    Later,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Nothing => 3,
            Self::Later => 75,
        }
    }
}

/// An error that chooses its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Stop {
    exit: Exit,
    message: String,
}

impl Stop {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// A durable mail relay for machines that are not always reachable.
#[derive(Debug, Parser)]
#[command(
    name = "waystation",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:\n  \
        waystation serve                        a relay on loopback, at once, without configuration\n  \
        waystation demo                         the whole promise in one process, in under a minute\n  \
        waystation check-config waystation.toml\n  \
        waystation spool ls --state ready       what waits for its gateway\n\n\
        Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 nothing matched, 75 try again later."
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// Configuration file (TOML, or the seed relay's config.json)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "WAYSTATION_CONFIG",
        hide_env_values = true,
        help_heading = "Global"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Where spool and admin socket lie
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print one JSON object per line instead of text
    #[arg(long, global = true, help_heading = "Global")]
    pub(crate) json: bool,
    /// When to use colour
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        hide_default_value = true,
        value_name = "auto|always|never",
        help_heading = "Global"
    )]
    pub(crate) color: Color,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    #[command(after_help = "Examples:\n  \
        waystation serve\n  \
        waystation serve --config /etc/waystation/waystation.toml\n  \
        WAYSTATION_SMTP__LISTEN=127.0.0.1:2600 waystation serve --data-dir /tmp/relay\n\n\
        Signals: SIGHUP reads the configuration again (`waystation reload`), SIGUSR2 replaces the process\n\
        without refusing a connection (`waystation restart`), SIGTERM stops.")]
    Serve(serve::Args),
    /// The whole promise in one process, on loopback, in under a minute
    #[command(
        after_help = "Example:\n  waystation demo\n\nUses free ports and a temporary directory, and leaves \
        nothing behind.\nExit code 0 when every message arrived once, in order, byte for byte."
    )]
    Demo,
    /// Check a configuration and say what is wrong, where, and what to write instead
    #[command(after_help = "Examples:\n  \
        waystation check-config /etc/waystation/waystation.toml\n  \
        waystation check-config config.json      a file of the seed relay\n  \
        waystation check-config --defaults > waystation.toml")]
    CheckConfig(check::Args),
    /// Ask a running relay whether it is alive, or ready; exit code 1 when not
    #[command(after_help = "Examples:\n  \
        waystation health\n  \
        waystation health --ready --wait 60      until mail can be taken, at most a minute\n  \
        waystation health https://relay.example.org/health")]
    Health(health::Args),
    /// Let the running relay read its configuration again
    #[command(after_help = process_verbs::RELOAD)]
    Reload,
    /// Replace the running relay by the program on the disk, without refusing a connection
    #[command(after_help = process_verbs::RESTART)]
    Restart,
    /// The home side: fetch what the relay holds, and deliver it
    #[command(subcommand, after_help = gateway::EXAMPLES)]
    Gateway(gateway::Verb),
    /// Make keys, and print what belongs to them
    #[command(subcommand, after_help = keys::EXAMPLES)]
    Keys(keys::Verb),
    /// Who may connect, and what they may hold
    #[command(subcommand, after_help = mailbox_verbs::EXAMPLES)]
    Mailbox(mailbox_verbs::Verb),
    /// Pause and resume deliveries, and see what they do
    #[command(subcommand, after_help = delivery_verbs::EXAMPLES)]
    Delivery(delivery_verbs::Verb),
    /// The DNS records this relay needs, and whether the world sees them
    #[command(subcommand, after_help = dns::EXAMPLES)]
    Dns(dns::Verb),
    /// Look at everything this relay leans on, one line each with advice
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Args),
    /// Look into the spool, and move what lies in it
    #[command(subcommand, after_help = spool_verbs::EXAMPLES)]
    Spool(spool_verbs::Verb),
    /// Watch the relay live on a terminal (the same as `spool top`)
    #[command(after_help = top::EXAMPLES)]
    Top,
    /// Copy the data directory, while the relay runs or not, to one that a relay can be started on
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::BackupArgs),
    /// Measure this machine
    #[command(subcommand, after_help = bench::EXAMPLES)]
    Bench(bench::Verb),
    /// Print a shell completion script
    #[command(after_help = "Example:\n  \
        waystation completions bash > /etc/bash_completion.d/waystation")]
    Completions(manual::CompletionArgs),
    /// Write the manual pages into a directory
    #[command(after_help = "Example:\n  waystation man /usr/local/share/man/man1")]
    Man(manual::ManArgs),
    /// Print a page of the manual that is made from the program itself
    #[command(hide = true)]
    Reference(reference::Args),
}

/// Runs the command that `args` (with the program's name in front) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.first().is_some_and(|program| gateway::send::is_sendmail(program)) {
        args.splice(1..1, ["gateway", "send"].map(OsString::from));
    }
    let exit = match Cli::try_parse_from(args) {
        Ok(cli) => {
            let color = cli.global.color;
            match dispatch(cli) {
                Ok(exit) => exit,
                Err(error) => report(&error, color),
            }
        }
        Err(e) => {
            // Help and version are no errors; clap knows which stream is right for each.
            let exit = if e.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = e.print();
            exit
        }
    };
    ExitCode::from(exit.code())
}

fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let global = &cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(global, &args),
        Command::Demo => demo::run(global),
        Command::CheckConfig(args) => check::run(global, &args),
        Command::Health(args) => health::run(global, &args),
        Command::Reload => process_verbs::reload(global),
        Command::Restart => process_verbs::restart(global),
        Command::Gateway(verb) => gateway::run(global, verb),
        Command::Keys(verb) => keys::run(global, verb),
        Command::Dns(verb) => dns::run(global, verb),
        Command::Doctor(args) => doctor::run(global, &args),
        Command::Mailbox(verb) => mailbox_verbs::run(global, verb),
        Command::Delivery(verb) => delivery_verbs::run(global, verb),
        Command::Spool(verb) => spool_verbs::run(global, verb),
        Command::Top => top::run(global),
        Command::Backup(args) => backup::run(global, &args),
        Command::Bench(verb) => bench::run(global, verb),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::pages(&args),
        Command::Reference(args) => reference::run(&args),
    }
}

/// Prints why a command failed, and chooses the exit code.
fn report(error: &anyhow::Error, color: Color) -> Exit {
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && io.kind() == std::io::ErrorKind::BrokenPipe
    {
        // `waystation spool ls | head` is no failure.
        return Exit::Done;
    }
    let paint = screen::Paint::new(color.on_stderr());
    eprintln!("{} {}", paint.bad("error:"), screen::clean_lines(&chain(error)));
    if let Some(stop) = error.downcast_ref::<Stop>() {
        stop.exit
    } else if error.is::<ConfigErrors>() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}

/// The error and its causes in one line; a cause that was already told is not told again.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut told, cause| {
        if !told.contains(&cause) {
            told.push_str(if told.is_empty() { "" } else { ": " });
            told.push_str(&cause);
        }
        told
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such file");
        let error =
            anyhow::Error::from(cause).context("no certificate: no such file").context("cannot start");
        assert_eq!(chain(&error), "cannot start: no certificate: no such file");
    }

    #[test]
    fn every_level_has_a_description() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn global_options_stand_before_and_after_the_subcommand() {
        for line in ["waystation --data-dir d spool ls", "waystation spool ls --data-dir d"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("parses");
            assert_eq!(cli.global.data_dir, Some(PathBuf::from("d")));
        }
    }
}
