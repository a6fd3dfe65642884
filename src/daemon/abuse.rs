//! What intake holds against abuse, made from the configuration.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::mail::intake::screen::Screen;
use crate::mail::limits;
use crate::mail::outbound::route::dns::Dns;
use crate::observe::Metrics;

/// The limits of all SMTP listeners.
pub(super) fn limits(config: &Config) -> limits::Settings {
    let l = &config.limits;
    limits::Settings {
        enabled: l.enabled,
        connections_max: config.smtp.max_connections,
        connections_per_address_max: l.smtp_connections_max_per_ip,
        connections_per_minute: l.smtp_connections_per_minute_per_ip,
        messages_per_minute: l.smtp_messages_per_minute_per_ip,
        deny_window: Duration::from_secs(l.deny_window_seconds),
    }
}

/// The tarpit's step; none when limits are off.
pub(super) fn unknown_recipient_delay(config: &Config) -> Duration {
    let l = &config.limits;
    if l.enabled { Duration::from_millis(l.unknown_recipient_delay_ms) } else { Duration::ZERO }
}

/// What the DNS is asked about clients and senders; `None` when nothing is.
pub(super) fn screen(config: &Config, dns: &Dns, metrics: &Arc<Metrics>) -> Option<Arc<Screen>> {
    let zones = &config.smtp.dnsbl_zones;
    let null_mx = config.verify.enabled && config.verify.refuse_null_mx_senders;
    if !config.smtp.enabled || (zones.is_empty() && !null_mx) {
        return None;
    }
    let patience = Duration::from_millis(config.verify.timeout_ms);
    Some(Screen::new(dns.clone(), zones, null_mx, patience, Arc::clone(metrics)))
}
