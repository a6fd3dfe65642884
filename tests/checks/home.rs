//! `waystation gateway doctor` beside a real relay, and with each destination.

use std::net::TcpListener;

use serde_json::Value;

use super::{lines, of, private, waystation};
use crate::support::home::Home;
use crate::support::process::RelayProcess;

fn doctor(home: &Home) -> (i32, Vec<Value>) {
    let output = waystation()
        .args(["gateway", "doctor", "--json", "--config"])
        .arg(home.config())
        .output()
        .expect("it runs");
    let out = String::from_utf8(output.stdout).expect("text");
    assert!(!out.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), lines(&out))
}

#[track_caller]
fn expect(findings: &[Value], check: &str, level: &str, words: &str) {
    let finding = of(findings, "check", check);
    assert_eq!(finding["level"], level, "{finding}");
    let all = format!("{} {}", finding["finding"], finding["advice"]);
    assert!(all.contains(words), "{words} is not in {finding}");
}

#[test]
fn the_home_side_is_well_when_the_relay_is_its_own() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let url = format!("ws://{}/ws", relay.http);
    let dir = tempfile::tempdir().expect("directory");
    let made =
        waystation().args(["gateway", "bootstrap", &url, "--dir"]).arg(dir.path()).output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = dir.path().join("gateway.toml");
    let ask = |args: &[&str]| {
        let output = waystation()
            .args(["gateway", "doctor", "--config"])
            .arg(&config)
            .args(args)
            .output()
            .expect("it runs");
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).expect("text"))
    };
    let (code, out) = ask(&["--json"]);
    let findings = lines(&out);
    assert_eq!(code, 0, "{findings:#?}");
    expect(&findings, "key", "ok", "@mail.localhost");
    expect(&findings, "relay", "ok", "without TLS, version");
    expect(&findings, "relay name", "ok", "localhost");
    expect(&findings, "relay key", "ok", "pinned");
    expect(&findings, "clocks", "ok", "in step");
    expect(&findings, "gateway", "skipped", "does not run");
    let (code, text) = ask(&[]);
    assert!(code == 0 && text.contains("ok    relay key       the pinned one\n"), "{text}");

    // Another key than the pinned one, and a name that is not the relay's.
    let text = std::fs::read_to_string(&config).expect("configuration");
    let pinned = text.lines().find(|line| line.starts_with("public_key")).expect("a pinned key").to_owned();
    let other = text.replace(&pinned, "public_key = \"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"");
    std::fs::write(&config, other.replace("#relay_name = \"\"", "relay_name = \"mx.else.example\""))
        .expect("written");
    let (code, out) = ask(&["--json"]);
    let findings = lines(&out);
    assert_eq!(code, 1);
    expect(&findings, "relay key", "wrong", "does not follow from the pinned one");
    expect(&findings, "relay name", "wrong", "set relay_name");
    relay.terminate();
}

#[test]
fn destinations_that_do_not_work_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let free = listener.local_addr().expect("address");
    drop(listener);
    let url = format!("ws://{free}/ws");
    let home = Home::new(&url);
    let (code, findings) = doctor(&home);
    assert_eq!(code, 1);
    expect(&findings, "relay", "wrong", "cannot connect");
    expect(&findings, "Maildir", "skipped", "not there yet");
    for folder in ["tmp", "new", "cur"] {
        std::fs::create_dir_all(home.path().join("Maildir").join(folder)).expect("made");
    }
    let (_, findings) = doctor(&home);
    let maildir = of(&findings, "check", "Maildir");
    assert!(maildir["finding"].as_str().is_some_and(|found| found.contains("over 50 writes")), "{maildir}");
    assert_eq!(std::fs::read_dir(home.path().join("Maildir/tmp")).expect("there").count(), 0, "it is tidy");

    home.configure(&url, &format!("[lmtp]\naddress = \"{free}\"\n"));
    expect(&doctor(&home).1, "LMTP", "wrong", "is the LMTP server running");
    home.configure(&url, "[lmtp]\naddress = \"unix:/nonexistent/lmtp\"\n");
    expect(&doctor(&home).1, "LMTP", "wrong", "/nonexistent/lmtp");
    home.configure(&url, "[command]\nargv = [\"/nonexistent/program\"]\n");
    expect(&doctor(&home).1, "command", "wrong", "there is no /nonexistent/program");
    let program = home.path().join("program");
    private(&program, "#!/bin/sh\n");
    home.configure(&url, &format!("[command]\nargv = [\"{}\"]\n", program.display()));
    expect(&doctor(&home).1, "command", "wrong", "chmod +x");
    home.configure(&url, "[command]\nargv = [\"sh\"]\n");
    expect(&doctor(&home).1, "command", "ok", "/sh");
    home.configure(
        &url,
        &format!("[webhook]\nurl = \"http://{free}/hook\"\nbearer_token_file = \"token\"\n"),
    );
    let findings = doctor(&home).1;
    expect(&findings, "webhook", "wrong", "cannot connect");
    expect(&findings, "webhook token", "wrong", "token");

    use std::os::unix::fs::PermissionsExt as _;
    let key = home.path().join("passport.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    expect(&doctor(&home).1, "key", "wrong", "chmod 600");
}

#[test]
fn an_lmtp_server_that_greets_is_well_and_a_taken_submission_port_is_not() {
    use std::io::Write as _;
    let server = TcpListener::bind("127.0.0.1:0").expect("port");
    let lmtp = server.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"220 home LMTP\r\n"));
        }
    });
    let taken = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = taken.local_addr().expect("address");
    let home = Home::new("ws://127.0.0.1:9/ws");
    home.configure(
        "ws://127.0.0.1:9/ws",
        &format!("[lmtp]\naddress = \"{lmtp}\"\n[submission]\nlisten = \"{port}\"\n"),
    );
    let (_, findings) = doctor(&home);
    expect(&findings, "LMTP", "ok", "220 home LMTP");
    expect(&findings, "submission port", "wrong", &format!("({})", std::process::id()));
}
