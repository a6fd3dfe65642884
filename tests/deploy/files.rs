//! The package's configuration, its list of files, and the documents: true to the program and to each other.

use std::collections::BTreeSet;
use std::process::Command;

use super::{all_files, file, tell, text};
use crate::layering::root;
use crate::support::process::{run_text, waystation};
use crate::support::programs::program;

fn manifest() -> toml::Table {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("manifest");
    manifest.parse().expect("TOML")
}

#[test]
fn the_packaged_configuration_is_safe_before_anybody_has_edited_it() {
    let path = file("debian/waystation.toml");
    let (code, _, said) = run_text(&["check-config", path.to_str().expect("text")]);
    assert_eq!(code, 0, "{said}");
    let table: toml::Table = text("debian/waystation.toml").parse().expect("TOML");
    // Outgoing mail gets the best TLS there is, and strangers no mailbox.
    assert_eq!(table["delivery"]["tls_policy"].as_str(), Some("dane+mta-sts"));
    assert_eq!(table["admission"]["mode"].as_str(), Some("allowlist"));
    assert_eq!(table["data_dir"].as_str(), Some("/var/lib/waystation"));
    assert!(
        table["http"]["listen"].as_str().is_some_and(|at| at.starts_with("127.0.0.1:")),
        "no tunnel in the clear"
    );
}

#[test]
fn what_the_packaged_configuration_proposes_is_accepted() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("waystation.toml");
    // The first of its two ways to serve gateways: remove the `#`, and the table below.
    let proposed = text("debian/waystation.toml");
    let uncommented: String = proposed
        .replace("[http]\nlisten = \"127.0.0.1:8080\"\n", "")
        .lines()
        .map(|line| {
            let is_key = line.strip_prefix('#').filter(|rest| {
                rest.starts_with(['[', 'h', 'd', 'p', 'l', 't', 'e', 'c', 'n'])
                    && (rest.contains(" = ") || rest.starts_with('['))
            });
            format!("{}\n", is_key.unwrap_or(line))
        })
        .collect();
    assert!(
        ["\n[tls.acme]\nenabled = true\n", "\nhostname = ", "\npostmaster = "]
            .iter()
            .all(|part| uncommented.contains(part)),
        "{uncommented}"
    );
    std::fs::write(&path, uncommented).expect("written");
    let (code, remarks, said) = run_text(&["check-config", path.to_str().expect("text")]);
    assert_eq!(code, 0, "{said}");
    assert!(!remarks.contains("tls.acme"), "what it proposes is doubted: {remarks}");
}

#[test]
fn the_package_has_every_unit_and_nothing_that_is_not_there() {
    let deb = &manifest()["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().expect("assets");
    let mut from_here = BTreeSet::new();
    for asset in assets {
        let source = asset["source"].as_str().expect("source");
        if source.starts_with("target/") {
            continue; // made by build-deb
        }
        match source.split_once('*') {
            None => assert!(root().join(source).is_file(), "{source} is not there"),
            Some((dir, suffix)) => {
                let found = std::fs::read_dir(root().join(dir)).expect("directory").filter_map(Result::ok);
                let found: Vec<_> =
                    found.filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix)).collect();
                assert!(!found.is_empty(), "{source} is nothing");
            }
        }
        from_here.insert(source.to_owned());
    }
    for expected in [
        "deploy/systemd/*.service",
        "deploy/systemd/*.socket",
        "deploy/systemd/user/*.service",
        "deploy/hand-over",
    ] {
        assert!(from_here.contains(expected), "{expected}");
    }
    // The configuration is the administrator's: an upgrade asks.
    assert_eq!(deb["conf-files"][0].as_str(), Some("/etc/waystation/waystation.toml"));
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        let path = root().join(deb["maintainer-scripts"].as_str().expect("directory")).join(script);
        assert!(path.is_file(), "{script}");
    }
    let postrm = text("debian/postrm");
    assert!(
        !postrm.contains("rm -r") || postrm.contains("When you are sure: rm -r"),
        "a package removes mail"
    );
}

#[test]
fn the_settings_of_the_remote_scripts_are_those_of_the_example() {
    let example = std::fs::read_to_string(root().join(".relay.env.example")).expect(".relay.env.example");
    let common = text("remote/common");
    let known = common.lines().find(|line| line.contains("RELAY_SSH_HOST |")).expect("the list");
    for line in example.lines() {
        let Some((name, _)) = line.trim_start_matches('#').split_once('=') else { continue };
        if name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            assert!(known.contains(name), "{name} is not read");
        }
    }
    for name in ["RELAY_SSH_HOST", "RELAY_SSH_USER", "RELAY_REMOTE_DIR", "SERVICE_NAME", "RELAY_DOMAIN"] {
        assert!(example.contains(&format!("{name}=")), "{name} is not explained");
    }
    let ignored = std::fs::read_to_string(root().join(".gitignore")).expect(".gitignore");
    assert!(ignored.lines().any(|line| line == "/.relay.env"), "a server's settings would be committed");
}

/// Fenced blocks of a document that a shell would read, with their first words.
fn commands(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            inside = !inside && kind.starts_with("sh");
        } else if inside {
            found.push(line.trim().to_owned());
        }
    }
    found
}

