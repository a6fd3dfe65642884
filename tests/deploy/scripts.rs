//! The scripts of `deploy/`: sound in the eyes of shellcheck, and the installer does what it says, twice, and back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{all_files, file, tell};
use crate::layering::root;
use crate::support::process::run_text;
use crate::support::programs::program;

fn is_script(path: &Path) -> bool {
    fs::read(path)
        .is_ok_and(|bytes| bytes.starts_with(b"#!/bin/sh") || bytes.starts_with(b"#!/usr/bin/env bash"))
}

#[test]
fn shellcheck_finds_nothing() {
    let Some(shellcheck) = program("shellcheck") else { return };
    let mut scripts: Vec<PathBuf> = all_files().into_iter().filter(|path| is_script(path)).collect();
    scripts.extend(
        ["tests/run", "tests/deploy/remote", "tests/deploy/container_root"].map(|name| root().join(name)),
    );
    assert!(scripts.len() > 12, "scripts were not found");
    let said = tell(Command::new(shellcheck).arg("--external-sources").args(scripts).current_dir(root()));
    assert_eq!(said, (0, String::new()));
}

#[test]
fn scripts_can_be_started() {
    use std::os::unix::fs::PermissionsExt as _;
    for path in all_files().into_iter().filter(|path| is_script(path)) {
        let mode = path.metadata().expect("there").permissions().mode();
        assert!(mode & 0o111 != 0, "{} is not executable", path.display());
    }
}

/// The installer, into a root of its own.
fn install(into: &Path, args: &[&str]) -> (i32, String) {
    tell(Command::new(file("install")).args(args).env("DESTDIR", into))
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                left.push(path)
            } else {
                found.push(path.strip_prefix(dir).expect("below").to_owned())
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_installer_installs_upgrades_and_leaves_what_is_yours() {
    let dir = tempfile::tempdir().expect("directory");
    let binary = env!("CARGO_BIN_EXE_waystation");
    let (code, said) = install(dir.path(), &["--dry-run", "--binary", binary]);
    assert!(code == 0 && said.contains("would: install -m 0755"), "{said}");
    assert!(files_in(dir.path()).is_empty(), "a dry run wrote something");

    let (code, said) = install(dir.path(), &["--binary", binary, "--sha256", &"0".repeat(64)]);
    assert!(code == 1 && said.contains("nothing was installed"), "{said}");
    assert!(files_in(dir.path()).is_empty(), "a wrong checksum was installed");

    let (_, sum) = tell(Command::new("sha256sum").arg(binary));
    let sum = sum.split(' ').next().expect("a checksum").to_uppercase();
    let (code, said) = install(dir.path(), &["--binary", binary, "--sha256", &sum]);
    assert_eq!(code, 0, "{said}");
    let first = files_in(dir.path());
    let unit = fs::read_to_string(dir.path().join("etc/systemd/system/waystation.service")).expect("unit");
    assert!(unit.contains("ExecStart=/usr/local/bin/waystation serve "), "the unit starts another program");
    let installed = dir.path().join("usr/local/bin/waystation");
    assert!(Command::new(installed).arg("--version").status().expect("it runs").success());
    let config = dir.path().join("etc/waystation/waystation.toml");
    assert_eq!(run_text(&["check-config", config.to_str().expect("text")]).0, 0);

    // Again: the same files, and the administrator's words.
    fs::write(&config, "hostname = \"mine.example\"\n").expect("written");
    let (code, said) = install(dir.path(), &["--binary", binary]);
    assert!(code == 0 && said.contains("kept /etc/waystation/waystation.toml"), "{said}");
    assert_eq!(files_in(dir.path()), first);
    assert_eq!(fs::read_to_string(&config).expect("config"), "hostname = \"mine.example\"\n");
    // A configuration that the new program refuses stops it before anything is replaced.
    fs::write(&config, "no_such_key = 1\n").expect("written");
    let (code, said) = install(dir.path(), &["--binary", binary]);
    assert!(code == 1 && said.contains("no_such_key"), "{said}");

    let mail = dir.path().join("var/lib/waystation/spool");
    fs::create_dir_all(&mail).expect("directory");
    fs::write(mail.join("mail"), "").expect("written");
    let (code, said) = install(dir.path(), &["--uninstall"]);
    assert!(code == 0 && said.contains("kept"), "{said}");
    let left: Vec<_> =
        files_in(dir.path()).into_iter().map(|path| path.to_string_lossy().into_owned()).collect();
    assert_eq!(left, ["etc/waystation/waystation.toml", "var/lib/waystation/spool/mail"]);
    assert_eq!(install(dir.path(), &["--uninstall"]).0, 0, "again");
    assert_eq!(install(dir.path(), &["--nonsense"]).0, 2);
}

#[test]
fn remote_scripts_refuse_before_they_touch_a_server() {
    let none = root().join("there/is/none");
    for script in ["deploy", "bootstrap", "status", "health", "restart", "logs"] {
        let mut command = Command::new(file("remote").join(script));
        command.env("RELAY_ENV_FILE", &none).env_remove("RELAY_SSH_HOST");
        let (code, said) = tell(&mut command);
        assert!(code == 2 && said.contains("RELAY_SSH_HOST"), "{script}: {said}");
        command.env("RELAY_SSH_HOST", "127.0.0.1").env("RELAY_REMOTE_DIR", "/opt/x; rm -rf /");
        let (code, said) = tell(&mut command);
        assert!(code == 2 && said.contains("characters"), "{script}: {said}");
    }
    let dir = tempfile::tempdir().expect("directory");
    let file_of = dir.path().join("env");
    fs::write(&file_of, "RELAY_SSH_HOSTS=typo\n").expect("written");
    let (code, said) = tell(Command::new(file("remote/status")).env("RELAY_ENV_FILE", &file_of));
    assert!(code == 2 && said.contains("RELAY_SSH_HOSTS"), "{said}");
}
