//! `waystation dns check`: verdicts on a terminal, or one object per line.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::backend::runtime;
use super::super::report::{Level, Sheet};
use super::super::{Exit, Global, Stop, load, screen};
use super::{Described, Scope, describe};
use crate::config::Config;
use crate::daemon::records::settings;
use crate::records::desk::counts;
use crate::records::judge::{Extent, Status, Verdict, is_fine};
use crate::records::{Site, look};

/// Whose mail servers tell whether port 25 is open: they are up, and everybody's provider has to let mail through to them.
const LARGE_PROVIDERS: [&str; 2] = ["gmail.com", "outlook.com"];
/// Longest value that is shown on a terminal; the rest is in `--json`.
const SHOWN_CHARS_MAX: usize = 300;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    egress: Egress,
    /// PEM file with certificates to trust besides the built-in ones, for policy hosts with a private CA
    #[arg(long, value_name = "FILE")]
    extra_ca_file: Option<PathBuf>,
}

/// Whether mail can leave.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Egress {
    /// Try this mail server, to see whether mail can leave; may be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    egress: Vec<String>,
    /// Connect to no mail server
    #[arg(long, conflicts_with = "egress")]
    no_egress: bool,
}

impl Egress {
    /// Nothing outside is to be connected to.
    pub(crate) fn is_off(&self) -> bool {
        self.no_egress
    }

    pub(crate) fn extent(&self, config: &Config) -> Result<Extent, Stop> {
        let mut extent = Extent::default();
        if self.no_egress {
            return Ok(extent);
        }
        for target in &self.egress {
            let port = target.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(Stop::new(
                    Exit::Usage,
                    format!("--egress `{target}`: write it like mx.example.org:25"),
                ));
            }
            extent.egress.push(target.clone());
        }
        if extent.egress.is_empty() {
            match &config.delivery.smarthost {
                Some(smarthost) => extent.egress.push(smarthost.clone()),
                None => extent.egress_domains = LARGE_PROVIDERS.map(str::to_owned).to_vec(),
            }
        }
        Ok(extent)
    }
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let config = load::config(global)?;
    let Described { site, notes } = describe(&config, &args.scope)?;
    let extent = args.egress.extent(&config)?;
    let verdicts = verdicts(&config, &site, &extent, args.extra_ca_file.as_deref())?;
    if global.json {
        for verdict in &verdicts {
            screen::line(&verdict.object())?;
        }
    } else {
        let paint = screen::Paint::new(global.color.on_stdout());
        screen::print(&text(&verdicts, Sheet::new(paint), paint))?;
        for note in notes {
            eprintln!("note: {note}");
        }
    }
    let learned = verdicts.iter().any(|verdict| matches!(verdict.status, Status::Ok | Status::Risky));
    let silent = verdicts.iter().any(|verdict| verdict.status == Status::Unknown) && !learned;
    Ok(match (is_fine(&verdicts), silent) {
        (false, _) => Exit::Failed,
        (true, true) => Exit::Later,
        (true, false) => Exit::Done,
    })
}

/// Asks everything.
pub(crate) fn verdicts(
    config: &Config,
    site: &Site,
    extent: &Extent,
    extra_ca_file: Option<&Path>,
) -> anyhow::Result<Vec<Verdict>> {
    let mut settings = settings(config);
    if let Some(file) = extra_ca_file {
        let wrong = |error: &dyn std::fmt::Display| {
            Stop::new(Exit::Usage, format!("--extra-ca-file: {}: {error}", file.display()))
        };
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
        settings.fetch.extra_roots = certificates.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    }
    Ok(runtime()?.block_on(look::look(site, extent, &settings))?)
}

/// The verdicts for a person; values are whole, so that they can be copied.
fn text(verdicts: &[Verdict], sheet: Sheet, paint: screen::Paint) -> String {
    let mut text = String::new();
    let margin = " ".repeat(sheet.margin());
    for verdict in verdicts {
        let level = level(verdict.status);
        let head = format!("{} {:<6} {}", sheet.mark(level), verdict.kind, verdict.name);
        text.push_str(&head);
        let status = verdict.status.word();
        match verdict.status {
            Status::Ok => {}
            Status::Info | Status::Unknown => text.push_str(&paint.dim(&format!("  {status}"))),
            Status::Risky => text.push_str(&paint.warn(&format!("  {status}"))),
            Status::Missing | Status::Wrong => text.push_str(&paint.bad(&format!("  {status}"))),
        }
        text.push('\n');
        if verdict.status != Status::Ok {
            if !verdict.want.is_empty() && !matches!(verdict.status, Status::Info) {
                text.push_str(&format!("{margin}want   {}\n", verdict.want));
            }
            for found in &verdict.found {
                text.push_str(&format!("{margin}found  {}\n", shown(found)));
            }
            let column = sheet.margin();
            text.push_str(&format!("{margin}{}\n", sheet.wrap(&verdict.advice, column, column)));
        }
    }
    let summary: Vec<_> =
        counts(verdicts).iter().map(|(status, n)| format!("{n} {}", status.word())).collect();
    text.push_str(&format!("\n{}\n", summary.join(", ")));
    text
}

fn shown(value: &str) -> String {
    let value = screen::clean(value);
    if value.chars().count() <= SHOWN_CHARS_MAX {
        return value;
    }
    let start: String = value.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{start}...")
}

fn level(status: Status) -> Level {
    match status {
        Status::Ok => Level::Good,
        Status::Info | Status::Unknown => Level::Open,
        Status::Risky => Level::Warn,
        Status::Missing | Status::Wrong => Level::Bad,
    }
}
