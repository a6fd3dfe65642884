//! Sockets that somebody else opened: by systemd's own tool, and by a launcher of ours; and the admin socket, which has one
//! owner.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};

use super::daemon::{Place, Sender, get};
use crate::support::process::waystation;
use crate::support::programs::program;
use crate::support::until;

/// Listens on a free port.
pub(super) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// The binary as a service manager would start it: `LISTEN_PID` is the number of the process that gets the sockets.
pub(super) fn with(sockets: Vec<TcpListener>, names: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(env!("CARGO_BIN_EXE_waystation"));
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
    let mappings = sockets.into_iter().zip(3..);
    let mappings =
        mappings.map(|(socket, child_fd)| FdMapping { parent_fd: OwnedFd::from(socket), child_fd });
    command.fd_mappings(mappings.collect()).expect("mapped");
    command
}

#[tokio::test]
async fn named_sockets_take_the_place_of_the_configured_addresses() {
    let place = Place::new();
    // Addresses that nobody may listen on: they must not be tried.
    place.configure("[smtp]\nlisten = [\"192.0.2.1:25\"]\n\n[http]\nlisten = \"192.0.2.1:80\"\n");
    let ((mail, mail_at), (more, more_at), (web, web_at)) = (listener(), listener(), listener());
    let running = place.start_as(with(vec![mail, web, more], "smtp:http:smtp"), |_| ()).await;
    assert_eq!((place.smtp(), place.http()), (mail_at, web_at));
    for at in [mail_at, more_at] {
        Sender::greeted(at);
    }
    assert!(get(web_at, "/health").contains("\"status\":\"ok\""));
    // They stay what they are in a hand-over.
    running.signal("USR2");
    place.event("relay.handover.done", 1).await;
    assert_eq!((place.smtp(), place.http()), (mail_at, web_at));
    Sender::greeted(more_at);
    running.stop().await;
}

#[tokio::test]
async fn a_socket_without_a_name_is_known_by_its_address() {
    let place = Place::new();
    let (web, web_at) = listener();
    place.configure(&format!("[http]\nlisten = \"{web_at}\"\n"));
    let running = place.start_as(with(vec![web], "whatever.socket"), |_| ()).await;
    assert!(get(web_at, "/health").contains("\"status\":\"ok\""));
    Sender::greeted(place.smtp());
    running.stop().await;
}

#[tokio::test]
async fn a_socket_without_a_name_stays_without_one_in_a_hand_over() {
    let place = Place::new();
    let ((mail, mail_at), (_, more_at)) = (listener(), listener());
    place.configure(&format!("[smtp]\nlisten = [\"{mail_at}\"]\n"));
    let running = place.start_as(with(vec![mail], "waystation-smtp.socket"), |_| ()).await;
    // If it had become one of the name `smtp`, it would stand for all addresses from the next process on.
    place.configure(&format!("[smtp]\nlisten = [\"{mail_at}\", \"{more_at}\"]\n"));
    for round in 1..=2 {
        running.signal("USR2");
        place.event("relay.handover.done", round).await;
        for at in [mail_at, more_at] {
            Sender::greeted(at);
        }
    }
    place.configure(&format!("[smtp]\nlisten = [\"{more_at}\"]\n"));
    running.signal("USR2");
    let refused = place.event("relay.handover.refused", 1).await;
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.contains("`waystation-smtp.socket`") && reason.contains("no such address"), "{reason}");
    Sender::greeted(mail_at);
    running.stop().await;
}

