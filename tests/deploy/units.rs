//! The units of systemd: well-formed, as closed as promised, each line with its reason, and true to the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use waystation::daemon;

use super::logged::Logged;
use super::{file, setting, settings, tell, text};
use crate::support::process::{run_text, waystation};
use crate::support::programs::program;
use crate::tls::Pki;

/// Most that `systemd-analyze security` may say of a service.
const EXPOSURE_MAX: f64 = 2.0;
const SERVICES: [&str; 2] = ["waystation.service", "waystation-gateway@.service"];
const SOCKETS: [(&str, u16); 3] = [("smtp", 25), ("http", 80), ("https", 443)];
const USER_SERVICE: &str = "user/waystation-gateway.service";

/// The units in a directory, starting the binary under test, so that systemd finds the program that they name.
fn installed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("directory");
    for entry in fs::read_dir(file("systemd")).expect("units") {
        let path = entry.expect("entry").path();
        if path.is_file() {
            place(&path, &dir.path().join(path.file_name().expect("name")));
        }
    }
    fs::create_dir(dir.path().join("user")).expect("directory");
    place(&file("systemd").join(USER_SERVICE), &dir.path().join(USER_SERVICE));
    dir
}

fn place(from: &Path, to: &Path) {
    let unit = fs::read_to_string(from).expect("unit");
    fs::write(to, unit.replace("/usr/bin/waystation", env!("CARGO_BIN_EXE_waystation"))).expect("written");
}

fn analyze(dir: &Path, user: bool) -> Option<Command> {
    let mut command = Command::new(program("systemd-analyze")?);
    if user {
        command.arg("--user");
    }
    // It wants a home and a runtime directory of whoever runs it.
    command.env("XDG_RUNTIME_DIR", dir).env("HOME", dir).current_dir(dir);
    Some(command)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let dir = installed();
    let Some(mut verify) = analyze(dir.path(), false) else { return };
    verify.args([
        "verify",
        "--man=no",
        "--recursive-errors=one",
        "./waystation.service",
        "./waystation-gateway@.service",
    ]);
    verify.args(SOCKETS.map(|(name, _)| format!("./waystation-{name}.socket")));
    assert_eq!(tell(&mut verify), (0, String::new()));
    let mut verify = analyze(dir.path(), true).expect("it was there");
    verify.args(["verify", "--man=no", "--recursive-errors=one", USER_SERVICE]);
    assert_eq!(tell(&mut verify), (0, String::new()));
}

/// What `systemd-analyze security` says of a unit that nobody has loaded.
fn exposure(dir: &Path, unit: &str, user: bool) -> Option<f64> {
    let (_, said) = tell(analyze(dir, user)?.args(["security", "--offline=true", "--no-pager", unit]));
    let line =
        said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
    let number = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
    Some(number.parse().expect("a number"))
}

#[test]
fn services_are_as_closed_as_promised() {
    let dir = installed();
    for unit in SERVICES {
        let Some(found) = exposure(dir.path(), &format!("./{unit}"), false) else { return };
        assert!(found <= EXPOSURE_MAX, "{unit}: {found}");
    }
    // With the drop-in for opened sockets there is no capability left.
    let drop_in = dir.path().join("waystation.service.d");
    let before = exposure(dir.path(), "./waystation.service", false).expect("it was there");
    fs::create_dir(&drop_in).expect("directory");
    fs::copy(dir.path().join("no-capabilities.conf"), drop_in.join("no-capabilities.conf")).expect("copied");
    let after = exposure(dir.path(), "./waystation.service", false).expect("it was there");
    assert!(after < before, "the drop-in closes nothing: {before} before, {after} after");
    let user = exposure(dir.path(), &format!("./{USER_SERVICE}"), true).expect("it was there");
    assert!(user <= EXPOSURE_MAX, "{USER_SERVICE}: {user}");
}

#[test]
fn every_line_of_a_unit_has_its_reason() {
    for entry in fs::read_dir(file("systemd"))
        .expect("units")
        .chain(fs::read_dir(file("systemd/user")).expect("units"))
    {
        let path = entry.expect("entry").path();
        if !path.is_file() {
            continue;
        }
        let unit = fs::read_to_string(&path).expect("unit");
        let is_unit = path.extension().is_some_and(|e| e == "service" || e == "socket");
        let mut reasoned = false;
        let mut bare = Vec::new();
        for line in unit.lines().take_while(|line| *line != "[Install]") {
            match line {
                "" => reasoned = false,
                line if line.starts_with('#') => reasoned = true,
                // What says only what it is: names of things.
                line if ["Description=", "Documentation=", "Service=", "ListenStream=", "["]
                    .iter()
                    .any(|known| line.starts_with(known)) => {}
                line if !reasoned => bare.push(line),
                _ => {}
            }
        }
        bare.retain(|line| !["ExecStart=", "User=", "Group="].iter().any(|known| line.starts_with(known)));
        assert!(!is_unit || bare.is_empty(), "{}: no reason for {bare:#?}", path.display());
    }
}

