//! What a configuration promises.

use super::*;

fn toml(text: &str) -> Result<Config, ConfigErrors> {
    Config::load(&Sources { file: Some(("waystation.toml", text)), ..Sources::default() })
}

fn first(text: &str) -> ConfigError {
    toml(text).expect_err("refused").0.remove(0)
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn defaults_are_a_loopback_relay() {
    let config = Config::load(&Sources::default()).expect("defaults load");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.smtp.listen[0].to_string(), "127.0.0.1:2526");
    assert_eq!(config.domains, ["mail.localhost"]);
    assert_eq!(config.admin_socket, PathBuf::from("./waystation-data/admin.sock"));
    assert_eq!(config.postmaster, None);
    assert_eq!(config.spool.retain_acked_seconds, 604_800);
}

#[test]
fn example_file_is_the_table_of_keys_and_equals_the_defaults() {
    let file = include_str!("../../config/waystation.toml");
    assert_eq!(file, example(), "regenerate: waystation check-config --defaults > config/waystation.toml");
    let defaults = Config::load(&Sources::default()).expect("defaults");
    assert_eq!(toml(file).expect("commented example parses"), defaults);
    let uncommented: String = file
        .lines()
        .map(|l| l.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(l).to_owned() + "\n")
        .collect();
    assert_ne!(uncommented, file);
    assert_eq!(toml(&uncommented).expect("every default parses"), defaults);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    let e = first("[smtp]\nmax_recipient = 3\n");
    assert_eq!((e.key.as_str(), e.problem.as_str()), ("smtp.max_recipient", "unknown key"));
    assert_eq!(e.advice, "did you mean `smtp.max_recipients`?");
    assert_eq!(first("[tls]\ncert_files = \"x\"\n").problem, "unknown key");
    assert!(first("smtp = 3\n").problem.contains("table"));
}

#[test]
fn every_problem_names_file_key_and_advice() {
    for (text, key, problem) in [
        ("[smtp]\nlisten = [\"25\"]\n", "smtp.listen", "not an address and a port"),
        ("[smtp]\nlisten = []\n", "smtp.listen", "is empty"),
        ("[smtp]\nmax_recipients = 0\n", "smtp.max_recipients", "from 1 to 1000"),
        ("[smtp]\nmax_recipients = -1\n", "smtp.max_recipients", "from 1 to 1000"),
        ("[smtp]\nenabled = \"yes\"\n", "smtp.enabled", "true or false"),
        ("domains = []\n", "domains", "is empty"),
        ("domains = [\"a b\"]\n", "domains", "not a host name"),
        ("domains = [3]\n", "domains", "list"),
        ("[admission]\nmode = \"closed\"\n", "admission.mode", "one of open, allowlist"),
        ("[http]\ntrusted_proxies = [\"lan\"]\n", "http.trusted_proxies", "not a network"),
        ("[tunnel]\nidle_timeout_seconds = 10\n", "tunnel.idle_timeout_seconds", "not longer than"),
        ("[log]\nlevel = \"waystation=loud\"\n", "log.level", "not understood"),
        ("[smtp]\non_stray_line_ending = \"normalize\"\n", "smtp.on_stray_line_ending", "is empty"),
        ("[smtp]\nproxy_protocol = true\n[http]\ntrusted_proxies = []\n", "smtp.proxy_protocol", "nobody"),
        ("[tls]\ncert_file = \"c\"\n", "tls.cert_file", "key_file is empty"),
        ("[tls]\nkey_file = \"k\"\n", "tls.key_file", "cert_file is empty"),
        ("[tls.acme]\nenabled = true\n", "tls.acme.enabled", "`localhost` is no public name"),
        ("[tls.acme]\nenabled = true\nnames = [\"192.0.2.1\"]\n", "tls.acme.enabled", "no public name"),
        ("[verify]\nenabled = false\nrefuse_dmarc_reject = true\n", "verify.refuse_dmarc_reject", "checked"),
        ("data_dir = \"\"\n", "data_dir", "is empty"),
        ("[delivery]\ndns_servers = [\"resolver\"]\n", "delivery.dns_servers", "not an address"),
        ("[delivery]\nretry_schedule_seconds = []\n", "delivery.retry_schedule_seconds", "is empty"),
        ("[delivery]\nretry_schedule_seconds = [0]\n", "delivery.retry_schedule_seconds", "from 1 to"),
        ("[delivery]\nretry_schedule_seconds = [60, \"x\"]\n", "delivery.retry_schedule_seconds", "list"),
        ("[delivery]\nsmarthost = \"smtp.example\"\n", "delivery.smarthost", "host and a port"),
        ("[delivery]\nsmarthost = \"smtp.example:0\"\n", "delivery.smarthost", "host and a port"),
        (
            "[delivery]\nsource_addresses = [\"192.0.2.1\", \"192.0.2.2\"]\n",
            "delivery.source_addresses",
            "second address",
        ),
        ("[delivery]\ntls_policy = \"dane\"\n", "delivery.tls_policy", "one of opportunistic"),
        ("[delivery]\nrequire_tls_domains = [\"a b\"]\n", "delivery.require_tls_domains", "not a host name"),
        ("[dkim]\nenabled = true\ned25519_key_file = \"k\"\n", "dkim.enabled", "rsa_key_file is empty"),
        ("[dkim]\nsign_headers = [\"Su:bject\"]\n", "dkim.sign_headers", "not the name"),
    ] {
        let e = first(text);
        assert_eq!(e.file, "waystation.toml", "{text}");
        assert_eq!(e.key, key, "{text}");
        assert!(e.problem.contains(problem), "{text}: {}", e.problem);
        assert!(!e.advice.is_empty(), "{text}");
    }
    let e = first("domains = [\n");
    assert!(e.problem.starts_with("is not TOML"), "{}", e.problem);
}

