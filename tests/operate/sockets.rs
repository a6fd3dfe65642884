//! Sockets that somebody else opened: by systemd's own tool, and by a launcher of ours.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};

use super::daemon::{Place, Sender, get};
use crate::support::process::waystation;
use crate::support::programs::program;
use crate::support::until;

/// Listens on a free port.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// The binary as a service manager would start it: `LISTEN_PID` is the number of the process that gets the sockets.
fn with(sockets: Vec<TcpListener>, names: &str) -> Command {
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
