//! PURE: the `config.json` of the relay this one replaces (`mail-tunnel` specification, section 13).
//!
//! Its required fields are checked in its order and refused in its words, so that a file which started the
//! old relay starts this one. Fields that have no counterpart here are accepted and returned by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::{ConfigError, Value};

/// The greatest whole number the old relay's JavaScript could hold exactly.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// What a `config.json` says.
#[derive(Debug, Default)]
pub(super) struct Seed {
    /// Values for keys of ours.
    pub(super) values: BTreeMap<&'static str, Value>,
    /// Fields that mean nothing here, dotted.
    pub(super) unused: Vec<String>,
}

/// Fields we translate; everything else in the file is listed as not used.
const USED: &[&str] = &[
    "host",
    "port",
    "logging.consoleLogFormat",
    "smtp.enabled",
    "smtp.host",
    "smtp.port",
    "smtp.maxMessageBytes",
    "smtp.maxRecipients",
    "rateLimits.smtpConnectionsPerMinutePerIp",
    "rateLimits.smtpMessagesPerMinutePerIp",
    "rateLimits.wsAuthAttemptsPerMinutePerIp",
    "rateLimits.denyWindowMs",
    "auth.challengeTtlSeconds",
    "ws.heartbeatIntervalMs",
    "ws.idleTimeoutMs",
    "dkim.enabled",
    "dkim.domainName",
    "dkim.keySelector",
    "dkim.privateKeyPath",
    "dkim.headerFieldNames",
    "attestation.enabled",
    "attestation.keyId",
    "attestation.signingPrivateKeyPath",
];

/// Reads the text of a `config.json`.
///
/// # Errors
/// The first problem, in the words of the old relay.
pub(super) fn read(file: &str, text: &str) -> Result<Seed, ConfigError> {
    let json: Json = serde_json::from_str(text).map_err(|e| ConfigError {
        file: file.to_owned(),
        key: String::new(),
        problem: format!("is not JSON: {e}"),
        advice: "a file whose name ends in .json is read as the config.json of the seed relay; \
                 name it .toml otherwise"
            .to_owned(),
    })?;
    let reader = Reader { file };
    let root = json.as_object().ok_or_else(|| reader.error("", "must be an object."))?;
    reader.values(root)
}

struct Reader<'a> {
    file: &'a str,
}