#[test]
fn the_readme_names_every_file_and_only_commands_that_exist() {
    let readme = text("README.md");
    for path in all_files() {
        let name = path.strip_prefix(root().join("deploy")).expect("below").to_string_lossy().into_owned();
        let (dir, base) = name.rsplit_once('/').unwrap_or(("", &name));
        // Parts that only other files use are named with their directory.
        let named = readme.contains(base) || (dir == "debian" && readme.contains("debian/"));
        assert!(named || name == "README.md", "deploy/README.md does not name {name}");
    }
    let mut seen = 0;
    for line in commands(&readme) {
        for part in line.split(['|', '&', ';']).map(str::trim) {
            // Behind `sudo -u` stands somebody's name.
            let after_user =
                part.strip_prefix("sudo -u ").and_then(|rest| rest.split_once(' ')).map(|(_, rest)| rest);
            let words: Vec<&str> = after_user.unwrap_or(part).split_whitespace().collect();
            let Some(at) = words.iter().position(|word| *word == "waystation") else { continue };
            let verbs: Vec<&str> = words[at + 1..]
                .iter()
                .scan(false, |value, word| {
                    let is_value = std::mem::replace(value, *word == "--config");
                    Some((*word, is_value))
                })
                .filter(|(word, is_value)| !is_value && *word != "--config")
                .map(|(word, _)| word)
                .take_while(|word| {
                    !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
                })
                .take(2)
                .collect();
            if words.contains(&"systemctl") || words.contains(&"apt") || verbs.is_empty() {
                continue;
            }
            let help: Vec<&str> = verbs.iter().copied().chain(["--help"]).collect();
            let shorter = [verbs[0], "--help"];
            assert!(run_text(&help).0 == 0 || run_text(&shorter).0 == 0, "`{part}`: no such command");
            seen += 1;
        }
    }
    assert!(seen > 5, "no commands were found");
}

#[test]
fn paths_that_the_readme_names_are_those_of_the_package() {
    let readme = text("README.md");
    let unit = text("systemd/waystation.service");
    for path in ["/etc/waystation/waystation.toml", "/var/lib/waystation"] {
        assert!(readme.contains(path), "{path}");
    }
    assert!(unit.contains("/etc/waystation/waystation.toml"));
}

/// `dpkg-deb` shows what is in a package that was built from the binary under test.
#[test]
fn the_package_is_built_and_has_what_it_should() {
    let Some(dpkg_deb) = program("dpkg-deb") else { return };
    let tools = root().join("target/tools/bin");
    let path = std::env::var("PATH").unwrap_or_default() + ":" + tools.to_str().expect("text");
    if !Command::new("cargo-deb")
        .env("PATH", &path)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("SKIPPED: cargo-deb is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let deb = dir.path().join("waystation.deb");
    let built = tell(
        Command::new(file("build-deb"))
            .args(["--fast", "--binary", env!("CARGO_BIN_EXE_waystation"), "--out"])
            .arg(&deb)
            .env("PATH", &path),
    );
    assert_eq!(built.0, 0, "{}", built.1);
    let (_, list) = tell(Command::new(&dpkg_deb).arg("--contents").arg(&deb));
    for path in [
        "./usr/bin/waystation",
        "./usr/lib/waystation/sendmail -> ../../bin/waystation",
        "./usr/lib/waystation/hand-over",
        "./usr/lib/systemd/system/waystation.service",
        "./usr/lib/systemd/system/waystation-gateway@.service",
        "./usr/lib/systemd/system/waystation-smtp.socket",
        "./usr/lib/systemd/user/waystation-gateway.service",
        "./usr/lib/sysusers.d/waystation.conf",
        "./usr/lib/tmpfiles.d/waystation.conf",
        "./etc/waystation/waystation.toml",
        "./usr/share/man/man1/waystation.1.gz",
        "./usr/share/man/man1/waystation-spool-ls.1.gz",
        "./usr/share/bash-completion/completions/waystation",
        "./usr/share/zsh/vendor-completions/_waystation",
        "./usr/share/fish/vendor_completions.d/waystation.fish",
        "./usr/share/doc/waystation/examples/nginx.conf",
        "./usr/share/doc/waystation/docs/operating.md",
    ] {
        assert!(list.contains(path), "no {path} in\n{list}");
    }
    let (_, fields) = tell(Command::new(&dpkg_deb).args(["--field"]).arg(&deb));
    let version =
        String::from_utf8(waystation().arg("--version").output().expect("runs").stdout).expect("text");
    let version = version.trim().split(' ').nth(1).expect("a version").to_owned();
    assert!(fields.contains(&format!("Version: {version}-1")) && fields.contains("libc6"), "{fields}");
    let Some(lintian) = program("lintian") else { return };
    let (code, said) =
        tell(Command::new(lintian).args(["--allow-root", "--fail-on", "error,warning"]).arg(&deb));
    assert_eq!(code, 0, "{said}");
    // Every override has its reason.
    let overrides = text("debian/lintian-overrides");
    let mut reasoned = false;
    for line in overrides.lines() {
        assert!(line.is_empty() || line.starts_with('#') || reasoned, "no reason for `{line}`");
        reasoned = !line.is_empty() && (line.starts_with('#') || reasoned);
    }
}
