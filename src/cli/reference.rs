//! `reference`: pages of the manual that are made from the definitions, so that they cannot drift from them.

use clap::CommandFactory as _;

use super::{Cli, Exit, screen};
use crate::config;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which page
    #[arg(value_enum)]
    page: Page,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Page {
    /// docs/configuration.md
    Configuration,
    /// docs/cli.md
    Commands,
}

/// What stands above the commands.
const HEAD: &str = "\
# Command reference

Every command with its options and examples, from the definitions behind `--help`: a test keeps this page equal to
`waystation reference commands`. What the commands are for: [operating.md](operating.md), [gateway.md](gateway.md). The same as manual
pages: `waystation man DIR`; for the shell: `waystation completions bash|zsh|fish`.
";

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let text = match args.page {
        Page::Configuration => config::reference(),
        Page::Commands => commands(),
    };
    screen::print(&text)?;
    Ok(Exit::Done)
}

fn commands() -> String {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut text = HEAD.to_owned();
    text.push_str("\n## Every command\n\n");
    text.push_str(&options(root.get_arguments().filter(|arg| arg.is_global_set())));
    text.push_str(&after(&root));
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(&mut text, command, "waystation", "##");
    }
    text
}

fn section(text: &mut String, command: &clap::Command, above: &str, level: &str) {
    let name = format!("{above} {}", command.get_name());
    text.push_str(&format!("\n{level} {name}\n\n"));
    let about = command.get_long_about().or_else(|| command.get_about());
    text.push_str(&format!("{}.\n", about.map(ToString::to_string).unwrap_or_default()));
    let own = |arg: &&clap::Arg| {
        !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help" && arg.get_id() != "version"
    };
    let mut usage = name.clone();
    for arg in command.get_arguments().filter(own).filter(|arg| arg.is_positional()) {
        usage.push_str(&format!(" {arg}"));
    }
    let verbs = command.get_subcommands().any(|verb| !verb.is_hide_set());
    if !verbs {
        let more = command.get_arguments().filter(own).any(|arg| !arg.is_positional());
        text.push_str(&format!("\n`{usage}{}`\n", if more { " [OPTIONS]" } else { "" }));
    }
    let rows = options(command.get_arguments().filter(own));
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&rows);
    }
    text.push_str(&after(command));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        section(text, verb, &name, "###");
    }
}

/// A table of arguments, or nothing.
fn options<'a>(arguments: impl Iterator<Item = &'a clap::Arg>) -> String {
    let rows: String = arguments.map(row).collect();
    if rows.is_empty() { rows } else { format!("| option | meaning |\n|---|---|\n{rows}") }
}

fn row(arg: &clap::Arg) -> String {
    let mut names: Vec<String> = Vec::new();
    names.extend(arg.get_short().map(|short| format!("-{short}")));
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    let takes = arg.get_action().takes_values();
    let value = arg.get_value_names().unwrap_or_default().join(" ");
    let name = match (names.is_empty(), takes && !value.is_empty()) {
        (true, _) => value,
        (false, true) => format!("{} {value}", names.join(", ")),
        (false, false) => names.join(", "),
    };
    let mut help =
        arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let words: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|word| takes && !arg.is_hide_possible_values_set() && !word.is_hide_set())
        .map(|word| format!("`{}`", word.get_name()))
        .collect();
    if !words.is_empty() {
        help.push_str(&format!(" ({})", words.join(", ")));
    }
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes && !defaults.is_empty() && !arg.is_hide_default_value_set() {
        help.push_str(&format!("; default `{}`", defaults.join(" ")));
    }
    if let Some(variable) = arg.get_env() {
        help.push_str(&format!("; also `{}`", variable.to_string_lossy()));
    }
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    format!("| `{}` | {} |\n", cell(&name), cell(&help))
}

/// Examples and notes, as they stand under `--help`.
fn after(command: &clap::Command) -> String {
    let text = command.get_after_long_help().or_else(|| command.get_after_help());
    text.map_or_else(String::new, |text| format!("\n```text\n{}\n```\n", text.to_string().trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_section() {
        let text = commands();
        for title in ["## waystation serve", "### waystation spool ls", "### waystation gateway bootstrap"] {
            assert!(text.contains(&format!("\n{title}\n")), "{title} is missing");
        }
        assert!(text.contains("`--config FILE`"), "{text}");
        assert!(!text.contains("reference"[..].to_uppercase().as_str()), "hidden commands stay hidden");
    }
}
