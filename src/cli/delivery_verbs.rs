//! `waystation delivery ...`: the switch of all deliveries, and what they do now.

use serde_json::Value;

use super::backend::Backend;
use super::screen::{self, Paint};
use super::{Exit, Global};
use crate::admin::deliveries::SwitchAsk;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
A pause stops everything before it is handed over; what is armed already waits for its answer. It
lasts over a restart. Submissions are still taken, and their time runs on.

Examples:
  waystation delivery status
  waystation delivery pause --reason 'moving to another address'
  waystation delivery resume";

/// Destinations that one page shows.
const ALONE_SHOWN: usize = 20;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Whether deliveries run, and which destinations are left alone
    #[command(after_help = "Example:\n  waystation delivery status --json")]
    Status,
    /// Hand nothing over until `resume`
    #[command(after_help = "Example:\n  waystation delivery pause --reason 'moving to another address'")]
    Pause {
        /// Why; shown to whoever asks
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Pause a relay that does not run, for its next start
        #[arg(long)]
        offline: bool,
    },
    /// Go on delivering
    #[command(after_help = "Example:\n  waystation delivery resume")]
    Resume {
        /// Take the pause away from a relay that does not run
        #[arg(long)]
        offline: bool,
    },
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    let answer = match verb {
        Verb::Status => Backend::open(global)?.delivery()?,
        Verb::Pause { reason, offline } => {
            Backend::open_for_change(global, offline)?.throw(&SwitchAsk::Pause { reason })?
        }
        Verb::Resume { offline } => Backend::open_for_change(global, offline)?.throw(&SwitchAsk::Resume)?,
    };
    if global.json {
        screen::line(&answer)?;
    } else {
        screen::print(&page(Paint::new(global.color.on_stdout()), &answer))?;
    }
    Ok(Exit::Done)
}

fn page(paint: Paint, answer: &Value) -> String {
    let text = |value: &Value| screen::clean(value.as_str().unwrap_or(""));
    let mut page = match (answer["paused"] == true, answer["running"] == true) {
        (true, _) => {
            let since = match answer["paused_since"].as_str() {
                Some(at) => format!(" since {at}"),
                None => String::new(),
            };
            format!("deliveries are {}{since}\n", paint.warn(&text(&answer["reason"])))
        }
        (false, true) => format!("deliveries {}\n", paint.good("run")),
        (false, false) => "no relay runs, and deliveries are not paused\n".to_owned(),
    };
    if answer["running"] != true {
        return page;
    }
    page.push_str(&format!("attempts under way: {}\n", answer["attempts_under_way"]));
    page.push_str(&format!("destinations left alone: {}\n", answer["left_alone_count"]));
    let alone: Vec<Vec<String>> = answer["left_alone"]
        .as_array()
        .into_iter()
        .flatten()
        .take(ALONE_SHOWN)
        .map(|site| {
            let wait = screen::age(site["seconds"].as_u64().unwrap_or(0));
            vec![text(&site["destination"]), format!("in {wait}"), text(&site["until"])]
        })
        .collect();
    if !alone.is_empty() {
        page.push('\n');
        page.push_str(&screen::table(
            paint,
            &["DESTINATION", "NEXT TRY", "AT"],
            &[false, true, false],
            &alone,
        ));
    }
    page
}
