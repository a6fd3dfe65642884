//! `waystation mailbox ...`: who may connect, and what they may hold.

mod invitations;

use serde_json::{Value, json};

use super::backend::Backend;
use super::screen::{self, Paint};
use super::{Exit, Global};
use crate::admin::client::escape;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
A mailbox is named by its gateway's key text: 52 characters that `waystation gateway bootstrap` prints.

Examples:
  waystation mailbox ls
  waystation mailbox invite --label aunt --alias aunt@mail.example.org
  waystation mailbox alias home@mail.example.org KEY
  waystation mailbox quota KEY --items 5000 --bytes 1073741824
  waystation mailbox revoke KEY";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List mailboxes
    Ls,
    /// Show one mailbox
    Show {
        /// Key text, alias, or address
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Make a one-time code that `waystation gateway bootstrap --invite` redeems
    #[command(after_help = "Examples:\n  \
        waystation mailbox invite --label aunt --alias aunt@mail.example.org\n  \
        waystation mailbox invite --expires 2h --submissions-per-hour 20")]
    Invite {
        #[command(flatten)]
        ask: invitations::Ask,
        #[command(flatten)]
        offline: Offline,
    },
    /// List invitations: open, redeemed, expired, withdrawn
    Invitations,
    /// Take an invitation back before it is redeemed
    Withdraw {
        /// Id of the invitation, or its first characters
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        offline: Offline,
    },
    /// Register a key before its gateway connects (needed when admission.mode is allowlist)
    Add {
        /// Key text
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        offline: Offline,
    },
    /// Register a key, or undo its revocation
    Allow {
        /// Key text
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        offline: Offline,
    },
    /// Refuse mail for a mailbox and logins of its gateway, and end its sessions; what it holds stays
    Revoke {
        /// Key text, alias, or address
        #[arg(value_name = "NAME")]
        name: String,
        /// Hold what it has submitted and nobody has tried yet, as after the theft of a key
        #[arg(long)]
        hold_outgoing: bool,
        #[command(flatten)]
        offline: Offline,
    },
    /// Give a mailbox another address, or take it away
    #[command(after_help = "Examples:\n  \
        waystation mailbox alias home@mail.example.org KEY\n  \
        waystation mailbox alias home@mail.example.org KEY --remove")]
    Alias {
        /// A full address at one of the relay's domains
        #[arg(value_name = "ADDRESS")]
        address: String,
        /// Key text, alias, or address of the mailbox
        #[arg(value_name = "NAME")]
        name: String,
        /// Take the address away
        #[arg(long)]
        remove: bool,
        #[command(flatten)]
        offline: Offline,
    },
    /// Give a mailbox its own limits; without options it goes back to the defaults
    #[command(after_help = "Example:\n  waystation mailbox quota KEY --items 5000 --bytes 1073741824")]
    Quota {
        /// Key text, alias, or address
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        offline: Offline,
    },
}

/// What a mailbox may hold and send.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Limits {
    /// Most undelivered items
    #[arg(long, value_name = "N")]
    items: Option<u64>,
    /// Most undelivered bytes
    #[arg(long, value_name = "BYTES")]
    bytes: Option<u64>,
    /// Most submissions in an hour; 0 closes the mailbox for sending
    #[arg(long, value_name = "N")]
    submissions_per_hour: Option<u32>,
    /// Most recipients outside the relay in a day; 0 lets it write to mailboxes here only
    #[arg(long, value_name = "N")]
    recipients_per_day: Option<u32>,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Offline {
    /// Open the directory for the change when no relay runs
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Ls => ls(global),
        Verb::Show { name } => {
            let mailbox = Backend::open(global)?.mailbox(&name)?;
            show(global, &mailbox)
        }
        Verb::Add { key, offline } => change(global, offline, "/mailboxes".to_owned(), json!({ "key": key })),
        Verb::Allow { key, offline } => change(global, offline, verb_of(&key, "allow"), json!({})),
        Verb::Invite { ask, offline } => invitations::invite(global, offline, &ask),
        Verb::Invitations => invitations::list(global),
        Verb::Withdraw { id, offline } => invitations::withdraw(global, offline, &id),
        Verb::Revoke { name, hold_outgoing, offline } => {
            let body = json!({ "hold_outgoing": hold_outgoing });
            change(global, offline, verb_of(&name, "revoke"), body)
        }
        Verb::Alias { address, name, remove, offline } => {
            let body = json!({ "address": address, "remove": remove });
            change(global, offline, verb_of(&name, "alias"), body)
        }
        Verb::Quota { name, limits, offline } => {
            let Limits { items, bytes, submissions_per_hour, recipients_per_day } = limits;
            let body = json!({
                "items": items,
                "bytes": bytes,
                "submissions_per_hour": submissions_per_hour,
                "recipients_per_day": recipients_per_day,
            });
            change(global, offline, verb_of(&name, "quota"), body)
        }
    }
}

fn verb_of(name: &str, verb: &str) -> String {
    format!("/mailboxes/{}/{verb}", escape(name))
}

