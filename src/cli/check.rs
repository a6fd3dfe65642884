//! `check-config`: says file, key, problem and advice.
//!
//! Promises: opens what the configuration names and changes nothing; exit 2 when a relay would not start with it, or not do
//! what it says. Doubts are told and do no harm to the exit code. A relay that runs with the same file is asked what a reload
//! would change, and what waits for a restart.

pub(super) mod remarks;
mod running;
mod sense;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::report::{Level, Sheet};
use super::{Exit, Global, load, screen};
use crate::config::{self, Config, ConfigErrors};
use remarks::{Remark, Weight};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to check; without one: --config, else defaults and environment
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print every key with its default and reason, and check nothing
    #[arg(long)]
    defaults: bool,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    if args.defaults {
        screen::print(&config::example())?;
        return Ok(Exit::Done);
    }
    let file = args.file.as_deref().or(global.config.as_deref());
    let name = file.map_or_else(|| "defaults and environment".to_owned(), |f| f.display().to_string());
    match load::load(file, global.data_dir.as_deref()) {
        Ok(config) => tell(global, &name, file, &config),
        Err(error) if global.json => {
            let Some(ConfigErrors(problems)) = error.downcast_ref::<ConfigErrors>() else {
                return Err(error);
            };
            for p in problems {
                screen::line(&json!({
                    "file": p.file, "key": p.key, "problem": p.problem, "advice": p.advice, "level": "wrong" }))?;
            }
            Ok(Exit::Usage)
        }
        Err(error) => Err(error),
    }
}

/// What is to be said of a configuration that parses.
fn tell(global: &Global, name: &str, file: Option<&Path>, config: &Config) -> anyhow::Result<Exit> {
    let remarks = remarks::of(config);
    let wrong = remarks.iter().any(|remark| remark.weight == Weight::Wrong);
    let awaited = running::awaited(config, file);
    if global.json {
        for remark in remarks.iter().filter(|remark| remark.weight != Weight::Fine) {
            screen::line(&json!({
                "file": name, "key": remark.key, "problem": remark.problem, "advice": remark.advice,
                "level": level(remark).word() }))?;
        }
        if !wrong {
            let mut object = json!({ "ok": true, "file": name, "not_used": config.unused });
            if let Some(awaited) = awaited {
                object["reload_changes"] = json!(awaited.changed);
                object["needs_restart"] = json!(awaited.needs_restart);
            }
            screen::line(&object)?;
        }
    } else {
        let mut text = text(global, name, config, &remarks, wrong);
        if !wrong {
            text.push_str(&awaited.map(|awaited| awaited.text()).unwrap_or_default());
        }
        screen::print(&text)?;
    }
    Ok(if wrong { Exit::Usage } else { Exit::Done })
}

fn level(remark: &Remark) -> Level {
    match remark.weight {
        Weight::Fine => Level::Good,
        Weight::Doubtful => Level::Warn,
        Weight::Wrong => Level::Bad,
    }
}

fn text(global: &Global, name: &str, config: &Config, remarks: &[Remark], wrong: bool) -> String {
    let paint = screen::Paint::new(global.color.on_stdout());
    let sheet = Sheet::new(paint);
    let verdict = if wrong { paint.bad("cannot be used") } else { paint.good("ok") };
    let mut text = format!("{name}: {verdict}\n");
    let margin = sheet.margin();
    for remark in remarks.iter().filter(|remark| remark.weight != Weight::Fine) {
        let said = format!("{}: {}", remark.key, remark.problem);
        text.push_str(&format!("{} {}\n", sheet.mark(level(remark)), sheet.wrap(&said, margin, margin)));
        if !remark.advice.is_empty() {
            let blanks = " ".repeat(margin + 2);
            text.push_str(&format!("{blanks}{}\n", sheet.wrap(&remark.advice, margin + 2, margin + 2)));
        }
    }
    if !config.unused.is_empty() {
        text.push_str("not used by this relay (accepted and ignored):\n");
        for field in &config.unused {
            text.push_str(&format!("  {field}\n"));
        }
    }
    text
}
