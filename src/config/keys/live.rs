//! PURE: which keys take effect on a running relay. The one place that says so.
//!
//! A key that is on neither list needs a restart.

use super::{KEYS, Key};

/// Whether a change of a key takes effect while the relay runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At a reload.
    Live,
    /// At a reload, as long as the key was set and stays set; setting it, or taking it away, needs a restart.
    LiveWhileSet,
    /// At a restart.
    Restart,
}

/// Keys, and tables with all of their keys (a dot at the end).
const LIVE: &[&str] = &[
    "domains",
    "postmaster",
    "smtp.max_message_bytes",
    "smtp.max_recipients",
    "smtp.max_connections",
    "smtp.command_timeout_seconds",
    "smtp.require_tls",
    "smtp.greet_delay_ms",
    "smtp.mta_sts",
    "smtp.dnsbl_zones",
    "smtp.on_stray_line_ending",
    "smtp.normalize_networks",
    "tunnel.",
    "verify.",
    "admission.",
    "delivery.dns_probe_seconds",
    "delivery.port",
    "delivery.source_addresses",
    "delivery.smarthost",
    "delivery.retry_schedule_seconds",
    "delivery.greylist_wait_seconds",
    "delivery.expire_after_seconds",
    "delivery.final_dot_timeout_seconds",
    "delivery.timeouts_percent",
    "delivery.max_concurrent_total",
    "delivery.max_concurrent_per_destination",
    "delivery.interval_per_destination_ms",
    "delivery.resubmission_window_seconds",
    "delivery.tls_policy",
    "delivery.require_tls_domains",
    "dkim.",
    "limits.",
    "spool.",
    "log.level",
];

/// The same for keys that are live only while they are set.
const LIVE_WHILE_SET: &[&str] = &["tls.cert_file", "tls.key_file", "admin.http_token_file"];

impl Key {
    /// When a change of it takes effect.
    pub(in crate::config) fn effect(&self) -> Effect {
        let names = |known: &&&str| {
            if known.ends_with('.') { self.path.starts_with(**known) } else { self.path == **known }
        };
        if LIVE.iter().any(|known| names(&known)) {
            Effect::Live
        } else if LIVE_WHILE_SET.iter().any(|known| names(&known)) {
            Effect::LiveWhileSet
        } else {
            Effect::Restart
        }
    }
}

/// When a change of the key of that path takes effect; `None` when there is no such key.
#[must_use]
pub fn effect(path: &str) -> Option<Effect> {
    super::find(path).map(Key::effect)
}

/// The table of all keys and when they take effect, for the documentation.
#[must_use]
pub fn reload_table() -> String {
    let mut text = String::from("| key | a change takes effect |\n|---|---|\n");
    for key in KEYS {
        let when = match key.effect() {
            Effect::Live => "at a reload",
            Effect::LiveWhileSet => "at a reload, while it is set; at a restart when it is set or taken away",
            Effect::Restart => "at a restart",
        };
        text.push_str(&format!("| `{}` | {when} |\n", key.path));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_name_keys_that_exist() {
        for known in LIVE.iter().chain(LIVE_WHILE_SET) {
            let exists = KEYS
                .iter()
                .any(|key| key.path == *known || (known.ends_with('.') && key.path.starts_with(known)));
            assert!(exists, "{known}");
        }
    }

    #[test]
    fn sockets_and_names_need_a_restart_and_limits_do_not() {
        for path in ["smtp.listen", "http.listen", "hostname", "data_dir", "attestation.key_id"] {
            assert_eq!(effect(path), Some(Effect::Restart), "{path}");
        }
        for path in ["limits.enabled", "admission.mode", "dkim.selector", "log.level", "smtp.max_recipients"]
        {
            assert_eq!(effect(path), Some(Effect::Live), "{path}");
        }
        assert_eq!(effect("tls.key_file"), Some(Effect::LiveWhileSet));
        assert_eq!(effect("nonsense"), None);
        assert_eq!(reload_table().lines().count(), KEYS.len() + 2);
    }
}