#[tokio::test]
async fn each_http_socket_answers_what_may_be_said_at_its_own_address() {
    // Goal: a public socket beside a loopback one sends strangers to HTTPS, whichever of the two is named first.
    let place = Place::new();
    let key = rcgen::KeyPair::generate().expect("key");
    let params = rcgen::CertificateParams::new(vec!["relay.our.test".to_owned()]).expect("parameters");
    let files = ["crt", "pem"].map(|kind| place.path().join(format!("tls.{kind}")));
    fs::write(&files[0], params.self_signed(&key).expect("certificate").pem()).expect("written");
    fs::write(&files[1], key.serialize_pem()).expect("written");
    fs::set_permissions(&files[1], fs::Permissions::from_mode(0o600)).expect("permissions");
    place.configure(&format!(
        "[tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n[http]\ntls_listen = \"127.0.0.1:0\"\n",
        files[0].display(),
        files[1].display()
    ));
    for public_first in [true, false] {
        let wide = TcpListener::bind("0.0.0.0:0").expect("bound");
        let public = SocketAddr::from(([127, 0, 0, 1], wide.local_addr().expect("bound").port()));
        let (inside, loopback) = listener();
        let sockets = if public_first { vec![wide, inside] } else { vec![inside, wide] };
        let running = place.start_as(with(sockets, "http:http"), |_| ()).await;
        let refused = get(public, "/ws");
        assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("tls_required"), "{refused}");
        assert!(get(public, "/metrics").starts_with("HTTP/1.1 308 "), "{public_first}");
        assert!(!get(loopback, "/ws").contains("tls_required"), "{public_first}");
        assert!(get(loopback, "/metrics").starts_with("HTTP/1.1 200 "), "{public_first}");
        running.stop().await;
    }
}

#[tokio::test]
async fn the_admin_socket_of_a_relay_that_lives_is_not_taken_away() {
    let (one, other) = (Place::new(), Place::new());
    let socket = one.path().join("shared.sock");
    for place in [&one, &other] {
        place.configure(&format!("[admin]\nsocket = \"{}\"\n", socket.display()));
    }
    let first = one.start().await;
    let mut second = other.launch(waystation(), |_| ());
    let mut status = None;
    until("it has ended", || {
        status = second.has_ended();
        status.is_some()
    })
    .await;
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    assert!(other.text().contains("another process listens there"), "{}", other.text());
    assert_eq!(one.ask(&["reload"])["changed"], serde_json::json!([]), "the first one answers as before");
    first.signal("USR2");
    one.event("relay.handover.done", 1).await;
    assert_eq!(one.ask(&["reload"])["changed"], serde_json::json!([]), "and so does its next process");

    // Whoever has the path by then keeps it when the one before ends.
    fs::remove_file(&socket).expect("removed");
    let second = other.start().await;
    first.stop().await;
    assert_eq!(other.ask(&["reload"])["changed"], serde_json::json!([]));
    second.stop().await;
    assert!(!socket.exists(), "a tidy directory");
}

#[tokio::test]
async fn a_socket_that_nothing_would_serve_ends_the_start_with_a_sentence() {
    let place = Place::new();
    for (names, sentence) in [
        ("unknown", "FileDescriptorName=smtp"),
        ("https", "there is no certificate: set [tls]"),
        ("admin", "the admin socket lies in the file system"),
    ] {
        let mut running = place.launch(with(vec![listener().0], names), |_| ());
        let mut status = None;
        until("it has ended", || {
            status = running.has_ended();
            status.is_some()
        })
        .await;
        assert_eq!(status.and_then(|status| status.code()), Some(2), "{names}");
        assert!(place.text().contains(sentence), "{names}: {}", place.text());
    }
    // Sockets of another process are not ours.
    let mut command = waystation();
    command.env("LISTEN_FDS", "5").env("LISTEN_FDNAMES", "smtp").env("LISTEN_PID", "1");
    let running = place.start_as(command, |_| ()).await;
    Sender::greeted(place.smtp());
    running.stop().await;
}

#[tokio::test]
async fn the_tool_of_systemd_starts_it_at_the_first_connection() {
    let Some(tool) = program("systemd-socket-activate") else { return };
    let place = Place::new();
    let text = fs::read_to_string(place.config()).expect("read");
    fs::write(place.config(), text).expect("written");
    // Free a moment ago; nobody else looks for ports of this range here.
    let [mail_at, web_at] = [listener().1, listener().1];
    let mut command = Command::new(tool);
    command.args(["-l", &mail_at.to_string(), "-l", &web_at.to_string(), "--fdname=smtp:http"]);
    command.arg(env!("CARGO_BIN_EXE_waystation"));
    let running = place.launch(command, |_| ());
    until("the tool listens", || std::net::TcpStream::connect(web_at).is_ok()).await;
    let (mut sender, _) = Sender::greeted(mail_at);
    assert!(sender.say("NOOP").starts_with("250 "));
    assert!(get(web_at, "/health").contains("\"status\":\"ok\""));
    running.stop().await;
}