fn change(global: &Global, offline: Offline, target: String, body: Value) -> anyhow::Result<Exit> {
    let mailbox = Backend::open_for_change(global, offline.offline)?.change(&target, body)?;
    show(global, &mailbox)
}

fn ls(global: &Global) -> anyhow::Result<Exit> {
    let backend = Backend::open(global)?;
    let (mut rows, mut after, mut count) = (Vec::new(), None, 0);
    loop {
        let page = backend.mailboxes(after)?;
        for mailbox in page["mailboxes"].as_array().into_iter().flatten() {
            count += 1;
            if global.json {
                screen::line(mailbox)?;
            } else {
                rows.push(row(mailbox));
            }
        }
        after = page["next"].as_u64().and_then(|n| u32::try_from(n).ok());
        if after.is_none() {
            break;
        }
    }
    if count == 0 {
        if !global.json {
            eprintln!("no mailbox yet; a gateway registers its key with its first connection");
        }
        return Ok(Exit::Nothing);
    }
    if !global.json {
        let header = ["MAILBOX", "READY", "HELD", "BYTES", "OLDEST", "STATUS", "GATEWAY", "ALIASES"];
        let right = [false, true, true, true, true, false, false, false];
        screen::print(&screen::table(Paint::new(global.color.on_stdout()), &header, &right, &rows))?;
    }
    Ok(Exit::Done)
}

fn row(mailbox: &Value) -> Vec<String> {
    let of = |what: &str, state: &str| mailbox[what][state].as_u64().unwrap_or(0);
    vec![
        mailbox["lane"].as_str().unwrap_or("").to_owned(),
        of("items", "ready").to_string(),
        of("items", "held").to_string(),
        screen::bytes(of("bytes", "ready") + of("bytes", "held")),
        mailbox["oldest_ready_seconds"].as_u64().map_or(String::new(), screen::age),
        if mailbox["revoked"] == true { "revoked" } else { "allowed" }.to_owned(),
        gateway(mailbox),
        aliases(mailbox),
    ]
}

/// Whether its gateway is there; `-` when nobody knows.
fn gateway(mailbox: &Value) -> String {
    match (mailbox["connected"].as_bool(), mailbox["last_seen_at"].as_str()) {
        (Some(true), _) => "connected".to_owned(),
        (Some(false), Some(_)) => "away".to_owned(),
        (Some(false), None) | (None, _) => "-".to_owned(),
    }
}

fn aliases(mailbox: &Value) -> String {
    let names = mailbox["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
    names.collect::<Vec<_>>().join(" ")
}

fn show(global: &Global, mailbox: &Value) -> anyhow::Result<Exit> {
    if global.json {
        screen::line(mailbox)?;
        return Ok(Exit::Done);
    }
    let paint = Paint::new(global.color.on_stdout());
    let mut page = String::new();
    let mut field = |name: &str, value: &str| {
        page.push_str(&format!("{} {value}\n", paint.dim(&format!("{name:>12}"))));
    };
    let row = row(mailbox);
    let limit = |key: &str| mailbox[key].as_u64().map_or("default".to_owned(), |n| n.to_string());
    field("mailbox", &paint.strong(&row[0]));
    field("status", &if row[5] == "revoked" { paint.warn(&row[5]) } else { paint.good(&row[5]) });
    let seen = match (row[6].as_str(), mailbox["last_seen_at"].as_str()) {
        ("connected", Some(at)) => format!("connected, last heard of at {at}"),
        (_, Some(at)) => format!("away, last heard of at {at}"),
        (_, None) => "not seen since the relay's start".to_owned(),
    };
    field("gateway", &seen);
    field("aliases", if row[7].is_empty() { "none" } else { &row[7] });
    field("created", mailbox["created_at"].as_str().unwrap_or(""));
    field("ready", &format!("{} items, {}", row[1], row[3]));
    field("held", &row[2]);
    field("acked", &mailbox["items"]["acked"].to_string());
    field("next number", &mailbox["next_seq"].to_string());
    field("quota", &format!("{} items, {} bytes", limit("quota_items"), limit("quota_bytes")));
    let out = &mailbox["outgoing"];
    let waits = ["queued", "held", "armed"].map(|word| format!("{} {word}", out[word])).join(", ");
    let ended = ["sent", "failed", "indeterminate"].map(|word| format!("{} {word}", out[word])).join(", ");
    field("outgoing", &format!("{waits}; {ended}; {} results not told", out["untold"]));
    let most = |key: &str| out[key].as_u64().map_or("no limit".to_owned(), |n| format!("at most {n}"));
    field(
        "rate",
        &format!(
            "{} in the last hour, {}; {} recipients elsewhere a day",
            out["last_hour"],
            most("per_hour_max"),
            most("recipients_per_day_max")
        ),
    );
    if let Some(held) = mailbox["held_now"].as_u64() {
        field("held now", &format!("{held} submissions; `waystation spool release ID` lets one go"));
    }
    if let Some(n) = mailbox["not_held_now"].as_u64().filter(|n| *n > 0) {
        let text =
            "that cannot be read, and so not be sent either; `waystation spool verify` lists the damage";
        field("not held", &format!("{n} {text}"));
    }
    screen::print(&page)?;
    Ok(Exit::Done)
}
