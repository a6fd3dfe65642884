//! What goes out, before judges that we did not write: dkimpy, npm mailauth, nodemailer and Python's email package.
//!
//! Goal: whatever a gateway submits, in canonical form and signed with keys of `waystation keys dkim`, verifies; and
//! a mail that is rendered again has the same fingerprint. Method: small scripts in `tests/judges`, started as
//! children. A judge that is not installed is skipped, with a line that says so; `tests/run` installs them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use std::sync::LazyLock;

use serde_json::Value;
use spool::ids::WallMs;
use waystation::mail::outbound::prepare::dkim::keys::{load_ed25519, load_rsa};
use waystation::mail::outbound::prepare::dkim::{Settings, Signer};
use waystation::mail::outbound::prepare::{Canonical, Draft, fingerprint};

use crate::support::judges;
use crate::support::process::run_text;

/// Longest message here, octets.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges").join(name)
}

/// Interpreter and script of a judge.
type Judge = (&'static str, PathBuf);

/// The judges that are installed.
static JUDGES: LazyLock<Vec<Judge>> = LazyLock::new(|| {
    let python = judges::python("dkim, nacl");
    let node = judges::run("node", &["-e", "require('mailauth/lib/dkim/verify')"], b"").map(|_| "node");
    let mut found = Vec::new();
    found.extend(python.map(|python| (python, script("verify.py"))));
    match node {
        Some(node) => found.push((node, script("verify.js"))),
        None => eprintln!("SKIPPED: npm mailauth is not installed in target/peers"),
    }
    found
});

/// What each judge says to each signature, `true` for pass.
fn verdicts(message: &[u8], records: &HashMap<String, String>) -> Vec<Vec<bool>> {
    let records = serde_json::to_string(records).expect("text");
    let judged = JUDGES.iter().map(|(program, script)| {
        let said = judges::run(program, &[&script.display().to_string(), &records], message).expect("judges");
        let said = String::from_utf8(said).expect("text");
        said.lines().map(|line| line.split(' ').take(2).any(|word| word == "pass")).collect()
    });
    judged.collect()
}

fn canonical(message: &[u8]) -> (Vec<u8>, Draft) {
    let (mut filter, mut out) = (Canonical::new(MESSAGE_BYTES_MAX, "mx.our.example"), Vec::new());
    filter.feed(message, &mut out).expect("taken");
    let draft = filter.finish(&mut out).expect("taken");
    (out, draft)
}

/// Keys as an operator makes them, and the records he publishes.
fn keys(directory: &Path, selector: &str) -> (Signer, HashMap<String, String>) {
    let dir = directory.to_str().expect("text");
    let (code, out, err) = run_text(&[
        "keys",
        "dkim",
        "--dir",
        dir,
        "--selector",
        selector,
        "--domain",
        "mail.example",
        "--json",
    ]);
    assert_eq!((code, err.as_str()), (0, ""));
    let made: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let text = |n: usize, key: &str| made[n][key].as_str().expect("text").to_owned();
    let records = (0..2).map(|n| (text(n, "name"), text(n, "value"))).collect();
    let rsa = load_rsa(Path::new(&text(0, "file"))).expect("key");
    let ed25519 = load_ed25519(Path::new(&text(1, "file"))).expect("key");
    let settings = Settings::new("mail.example", selector);
    (Signer::new(settings, Some(rsa), Some(ed25519)).expect("signer"), records)
}

#[test]
fn signatures_pass_every_judge_and_changes_do_not() {
    let directory = tempfile::tempdir().expect("directory");
    let (signer, records) = keys(directory.path(), "2026a");
    let header =
        "From: Me <me@mail.example>\nTo: you@there.example,\n  and@there.example\nSubject:   a \t b  \n";
    let bodies = [
        "",
        "\n",
        "text",
        "text\n\n \t\n",
        "line \t x  \n\n.dot\n..\n",
        "\n\nlate\n",
        "Grüße\n",
        "a\r\nb\nc\r\n\r\n",
    ];
    for body in bodies {
        let (message, _) = canonical(format!("{header}\n{body}").as_bytes()); // T1, T9, C24
        let fields = signer.sign(&message, WallMs(1_790_000_000_000)).expect("signed");
        let signed = [fields, message].concat();
        for said in verdicts(&signed, &records) {
            assert_eq!(said, [true, true], "{body:?}"); // T3
        }
    }
    let (message, _) = canonical(format!("{header}\nbody\n").as_bytes());
    let signed = [signer.sign(&message, WallMs(1_790_000_000_000)).expect("signed"), message].concat();
    let signed = String::from_utf8(signed).expect("text");
    let added = ["From: boss@bank.example", "Subject: x", "To: x@y.example", "Date: x"];
    for changed in
        added.map(|field| format!("{field}\r\n{signed}")).into_iter().chain([signed.replace("body", "boby")])
    {
        for said in verdicts(changed.as_bytes(), &records) {
            assert_eq!(said, [false, false], "{changed}"); // T2
        }
    }
}

#[test]
fn long_selectors_verify() {
    let directory = tempfile::tempdir().expect("directory");
    let (signer, records) = keys(directory.path(), &format!("{}.{}", "s".repeat(60), "t".repeat(50)));
    let (message, _) = canonical(b"From: me@mail.example\n\nx\n");
    let signed = [signer.sign(&message, WallMs(0)).expect("signed"), message].concat();
    for said in verdicts(&signed, &records) {
        assert_eq!(said, [true, true]); // T7
    }
}

#[test]
fn the_judges_know_the_signature_of_the_reference() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/mail-tunnel.json")).expect("JSON");
    let text = |key: &str| vectors["dkim"][key].as_str().expect("text").to_owned();
    let signed = data_encoding::BASE64.decode(text("signed_message_base64").as_bytes()).expect("base64");
    let (signed, _) = canonical(&signed);
    let records = HashMap::from([(text("dns_txt_name"), text("dns_txt_value"))]);
    for said in verdicts(&signed, &records) {
        assert_eq!(said, [true]);
    }
}

