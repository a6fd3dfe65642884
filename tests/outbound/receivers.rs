//! Mail servers that we did not write, as next hops: Postfix, OpenSMTPD, smtp-sink with its faults, aiosmtpd.
//!
//! Goal: what a gateway submits arrives at the software of the world byte for byte, and what that software does wrong
//! on purpose ends in the right result.
//! Method: the whole relay; each receiver has an address of its own on loopback, all on the port that the relay
//! delivers to. A receiver that is not installed is skipped, with a line that says so.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use rcgen::{CertificateParams, KeyPair};
use tokio::process::{Child, Command};

use super::world::{Plan, World, address, key};
use crate::support::line::{Log, Manner};
use crate::support::programs::opensmtpd::{self, OpenSmtpd};
use crate::support::programs::postfix::{self, Postfix};
use crate::support::programs::program;
use crate::support::until;

/// A message in which everything that transports break is there: dots, long and empty lines, trailing blanks, 8-bit
/// text, and enough of it that it is many packets.
fn hard_message(from: &str, to: &str, id: &str) -> Vec<u8> {
    let mut text = format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: {id} =?utf-8?q?d=C3=BCster?=\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\
         Message-ID: <{id}@our.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\nX-Folded: one\r\n\ttwo\r\n   three\r\n\r\n.\r\n..\r\n...dots\r\n. \r\n\
         \r\n\r\n \r\ntrailing blanks   \r\n\ttab\t\r\nFrom the start of a line\r\n{}\r\nUmlaute: \u{e4}\u{f6}\u{fc} \u{1f4ec}\r\n",
        "long ".repeat(198),
    );
    for n in 0..20_000 {
        text.push_str(&format!("line {n} of many{}\r\n", if n % 97 == 0 { "\r\n." } else { "" }));
    }
    text.push_str("\r\n.\r\n");
    text.into_bytes()
}

fn with_lf(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8(bytes.to_vec()).expect("text").replace("\r\n", "\n").into_bytes()
}

/// The file that holds this message below fields that others added.
fn holds(files: &[Vec<u8>], message: &[u8]) -> bool {
    let message = with_lf(message);
    files.iter().any(|file| with_lf(file).ends_with(&message))
}

