//! `waystation reload` and `waystation restart`: orders to the running relay.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Exit, Global, Stop, backend, load, screen};
use crate::admin::client::{Client, ClientError};
use crate::clock;

/// Shown below the help of `reload`.
pub(crate) const RELOAD: &str = "\
Keys marked [live] in `waystation check-config --defaults` change at once, for sessions, messages and
attempts that begin from then on; secret files are read again. The others are named and wait for a
restart. A mistake changes nothing.

Example:
  waystation reload

The same as SIGHUP. Exit code 2 when the configuration is wrong.";

/// Shown below the help of `restart`.
pub(crate) const RESTART: &str = "\
The program is tried first, with this configuration and this spool; when it could not start, the relay
goes on as it was. Then deliveries and messages under way are finished, gateways are told to come back,
and the new program takes over in the same process. New connections wait instead of being refused.

Example:
  waystation restart

The same as SIGUSR2.";

/// How long a hand-over may take before we stop looking.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) fn reload(global: &Global) -> anyhow::Result<Exit> {
    let runtime = backend::runtime()?;
    let client = runtime.block_on(find(global))?;
    let answer = runtime.block_on(client.post("/reload", &json!({}))).map_err(backend::stop)?;
    if global.json {
        screen::line(&answer)?;
        return Ok(Exit::Done);
    }
    let list = |key: &str| {
        let keys = answer[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        keys.map(|key| format!("  {key}\n")).collect::<String>()
    };
    let (changed, waits) = (list("changed"), list("needs_restart"));
    let mut text = match changed.as_str() {
        "" => "nothing has changed\n".to_owned(),
        _ => format!("changed:\n{changed}"),
    };
    if !waits.is_empty() {
        text.push_str(&format!("waits for `waystation restart`:\n{waits}"));
    }
    screen::print(&text)?;
    Ok(Exit::Done)
}

pub(crate) fn restart(global: &Global) -> anyhow::Result<Exit> {
    let runtime = backend::runtime()?;
    let (before, after) = runtime.block_on(async {
        let client = find(global).await?;
        let before = client.get("/restart").await.map_err(backend::stop)?;
        client.post("/restart", &json!({})).await.map_err(backend::stop)?;
        anyhow::Ok((before.clone(), taken_over(&client, &before).await?))
    })?;
    if global.json {
        screen::line(&after)?;
    } else {
        let word = |object: &Value| object["version"].as_str().unwrap_or("?").to_owned();
        screen::print(&format!("version {} took over from version {}\n", word(&after), word(&before)))?;
    }
    Ok(Exit::Done)
}

/// Waits until another process answers.
async fn taken_over(client: &Client, before: &Value) -> anyhow::Result<Value> {
    let until = clock::monotonic() + PATIENCE;
    loop {
        match client.get("/restart").await {
            Ok(now) if now["started_ms"] != before["started_ms"] => return Ok(now),
            // The old one, or nobody for a moment.
            Ok(_) | Err(ClientError::Socket { .. } | ClientError::Broken(_)) => {}
            Err(refused @ ClientError::Refused { .. }) => return Err(backend::stop(refused).into()),
        }
        if clock::monotonic() > until {
            let message = "the relay has not handed over yet; its log says why";
            return Err(Stop::new(Exit::Later, message).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn find(global: &Global) -> anyhow::Result<Client> {
    let config = load::config(global)?;
    match Client::find(&config.admin_socket).await.map_err(backend::stop)? {
        Some(client) => Ok(client),
        None => {
            let message = format!("no relay listens on {}", config.admin_socket.display());
            Err(Stop::new(Exit::Later, message).into())
        }
    }
}
