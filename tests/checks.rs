//! `dns`, `doctor`, `check-config` and `keys` as a shell sees them: with real name servers, real relays, real disks.

mod config;
mod doctor;
mod home;
mod network;
mod records;

use std::path::Path;

use serde_json::Value;

use crate::support::process::{run_text, waystation};

/// One object per line of standard output.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The object in which a field has this value.
#[track_caller]
fn of<'a>(all: &'a [Value], field: &str, value: &str) -> &'a Value {
    all.iter().find(|one| one[field] == value).unwrap_or_else(|| panic!("no {field} {value} in {all:#?}"))
}

/// Writes a file that only we can read.
fn private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
}

/// A key of that algorithm, made by the program itself.
fn passport(path: &Path) -> String {
    let (code, out, err) = run_text(&["keys", "passport", "--json", "--out", path.to_str().expect("text")]);
    assert_eq!(code, 0, "{err}");
    lines(&out)[0]["key"].as_str().expect("key").to_owned()
}

#[test]
fn a_key_file_that_could_not_be_written_whole_is_not_there() {
    // Goal: a crash in the middle leaves no half key under its name. Method: a limit for the length of files ends the
    // process with its first octet.
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("passport.key");
    let program = waystation();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -f 0 && exec \"$0\" keys passport --out \"$1\""]);
    let died = command.arg(program.get_program()).arg(&file).output().expect("it runs");
    assert!(!died.status.success(), "{died:?}");
    assert!(!file.exists(), "it is whole, or it is not there");
    assert_eq!(passport(&file).len(), 52, "and the next try is not in its own way");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("directory").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_passport_is_made_once_and_can_be_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("new/passport.key");
    let path = file.to_str().expect("text");
    let (code, out, err) = run_text(&["keys", "passport", "--out", path, "--domain", "mail.example"]);
    assert_eq!(code, 0, "{err}");
    let pem = std::fs::read_to_string(&file).expect("key");
    assert_eq!(std::fs::metadata(&file).expect("key").permissions().mode() & 0o777, 0o600);
    assert_eq!(pem.len(), 119, "as the seed's gateways have it");
    let secret = waystation::identity::key::SecretKey::from_pem(&pem).expect("PKCS#8");
    let key = secret.key_text().to_string();
    assert!(out.contains(&format!("address  {key}@mail.example")) && out.contains("mailbox allow"), "{out}");
    assert!(!out.contains("PRIVATE"), "the secret stays in its file");
    let (code, out, err) = run_text(&["keys", "passport", "--out", path]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("not overwritten"), "{err}");
    assert_eq!(std::fs::read_to_string(&file).expect("key"), pem);
    let (code, out, _) = run_text(&["keys", "passport", "--show", "--out", path, "--json"]);
    let shown = &lines(&out)[0];
    assert_eq!((code, shown["key"].as_str(), shown["made"].as_bool()), (0, Some(key.as_str()), Some(false)));
    assert!(
        shown["address"].is_null()
            && shown["public_key_pem"].as_str().is_some_and(|pem| pem.contains("BEGIN PUBLIC"))
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    let (code, _, err) = run_text(&["keys", "passport", "--show", "--out", path]);
    assert_eq!(code, 1);
    assert!(err.contains("chmod 600"), "{err}");
    assert_eq!(run_text(&["keys", "passport", "--domain", "a b", "--out", path]).0, 2);
    assert_eq!(passport(&dir.path().join("other.key")).len(), 52);
}