/// Sends `message` through a fresh relay to `user@domain`, whose exchanger is at `at`; the result's word and error.
async fn through_the_relay(
    world: &World,
    domain: &str,
    at: SocketAddr,
    rcpt_to: &str,
    message: impl Fn(&str) -> Vec<u8>,
) -> (String, String) {
    world.dns.mail_domain(domain, &at.ip().to_string());
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let line = relay.line(&key, Manner::Two, &log).await;
    let from = address(&key);
    line.submit(rcpt_to, &from, rcpt_to, &message(&from));
    until("the result is told", || log.status(rcpt_to).is_some()).await;
    (log.status(rcpt_to).expect("told"), log.error(rcpt_to).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_receives_what_was_submitted_over_tls_that_proves_nothing() {
    // S1: a self-signed certificate is good enough when no policy asks for more.
    let world = World::new().await;
    let at = SocketAddr::new([127, 0, 0, 11].into(), world.sink.port());
    let key = KeyPair::generate().expect("key");
    let certificate = CertificateParams::new(vec!["wrong.name.test".to_owned()]).expect("parameters");
    let certificate = certificate.self_signed(&key).expect("certificate");
    let tls = key.serialize_pem() + &certificate.pem();
    let Some(postfix) = Postfix::receiving_at(at, &tls).await else { return };
    let to = format!("u@{}", postfix::DOMAIN);
    let (status, error) =
        through_the_relay(&world, postfix::DOMAIN, at, &to, |from| hard_message(from, &to, "p1")).await;
    assert_eq!((&*status, &*error), ("sent", ""), "{}", postfix.log());
    until("postfix has delivered it", || !postfix.delivered().is_empty()).await;
    let sent = hard_message(&address(&super::world::key(1)), &to, "p1");
    let files = postfix.delivered();
    assert!(holds(&files, &sent), "{}", String::from_utf8_lossy(&files[0][..2000]));
    assert!(postfix.log().contains("TLS connection established"), "{}", postfix.log());
    // Its refusals are final or not, as it says.
    let bad = format!("bad@{}", postfix::DOMAIN);
    let (status, error) =
        through_the_relay(&world, postfix::DOMAIN, at, &bad, |from| hard_message(from, &bad, "p2")).await;
    assert_eq!(status, "failed");
    assert!(error.contains("5.1.1") && error.contains("none here"), "{error}");
    assert_eq!(postfix.delivered().len(), 1);
    postfix.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opensmtpd_receives_what_was_submitted() {
    let world = World::new().await;
    let at = SocketAddr::new([127, 0, 0, 12].into(), world.sink.port());
    let Some(receiver) = OpenSmtpd::receiving_at(at).await else { return };
    let to = format!("u@{}", opensmtpd::DOMAIN);
    let (status, error) =
        through_the_relay(&world, opensmtpd::DOMAIN, at, &to, |from| hard_message(from, &to, "o1")).await;
    assert_eq!((&*status, &*error), ("sent", ""));
    until("opensmtpd has delivered it", || !receiver.delivered().is_empty()).await;
    let sent = hard_message(&address(&key(1)), &to, "o1");
    assert!(holds(&receiver.delivered(), &sent));
}

/// An aiosmtpd that writes each message into a directory, exactly as it got it.
const AIOSMTPD: &str = "
import asyncio, os, sys
from aiosmtpd.controller import Controller
class Keep:
    n = 0
    async def handle_DATA(self, server, session, envelope):
        Keep.n += 1
        path = os.path.join(sys.argv[3], str(Keep.n))
        with open(path + '.part', 'wb') as file:
            file.write(envelope.original_content)
        os.rename(path + '.part', path + '.eml')
        return '250 2.0.0 kept'
controller = Controller(Keep(), hostname=sys.argv[1], port=int(sys.argv[2]), enable_SMTPUTF8=True, decode_data=False)
controller.start()
asyncio.new_event_loop().run_forever()
";

async fn start(command: &mut Command, at: SocketAddr) -> Child {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("program starts");
    until("the receiver listens", || std::net::TcpStream::connect(at).is_ok()).await;
    child
}

fn files(directory: &Path, ending: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(directory).expect("directory").map(|entry| entry.expect("entry").path());
    let is = |path: &std::path::PathBuf| path.to_string_lossy().ends_with(ending);
    entries.filter(is).map(|path| std::fs::read(path).expect("read")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aiosmtpd_receives_every_octet() {
    // Debian's own comes first: its packages are for that one.
    let debians = std::path::PathBuf::from("/usr/bin/python3");
    let Some(python) = Some(debians).filter(|path| path.is_file()).or_else(|| program("python3")) else {
        return;
    };
    let has = Command::new(&python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status().await;
    if !has.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: python3-aiosmtpd is not installed");
        return;
    }
    let world = World::new().await;
    let at = SocketAddr::new([127, 0, 0, 13].into(), world.sink.port());
    let kept = tempfile::tempdir().expect("temporary directory");
    let mut command = Command::new(python);
    command.args(["-c", AIOSMTPD, &at.ip().to_string(), &at.port().to_string()]).arg(kept.path());
    let _receiver = start(&mut command, at).await;
    let to = "u@aiosmtpd.test";
    let (status, error) =
        through_the_relay(&world, "aiosmtpd.test", at, to, |from| hard_message(from, to, "a1")).await;
    assert_eq!((&*status, &*error), ("sent", ""));
    let files = files(kept.path(), ".eml");
    let sent = hard_message(&address(&key(1)), to, "a1");
    assert!(files.len() == 1 && files[0].ends_with(&sent));
    let head = &files[0][..files[0].len() - sent.len()];
    assert!(head.starts_with(b"Received: "), "{}", String::from_utf8_lossy(head));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_faults_of_smtp_sink_end_in_the_right_result() {
    let Some(smtp_sink) = program("smtp-sink") else { return };
    // Switches, the result, a word of its reason. Each sink is for one domain; the relay tries twice, then gives up.
    let cases: [(&[&str], &str, &str); 10] = [
        (&[], "sent", ""),
        (&["-p", "-e"], "sent", ""),
        (&["-q", "."], "indeterminate", ""),
        (&["-Q", "."], "failed", "421"),
        (&["-f", "."], "failed", "5.3.0"),
        (&["-r", "."], "failed", "450"),
        (&["-q", "DATA"], "failed", ""),
        (&["-f", "RCPT"], "failed", "5.3.0"),
        (&["-q", "RCPT"], "failed", ""),
        (&["-A", "0"], "failed", "550"),
    ];
    let plan = Plan {
        delivery: "retry_schedule_seconds = [1]\ngreylist_wait_seconds = 1\nexpire_after_seconds = 2\n\
                   final_dot_timeout_seconds = 3\ntimeouts_percent = 2\n"
            .to_owned(),
        ..Plan::default()
    };
    let world = World::with(plan).await;
    let dumps = tempfile::tempdir().expect("temporary directory");
    crate::support::programs::open_to_all(dumps.path());
    let mut sinks = Vec::new();
    for (n, (switches, ..)) in (20_u8..).zip(&cases) {
        let at = SocketAddr::new([127, 0, 0, n].into(), world.sink.port());
        let mut command = Command::new(&smtp_sink);
        command.args(["-u", "root", "-d", &format!("{}/{n}.", dumps.path().display())]).args(*switches);
        command.args([format!("inet:{at}"), "64".to_owned()]);
        sinks.push(start(&mut command, at).await);
        world.dns.mail_domain(&format!("d{n}.test"), &at.ip().to_string());
    }
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let line = relay.line(&key, Manner::Two, &log).await;
    let from = address(&key);
    for (n, _) in (20_u8..).zip(&cases) {
        let to = format!("u@d{n}.test");
        line.submit(&format!("s{n}"), &from, &to, &super::world::message(&from, &to, &format!("s{n}")));
    }
    for (n, (switches, status, word)) in (20_u8..).zip(cases) {
        let stream = format!("s{n}");
        until(&format!("{switches:?} has a result"), || log.status(&stream).is_some()).await;
        let (told, error) = (log.status(&stream).expect("told"), log.error(&stream).unwrap_or_default());
        assert_eq!(told, status, "{switches:?}: {error}");
        assert!(error.contains(word), "{switches:?}: {error}");
    }
}
