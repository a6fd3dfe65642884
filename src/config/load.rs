//! PURE: gathers values from every source, checks them, and builds the [`Config`].

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;

use super::keys::{self, Key, Kind};
use super::{
    Adjusted, Admission, AdmissionMode, Config, ConfigError, ConfigErrors, ENV_PREFIX, Http, Keys, Limits,
    Log, LogShape, MtaSts, PROBLEMS_MAX, Smtp, SpoolKeys, Tunnel, Value, seed,
};

/// Most entries of one list.
const LIST_MAX: usize = 1000;

/// Gathers values and problems.
#[derive(Default)]
pub(super) struct Loader {
    /// Value and source of every key that is set somewhere.
    values: BTreeMap<&'static str, (Value, String)>,
    unused: Vec<String>,
    adjusted: Vec<Adjusted>,
    problems: Vec<ConfigError>,
}

impl Loader {
    fn problem(&mut self, file: &str, key: &str, problem: impl Into<String>, advice: impl Into<String>) {
        self.problems.push(ConfigError {
            file: file.to_owned(),
            key: key.to_owned(),
            problem: problem.into(),
            advice: advice.into(),
        });
    }

    pub(super) fn file(&mut self, name: &str, text: &str) {
        if name.to_ascii_lowercase().ends_with(".json") {
            match seed::read(name, text) {
                Ok(seed) => {
                    self.unused = seed.unused;
                    self.adjusted = seed.adjusted;
                    for (path, value) in seed.values {
                        if let Some(key) = keys::find(path) {
                            self.checked(name, key, value);
                        }
                    }
                }
                Err(problem) => self.problems.push(problem),
            }
            return;
        }
        match text.parse::<toml::Table>() {
            Ok(table) => self.table(name, "", table),
            Err(e) => self.problem(name, "", format!("is not TOML: {}", e.to_string().trim_end()), ""),
        }
    }

    fn table(&mut self, file: &str, prefix: &str, table: toml::Table) {
        for (name, value) in table {
            let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            if let Some(key) = keys::find(&path) {
                match plain(value) {
                    Some(value) => self.checked(file, key, value),
                    None => self.wrong_kind(file, key),
                }
            } else if let (true, toml::Value::Table(inner)) = (keys::is_table(&path), value) {
                self.table(file, &path, inner);
            } else if keys::is_table(&path) {
                self.problem(file, &path, "must be a table", format!("write [{path}] and its keys below it"));
            } else {
                self.unknown(file, &path);
            }
        }
    }

