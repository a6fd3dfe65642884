//! Nobody sends through us: every trick of an address with every sender (K1 x K2), and other protocols (A15).

use waystation::identity::key::SecretKey;

use super::prey::{Client, Prey, fetch, honest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trick_of_an_address_makes_an_open_relay() {
    let prey = Prey::start(&[("WAYSTATION_LIMITS__ENABLED", "false")]).await;
    let key = SecretKey::from_seed(&[9; 32]).key_text();
    prey.ask(&["mailbox", "add", key.as_str()]);
    let own = format!("<{key}@our.example>");
    let senders = ["<u@outside.example>", "<>", "<u@our.example>", "<postmaster@our.example>", own.as_str()]; // K1
    let recipients = [
        "<u@other.example>",
        "<u%other.example@our.example>",
        "<other.example!u@our.example>",
        "<\"u@other.example\"@our.example>",
        "<u@other.example@our.example>",
        "<@our.example:u@other.example>",
        "<@our.example,@x.example:u@other.example>",
        "<u@[127.0.0.1]>",
        "<u@[192.0.2.1]>",
        "<u@[IPv6:::1]>",
        "<u@our.example.>",
        "<u@OUR.EXAMPLE>",
        "<u@our.example.other.example>",
        "<u@other.example\0@our.example>",
        "<u@localhost>",
        "<u@127.0.0.1>",
        "u@other.example",
        "<u@other.example> ORCPT=rfc822;x@our.example",
        "<\"u@other.example>\"@our.example>",
        "<u@our.example@other.example>",
        "<our.example!u@other.example>",
        "<>",
    ]; // K2
    let mut refused = 0;
    for sender in senders {
        for recipient in recipients {
            let mut client = Client::greeted([127, 0, 0, 1], prey.smtp).await;
            assert!(client.say(format!("MAIL FROM:{sender}")).await.starts_with("250"), "{sender}");
            let said = client.say(format!("RCPT TO:{recipient}")).await;
            assert!(said.starts_with('5'), "{sender} to {recipient}: {said}");
            let said = client.say("DATA").await;
            assert!(said.starts_with("554") || said.starts_with("503"), "{recipient}: {said}");
            // Whoever sends the body anyway is only making mistakes (C20).
            client.send(b"Subject: spam\r\n\r\nbuy\r\n.\r\n").await.expect("sent");
            refused += 1;
        }
    }
    let listed =
        [prey.ask(&["spool", "ls", "--json"]), prey.ask(&["spool", "ls", "--direction", "out", "--json"])];
    assert_eq!(listed.map(|text| text.trim().len()), [0, 0], "nothing in any lane or queue");
    assert_eq!(prey.metric("waystation_inbound_accepted_total").await, 0.0);
    println!("open relay: {refused} combinations refused");
    honest([127, 0, 0, 1], &prey).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_are_closed_at_once_and_a_proxy_line_is_a_bad_command() {
    let prey = Prey::start(&[("WAYSTATION_LIMITS__ENABLED", "false")]).await;
    let openings: [&[u8]; 9] = [
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b.example>\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"INVITE sip:u@our.example SIP/2.0\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        b"\x80\x2e\x01\x03\x01\r\n",
        b"\x03\x00\x00\x13\x0e\xe0\r\n",
        b"*3\r\n$4\r\nEHLO\r\n",
        b"{\"id\":1,\"method\":\"eth_submitLogin\"}\r\n",
    ];
    for opening in openings {
        let mut client = Client::connect([127, 0, 0, 1], prey.smtp).await;
        assert!(client.reply().await.starts_with("220"));
        let _ = client.send(opening).await;
        assert!(client.reply().await.starts_with("554 5.5.1"), "{opening:?}"); // A15
        assert_eq!(client.reply().await, "closed", "{opening:?}"); // one line, no amplification
    }
    assert_eq!(prey.metric("waystation_abuse_refused_total{limit=\"foreign_protocol\"}").await, 9.0);
    let mut client = Client::connect([127, 0, 0, 1], prey.smtp).await;
    assert!(client.reply().await.starts_with("220"));
    assert!(client.say("PROXY TCP4 192.0.2.1 192.0.2.2 4711 25").await.starts_with("500")); // V3
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x12\x67\0\x19\r\n";
    client.send(binary).await.expect("sent");
    assert!(client.reply().await.starts_with('5')); // V5
    // Mail commands inside an HTTP request to the other listener are just a bad request.
    let said = fetch(prey.http, "MAIL FROM:<a@b.example>\r\nRCPT TO:<postmaster>\r\n\r\n").await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!(prey.metric("waystation_inbound_accepted_total").await, 0.0);
}