#[test]
fn all_problems_are_reported_together() {
    let errors = toml("x = 1\n[smtp]\nmax_recipients = 0\nlisten = \"25\"\n").expect_err("refused");
    assert_eq!(errors.0.len(), 3, "{errors}");
}

#[test]
fn later_sources_win() {
    let file =
        Some(("w.toml", "hostname = \"file.example\"\ndata_dir = \"file\"\n[smtp]\nmax_recipients = 5\n"));
    let env = env(&[("WAYSTATION_HOSTNAME", "env.example"), ("WAYSTATION_DATA_DIR", "env")]);
    let flags = [("data_dir", "flag".to_owned())];
    let config = Config::load(&Sources { file, env: &env, flags: &flags }).expect("loads");
    assert_eq!(config.smtp.max_recipients, 5);
    assert_eq!(config.hostname, "env.example");
    assert_eq!(config.data_dir, PathBuf::from("flag"));
    assert_eq!(config.admin_socket, PathBuf::from("flag/admin.sock"));
}

#[test]
fn environment_is_typed_by_its_key() {
    let env = env(&[
        ("WAYSTATION_SMTP__LISTEN", "127.0.0.1:2525, [::1]:2525"),
        ("WAYSTATION_LIMITS__ENABLED", "false"),
        ("WAYSTATION_SMTP__MAX_RECIPIENTS", "7"),
        ("WAYSTATION_PORT", "tcp://10.0.0.1:80"),
        ("PATH", "/bin"),
    ]);
    let config = Config::load(&Sources { env: &env, ..Sources::default() }).expect("loads");
    assert_eq!(config.smtp.listen.len(), 2);
    assert!(!config.limits.enabled);
    assert_eq!(config.smtp.max_recipients, 7);
}

#[test]
fn wrong_environment_names_the_variable() {
    let bad = env(&[("WAYSTATION_SMTP__MAX_RECIPIENTS", "many"), ("WAYSTATION_SMPT__LISTEN", "x")]);
    let errors = Config::load(&Sources { env: &bad, ..Sources::default() }).expect_err("refused");
    assert_eq!(errors.0[0].file, "WAYSTATION_SMTP__MAX_RECIPIENTS");
    assert_eq!(errors.0[1].key, "smpt.listen");
    assert!(errors.0[1].advice.contains("smtp.listen"), "{errors}");
}

