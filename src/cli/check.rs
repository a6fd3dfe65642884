//! `check-config`: says file, key, problem and advice.

use std::path::PathBuf;

use super::{Exit, Global, load, screen};
use crate::config::{self, ConfigErrors};

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
        Ok(config) if global.json => {
            screen::line(&serde_json::json!({ "ok": true, "file": name, "not_used": config.unused }))?;
            Ok(Exit::Done)
        }
        Ok(config) => {
            let paint = screen::Paint::new(global.color.on_stdout());
            let mut text = format!("{}: {}\n", name, paint.good("ok"));
            if !config.unused.is_empty() {
                text.push_str("not used by this relay (accepted and ignored):\n");
                for field in &config.unused {
                    text.push_str(&format!("  {field}\n"));
                }
            }
            screen::print(&text)?;
            Ok(Exit::Done)
        }
        Err(error) if global.json => {
            let Some(ConfigErrors(problems)) = error.downcast_ref::<ConfigErrors>() else {
                return Err(error);
            };
            for p in problems {
                let object = serde_json::json!({
                    "file": p.file, "key": p.key, "problem": p.problem, "advice": p.advice });
                screen::line(&object)?;
            }
            Ok(Exit::Usage)
        }
        Err(error) => Err(error),
    }
}
