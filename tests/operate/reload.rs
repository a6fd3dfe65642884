//! Reload: each class of keys changes on a running relay, a mistake changes nothing, and nobody is sent away.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use waystation::config::{Effect, effect, reload_table};

use super::daemon::{OUR, Place, Running, Sender, ask, gateway_key};
use crate::support::line::{Line, Log, Manner};
use crate::support::sink::Sink;
use crate::support::until;

/// SIGHUP, and the event that says what came of it.
async fn hup(place: &Place, running: &Running) -> Value {
    let nth = place.events("relay.config.reloaded").len() + 1;
    running.signal("HUP");
    place.event("relay.config.reloaded", nth).await
}

fn changed(event: &Value) -> Vec<String> {
    event["changed"]
        .as_str()
        .expect("keys")
        .split(", ")
        .filter(|k| !k.is_empty())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn intake_limits_admission_and_domains_change_for_whoever_comes_next() {
    // Goal: keys of different services change with one signal; who is connected stays, with what it began with.
    // Method: a sender and a gateway from before, the same again from after.
    let place = Place::new();
    let running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    let gateway = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    let home = key.key_text().address(OUR);
    let (mut before, ehlo) = Sender::greeted(place.smtp());
    assert!(ehlo.contains("SIZE 26214400") && ehlo.contains("RCPTMAX=100"), "{ehlo}");

    place.configure_at(
        "hostname = \"relay.our.test\"\ndomains = [\"our.test\", \"more.test\"]\n",
        "[smtp]\nmax_recipients = 100\nmax_message_bytes = 4096\n\n[admission]\nmode = \"allowlist\"\nmailbox_items_max = 2\n\
         \n[limits]\nsmtp_messages_per_minute_per_ip = 4\n\n[log]\nlevel = \"debug\"\n",
    );
    let event = hup(&place, &running).await;
    assert_eq!(
        changed(&event),
        [
            "admission.mailbox_items_max",
            "admission.mode",
            "domains",
            "limits.smtp_messages_per_minute_per_ip",
            "log.level",
            "smtp.max_message_bytes"
        ]
    );
    assert!(place.events("relay.config.needs_restart").is_empty());

    // Who was there keeps what it was told; who comes is told the new.
    assert!(before.send(&home, &"twenty characters it\r\n".repeat(250)).starts_with("250 2.0.0"));
    let (mut after, ehlo) = Sender::greeted(place.smtp());
    assert!(ehlo.contains("SIZE 4096"), "{ehlo}");
    assert!(
        after.send(&key.key_text().address("more.test"), "Subject: two\r\n\r\n").starts_with("250 2.0.0")
    );
    until("both reached the gateway that never left", || log.mails().len() == 2).await;
    assert!(gateway.is_open());
    let refused =
        Line::open(place.http(), &gateway_key(2), Manner::Two, &log).await.err().expect("a new key");
    assert!(refused.contains("not_admitted"), "{refused}");

    // Two items may wait, and four messages in a minute may come: two came since the change.
    drop(gateway);
    until("the gateway is gone", || place.metric("waystation_tunnel_sessions ").as_deref() == Some("0"))
        .await;
    assert!(after.send(&home, "Subject: three\r\n\r\n").starts_with("250 2.0.0"));
    assert!(after.send(&home, "Subject: four\r\n\r\n").starts_with("250 2.0.0"));
    assert!(after.say("MAIL FROM:<a@far.example>").starts_with("450 "), "the rate");
    let text = place.text();
    assert!(text.contains("\"level\":\"DEBUG\""), "log.level");
    assert_eq!(place.metric("waystation_config_reloads_total{outcome=\"done\"} ").as_deref(), Some("1"));
    running.stop().await;
}

#[tokio::test]
async fn quotas_and_the_wait_for_a_challenge_change_live() {
    let place = Place::new();
    let running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    drop(Line::open(place.http(), &key, Manner::Two, &log).await.expect("registered"));
    place.configure(
        "[admission]\nmailbox_items_max = 1\n\n[limits]\nws_auth_attempts_per_minute_per_ip = 1\n",
    );
    hup(&place, &running).await;
    let (mut sender, _) = Sender::greeted(place.smtp());
    let home = key.key_text().address(OUR);
    assert!(sender.send(&home, "Subject: one\r\n\r\n").starts_with("250 2.0.0"));
    let over = sender.rcpt(&home);
    assert!(over.starts_with("452 "), "{over}");
    drop(Line::open(place.http(), &key, Manner::Two, &log).await.expect("one login a minute"));
    let limited = Line::open(place.http(), &key, Manner::Two, &log).await.err().expect("limited");
    assert!(limited.contains("rate_limited"), "{limited}");
    running.stop().await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_says_where_it_is_broken() {
    let place = Place::new();
    let running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    let gateway = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    let good = fs::read_to_string(place.config()).expect("read");
    // One good change beside the mistake: it may not happen either.
    place.configure("[smtp]\nmax_message_bytes = 4096\nmax_recipient = 5\n");
    running.signal("HUP");
    let failed = place.event("relay.config.reload_failed", 1).await;
    assert_eq!(failed["key"], "smtp.max_recipient");
    assert_eq!(failed["problem"], "unknown key");
    assert!(failed["advice"].as_str().expect("advice").contains("smtp.max_recipients"), "{failed}");
    assert!(failed["file"].as_str().expect("file").ends_with("waystation.toml"), "{failed}");
    assert!(Sender::greeted(place.smtp()).1.contains("SIZE 26214400"));

    // Secrets that cannot be used are a mistake like any other.
    place.configure(
        "[smtp]\nmax_message_bytes = 4096\n\n[dkim]\nenabled = true\nrsa_key_file = \"/nowhere/key.pem\"\n",
    );
    running.signal("HUP");
    let failed = place.event("relay.config.reload_failed", 2).await;
    assert!(failed["problem"].as_str().expect("problem").contains("dkim.rsa_key_file"), "{failed}");
    assert!(Sender::greeted(place.smtp()).1.contains("SIZE 26214400"));
    // The request says the same, to whoever asked.
    let output = place.run(&["reload"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/nowhere/key.pem") && said.contains("stays as it was"), "{said}");

    assert_eq!(place.metric("waystation_config_reloads_total{outcome=\"refused\"} ").as_deref(), Some("3"));
    fs::write(place.config(), good).expect("written");
    assert!(changed(&hup(&place, &running).await).is_empty());
    assert!(gateway.is_open());
    running.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_restart_is_named_and_the_rest_is_done() {
    let place = Place::new();
    let running = place.start().await;
    place.configure_at(
        "hostname = \"other.our.test\"\n",
        "[smtp]\nmax_message_bytes = 4096\n\n[http]\nlisten = \"127.0.0.1:1\"\n",
    );
    let answer = place.ask(&["reload"]);
    assert_eq!(answer["changed"], serde_json::json!(["smtp.max_message_bytes"]));
    assert_eq!(answer["needs_restart"], serde_json::json!(["hostname", "http.listen"]));
    let event = place.event("relay.config.needs_restart", 1).await;
    assert_eq!(event["keys"], "hostname, http.listen");
    let mut sender = Sender::connect(place.smtp());
    assert!(sender.reply().contains("relay.our.test"), "the name stays");
    assert!(sender.say("EHLO x").contains("SIZE 4096"));
    // Said again as long as it is so, and as a page for a person.
    let said = String::from_utf8(place.run(&["reload"]).stdout).expect("text");
    assert!(said.contains("nothing has changed\n") && said.contains("  http.listen\n"), "{said}");
    running.stop().await;
}

#[tokio::test]
async fn a_new_token_counts_at_once_and_the_old_one_no_more() {
    let place = Place::new();
    let file = place.path().join("admin.token");
    let path = file.to_str().expect("path");
    let make = || {
        let _ = fs::remove_file(&file);
        assert!(place.run(&["keys", "token", "--file", path]).status.success());
        fs::read_to_string(&file).expect("token").trim().to_owned()
    };
    let more = format!("[admin]\nhttp_token_file = \"{path}\"\n");
    place.configure(&more);
    let old = make();
    let running = place.start().await;
    let status = |token: &str| {
        let answer = ask(place.http(), "/admin/spool/stats", &format!("authorization: Bearer {token}\r\n"));
        answer.split(' ').nth(1).expect("status").to_owned()
    };
    assert_eq!(status(&old), "200");
    let new = make();
    assert_eq!(status(&new), "401", "not yet");
    // The file has changed and the configuration has not.
    assert_eq!(changed(&hup(&place, &running).await), ["admin.http_token_file"]);
    assert_eq!((status(&new), status(&old)), ("200".to_owned(), "401".to_owned()));
    // A token that could be guessed is refused, and the good one stays.
    fs::write(&file, "short\n").expect("written");
    running.signal("HUP");
    place.event("relay.config.reload_failed", 1).await;
    assert_eq!(status(&new), "200");
    running.stop().await;
}

#[tokio::test]
async fn deliveries_sign_and_give_up_by_the_new_settings() {
    // Goal: DKIM key and selector, smarthost and expiry change for attempts that begin from then on.
    // Method: one message before and one after, read at the other end.
    let place = Place::new();
    let (first, second) = (Sink::start().await, Sink::start().await);
    let keys = place.path().join("keys");
    let dkim = |selector: &str| {
        let dir = keys.to_str().expect("path");
        let made = place.run(&["keys", "dkim", "--dir", dir, "--domain", OUR, "--selector", selector]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!(
            "[dkim]\nenabled = true\nselector = \"{selector}\"\nrsa_key_file = \"{dir}/dkim-{selector}-rsa.pem\"\n"
        )
    };
    let to = |sink: &Sink| {
        format!(
            "[delivery]\nsmarthost = \"{}\"\nallow_private_targets = true\nretry_schedule_seconds = [1]\n",
            sink.address()
        )
    };
    place.configure(&format!("{}\n{}", to(&first), dkim("one")));
    let running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    let gateway = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    let from = key.key_text().address(OUR);
    let message = format!("From: <{from}>\r\nTo: <b@far.example>\r\nSubject: x\r\n\r\nhello\r\n");
    gateway.submit("before", &from, "b@far.example", message.as_bytes());
    until("the first is sent", || log.status("before").is_some()).await;

    place.configure(&format!("{}\n{}", to(&second), dkim("two")));
    assert_eq!(
        changed(&hup(&place, &running).await),
        ["delivery.smarthost", "dkim.rsa_key_file", "dkim.selector"]
    );
    gateway.submit("after", &from, "b@far.example", message.as_bytes());
    until("the second is sent", || log.status("after").is_some()).await;
    let selector = |sink: &Sink| {
        let received = sink.received();
        assert_eq!(received.len(), 1);
        let text = String::from_utf8_lossy(&received[0].bytes).replace("\r\n", "");
        text.split("s=").nth(1).and_then(|rest| rest.split(';').next()).expect("a signature").to_owned()
    };
    assert_eq!((selector(&first), selector(&second)), ("one".to_owned(), "two".to_owned()));
    assert!(gateway.is_open());
    running.stop().await;
}

#[tokio::test]
async fn another_certificate_is_shown_from_the_next_handshake_on() {
    let place = Place::new();
    let make = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let files = ["crt", "pem"].map(|kind| place.path().join(format!("{name}.{kind}")));
        fs::write(&files[0], params.self_signed(&key).expect("certificate").pem()).expect("written");
        fs::write(&files[1], key.serialize_pem()).expect("written");
        fs::set_permissions(&files[1], fs::Permissions::from_mode(0o600)).expect("permissions");
        format!("[tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n", files[0].display(), files[1].display())
    };
    let (one, two) = (make("one.our.test"), make("two.our.test"));
    place.configure(&one);
    let running = place.start().await;
    assert_eq!(place.event("relay.tls.loaded", 1).await["names"], "one.our.test");
    // A chain of one and a key of the other: nothing changes.
    let mixed = format!(
        "{}{}",
        one.split_inclusive('\n').take(2).collect::<String>(),
        two.lines().nth(2).expect("key_file")
    );
    place.configure(&mixed);
    running.signal("HUP");
    place.event("relay.config.reload_failed", 1).await;
    place.configure(&two);
    assert_eq!(changed(&hup(&place, &running).await), ["tls.cert_file", "tls.key_file"]);
    assert_eq!(place.event("relay.tls.loaded", 2).await["names"], "two.our.test");
    // Without any, TLS would have to be switched off: that is no live change.
    place.configure("");
    let nth = place.events("relay.config.needs_restart").len() + 1;
    assert!(changed(&hup(&place, &running).await).is_empty());
    assert_eq!(place.event("relay.config.needs_restart", nth).await["keys"], "tls.cert_file, tls.key_file");
    running.stop().await;
}

#[tokio::test]
async fn a_look_at_the_dns_that_nobody_answers_holds_up_no_change_and_no_stop() {
    // Goal: signals are heard while `/admin/dns` waits for name servers, which takes ten seconds at least and a minute at
    // most. Method: one that never answers.
    const SOON: Duration = Duration::from_secs(5);
    let place = Place::new();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("bound");
    silent.set_nonblocking(true).expect("nonblocking");
    let asking = format!(
        "[delivery]\ndns_servers = [\"{}\"]\ndns_probe_seconds = 0\n",
        silent.local_addr().expect("bound")
    );
    place.configure(&asking);
    let running = place.start().await;
    let mut question = [0; 512];
    while silent.recv(&mut question).is_ok() {}
    let mut asker = UnixStream::connect(place.data().join("admin.sock")).expect("connects");
    asker.write_all(b"GET /admin/dns HTTP/1.1\r\nhost: relay\r\n\r\n").expect("sent");
    until("it has begun to ask", || silent.recv(&mut question).is_ok()).await;

    place.configure_at("hostname = \"relay.our.test\"\ndomains = [\"our.test\", \"more.test\"]\n", &asking);
    running.signal("HUP");
    let reloaded = tokio::time::timeout(SOON, place.event("relay.config.reloaded", 1)).await;
    assert_eq!(changed(&reloaded.expect("in time")), ["domains"]);
    asker.set_nonblocking(true).expect("nonblocking");
    let answer = asker.read(&mut question).map_err(|error| error.kind());
    assert_eq!(answer, Err(ErrorKind::WouldBlock), "the look goes on");
    running.signal("TERM");
    tokio::time::timeout(SOON, place.event("relay.stopping", 1)).await.expect("in time");
    drop(running);
}

#[tokio::test]
async fn limits_of_wrong_tokens_change_for_a_dashboard_with_a_token_of_its_own() {
    let place = Place::new();
    let running = place.start().await;
    let token = fs::read_to_string(place.data().join("dashboard.token")).expect("a token");
    let login = |token: &str| {
        let form = format!("token={}", token.trim());
        let mut stream = TcpStream::connect(place.http()).expect("connects");
        write!(
            stream,
            "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{form}",
            form.len()
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    for _ in 0..5 {
        assert_eq!(login("guess"), "403");
    }
    assert_eq!(login(&token), "429", "too many wrong ones");
    place.configure("[limits]\nenabled = false\n");
    assert_eq!(changed(&hup(&place, &running).await), ["limits.enabled"]);
    assert_eq!(login(&token), "303");
    for _ in 0..6 {
        assert_eq!(login("guess"), "403", "nobody counts them");
    }
    running.stop().await;
}

#[test]
fn the_example_file_and_the_documentation_say_what_a_reload_takes() {
    let example = waystation::config::example();
    let above = |key: &str| {
        let at = example.find(&format!("\n#{key} = ")).expect("the key");
        example[..at].lines().last().expect("its comment").to_owned()
    };
    assert!(above("max_recipients").ends_with("[live]"));
    assert!(above("cert_file").ends_with("[live while set]"));
    assert!(!above("hostname").contains("[live"));
    assert_eq!(effect("smtp.listen"), Some(Effect::Restart));
    assert!(reload_table().contains("| `log.level` | at a reload |"));
}
