//! What the services are told of the configuration, each in its own small struct.

use std::time::Duration;

use super::{abuse, ending};
use crate::admin::ask::Terms;
use crate::config::{AdmissionMode, Config};
use crate::mail::admission::Admission;
use crate::mail::intake;
use crate::mail::outbound::intake as outbound_intake;
use crate::mail::smtp::receiver;
use crate::tunnel::session::{self, Window};
use crate::tunnel::ws::{self, RateSettings};

pub(super) fn admission(config: &Config) -> Admission {
    match config.admission.mode {
        AdmissionMode::Open => Admission::Open,
        AdmissionMode::Allowlist => Admission::AllowList,
    }
}

pub(super) fn tunnel_settings(config: &Config) -> ws::Settings {
    let (t, l) = (&config.tunnel, &config.limits);
    ws::Settings {
        host: config.hostname.clone(),
        challenge_ttl: Duration::from_secs(t.challenge_ttl_seconds),
        rates: l.enabled.then(|| RateSettings {
            per_minute: l.ws_auth_attempts_per_minute_per_ip,
            deny_window: Duration::from_secs(l.deny_window_seconds),
        }),
        trusted_proxies: config.http.trusted_proxies.clone(),
        session: session::Settings {
            heartbeat_interval: Duration::from_secs(t.heartbeat_interval_seconds),
            idle_timeout: Duration::from_secs(t.idle_timeout_seconds),
            ack_patience: session::ACK_PATIENCE,
            window: Window { items: t.unacked_items_max, bytes: t.unacked_bytes_max },
            legacy_items_max: t.legacy_unacked_items_max,
        },
        reconnect_after: ending::RECONNECT_AFTER,
    }
}

/// What answers to an operator need to know of the configuration.
#[must_use]
pub fn terms(config: &Config) -> Terms {
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    let l = &config.limits;
    Terms {
        hostname: config.hostname.clone(),
        domains: config.domains.clone(),
        postmaster: config.postmaster.clone().unwrap_or_default(),
        retain_acked_ms: ms(config.spool.retain_acked_seconds),
        expire_ms: ms(config.spool.expire_undelivered_seconds),
        retain_results_ms: ms(config.spool.retain_results_seconds),
        outbound_expire_ms: ms(config.delivery.expire_after_seconds),
        outbound_per_hour: l.enabled.then_some(l.outbound_messages_per_hour_per_mailbox),
        outbound_recipients_per_day: l.enabled.then_some(l.outbound_recipients_per_day_per_mailbox),
    }
}

pub(super) fn submission_settings(config: &Config) -> outbound_intake::Settings {
    let limits = &config.limits;
    outbound_intake::Settings {
        postmaster: config.postmaster.clone().unwrap_or_default(),
        message_bytes_max: config.smtp.max_message_bytes.max(outbound_intake::MESSAGE_BYTES_LEAST),
        limited: limits.enabled,
        messages_per_hour: limits.outbound_messages_per_hour_per_mailbox,
        recipients_per_day: limits.outbound_recipients_per_day_per_mailbox,
        resubmission_window_ms: config.delivery.resubmission_window_seconds.saturating_mul(1000),
        remember_ms: config
            .spool
            .retain_results_seconds
            .saturating_add(config.delivery.expire_after_seconds)
            .saturating_mul(1000),
        ..outbound_intake::Settings::new(&config.hostname, &config.domains)
    }
}

pub(super) fn intake_settings(config: &Config) -> intake::Settings {
    let smtp = &config.smtp;
    let session = receiver::Settings {
        message_bytes_max: smtp.max_message_bytes,
        recipients_max: smtp.max_recipients,
        command_timeout: Duration::from_secs(smtp.command_timeout_seconds),
        require_tls: smtp.require_tls,
        unknown_recipient_delay: abuse::unknown_recipient_delay(config),
        greet_delay: Duration::from_millis(smtp.greet_delay_ms),
        ..receiver::Settings::new(&config.hostname, &config.domains)
    };
    intake::Settings {
        postmaster: config.postmaster.clone().unwrap_or_default(),
        normalize_networks: smtp.normalize_networks.clone(),
        greeted_at_once: config.http.trusted_proxies.clone(),
        ..intake::Settings::new(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_limit_for_mail_from_outside_narrows_nothing_that_gateways_send() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/mail-tunnel.json")).unwrap();
        let seed = vectors["config_validation"]["minimal_valid_config"].to_string();
        let limits = |env: &[(String, String)]| {
            let sources = Sources { file: Some(("config.json", seed.as_str())), env, ..Sources::default() };
            let config = Config::load(&sources).unwrap();
            (config.smtp.max_message_bytes, submission_settings(&config).message_bytes_max)
        };
        assert_eq!(limits(&[]), (10_485_760, 26_214_400));
        let wide = ("WAYSTATION_SMTP__MAX_MESSAGE_BYTES".to_owned(), "52428800".to_owned());
        assert_eq!(limits(&[wide]), (52_428_800, 52_428_800));
    }
}
