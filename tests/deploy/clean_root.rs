//! The scripts that try the deployment in a Debian of their own, with its own systemd where a container can boot.

use std::process::Command;

use super::tell;
use crate::layering::root;

/// What a script says when it cannot be done here.
const CANNOT: i32 = 75;

/// Runs one of them; what it says is shown.
pub(super) fn try_script(script: &str, args: &[&str]) {
    let mut command = Command::new(root().join(script));
    // Roots are copied from one that was made once.
    let cache = root().join("target/deploy");
    command.args(args).current_dir(root()).env("WAYSTATION_CLEAN_ROOT_CACHE", cache);
    if !root().join("target/deploy/bookworm.tar.gz").is_file() {
        eprintln!("SKIPPED: there is no clean root; `deploy/test-clean-root --base` makes one");
        return;
    }
    let (code, said) = tell(&mut command);
    if code == CANNOT {
        eprintln!("SKIPPED: {}", said.lines().last().unwrap_or_default());
        return;
    }
    eprintln!("{said}");
    assert_eq!(code, 0, "{script} {args:?}");
}

#[test]
fn the_package_is_installed_used_upgraded_and_removed_on_a_clean_system() {
    if !has_cargo_deb() {
        eprintln!("SKIPPED: cargo-deb is not installed");
        return;
    }
    try_script("deploy/test-clean-root", &["--short", "--binary", env!("CARGO_BIN_EXE_waystation")]);
}

#[test]
fn a_server_is_made_ready_deployed_to_and_goes_back_by_itself_over_ssh() {
    try_script("tests/deploy/remote", &["--binary", env!("CARGO_BIN_EXE_waystation")]);
}

fn has_cargo_deb() -> bool {
    let tools = root().join("target/tools/bin/cargo-deb");
    tools.is_file()
        || Command::new("cargo-deb").arg("--version").output().is_ok_and(|output| output.status.success())
}