#[test]
fn keys_are_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("directory");
    let dir = directory.path().join("deep/dkim");
    let arguments = ["keys", "dkim", "--dir", dir.to_str().expect("text"), "--domain", "mail.example"];
    let (code, out, _) = run_text(&arguments);
    assert_eq!(code, 0);
    assert!(out.contains("default._domainkey.mail.example. IN TXT (\n    \"v=DKIM1; k=rsa; p="), "{out}");
    assert!(
        out.contains("default-ed25519._domainkey.mail.example. IN TXT \"v=DKIM1; k=ed25519; p="),
        "{out}"
    );
    assert!(out.split('"').all(|string| string.len() <= 255), "{out}");
    let files = ["dkim-default-rsa.pem", "dkim-default-ed25519.pem"].map(|name| dir.join(name));
    let contents = files.each_ref().map(|file| std::fs::read(file).expect("file"));
    for file in &files {
        assert_eq!(std::fs::metadata(file).expect("file").permissions().mode() & 0o777, 0o600); // T8
    }
    std::fs::remove_file(&files[0]).expect("removed");
    let (code, out, err) = run_text(&arguments);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("not overwritten"), "{err}");
    assert!(!files[0].exists() && std::fs::read(&files[1]).expect("file") == contents[1]);
    let (code, _, _) = run_text(&["keys", "dkim", "--dir", "x", "--domain", "a b"]);
    assert_eq!(code, 2);
}

/// The fingerprint of what a script renders.
fn rendered(program: &str, name: &str, arguments: &[&str]) -> Option<(Vec<u8>, [u8; 32])> {
    let path = script(name).display().to_string();
    let message = judges::run(program, &[&[path.as_str()], arguments].concat(), b"")?;
    assert!(String::from_utf8_lossy(&message).contains("Bcc: hidden@there.example"));
    let (out, draft) = canonical(&message);
    assert!(!String::from_utf8_lossy(&out).contains("hidden"));
    assert_eq!(canonical(&out), (out.clone(), draft.clone()));
    Some((message, fingerprint(&draft, "me@mail.example", "you@there.example")))
}

#[test]
fn mail_that_nodemailer_renders_again_is_a_twin() {
    let Some((first, one)) = rendered("node", "render.js", &["{}"]) else {
        eprintln!("SKIPPED: nodemailer is not installed in target/peers");
        return;
    };
    let (second, two) = rendered("node", "render.js", &["{}"]).expect("renders");
    assert!(first != second && one == two);
    for changes in [
        r#"{"text":"Hello\n"}"#,
        r#"{"html":"<p>Hullo</p>"}"#,
        r#"{"subject":"Other"}"#,
        r#"{"to":["you@there.example"]}"#,
        r#"{"cc":["x@there.example"]}"#,
        r#"{"inReplyTo":"<2@there.example>"}"#,
        r#"{"references":["<1@there.example>"]}"#,
        r#"{"headers":{"X-Protege-Recursion":"2"}}"#,
        r#"{"attachments":[]}"#,
        r#"{"attachments":[{"filename":"b.bin","content":"x"}]}"#,
    ] {
        assert_ne!(rendered("node", "render.js", &[changes]).expect("renders").1, one, "{changes}");
    }
}

#[test]
fn mail_that_python_renders_again_is_a_twin() {
    let Some((first, one)) = rendered("python3", "render.py", &["Hello", "a"]) else {
        eprintln!("SKIPPED: python3 is not installed");
        return;
    };
    let (second, two) = rendered("python3", "render.py", &["Hello", "a"]).expect("renders");
    assert!(first != second && one == two);
    for other in [["Hello ", "a"], ["Hello", "b"]] {
        assert_ne!(rendered("python3", "render.py", &other).expect("renders").1, one);
    }
}
