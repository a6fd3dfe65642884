//! What a relay that runs with the checked file would make of it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::super::backend::runtime;
use crate::admin::client::Client;
use crate::config::Config;

/// How long it may take to compare; it reads keys for that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keys that differ from what the relay runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    /// A reload takes them.
    pub(super) changed: Vec<String>,
    /// They wait for a restart.
    pub(super) needs_restart: Vec<String>,
}

impl Awaited {
    /// For a person.
    pub(super) fn text(&self) -> String {
        if self.changed.is_empty() && self.needs_restart.is_empty() {
            return "the running relay has all of it already\n".to_owned();
        }
        let list = |keys: &[String]| keys.iter().map(|key| format!("  {key}\n")).collect::<String>();
        let mut text = String::new();
        if !self.changed.is_empty() {
            text.push_str("the running relay takes these at `waystation reload` (SIGHUP):\n");
            text.push_str(&list(&self.changed));
        }
        if !self.needs_restart.is_empty() {
            text.push_str("these wait for `waystation restart`:\n");
            text.push_str(&list(&self.needs_restart));
        }
        text
    }
}

/// Asks the running relay; `None`: none runs, or it runs with another file.
pub(super) fn awaited(config: &Config, file: Option<&Path>) -> Option<Awaited> {
    let file = std::path::absolute(file?).ok()?;
    let asking = async {
        let client = Client::find(&config.admin_socket).await.ok()??;
        client.get("/reload").await.ok()
    };
    let runtime = runtime().ok()?;
    let told: Value = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await }).ok()??;
    if told["file"].as_str().map(Path::new) != Some(&file) {
        return None;
    }
    let keys = |name: &str| {
        let keys = told[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        keys.map(str::to_owned).collect()
    };
    Some(Awaited { changed: keys("changed"), needs_restart: keys("needs_restart") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_restart_stands_apart() {
        let none = Awaited { changed: Vec::new(), needs_restart: Vec::new() };
        assert_eq!(none.text(), "the running relay has all of it already\n");
        let both = Awaited {
            changed: vec!["limits.enabled".to_owned()],
            needs_restart: vec!["smtp.listen".to_owned(), "hostname".to_owned()],
        };
        assert_eq!(
            both.text(),
            "the running relay takes these at `waystation reload` (SIGHUP):\n  limits.enabled\n\
             these wait for `waystation restart`:\n  smtp.listen\n  hostname\n"
        );
    }
}
