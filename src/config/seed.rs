//! PURE: the `config.json` of the relay this one replaces (`mail-tunnel` specification, section 13).
//!
//! Its required fields are checked in its order and refused in its words, so that a file which started the
//! old relay starts this one. Fields that have no counterpart here are accepted and returned by name; numbers that are
//! out of range here become the nearest one that is not, and that is told. Only a key name that nothing here can carry is
//! refused: another one would be another key to every gateway.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::keys::{self, Kind};
use super::{Adjusted, ConfigError, Value};

/// The greatest whole number the old relay's JavaScript could hold exactly.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;
/// Longest name of a key, bytes, as for `attestation.key_id`.
const KEY_ID_BYTES_MAX: usize = 64;

/// What a `config.json` says.
#[derive(Debug, Default)]
pub(super) struct Seed {
    /// Values for keys of ours.
    pub(super) values: BTreeMap<&'static str, Value>,
    /// Fields that mean nothing here, dotted.
    pub(super) unused: Vec<String>,
    /// Fields that mean something else here than they say.
    pub(super) adjusted: Vec<Adjusted>,
}

impl Seed {
    fn set(&mut self, key: &'static str, value: Value) {
        self.values.insert(key, value);
    }

    /// A number in our unit that `field` says as `given`, or the nearest one that the key takes.
    fn whole(&mut self, key: &'static str, value: u64, (field, given): (&str, u64)) {
        let taken = nearest(key, value);
        if taken != value {
            let problem = format!("{field} is {given}, which is out of range here");
            self.adjusted.push(Adjusted { key, problem, used: format!("{taken} is used") });
        }
        self.set(key, Value::Whole(taken));
    }
}