#[test]
fn domains_are_lower_case_a_labels_once() {
    let config =
        toml("domains = [\"Mail.Example\", \"mail.example.\", \"bücher.example\"]\n").expect("loads");
    assert_eq!(config.domains, ["mail.example", "xn--bcher-kva.example"]);
}

#[test]
fn delivery_keys_arrive_as_values() {
    let config = toml(
        "[delivery]\ndns_servers = [\"127.0.0.1\", \"[::1]:5353\"]\nsmarthost = \"[2001:db8::1]:587\"\n\
         retry_schedule_seconds = 5\nrequire_tls_domains = [\"Bücher.example\"]\ntls_policy = \"require\"\n",
    );
    let delivery = config.expect("loads").delivery;
    assert_eq!(
        delivery.dns_servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["127.0.0.1:53", "[::1]:5353"]
    );
    assert_eq!(delivery.smarthost.as_deref(), Some("[2001:db8::1]:587"));
    assert_eq!(delivery.retry_schedule_seconds, [5]);
    assert_eq!(delivery.require_tls_domains, ["xn--bcher-kva.example"]);
    assert_eq!(delivery.tls_policy, TlsWord::Require);
    let env = env(&[("WAYSTATION_DELIVERY__RETRY_SCHEDULE_SECONDS", "1, 2,3")]);
    let config = Config::load(&Sources { env: &env, ..Sources::default() }).expect("loads");
    assert_eq!(config.delivery.retry_schedule_seconds, [1, 2, 3]);
    assert!(!config.dkim.enabled);
}

#[test]
fn one_text_may_stand_for_a_list() {
    let config = toml("[smtp]\nlisten = \"127.0.0.1:25\"\n").expect("loads");
    assert_eq!(config.smtp.listen.len(), 1);
}

#[test]
fn seed_file_is_read_by_its_name() {
    let json = r#"{"host":"127.0.0.1","port":9000,
        "logging":{"consoleLogFormat":"pretty","prettyLogThemePath":"t"},
        "smtp":{"enabled":true,"host":"0.0.0.0","port":25,"maxMessageBytes":10485760,"maxRecipients":10},
        "rateLimits":{"smtpConnectionsPerMinutePerIp":60,"smtpMessagesPerMinutePerIp":30,
        "wsAuthAttemptsPerMinutePerIp":20,"denyWindowMs":300000},
        "auth":{"challengeTtlSeconds":60,"maxChallengeRecords":1,"challengeGcIntervalMs":1},
        "ws":{"heartbeatIntervalMs":30000,"idleTimeoutMs":120000}}"#;
    let config = Config::load(&Sources { file: Some(("/etc/config.json", json)), ..Sources::default() })
        .expect("loads");
    assert_eq!(config.smtp.listen[0].to_string(), "0.0.0.0:25");
    assert_eq!(config.http.listen.port(), 9000);
    assert_eq!(config.smtp.max_recipients, 10);
    assert!(config.unused.contains(&"auth.maxChallengeRecords".to_owned()));
}

#[test]
fn a_collector_of_traces_needs_a_build_that_can_send_them() {
    let loaded = toml("[log]\notlp_endpoint = \"http://127.0.0.1:4318\"\n");
    if crate::observe::TRACES_BUILT {
        assert_eq!(loaded.expect("loads").log.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4318"));
        let said = toml("[log]\notlp_endpoint = \"localhost:4318\"\n").expect_err("no URL").to_string();
        assert!(said.contains("log.otlp_endpoint") && said.contains("http://127.0.0.1:4318"), "{said}");
    } else {
        let said = loaded.expect_err("nobody would get them").to_string();
        assert!(said.contains("log.otlp_endpoint") && said.contains("--features otel"), "{said}");
    }
}