impl Reader<'_> {
    fn values(&self, root: &Map<String, Json>) -> Result<Seed, ConfigError> {
        let mut seed = Seed::default();
        let mut set = |key, value| {
            seed.values.insert(key, value);
        };
        let host = self.address(root, "", "host")?;
        let port = self.port(root, "", "port")?;
        set("http.listen", Value::Text(socket(&host, port)));

        let logging = self.object(root, "logging")?;
        let format = match logging.get("consoleLogFormat").and_then(Json::as_str) {
            Some("json") => "json",
            Some("pretty") => "text",
            Some(_) | None => {
                return Err(self.error("logging.consoleLogFormat", "must be \"json\" or \"pretty\"."));
            }
        };
        set("log.format", Value::Text(format.to_owned()));
        self.text(logging, "logging", "prettyLogThemePath")?;

        let smtp = self.object(root, "smtp")?;
        set("smtp.enabled", Value::Bool(self.boolean(smtp, "smtp", "enabled")?));
        let host = self.address(smtp, "smtp", "host")?;
        let port = self.port(smtp, "smtp", "port")?;
        set("smtp.listen", Value::List(vec![socket(&host, port)]));
        set("smtp.max_message_bytes", Value::Whole(self.positive(smtp, "smtp", "maxMessageBytes")?));
        set("smtp.max_recipients", Value::Whole(self.positive(smtp, "smtp", "maxRecipients")?));

        let limits = self.object(root, "rateLimits")?;
        for (field, key) in [
            ("smtpConnectionsPerMinutePerIp", "limits.smtp_connections_per_minute_per_ip"),
            ("smtpMessagesPerMinutePerIp", "limits.smtp_messages_per_minute_per_ip"),
            ("wsAuthAttemptsPerMinutePerIp", "limits.ws_auth_attempts_per_minute_per_ip"),
        ] {
            set(key, Value::Whole(self.positive(limits, "rateLimits", field)?));
        }
        let window = self.positive(limits, "rateLimits", "denyWindowMs")?;
        set("limits.deny_window_seconds", Value::Whole(window.div_ceil(1000)));

        let auth = self.object(root, "auth")?;
        let ttl = self.positive(auth, "auth", "challengeTtlSeconds")?;
        set("tunnel.challenge_ttl_seconds", Value::Whole(ttl));
        self.positive(auth, "auth", "maxChallengeRecords")?;
        self.positive(auth, "auth", "challengeGcIntervalMs")?;

        let ws = self.object(root, "ws")?;
        let heartbeat = self.positive(ws, "ws", "heartbeatIntervalMs")?;
        set("tunnel.heartbeat_interval_seconds", Value::Whole(heartbeat.div_ceil(1000)));
        let idle = self.positive(ws, "ws", "idleTimeoutMs")?;
        set("tunnel.idle_timeout_seconds", Value::Whole(idle.div_ceil(1000)));

        self.optional(root, "dkim", &["domainName", "keySelector", "privateKeyPath"])?;
        self.dkim(root, &mut set);
        self.optional(root, "attestation", &["keyId", "signingPrivateKeyPath"])?;
        self.attestation(root, &mut set);
        collect_unused(root, "", &mut seed.unused);
        Ok(seed)
    }

    /// `dkim` and `attestation`: absent, or an object whose texts are required when it is enabled.
    fn optional(&self, root: &Map<String, Json>, name: &str, texts: &[&str]) -> Result<(), ConfigError> {
        let Some(value) = root.get(name) else { return Ok(()) };
        let object = value.as_object().ok_or_else(|| self.error(name, "must be an object when provided."))?;
        if object.get("enabled").and_then(Json::as_bool) != Some(true) {
            return Ok(());
        }
        for field in texts {
            if object.get(*field).and_then(Json::as_str).is_none_or(|t| t.trim().is_empty()) {
                let must = format!("must be a non-empty string when {name}.enabled is true.");
                return Err(self.error(&format!("{name}.{field}"), &must));
            }
        }
        Ok(())
    }

    /// What the old relay signed with. Its `skipFields` names Date and Message-ID, which must be signed (T6), so it
    /// is not taken over.
    fn dkim(&self, root: &Map<String, Json>, set: &mut impl FnMut(&'static str, Value)) {
        let Some(dkim) = root.get("dkim").and_then(Json::as_object) else { return };
        let enabled = dkim.get("enabled").and_then(Json::as_bool) == Some(true);
        set("dkim.enabled", Value::Bool(enabled));
        let text = |name| dkim.get(name).and_then(Json::as_str).map(str::trim).filter(|t| !t.is_empty());
        if let Some(domain) = text("domainName") {
            set("dkim.domain", Value::Text(domain.to_owned()));
        }
        if let Some(selector) = text("keySelector") {
            set("dkim.selector", Value::Text(selector.to_owned()));
        }
        if let Some(key) = text("privateKeyPath") {
            set("dkim.rsa_key_file", Value::Text(self.beside(key)));
        }
        if let Some(names) = text("headerFieldNames") {
            let names = names.split(':').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
            set("dkim.sign_headers", Value::List(names.collect()));
        }
    }

    /// What the old relay signed its statements with. A file that does not speak of them leaves our defaults.
    fn attestation(&self, root: &Map<String, Json>, set: &mut impl FnMut(&'static str, Value)) {
        let Some(given) = root.get("attestation").and_then(Json::as_object) else { return };
        let enabled = given.get("enabled").and_then(Json::as_bool) == Some(true);
        set("attestation.enabled", Value::Bool(enabled));
        let text = |name| given.get(name).and_then(Json::as_str).map(str::trim).filter(|t| !t.is_empty());
        if let Some(id) = text("keyId") {
            set("attestation.key_id", Value::Text(id.to_owned()));
        }
        if let Some(key) = text("signingPrivateKeyPath") {
            set("attestation.key_file", Value::Text(self.beside(key)));
        }
    }

    /// Relative paths start at the configuration's directory; an absolute one replaces it.
    fn beside(&self, path: &str) -> String {
        let beside = Path::new(self.file).parent().unwrap_or(Path::new("")).join(path);
        beside.to_string_lossy().into_owned()
    }

    fn object<'j>(
        &self,
        of: &'j Map<String, Json>,
        name: &str,
    ) -> Result<&'j Map<String, Json>, ConfigError> {
        of.get(name).and_then(Json::as_object).ok_or_else(|| self.error(name, "must be an object."))
    }

    fn text<'j>(&self, of: &'j Map<String, Json>, table: &str, name: &str) -> Result<&'j str, ConfigError> {
        of.get(name)
            .and_then(Json::as_str)
            .filter(|t| !t.trim().is_empty())
            .ok_or_else(|| self.error(&path(table, name), "must be a non-empty string."))
    }

    /// A bind address. The old relay took names too; we resolve only the one that needs no resolver.
    fn address(&self, of: &Map<String, Json>, table: &str, name: &str) -> Result<String, ConfigError> {
        let text = self.text(of, table, name)?.trim();
        if text == "localhost" {
            return Ok("127.0.0.1".to_owned());
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<core::net::IpAddr>()
            .map(|ip| ip.to_string())
            .map_err(|_| self.error(&path(table, name), "must be an IP address."))
    }

    fn boolean(&self, of: &Map<String, Json>, table: &str, name: &str) -> Result<bool, ConfigError> {
        let found = of.get(name).and_then(Json::as_bool);
        found.ok_or_else(|| self.error(&path(table, name), "must be a boolean."))
    }

    fn positive(&self, of: &Map<String, Json>, table: &str, name: &str) -> Result<u64, ConfigError> {
        of.get(name)
            .and_then(whole)
            .filter(|n| (1..=SAFE_INTEGER_MAX).contains(n))
            .ok_or_else(|| self.error(&path(table, name), "must be a positive integer."))
    }

    fn port(&self, of: &Map<String, Json>, table: &str, name: &str) -> Result<u16, ConfigError> {
        let n = self.positive(of, table, name)?;
        u16::try_from(n).map_err(|_| self.error(&path(table, name), "must be within 1-65535."))
    }

    fn error(&self, field: &str, must: &str) -> ConfigError {
        let file = self.file;
        let problem = if field.is_empty() {
            format!("Relay config at {file} {must}")
        } else {
            format!("Relay config at {file} field {field} {must}")
        };
        ConfigError { file: file.to_owned(), key: field.to_owned(), problem, advice: String::new() }
    }
}