    fn unknown(&mut self, file: &str, path: &str) {
        let advice = match keys::nearest(path) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "`waystation check-config --defaults` prints every key".to_owned(),
        };
        self.problem(file, path, "unknown key", advice);
    }

    pub(super) fn environment(&mut self, env: &[(String, String)]) {
        for (name, value) in env {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
            let path = rest.to_ascii_lowercase().replace("__", ".");
            // Container platforms invent names like WAYSTATION_PORT; only a double underscore is surely meant
            // for us.
            if keys::find(&path).is_some() {
                self.spelled(name, &path, value);
            } else if rest.contains("__") {
                self.unknown("environment", &path);
            }
        }
    }

    /// A value given as text: environment and flags.
    pub(super) fn spelled(&mut self, source: &str, path: &str, text: &str) {
        let Some(key) = keys::find(path) else { return self.unknown(source, path) };
        let value = match key.kind {
            Kind::Bool => match text {
                "true" | "1" | "yes" | "on" => Some(Value::Bool(true)),
                "false" | "0" | "no" | "off" => Some(Value::Bool(false)),
                _ => None,
            },
            Kind::Whole(..) => text.trim().parse().ok().map(Value::Whole),
            Kind::Text | Kind::Word(_) => Some(Value::Text(text.to_owned())),
            Kind::List => {
                let parts = text.split(',').map(str::trim).filter(|t| !t.is_empty());
                Some(Value::List(parts.map(str::to_owned).collect()))
            }
            Kind::Wholes(..) => {
                let parts = text.split(',').map(str::trim).filter(|t| !t.is_empty());
                parts.map(|part| part.parse().ok()).collect::<Option<Vec<_>>>().map(Value::Wholes)
            }
        };
        match value {
            Some(value) => self.checked(source, key, value),
            None => self.wrong_kind(source, key),
        }
    }

    /// Stores a value that has the kind of its key.
    fn checked(&mut self, source: &str, key: &'static Key, value: Value) {
        // One address may be written without brackets where a list is expected.
        let value = match (key.kind, value) {
            (Kind::List, Value::Text(one)) => Value::List(vec![one]),
            (Kind::Wholes(..), Value::Whole(one)) => Value::Wholes(vec![one]),
            (Kind::Wholes(..), Value::List(none)) if none.is_empty() => Value::Wholes(Vec::new()),
            (_, value) => value,
        };
        let fits = match (key.kind, &value) {
            (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::Text(_)) => true,
            (Kind::Whole(min, max), Value::Whole(n)) => (min..=max).contains(n),
            (Kind::Word(words), Value::Text(text)) => words.contains(&text.as_str()),
            (Kind::List, Value::List(items)) => items.len() <= LIST_MAX,
            (Kind::Wholes(min, max), Value::Wholes(items)) => {
                items.len() <= LIST_MAX && items.iter().all(|n| (min..=max).contains(n))
            }
            (
                Kind::Bool | Kind::Text | Kind::Whole(..) | Kind::Word(_) | Kind::List | Kind::Wholes(..),
                _,
            ) => false,
        };
        if fits {
            self.values.insert(key.path, (value, source.to_owned()));
        } else {
            self.wrong_kind(source, key);
        }
    }

    fn wrong_kind(&mut self, source: &str, key: &Key) {
        let must = match key.kind {
            Kind::Bool => "must be true or false".to_owned(),
            Kind::Whole(min, max) => format!("must be a whole number from {min} to {max}"),
            Kind::Text => "must be a text in quotes".to_owned(),
            Kind::Word(words) => format!("must be one of {}", words.join(", ")),
            Kind::List => format!("must be a list of at most {LIST_MAX} texts"),
            Kind::Wholes(min, max) => {
                format!("must be a list of at most {LIST_MAX} whole numbers from {min} to {max}")
            }
        };
        self.problem(source, key.path, must, format!("the default is {}", key.default));
    }

    /// Says that the value of `path` is wrong, and where it came from.
    pub(super) fn refuse(&mut self, path: &str, problem: impl Into<String>, advice: impl Into<String>) {
        let source = self.values.get(path).map_or("defaults", |(_, source)| source.as_str()).to_owned();
        self.problem(&source, path, problem, advice);
    }

    fn value(&self, path: &str) -> Option<Value> {
        if let Some((value, _)) = self.values.get(path) {
            return Some(value.clone());
        }
        let key = keys::find(path)?;
        let spelled = format!("v = {}", key.default);
        plain(spelled.parse::<toml::Table>().ok()?.remove("v")?)
    }

    pub(super) fn bool(&self, path: &str) -> bool {
        matches!(self.value(path), Some(Value::Bool(true)))
    }

    pub(super) fn whole(&self, path: &str) -> u64 {
        if let Some(Value::Whole(n)) = self.value(path) { n } else { 0 }
    }

    /// A number whose key allows no more than 32 bits.
    pub(super) fn whole32(&self, path: &str) -> u32 {
        u32::try_from(self.whole(path)).unwrap_or(u32::MAX)
    }

    pub(super) fn size(&self, path: &str) -> usize {
        usize::try_from(self.whole(path)).unwrap_or(usize::MAX)
    }

    pub(super) fn text(&self, path: &str) -> String {
        if let Some(Value::Text(text)) = self.value(path) { text } else { String::new() }
    }

    /// A file; `None` when the text is empty.
    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        Some(self.text(path)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        if let Some(Value::List(list)) = self.value(path) { list } else { Vec::new() }
    }

    pub(super) fn wholes(&self, path: &str) -> Vec<u64> {
        match self.value(path) {
            Some(Value::Wholes(list)) => list,
            Some(Value::Bool(_) | Value::Whole(_) | Value::Text(_) | Value::List(_)) | None => Vec::new(),
        }
    }

    pub(super) fn address(&mut self, path: &str, text: &str) -> Option<SocketAddr> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let problem = format!("`{text}` is not an address and a port");
            self.refuse(path, problem, "write it like \"127.0.0.1:2526\" or \"[::]:25\"");
        }
        parsed
    }

    pub(super) fn host(&mut self, path: &str, text: &str) -> String {
        let ascii = idna::domain_to_ascii_strict(text.trim_end_matches('.')).unwrap_or_default();
        if ascii.is_empty() || ascii.len() > 253 {
            self.refuse(path, format!("`{text}` is not a host name"), "write it like \"mail.example.org\"");
        }
        ascii
    }

    /// A loader that has read these.
    pub(super) fn of(keys: Keys) -> Self {
        Self { values: keys.values, unused: keys.unused, ..Self::default() }
    }

    /// The configuration with its keys, or everything that is wrong with it.
    pub(super) fn done(mut self) -> Result<(Config, Keys), ConfigErrors> {
        let read = |key: &'static Key| {
            let source = self.values.get(key.path).map_or("defaults", |(_, source)| source);
            Some((key.path, (self.value(key.path)?, source.to_owned())))
        };
        let values = keys::KEYS.iter().filter_map(read).collect();
        let keys = Keys { values, unused: self.unused.clone() };
        let config = self.build();
        if self.problems.is_empty() {
            return Ok((config, keys));
        }
        self.problems.truncate(PROBLEMS_MAX);
        Err(ConfigErrors(self.problems))
    }

    fn build(&mut self) -> Config {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = self.text("http.listen");
        let http_listen = self.address("http.listen", &listen).unwrap_or(nowhere);
        let trusted_proxies = self.networks("http.trusted_proxies");
        if trusted_proxies.is_empty() && self.bool("smtp.proxy_protocol") {
            self.refuse(
                "smtp.proxy_protocol",
                "is true, but http.trusted_proxies is empty, so nobody could connect",
                "name the proxy's network there, like [\"10.0.0.5/32\"]",
            );
        }
        let normalize = self.networks("smtp.normalize_networks");
        let repairs = self.text("smtp.on_stray_line_ending") == "normalize";
        if repairs && normalize.is_empty() {
            self.refuse(
                "smtp.on_stray_line_ending",
                "is normalize, but smtp.normalize_networks is empty",
                "name the networks; repairing everybody's mail would let strangers smuggle messages",
            );
        }
        let smtp_enabled = self.bool("smtp.enabled");
        let mut smtp_listen = Vec::new();
        for text in self.list("smtp.listen") {
            smtp_listen.extend(self.address("smtp.listen", &text));
        }
        if smtp_enabled && self.list("smtp.listen").is_empty() {
            self.refuse("smtp.listen", "is empty", "name an address, or set smtp.enabled = false");
        }
        let heartbeat = self.whole("tunnel.heartbeat_interval_seconds");
        let idle = self.whole("tunnel.idle_timeout_seconds");
        if idle <= heartbeat {
            self.refuse(
                "tunnel.idle_timeout_seconds",
                format!("{idle} is not longer than tunnel.heartbeat_interval_seconds ({heartbeat})"),
                "a gateway needs time to answer a ping: use three to four times the interval",
            );
        }
        let name = self.text("hostname");
        let hostname = self.host("hostname", &name);
        let domains = self.domains();
        let level = self.text("log.level");
        if let Err(e) = crate::observe::check_level(&level) {
            self.refuse("log.level", e.to_string(), "write a level, like \"info\" or \"debug\"");
        }
        let data_dir = PathBuf::from(self.text("data_dir"));
        if data_dir.as_os_str().is_empty() {
            self.refuse("data_dir", "is empty", "name a directory");
        }
        let socket = self.text("admin.socket");
        let delivery = self.delivery();
        let tls_listen = self.tls_listen();
        let tls = self.tls(&hostname, tls_listen.is_some());
        let dnsbl_zones = self.list("smtp.dnsbl_zones");
        let dnsbl_zones = dnsbl_zones.iter().map(|zone| self.host("smtp.dnsbl_zones", zone)).collect();
        let dkim = self.dkim(domains.first().map_or("", String::as_str));
        Config {
            admin_socket: if socket.is_empty() { data_dir.join("admin.sock") } else { socket.into() },
            data_dir,
            hostname,
            domains,
            postmaster: Some(self.text("postmaster")).filter(|t| !t.is_empty()),
            admin_http_token_file: self.path("admin.http_token_file"),
            http: Http {
                listen: http_listen,
                tls_listen,
                trusted_proxies,
                proxy_protocol: self.bool("http.proxy_protocol"),
            },
            tls,
            smtp: Smtp {
                enabled: smtp_enabled,
                listen: smtp_listen,
                max_message_bytes: self.whole("smtp.max_message_bytes"),
                max_recipients: self.size("smtp.max_recipients"),
                max_connections: self.size("smtp.max_connections"),
                command_timeout_seconds: self.whole("smtp.command_timeout_seconds"),
                require_tls: self.bool("smtp.require_tls"),
                proxy_protocol: self.bool("smtp.proxy_protocol"),
                greet_delay_ms: self.whole("smtp.greet_delay_ms"),
                dnsbl_zones,
                mta_sts: match self.text("smtp.mta_sts").as_str() {
                    "off" => MtaSts::Off,
                    "enforce" => MtaSts::Enforce,
                    _ => MtaSts::Testing,
                },
                normalize_networks: if repairs { normalize } else { Vec::new() },
            },
            tunnel: Tunnel {
                challenge_ttl_seconds: self.whole("tunnel.challenge_ttl_seconds"),
                heartbeat_interval_seconds: heartbeat,
                idle_timeout_seconds: idle,
                unacked_items_max: self.whole32("tunnel.unacked_items_max"),
                unacked_bytes_max: self.whole("tunnel.unacked_bytes_max"),
                legacy_unacked_items_max: self.whole32("tunnel.legacy_unacked_items_max"),
            },
            verify: self.verify(),
            attestation: self.attestation(),
            admission: Admission {
                mode: match self.text("admission.mode").as_str() {
                    "allowlist" => AdmissionMode::Allowlist,
                    _ => AdmissionMode::Open,
                },
                mailbox_items_max: self.whole("admission.mailbox_items_max"),
                mailbox_bytes_max: self.whole("admission.mailbox_bytes_max"),
            },
            delivery,
            dkim,
            limits: Limits {
                enabled: self.bool("limits.enabled"),
                smtp_connections_per_minute_per_ip: self.whole32("limits.smtp_connections_per_minute_per_ip"),
                smtp_connections_max_per_ip: self.whole32("limits.smtp_connections_max_per_ip"),
                smtp_messages_per_minute_per_ip: self.whole32("limits.smtp_messages_per_minute_per_ip"),
                ws_auth_attempts_per_minute_per_ip: self.whole32("limits.ws_auth_attempts_per_minute_per_ip"),
                deny_window_seconds: self.whole("limits.deny_window_seconds"),
                unknown_recipient_delay_ms: self.whole("limits.unknown_recipient_delay_ms"),
                outbound_messages_per_hour_per_mailbox: self
                    .whole32("limits.outbound_messages_per_hour_per_mailbox"),
                outbound_recipients_per_day_per_mailbox: self
                    .whole32("limits.outbound_recipients_per_day_per_mailbox"),
            },
            spool: SpoolKeys {
                retain_acked_seconds: self.whole("spool.retain_acked_seconds"),
                retain_results_seconds: self.whole("spool.retain_results_seconds"),
                expire_undelivered_seconds: self.whole("spool.expire_undelivered_seconds"),
                min_free_bytes: self.whole("spool.min_free_bytes"),
            },
            log: Log {
                format: if self.text("log.format") == "json" { LogShape::Json } else { LogShape::Text },
                level,
                otlp_endpoint: self.otlp_endpoint(),
                otlp_sample_percent: self.whole("log.otlp_sample_percent"),
            },
            metrics_enabled: self.bool("metrics.enabled"),
            unused: std::mem::take(&mut self.unused),
            adjusted: std::mem::take(&mut self.adjusted),
        }
    }

    /// Refused where traces cannot be sent, so that nobody waits for them.
    fn otlp_endpoint(&mut self) -> Option<String> {
        let path = "log.otlp_endpoint";
        let text = Some(self.text(path)).filter(|text| !text.is_empty())?;
        if !crate::observe::TRACES_BUILT {
            let problem = "is set, and this build cannot send traces";
            self.refuse(
                path,
                problem,
                "leave it empty, or build with `cargo build --release --features otel`",
            );
        } else if let Err(problem) = crate::observe::check_endpoint(&text) {
            self.refuse(path, format!("`{text}` {problem}"), "write it like \"http://127.0.0.1:4318\"");
        }
        Some(text)
    }

    fn networks(&mut self, path: &str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in self.list(path) {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(net) => networks.push(net),
                Err(_) => {
                    self.refuse(path, format!("`{text}` is not a network"), "write it like \"10.0.0.0/8\"");
                }
            }
        }
        networks
    }

    fn domains(&mut self) -> Vec<String> {
        let mut domains: Vec<String> = Vec::new();
        for text in self.list("domains") {
            let domain = self.host("domains", &text);
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        if domains.is_empty() {
            self.refuse("domains", "is empty", "name at least one domain, like [\"mail.example.org\"]");
        }
        domains
    }
}

/// A TOML value in our terms; `None` for kinds no key has.
fn plain(value: toml::Value) -> Option<Value> {
    match value {
        toml::Value::Boolean(b) => Some(Value::Bool(b)),
        toml::Value::Integer(n) => u64::try_from(n).ok().map(Value::Whole),
        toml::Value::String(text) => Some(Value::Text(text)),
        toml::Value::Array(items) => list(items),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Texts or whole numbers, not both; empty is a list of no texts.
fn list(items: Vec<toml::Value>) -> Option<Value> {
    let (mut texts, mut wholes) = (Vec::new(), Vec::new());
    for item in items {
        match plain(item)? {
            Value::Text(text) => texts.push(text),
            Value::Whole(n) => wholes.push(n),
            Value::Bool(_) | Value::List(_) | Value::Wholes(_) => return None,
        }
    }
    match (texts.is_empty(), wholes.is_empty()) {
        (_, true) => Some(Value::List(texts)),
        (true, false) => Some(Value::Wholes(wholes)),
        (false, false) => None,
    }
}
