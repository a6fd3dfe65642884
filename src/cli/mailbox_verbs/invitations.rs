//! `waystation mailbox invite | invitations | withdraw`.

use serde_json::{Value, json};

use super::{Backend, Exit, Global, Limits, Offline, Paint, screen};
use crate::admin::change::people::InviteAsk;
use crate::admin::client::escape;

/// What `invite` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Ask {
    /// Whom it is for; shown by `mailbox invitations`
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Address that the mailbox gets; may be given several times
    #[arg(long = "alias", value_name = "ADDRESS")]
    aliases: Vec<String>,
    /// How long the code is good (30m, 2h, 7d)
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = screen::span_ms)]
    expires: u64,
    #[command(flatten)]
    limits: Limits,
}

/// Makes a code and says what to do with it.
pub(super) fn invite(global: &Global, offline: Offline, ask: &Ask) -> anyhow::Result<Exit> {
    let ask = InviteAsk {
        label: ask.label.clone(),
        aliases: ask.aliases.clone(),
        items: ask.limits.items,
        bytes: ask.limits.bytes,
        submissions_per_hour: ask.limits.submissions_per_hour,
        recipients_per_day: ask.limits.recipients_per_day,
        ttl_seconds: Some(ask.expires.div_ceil(1000)),
    };
    let backend = Backend::open_for_change(global, offline.offline)?;
    let made = backend.change("/invitations", serde_json::to_value(&ask)?)?;
    if global.json {
        screen::line(&made)?;
        return Ok(Exit::Done);
    }
    let (code, expires) = (made["code"].as_str().unwrap_or(""), made["expires_at"].as_str().unwrap_or(""));
    let paint = Paint::new(global.color.on_stdout());
    screen::print(&format!(
        "{}\n\nGood once, until {expires}. It is not shown again. On the machine that shall get the mail:\n\n  \
         waystation gateway bootstrap {} --invite {code}\n\n\
         Whoever has the code may redeem it: send it the way you would send a key.\n",
        paint.strong(code),
        backend.tunnel_url(),
    ))?;
    Ok(Exit::Done)
}

/// One line for each.
pub(super) fn list(global: &Global) -> anyhow::Result<Exit> {
    let answer = Backend::open(global)?.invitations()?;
    let found = answer["invitations"].as_array().cloned().unwrap_or_default();
    if global.json {
        for invitation in &found {
            screen::line(invitation)?;
        }
    } else if found.is_empty() {
        eprintln!("no invitation yet; `waystation mailbox invite` makes one");
    } else {
        let rows: Vec<_> = found.iter().map(row).collect();
        let header = ["ID", "STATE", "EXPIRES", "LABEL", "ALIASES", "MAILBOX"];
        let table = screen::table(Paint::new(global.color.on_stdout()), &header, &[false; 6], &rows);
        screen::print(&table)?;
    }
    Ok(if found.is_empty() { Exit::Nothing } else { Exit::Done })
}

fn row(invitation: &Value) -> Vec<String> {
    let text = |key: &str| invitation[key].as_str().unwrap_or("").to_owned();
    let names = invitation["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let aliases = names.collect::<Vec<_>>().join(" ");
    vec![text("id"), text("state"), text("expires_at"), text("label"), aliases, text("lane")]
}

/// Takes one back.
pub(super) fn withdraw(global: &Global, offline: Offline, id: &str) -> anyhow::Result<Exit> {
    let target = format!("/invitations/{}/withdraw", escape(id));
    let made = Backend::open_for_change(global, offline.offline)?.change(&target, json!({}))?;
    if global.json {
        screen::line(&made)?;
    } else {
        screen::print(&format!(
            "invitation {} is {}\n",
            made["id"].as_str().unwrap_or(""),
            made["state"].as_str().unwrap_or("")
        ))?;
    }
    Ok(Exit::Done)
}