/// A whole number; JavaScript does not tell `5` from `5.0`.
fn whole(value: &Json) -> Option<u64> {
    value.as_u64().or_else(|| {
        let f = value.as_f64()?;
        #[expect(clippy::cast_precision_loss, reason = "the bound is exactly representable")]
        let fits = f.fract() == 0.0 && f >= 0.0 && f <= SAFE_INTEGER_MAX as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
        fits.then_some(f as u64)
    })
}

fn path(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

fn socket(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn collect_unused(object: &Map<String, Json>, table: &str, unused: &mut Vec<String>) {
    for (name, value) in object {
        let path = path(table, name);
        match value {
            Json::Object(inner) if table.is_empty() => collect_unused(inner, name, unused),
            Json::Object(_)
            | Json::Null
            | Json::Bool(_)
            | Json::Number(_)
            | Json::String(_)
            | Json::Array(_) => {
                if !USED.contains(&path.as_str()) {
                    unused.push(path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn minimal() -> Json {
        json!({
            "host": "127.0.0.1", "port": 8080,
            "logging": { "consoleLogFormat": "json", "prettyLogThemePath": "theme.json" },
            "smtp": { "enabled": true, "host": "127.0.0.1", "port": 2526,
                      "maxMessageBytes": 10_485_760, "maxRecipients": 1 },
            "rateLimits": { "smtpConnectionsPerMinutePerIp": 60, "smtpMessagesPerMinutePerIp": 30,
                            "wsAuthAttemptsPerMinutePerIp": 20, "denyWindowMs": 300_000 },
            "auth": { "challengeTtlSeconds": 60, "maxChallengeRecords": 10_000,
                      "challengeGcIntervalMs": 60_000 },
            "ws": { "heartbeatIntervalMs": 30_000, "idleTimeoutMs": 120_000 }
        })
    }

    fn said(change: impl FnOnce(&mut Json)) -> Option<String> {
        let mut json = minimal();
        change(&mut json);
        read("CONFIG", &json.to_string()).err().map(|e| e.problem)
    }

    fn drop_field(json: &mut Json, table: Option<&str>, field: &str) {
        let object = match table {
            Some(table) => json[table].as_object_mut(),
            None => json.as_object_mut(),
        };
        object.expect("object").remove(field);
    }

    /// Vectors `config_validation`, each with the reference's exact words.
    #[test]
    fn defects_are_refused_in_the_words_of_the_reference() {
        let field = |rest: &str| Some(format!("Relay config at CONFIG field {rest}"));
        assert_eq!(said(|_| ()), None);
        assert_eq!(said(|j| j["host"] = json!(" ")), field("host must be a non-empty string."));
        assert_eq!(said(|j| j["port"] = json!(0)), field("port must be a positive integer."));
        assert_eq!(said(|j| j["port"] = json!(70_000)), field("port must be within 1-65535."));
        assert_eq!(said(|j| j["port"] = json!("8080")), field("port must be a positive integer."));
        assert_eq!(said(|j| drop_field(j, None, "logging")), field("logging must be an object."));
        assert_eq!(
            said(|j| j["logging"]["consoleLogFormat"] = json!("xml")),
            field("logging.consoleLogFormat must be \"json\" or \"pretty\".")
        );
        assert_eq!(said(|j| drop_field(j, None, "smtp")), field("smtp must be an object."));
        assert_eq!(said(|j| j["smtp"]["enabled"] = json!("yes")), field("smtp.enabled must be a boolean."));
        assert_eq!(
            said(|j| j["smtp"]["maxMessageBytes"] = json!(0)),
            field("smtp.maxMessageBytes must be a positive integer.")
        );
        assert_eq!(
            said(|j| drop_field(j, Some("smtp"), "maxRecipients")),
            field("smtp.maxRecipients must be a positive integer.")
        );
        assert_eq!(
            said(|j| j["rateLimits"]["denyWindowMs"] = json!(1.5)),
            field("rateLimits.denyWindowMs must be a positive integer.")
        );
        assert_eq!(said(|j| drop_field(j, None, "ws")), field("ws must be an object."));
        assert_eq!(said(|j| j["dkim"] = json!("no")), field("dkim must be an object when provided."));
        assert_eq!(
            said(|j| j["dkim"] = json!({ "enabled": true })),
            field("dkim.domainName must be a non-empty string when dkim.enabled is true.")
        );
        assert_eq!(
            said(|j| j["attestation"] = json!({ "enabled": true })),
            field("attestation.keyId must be a non-empty string when attestation.enabled is true.")
        );
        assert_eq!(
            said(|j| j["attestation"] = json!({ "enabled": true, "keyId": "k" })),
            field(
                "attestation.signingPrivateKeyPath must be a non-empty string when \
                 attestation.enabled is true."
            )
        );
    }

    #[test]
    fn fields_without_counterpart_are_accepted_and_listed() {
        let mut json = minimal();
        json["dkim"] = json!({ "enabled": false, "skipFields": "message-id:date" });
        json["extra"] = json!(1);
        let seed = read("config.json", &json.to_string()).expect("accepted");
        let mut unused = seed.unused;
        unused.sort();
        assert_eq!(
            unused,
            [
                "auth.challengeGcIntervalMs",
                "auth.maxChallengeRecords",
                "dkim.skipFields",
                "extra",
                "logging.prettyLogThemePath"
            ]
        );
    }

    #[test]
    fn signing_goes_on_with_the_same_key_and_selector() {
        let mut json = minimal();
        json["dkim"] = json!({ "enabled": true, "domainName": "mail.example", "keySelector": "default",
            "privateKeyPath": "keys/dkim.pem", "headerFieldNames": "from: to:date" });
        let seed = read("/etc/relay/config.json", &json.to_string()).expect("accepted");
        assert_eq!(seed.values["dkim.enabled"], Value::Bool(true));
        assert_eq!(seed.values["dkim.selector"], Value::Text("default".to_owned()));
        assert_eq!(seed.values["dkim.rsa_key_file"], Value::Text("/etc/relay/keys/dkim.pem".to_owned()));
        let fields = ["from", "to", "date"].map(str::to_owned).to_vec();
        assert_eq!(seed.values["dkim.sign_headers"], Value::List(fields));
    }

    #[test]
    fn statements_are_signed_with_the_same_key_under_the_same_name() {
        let mut json = minimal();
        let seed = read("config.json", &json.to_string()).expect("accepted");
        assert!(!seed.values.keys().any(|key| key.starts_with("attestation.")), "our defaults");
        json["attestation"] = json!({ "enabled": true, "keyId": "relay-primary",
            "signingPrivateKeyPath": "keys/attestation.pem" });
        let seed = read("/etc/relay/config.json", &json.to_string()).expect("accepted");
        assert_eq!(seed.values["attestation.enabled"], Value::Bool(true));
        assert_eq!(seed.values["attestation.key_id"], Value::Text("relay-primary".to_owned()));
        let file = "/etc/relay/keys/attestation.pem".to_owned();
        assert_eq!(seed.values["attestation.key_file"], Value::Text(file));
        assert!(!seed.unused.iter().any(|field| field.starts_with("attestation")), "{:?}", seed.unused);
        json["attestation"]["enabled"] = json!(false);
        let seed = read("/etc/relay/config.json", &json.to_string()).expect("accepted");
        assert_eq!(seed.values["attestation.enabled"], Value::Bool(false));
    }

    #[test]
    fn values_reach_our_keys_with_our_units() {
        let mut json = minimal();
        json["host"] = json!("::1");
        json["rateLimits"]["denyWindowMs"] = json!(1500);
        let seed = read("config.json", &json.to_string()).expect("accepted");
        assert_eq!(seed.values["http.listen"], Value::Text("[::1]:8080".to_owned()));
        assert_eq!(seed.values["limits.deny_window_seconds"], Value::Whole(2));
        assert_eq!(seed.values["smtp.listen"], Value::List(vec!["127.0.0.1:2526".to_owned()]));
    }
}