/// The number nearest to `value` that `key` takes.
fn nearest(key: &str, value: u64) -> u64 {
    match keys::find(key).map(|key| key.kind) {
        Some(Kind::Whole(min, max)) => value.clamp(min, max),
        Some(Kind::Bool | Kind::Text | Kind::Word(_) | Kind::List | Kind::Wholes(..)) | None => value,
    }
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
        let host = self.address(root, "", "host")?;
        let port = self.port(root, "", "port")?;
        seed.set("http.listen", Value::Text(socket(&host, port)));

        let logging = self.object(root, "logging")?;
        let format = match logging.get("consoleLogFormat").and_then(Json::as_str) {
            Some("json") => "json",
            Some("pretty") => "text",
            Some(_) | None => {
                return Err(self.error("logging.consoleLogFormat", "must be \"json\" or \"pretty\"."));
            }
        };
        seed.set("log.format", Value::Text(format.to_owned()));
        self.text(logging, "logging", "prettyLogThemePath")?;

        let smtp = self.object(root, "smtp")?;
        seed.set("smtp.enabled", Value::Bool(self.boolean(smtp, "smtp", "enabled")?));
        let host = self.address(smtp, "smtp", "host")?;
        let port = self.port(smtp, "smtp", "port")?;
        seed.set("smtp.listen", Value::List(vec![socket(&host, port)]));
        for (field, key) in
            [("maxMessageBytes", "smtp.max_message_bytes"), ("maxRecipients", "smtp.max_recipients")]
        {
            let given = self.positive(smtp, "smtp", field)?;
            seed.whole(key, given, (&path("smtp", field), given));
        }

        let limits = self.object(root, "rateLimits")?;
        for (field, key) in [
            ("smtpConnectionsPerMinutePerIp", "limits.smtp_connections_per_minute_per_ip"),
            ("smtpMessagesPerMinutePerIp", "limits.smtp_messages_per_minute_per_ip"),
            ("wsAuthAttemptsPerMinutePerIp", "limits.ws_auth_attempts_per_minute_per_ip"),
        ] {
            let given = self.positive(limits, "rateLimits", field)?;
            seed.whole(key, given, (&path("rateLimits", field), given));
        }
        let window = self.positive(limits, "rateLimits", "denyWindowMs")?;
        let given = ("rateLimits.denyWindowMs", window);
        seed.whole("limits.deny_window_seconds", window.div_ceil(1000), given);

        let auth = self.object(root, "auth")?;
        let ttl = self.positive(auth, "auth", "challengeTtlSeconds")?;
        seed.whole("tunnel.challenge_ttl_seconds", ttl, ("auth.challengeTtlSeconds", ttl));
        self.positive(auth, "auth", "maxChallengeRecords")?;
        self.positive(auth, "auth", "challengeGcIntervalMs")?;

        let ws = self.object(root, "ws")?;
        let heartbeat = self.positive(ws, "ws", "heartbeatIntervalMs")?;
        let idle = self.positive(ws, "ws", "idleTimeoutMs")?;
        silence(&mut seed, heartbeat, idle);

        self.optional(root, "dkim", &["domainName", "keySelector", "privateKeyPath"])?;
        self.dkim(root, &mut seed);
        self.optional(root, "attestation", &["keyId", "signingPrivateKeyPath"])?;
        self.attestation(root, &mut seed)?;
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
    fn dkim(&self, root: &Map<String, Json>, seed: &mut Seed) {
        let Some(dkim) = root.get("dkim").and_then(Json::as_object) else { return };
        let enabled = dkim.get("enabled").and_then(Json::as_bool) == Some(true);
        seed.set("dkim.enabled", Value::Bool(enabled));
        let text = |name| dkim.get(name).and_then(Json::as_str).map(str::trim).filter(|t| !t.is_empty());
        if let Some(domain) = text("domainName") {
            seed.set("dkim.domain", Value::Text(domain.to_owned()));
        }
        if let Some(selector) = text("keySelector") {
            seed.set("dkim.selector", Value::Text(selector.to_owned()));
        }
        if let Some(key) = text("privateKeyPath") {
            seed.set("dkim.rsa_key_file", Value::Text(self.beside(key)));
        }
        if let Some(names) = text("headerFieldNames") {
            let names = names.split(':').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
            seed.set("dkim.sign_headers", Value::List(names.collect()));
        }
    }

    /// What the old relay signed its statements with. A file that does not speak of them leaves our defaults, and so does
    /// the name of a key that was never used.
    fn attestation(&self, root: &Map<String, Json>, seed: &mut Seed) -> Result<(), ConfigError> {
        let Some(given) = root.get("attestation").and_then(Json::as_object) else { return Ok(()) };
        let enabled = given.get("enabled").and_then(Json::as_bool) == Some(true);
        seed.set("attestation.enabled", Value::Bool(enabled));
        let text = |name| given.get(name).and_then(Json::as_str).map(str::trim).filter(|t| !t.is_empty());
        match text("keyId") {
            Some(id) if is_key_name(id) => seed.set("attestation.key_id", Value::Text(id.to_owned())),
            Some(id) if enabled => {
                let must = format!("is `{id}`, and cannot name a key here.");
                let advice =
                    "use 1 to 64 letters, digits, `-`, `_` and `.`, here and in `trusted_relays` of every \
                              gateway at the same time; the key itself stays"
                        .to_owned();
                return Err(ConfigError { advice, ..self.error("attestation.keyId", &must) });
            }
            Some(_) => seed.unused.push("attestation.keyId".to_owned()),
            None => {}
        }
        if let Some(key) = text("signingPrivateKeyPath") {
            seed.set("attestation.key_file", Value::Text(self.beside(key)));
        }
        Ok(())
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

/// How long a gateway may be silent. The old relay required both numbers and used neither, so they may be any; a pair that
/// leaves no time to answer a ping is replaced by ours.
fn silence(seed: &mut Seed, heartbeat_ms: u64, idle_ms: u64) {
    let (heartbeat_key, idle_key) = ("tunnel.heartbeat_interval_seconds", "tunnel.idle_timeout_seconds");
    let (heartbeat, idle) = (heartbeat_ms.div_ceil(1000), idle_ms.div_ceil(1000));
    if nearest(idle_key, idle) > nearest(heartbeat_key, heartbeat) {
        seed.whole(heartbeat_key, heartbeat, ("ws.heartbeatIntervalMs", heartbeat_ms));
        seed.whole(idle_key, idle, ("ws.idleTimeoutMs", idle_ms));
        return;
    }
    let problem = format!(
        "ws.idleTimeoutMs ({idle_ms}) is not longer than ws.heartbeatIntervalMs ({heartbeat_ms}) here"
    );
    seed.adjusted.push(Adjusted { key: idle_key, problem, used: "the defaults of both are used".to_owned() });
}

/// What can be the name of a key: a part of file names and of log lines.
fn is_key_name(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    id.len() <= KEY_ID_BYTES_MAX && id.chars().all(plain)
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
    fn numbers_out_of_our_range_become_the_nearest_and_are_told() {
        let table: [(&str, &str, u64, &str, u64); 9] = [
            ("auth", "challengeTtlSeconds", 900, "tunnel.challenge_ttl_seconds", 600),
            ("auth", "challengeTtlSeconds", 3, "tunnel.challenge_ttl_seconds", 5),
            ("rateLimits", "denyWindowMs", 172_800_000, "limits.deny_window_seconds", 86_400),
            ("smtp", "maxRecipients", 5000, "smtp.max_recipients", 1000),
            ("smtp", "maxMessageBytes", 10, "smtp.max_message_bytes", 1024),
            ("smtp", "maxMessageBytes", 1 << 40, "smtp.max_message_bytes", (1 << 31) - 1),
            (
                "rateLimits",
                "smtpMessagesPerMinutePerIp",
                2_000_000,
                "limits.smtp_messages_per_minute_per_ip",
                1_000_000,
            ),
            ("ws", "heartbeatIntervalMs", 7_000_000, "tunnel.heartbeat_interval_seconds", 3600),
            ("ws", "idleTimeoutMs", 90_000_000, "tunnel.idle_timeout_seconds", 7200),
        ];
        for (table, field, given, key, taken) in table {
            let mut json = minimal();
            // Beside a heartbeat of two hours.
            json["ws"]["idleTimeoutMs"] = json!(7_100_000);
            json[table][field] = json!(given);
            let seed = read("config.json", &json.to_string()).expect("accepted");
            assert_eq!(seed.values[key], Value::Whole(taken), "{field}");
            let told = Adjusted {
                key,
                problem: format!("{table}.{field} is {given}, which is out of range here"),
                used: format!("{taken} is used"),
            };
            assert_eq!(seed.adjusted, [told]);
        }
        assert_eq!(read("config.json", &minimal().to_string()).expect("accepted").adjusted, []);
    }

    #[test]
    fn a_silence_that_leaves_no_time_for_a_pong_is_ours() {
        for (heartbeat, idle) in
            [(30_000, 30_000), (120_000, 30_000), (30_100, 30_900), (9_000_000, 3_000_000)]
        {
            let mut json = minimal();
            json["ws"] = json!({ "heartbeatIntervalMs": heartbeat, "idleTimeoutMs": idle });
            let seed = read("config.json", &json.to_string()).expect("accepted");
            assert!(!seed.values.keys().any(|key| key.ends_with("interval_seconds")), "{heartbeat} {idle}");
            assert!(!seed.values.contains_key("tunnel.idle_timeout_seconds"), "{heartbeat} {idle}");
            assert_eq!(seed.adjusted.len(), 1);
            assert!(seed.adjusted[0].problem.contains("not longer than"), "{:?}", seed.adjusted);
        }
    }

    #[test]
    fn a_name_that_no_key_can_have_is_refused_where_it_signs() {
        let mut json = minimal();
        for id in ["relay primary", "relay:primary", "schlüssel", &"x".repeat(65)] {
            json["attestation"] =
                json!({ "enabled": true, "keyId": id, "signingPrivateKeyPath": "attestation.pem" });
            let error = read("config.json", &json.to_string()).expect_err("refused");
            assert_eq!(error.key, "attestation.keyId");
            assert!(error.problem.contains(id) && error.advice.contains("trusted_relays"), "{error}");
            json["attestation"]["enabled"] = json!(false);
            let seed = read("config.json", &json.to_string()).expect("accepted");
            assert!(!seed.values.contains_key("attestation.key_id"), "{id}");
            assert!(seed.unused.contains(&"attestation.keyId".to_owned()), "{:?}", seed.unused);
        }
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