#[test]
fn the_relays_unit_is_true_to_the_program() {
    let unit = text("systemd/waystation.service");
    let say = |key| setting(&unit, key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(say("Type"), "notify");
    assert_eq!(say("NotifyAccess"), "main");
    assert_eq!(say("WatchdogSec"), "30");
    // A bad configuration ends with 2, and is not tried again.
    assert_eq!(say("RestartPreventExitStatus"), "2");
    let wrong = tempfile::tempdir().expect("directory").path().join("none.toml");
    assert_eq!(run_text(&["serve", "--config", wrong.to_str().expect("text")]).0, 2);
    let stop: u64 = say("TimeoutStopSec").parse().expect("seconds");
    assert!(stop > daemon::DRAIN_ALL.as_secs(), "systemd kills before the drain is over");
    // Its state is where the packaged configuration puts it, and the only place that it may write to.
    let data = format!("/var/lib/{}", say("StateDirectory"));
    assert!(text("debian/waystation.toml").contains(&format!("\ndata_dir = \"{data}\"\n")));
    assert_eq!(say("StateDirectoryMode"), "0700");
    for key in ["ExecStart", "ExecReload"] {
        let line = say(key);
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "/usr/bin/waystation", "{key}");
        assert_eq!(words[2..], ["--config", "/etc/waystation/waystation.toml"], "{key}");
        assert_eq!(run_text(&[words[1], "--help"]).0, 0, "{key} names a command that does not exist");
    }
}

/// What `LoadCredential=` does: the files are in a directory that only the service is told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_comes_as_two_credentials_of_the_unit() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().expect("directory"));
    let key = pki.key();
    let credentials = key.parent().expect("a directory");
    let told = [("TLS__CERT_FILE", "credential:chain.pem"), ("TLS__KEY_FILE", "credential:key.pem")];
    let mut service = waystation();
    service.env("CREDENTIALS_DIRECTORY", credentials);
    let relay = Logged::relay(service, dir.path(), &told).await;
    let loaded = relay.event("relay.tls.loaded", "names", "mx.our.example, localhost");
    assert!(loaded.is_some(), "the relay serves no certificate");

    let check = |credentials: Option<&Path>| {
        let mut command = waystation();
        command.args(["check-config", "--json"]).env_remove("CREDENTIALS_DIRECTORY");
        command.envs(told.map(|(name, value)| (format!("WAYSTATION_{name}"), value)));
        command.envs(credentials.map(|dir| ("CREDENTIALS_DIRECTORY", dir)));
        tell(&mut command)
    };
    let (code, said) = check(Some(credentials));
    assert!(code == 0 && !said.contains("tls."), "{said}");
    // From a shell they cannot be seen, which is no fault.
    let (code, said) = check(None);
    assert!(code == 0 && said.contains("tls.cert_file") && said.contains("tls.key_file"), "{said}");
}

#[test]
fn the_gateways_units_are_true_to_the_program() {
    for unit in [text("systemd/waystation-gateway@.service"), text(&format!("systemd/{USER_SERVICE}"))] {
        let say = |key| setting(&unit, key).unwrap_or_else(|| panic!("no {key}"));
        let line = say("ExecStart");
        let config = line.strip_prefix("/usr/bin/waystation gateway run --config ").expect("its command");
        assert_eq!(say("ConditionPathExists"), config);
        assert!(config.ends_with("/gateway.toml"), "bootstrap writes gateway.toml");
        assert_eq!(say("RestartPreventExitStatus"), "2");
        // The comment on top tells how to make that directory.
        let dir = config.strip_suffix("/gateway.toml").expect("checked");
        let shown = dir.replace("%i", "home").replace("%h", "~");
        assert!(unit.contains(&format!("--dir {shown}")), "{shown} is not in the example");
    }
}

#[test]
fn sockets_are_named_as_the_relay_looks_for_them() {
    for (name, port) in SOCKETS {
        let unit = text(&format!("systemd/waystation-{name}.socket"));
        let say = |key| setting(&unit, key).unwrap_or_else(|| panic!("no {key}"));
        assert_eq!(say("FileDescriptorName"), name);
        assert_eq!(say("ListenStream"), format!("[::]:{port}"));
        assert_eq!(say("Service"), "waystation.service");
        assert_eq!(say("Accept"), "no");
    }
}

#[test]
fn users_and_directories_are_those_of_the_units() {
    let users = text("systemd/sysusers.conf");
    let directories = text("systemd/tmpfiles.conf");
    for unit in SERVICES {
        let unit = text(&format!("systemd/{unit}"));
        let user = setting(&unit, "User").expect("a user");
        assert!(users.contains(&format!("u {user} - ")), "{user} is nobody");
        assert!(
            directories.contains(&format!("d /var/lib/{user} 0700 {user} {user} -")),
            "{user} has no directory"
        );
    }
    let writable: Vec<_> = settings(&text("systemd/waystation.service"))
        .into_iter()
        .filter(|(_, key, _)| key == "ReadWritePaths")
        .map(|(_, _, value)| value.trim_start_matches('-').to_owned())
        .collect();
    for path in writable {
        assert!(directories.contains(&format!("d {path} ")), "nobody makes {path}");
    }
    let Some(sysusers) = program("systemd-sysusers") else { return };
    let root = tempfile::tempdir().expect("directory");
    fs::create_dir_all(root.path().join("etc")).expect("directory");
    let made = tell(
        Command::new(sysusers)
            .arg(format!("--root={}", root.path().display()))
            .arg(file("systemd/sysusers.conf")),
    );
    assert_eq!(made.0, 0, "{}", made.1);
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).expect("passwd");
    assert!(passwd.lines().all(|line| line.ends_with("/nologin")), "{passwd}");
    let config: PathBuf = file("systemd/tmpfiles.conf");
    if let Some(tmpfiles) = program("systemd-tmpfiles") {
        let made = tell(
            Command::new(tmpfiles)
                .arg("--create")
                .arg(format!("--root={}", root.path().display()))
                .arg(config),
        );
        assert_eq!(made.0, 0, "{}", made.1);
        assert!(root.path().join("var/lib/waystation").is_dir());
    }
}
