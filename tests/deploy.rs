//! Everything under `deploy/`: units, package, containers, proxies, scripts, and the steps of an operator.
//!
//! What systemd does is tried with systemd where a container can boot it (`clean_root`); elsewhere the files are
//! compared with the program and with each other.

mod clean_root;
mod containers;
mod files;
mod logged;
mod proxies;
mod scripts;
mod units;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layering::root;

/// A file of `deploy/`.
fn file(name: &str) -> PathBuf {
    root().join("deploy").join(name)
}

/// Its text.
fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// Runs a program to its end: exit code, all it said.
fn tell(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

/// The settings of a unit, in order: section, key, value.
fn settings(unit: &str) -> Vec<(String, String, String)> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in unit.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            found.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    found
}

/// The last value of a key.
fn setting(unit: &str, key: &str) -> Option<String> {
    settings(unit).into_iter().rev().find(|(_, name, _)| name == key).map(|(_, _, value)| value)
}

/// Every file below `deploy/`.
fn all_files() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("deploy"), &mut found);
    found.sort();
    found
}
