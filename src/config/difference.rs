//! PURE: what a new configuration changes, key by key, and what a running relay can take of it.
//!
//! Promises: every key that differs is named once, under what it takes; values are compared as the relay reads them, so a
//! default that somebody spelled out is no change. Values are never told: some are secrets.
//! Failure policy: a mixture that cannot work (a live key that depends on one that needs a restart) is refused as a whole.

use std::collections::BTreeMap;

use super::keys::{Effect, KEYS};
use super::load::Loader;
use super::{Config, ConfigErrors, Value};

/// The value of every key as it was read, with its source.
#[derive(Clone, Debug)]
pub struct Keys {
    pub(super) values: BTreeMap<&'static str, (Value, String)>,
    pub(super) unused: Vec<String>,
}

/// What differs between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that take effect at once.
    pub live: Vec<&'static str>,
    /// Keys that take effect at the next start.
    pub needs_restart: Vec<&'static str>,
}

impl Keys {
    /// What `new` changes.
    #[must_use]
    pub fn difference(&self, new: &Self) -> Difference {
        let mut difference = Difference::default();
        for key in KEYS {
            let (before, after) = (self.value(key.path), new.value(key.path));
            if before == after {
                continue;
            }
            let live = match key.effect() {
                Effect::Live => true,
                Effect::LiveWhileSet => is_set(before) && is_set(after),
                Effect::Restart => false,
            };
            if live { &mut difference.live } else { &mut difference.needs_restart }.push(key.path);
        }
        difference
    }

    /// This configuration with what `new` changes live; the other keys stay as they are.
    ///
    /// # Errors
    /// The two do not go together.
    pub fn follow(&self, new: &Self) -> Result<(Config, Self), ConfigErrors> {
        let mut mixed = self.clone();
        for path in self.difference(new).live {
            if let Some(value) = new.values.get(path) {
                mixed.values.insert(path, value.clone());
            }
        }
        mixed.unused.clone_from(&new.unused);
        Loader::of(mixed).done()
    }

    fn value(&self, path: &str) -> Option<&Value> {
        self.values.get(path).map(|(value, _)| value)
    }
}

fn is_set(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Text(text)) => !text.is_empty(),
        Some(Value::Bool(_) | Value::Whole(_) | Value::List(_) | Value::Wholes(_)) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn keys(text: &str) -> Keys {
        let sources = Sources { file: Some(("waystation.toml", text)), ..Sources::default() };
        Config::load_keys(&sources).expect("a good configuration").1
    }

    #[test]
    fn what_is_spelled_out_and_equal_is_no_change() {
        let spelled = keys("[smtp]\nmax_recipients = 100\nlisten = \"127.0.0.1:2526\"\n");
        assert_eq!(keys("").difference(&spelled), Difference::default());
    }

    #[test]
    fn each_change_is_named_once_by_what_it_takes() {
        let new = keys(
            "hostname = \"other\"\n[smtp]\nmax_recipients = 7\nlisten = [\"127.0.0.1:1\"]\n[limits]\nenabled = false\n",
        );
        let difference = keys("").difference(&new);
        assert_eq!(difference.live, ["smtp.max_recipients", "limits.enabled"]);
        assert_eq!(difference.needs_restart, ["hostname", "smtp.listen"]);
    }

    #[test]
    fn a_running_relay_takes_the_live_keys_and_keeps_the_others() {
        let old = keys("[smtp]\nmax_recipients = 9\n");
        let new = keys("hostname = \"other\"\n[smtp]\nmax_recipients = 7\n");
        let (config, mixed) = old.follow(&new).expect("they go together");
        assert_eq!((config.hostname.as_str(), config.smtp.max_recipients), ("localhost", 7));
        let left = mixed.difference(&new);
        assert_eq!(
            (left.live.len(), left.needs_restart),
            (0, vec!["hostname"]),
            "said again at the next reload"
        );
    }

    #[test]
    fn a_file_is_replaced_live_but_not_switched_on() {
        let token = |name: &str| keys(&format!("[admin]\nhttp_token_file = \"{name}\"\n"));
        assert_eq!(token("a").difference(&token("b")).live, ["admin.http_token_file"]);
        assert_eq!(token("").difference(&token("b")).needs_restart, ["admin.http_token_file"]);
        assert_eq!(token("a").difference(&token("")).needs_restart, ["admin.http_token_file"]);
    }
}
