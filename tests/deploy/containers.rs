//! Container file, compose file, fly.toml: true to the program and to each other. No engine runs here; the final stage is
//! played in a root of its own by `container_root`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use waystation::daemon;

use super::{file, setting, tell, text};
use crate::layering::root;
use crate::support::process::{run_text, waystation};
use crate::support::programs::program;

/// The instructions of the final stage: word and rest, continued lines joined.
fn final_stage() -> Vec<(String, String)> {
    let joined = text("Containerfile").replace("\\\n", " ");
    let all: Vec<_> = joined
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .filter_map(|line| line.split_once(' '))
        .map(|(word, rest)| (word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    let last = all.iter().rposition(|(word, _)| word == "FROM").expect("a stage");
    all[last..].to_vec()
}

fn instruction(name: &str) -> String {
    let found = final_stage().into_iter().rev().find(|(word, _)| word == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

fn image_env() -> BTreeMap<String, String> {
    let words = instruction("ENV");
    words
        .split(' ')
        .map(|word| word.split_once('=').expect("NAME=VALUE"))
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect()
}

/// `check-config` with that environment only.
fn accepts(env: &BTreeMap<String, String>) {
    let said = tell(waystation().arg("check-config").envs(env));
    assert_eq!(said.0, 0, "{}", said.1);
}

/// A YAML file as JSON, read by somebody else's parser.
fn yaml(name: &str) -> Option<Value> {
    let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    for python in ["/usr/bin/python3", "python3"] {
        let output = Command::new(python).args(["-c", read]).arg(file(name)).output().ok()?;
        if output.status.success() {
            return Some(serde_json::from_slice(&output.stdout).expect("JSON"));
        }
    }
    eprintln!("SKIPPED: python3-yaml is not installed");
    None
}

fn port_of(address: &str) -> u64 {
    address.rsplit_once(':').expect("a port").1.parse().expect("a number")
}

#[test]
fn the_image_runs_our_program_as_nobody_in_particular() {
    let stage = final_stage();
    assert!(
        stage
            .iter()
            .any(|(word, rest)| word == "COPY" && rest == "--from=build /out/waystation /usr/bin/waystation")
    );
    let user = instruction("USER");
    let uid = user.split(':').next().expect("a user");
    assert!(uid.parse::<u32>().is_ok_and(|uid| uid >= 1000), "{user}: an id of nobody else");
    let made = &stage.iter().find(|(word, _)| word == "RUN").expect("a step that makes the user").1;
    assert!(made.contains(&format!("--uid {uid} ")) && made.contains(&format!("-o {uid} ")), "{made}");
    let env = image_env();
    accepts(&env);
    let data = &env["WAYSTATION_DATA_DIR"];
    assert_eq!(instruction("VOLUME"), format!("[\"{data}\"]"));
    let exposed: Vec<u64> =
        instruction("EXPOSE").split(' ').map(|port| port.parse().expect("a port")).collect();
    assert_eq!(exposed, [port_of(&env["WAYSTATION_SMTP__LISTEN"]), port_of(&env["WAYSTATION_HTTP__LISTEN"])]);
    assert!(exposed.iter().all(|port| *port > 1023), "a user may open them");
    assert_eq!(instruction("STOPSIGNAL"), "SIGTERM");
    let command = |name: &str| -> Vec<String> { serde_json::from_str(&instruction(name)).expect("a list") };
    assert_eq!(command("ENTRYPOINT"), ["/usr/bin/waystation"]);
    let health = instruction("HEALTHCHECK");
    let health: Vec<String> =
        serde_json::from_str(health.split_once(" CMD ").expect("a command").1).expect("a list");
    assert_eq!(health[0], "/usr/bin/waystation");
    for words in [&command("CMD")[..], &health[1..]] {
        let help: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        assert_eq!(run_text(&help).0, 0, "{words:?} is no command of the program");
    }
}

#[test]
fn the_builder_gets_what_the_build_reads_and_nothing_else() {
    let ignore = std::fs::read_to_string(root().join(".dockerignore")).expect(".dockerignore");
    let mut lines = ignore.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "nothing is sent that is not named");
    let sent: Vec<&str> = lines.map(|line| line.strip_prefix('!').expect("only exceptions follow")).collect();
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("manifest");
    for name in &sent {
        assert!(root().join(name).exists(), "{name} is gone");
    }
    for line in manifest.lines().filter_map(|line| line.strip_prefix("path = \"")) {
        let top = line.split(['/', '"']).next().expect("a name");
        assert!(sent.contains(&top), "{top} is missing: the manifest names {line}");
    }
    for needed in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "spool", "config"] {
        assert!(sent.contains(&needed), "{needed} is missing");
    }
}

/// What the head of compose.yml lets a person type: the names for deploy/.env, and the commands behind them.
fn typed_with_compose() -> (BTreeMap<String, String>, Vec<String>) {
    let (mut names, mut commands, mut in_file) = (BTreeMap::new(), Vec::new(), false);
    for line in text("compose.yml").lines().map_while(|line| line.strip_prefix('#')).map(str::trim) {
        if line == "cat > deploy/.env <<'END'" {
            in_file = true;
        } else if line == "END" {
            in_file = false;
        } else if in_file {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            names.insert(name.to_owned(), value.to_owned());
        } else if line.contains("docker compose -f") {
            assert!(!names.is_empty(), "the names that it needs come later: {line}");
            commands.push(line.to_owned());
        }
    }
    (names, commands)
}

#[test]
fn every_command_for_compose_finds_its_names_in_the_file_beside_it() {
    let (names, commands) = typed_with_compose();
    let compose = text("compose.yml");
    let asked: BTreeSet<&str> =
        compose.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next()).collect();
    assert_eq!(names.keys().map(String::as_str).collect::<BTreeSet<_>>(), asked);
    let readme = text("README.md");
    let (before, behind) = readme.split_once("cat > deploy/.env <<'END'").expect("the names");
    assert!(!before.contains("docker compose -f"), "a command of deploy/README.md comes before its names");
    for (name, value) in &names {
        assert!(behind.contains(&format!("\n{name}={value}\n")), "deploy/README.md lacks {name}={value}");
    }
    let of_readme = behind.lines().map(str::trim).filter(|line| line.contains("docker compose -f"));
    let all: Vec<String> = commands.into_iter().chain(of_readme.map(str::to_owned)).collect();
    assert!(all.len() > 6, "commands were not found: {all:?}");
    for command in all {
        // A variable in front of one command is not there for the next.
        let words = command.strip_prefix("docker compose -f deploy/compose.yml ");
        let words: Vec<&str> = words.unwrap_or_else(|| panic!("{command}")).split_whitespace().collect();
        let Some(at) = words.iter().position(|word| ["run", "exec"].contains(word)) else { continue };
        // Options of compose, the service, and what its container runs.
        let mut rest = words[at + 1..].iter().copied().skip_while(|word| word.starts_with('-'));
        let service = rest.next().expect("a service");
        assert!(compose.contains(&format!("\n  {service}:\n")), "{command}");
        let told = rest.skip_while(|word| *word == "waystation").take_while(|word| !word.starts_with('-'));
        let help: Vec<&str> = told.take(2).chain(["--help"]).collect();
        assert_eq!(run_text(&help).0, 0, "{command}: {help:?}");
    }
}

#[test]
fn compose_services_come_back_after_a_reboot() {
    let Some(compose) = yaml("compose.yml") else { return };
    for (name, service) in compose["services"].as_object().expect("services") {
        // Told to stop they end with 0, which `on-failure` takes for the end of their work.
        assert_eq!(service["restart"], "unless-stopped", "{name}");
    }
}

#[test]
fn compose_publishes_what_the_relay_listens_on() {
    let Some(compose) = yaml("compose.yml") else { return };
    let relay = &compose["services"]["relay"];
    let (names, _) = typed_with_compose();
    let filled = |text: &str| match text.strip_prefix("${").and_then(|rest| rest.split([':', '}']).next()) {
        Some(name) => names.get(name).unwrap_or_else(|| panic!("{name} is not explained")).clone(),
        None => text.to_owned(),
    };
    let mut env = image_env();
    for (name, value) in relay["environment"].as_object().expect("environment") {
        env.insert(name.clone(), filled(value.as_str().expect("text")));
    }
    accepts(&env);
    let (_, remarks) = tell(waystation().arg("check-config").envs(&env));
    assert!(!remarks.contains("tls.acme"), "the names of its head are doubted: {remarks}");
    let published: Vec<(u64, u64)> = relay["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|pair| pair.as_str().expect("text").split_once(':').expect("a pair"))
        .map(|(out, inside)| (out.parse().expect("a port"), inside.parse().expect("a port")))
        .collect();
    let listens = ["WAYSTATION_SMTP__LISTEN", "WAYSTATION_HTTP__LISTEN", "WAYSTATION_HTTP__TLS_LISTEN"]
        .map(|key| port_of(&env[key]));
    assert_eq!(published.iter().map(|(_, inside)| *inside).collect::<Vec<_>>(), listens);
    assert_eq!(published.iter().map(|(out, _)| *out).collect::<Vec<_>>(), [25, 80, 443]);
    assert_eq!(relay["build"]["dockerfile"], "deploy/Containerfile");
    assert!(file(relay["build"]["context"].as_str().expect("context")).join("Cargo.toml").is_file());
    for (name, service) in compose["services"].as_object().expect("services") {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        assert_eq!(service["security_opt"][0], "no-new-privileges:true", "{name}");
        let volume = service["volumes"][0].as_str().expect("a volume");
        let (volume, place) = volume.split_once(':').expect("a place");
        assert!(compose["volumes"].as_object().expect("volumes").contains_key(volume), "{volume}");
        assert_eq!(place, image_env()["WAYSTATION_DATA_DIR"], "{name}");
    }
    let seconds = |service: &Value| {
        let text = service["stop_grace_period"].as_str().expect("text");
        text.strip_suffix('s').expect("seconds").parse::<u64>().expect("a number")
    };
    assert!(seconds(relay) > daemon::DRAIN_ALL.as_secs());
    let gateway = &compose["services"]["gateway"];
    let probe: Vec<&str> = gateway["healthcheck"]["test"]
        .as_array()
        .expect("a command")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(probe[..2], ["CMD", "/usr/bin/waystation"]);
    let run: Vec<&str> =
        gateway["command"].as_array().expect("a command").iter().filter_map(Value::as_str).collect();
    for words in [&probe[2..4], &run[..2]] {
        assert_eq!(run_text(&[words[0], words[1], "--help"]).0, 0, "{words:?}");
    }
    assert_eq!(probe.last(), run.last(), "the probe asks another gateway");
    let Some(compose) = program("docker-compose") else { return };
    let dir = tempfile::tempdir().expect("directory");
    let lines: String = names.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    std::fs::write(dir.path().join(".env"), lines).expect("written");
    let mut command = Command::new(compose);
    command.arg("--env-file").arg(dir.path().join(".env")).arg("-f").arg(file("compose.yml"));
    let said = tell(command.args(["config", "--quiet"]));
    assert_eq!(said.0, 0, "{}", said.1);
}

#[test]
fn fly_forwards_to_what_the_relay_listens_on() {
    let fly: toml::Table = text("fly.toml").parse().expect("TOML");
    let mut env = image_env();
    for (name, value) in fly["env"].as_table().expect("env") {
        env.insert(name.clone(), value.as_str().expect("text").to_owned());
    }
    accepts(&env);
    let internal: Vec<u64> = fly["services"]
        .as_array()
        .expect("services")
        .iter()
        .map(|service| u64::try_from(service["internal_port"].as_integer().expect("a port")).expect("a port"))
        .collect();
    assert_eq!(
        internal,
        [port_of(&env["WAYSTATION_SMTP__LISTEN"]), port_of(&env["WAYSTATION_HTTP__LISTEN"])]
    );
    assert_eq!(fly["mounts"]["destination"].as_str(), env.get("WAYSTATION_DATA_DIR").map(String::as_str));
    assert_eq!(fly["build"]["dockerfile"].as_str(), Some("Containerfile"), "beside fly.toml");
    assert_eq!(fly["kill_signal"].as_str(), Some("SIGTERM"));
    let timeout = fly["kill_timeout"].as_str().and_then(|text| text.strip_suffix('s')).expect("seconds");
    assert!(timeout.parse::<u64>().expect("a number") > daemon::DRAIN_ALL.as_secs());
    // The unit and the containers give it the same time.
    assert_eq!(setting(&text("systemd/waystation.service"), "TimeoutStopSec").as_deref(), Some(timeout));
}

#[test]
fn the_final_stage_runs_in_a_root_that_cannot_be_written() {
    super::clean_root::try_script(
        "tests/deploy/container_root",
        &["--binary", env!("CARGO_BIN_EXE_waystation")],
    );
}
