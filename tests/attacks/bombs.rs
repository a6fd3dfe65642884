//! Messages and commands made to hurt: headers, MIME, endless commands, control characters.

use super::prey::{Client, Prey, honest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_and_mime_bombs_are_answered_and_the_session_goes_on() {
    let env = [
        ("WAYSTATION_SMTP__GREET_DELAY_MS", "0"),
        ("WAYSTATION_LIMITS__ENABLED", "false"),
        // The stage that reads messages has to bear them, too (U4).
        ("WAYSTATION_VERIFY__ENABLED", "true"),
        ("WAYSTATION_VERIFY__TIMEOUT_MS", "100"),
    ];
    let prey = Prey::start(&env).await;
    honest([127, 0, 0, 1], &prey).await;
    let memory = prey.memory();
    let repeated = |text: &str, times: usize| text.repeat(times).into_bytes();
    let folded = [b"X-Long: x\r\n".to_vec(), repeated(&format!(" {}\r\n", "y".repeat(900)), 11_000)].concat();
    let nested: String = (0..10_000)
        .map(|n| format!("--b{n}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n", n + 1))
        .collect();
    let nested = format!("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b0\r\n\r\n{nested}");
    let parts = [
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec(),
        repeated("--b\r\n\r\nx\r\n", 100_000),
    ]
    .concat();
    let signatures =
        repeated("DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; h=from; b=; bh=\r\n", 900);
    let seals = repeated("ARC-Seal: i=1; a=rsa-sha256; cv=none; d=x.example; s=s; b=\r\n", 900);
    let bombs: [(&str, Vec<u8>, &[&str]); 8] = [
        ("one line of 10 MB", [b"X: ".to_vec(), vec![b'x'; 10_000_000]].concat(), &["554", "552"]), // E6, E9
        ("one folded field of 10 MB", folded, &["552"]),
        ("100000 fields", repeated("X: y\r\n", 100_000), &["552", "554"]),
        (
            "1000 Received",
            repeated("Received: from x by y; Sat, 21 Nov 2026 01:00:00 +0000\r\n", 1000),
            &["554 5.4.6"],
        ), // L5
        ("nesting of 10000", nested.into_bytes(), &["250"]), // E10, U4: opaque to us
        ("100000 parts", parts, &["250"]),
        ("900 signatures", [signatures, b"From: a@x.example\r\n\r\nhi".to_vec()].concat(), &["250"]), // M10
        ("900 seals", [seals, b"From: a@x.example\r\n\r\nhi".to_vec()].concat(), &["250"]),
    ];
    let mut client = Client::greeted([127, 0, 0, 1], prey.smtp).await;
    for (name, bomb, allowed) in bombs {
        let said = client.message(&bomb).await;
        assert!(allowed.iter().any(|code| said.starts_with(code)), "{name}: {said}");
        assert!(client.say("NOOP").await.starts_with("250"), "{name}: out of step");
    }
    let then = prey.memory_peak();
    println!("bombs: memory {memory} -> {then} KiB at most");
    assert!(then < memory + 64 * 1024);
    honest([127, 0, 0, 1], &prey).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_floods_memory_or_writes_into_the_log() {
    // U6, B20, L2
    let env = [("WAYSTATION_LIMITS__ENABLED", "false"), ("WAYSTATION_LOG__LEVEL", "debug")];
    let prey = Prey::start(&env).await;
    let mut client = Client::connect([127, 0, 0, 1], prey.smtp).await;
    assert!(client.reply().await.starts_with("220"));
    let said = client.say(format!("EHLO {}", "x".repeat(64 * 1024))).await;
    assert!(said.starts_with("500"), "{said}");
    let nasty = [
        "\r",
        "\n",
        "\x1b[31m",
        "\0",
        "\x07",
        "\u{85}",
        "\u{2028}",
        "\u{202e}",
        "\",\"event\":\"relay.forged\"",
    ];
    for text in nasty {
        for command in [
            format!("EHLO a{text}b"),
            format!("HELO {text}"),
            format!("MAIL FROM:<a{text}@b.example>"),
            format!("MAIL FROM:<a@b.example> SIZE={text}"),
            format!("RCPT TO:<u{text}@our.example>"),
            format!("RCPT TO:<\"u{text}\"@our.example>"),
            format!("VRFY {text}"),
            format!("NOOP {text}"),
            format!("BDAT {text}"),
            format!("STARTTLS {text}"),
            format!("AUTH PLAIN {text}"),
            format!("FROB {text}"),
        ] {
            let mut client = Client::greeted([127, 0, 0, 1], prey.smtp).await;
            client.say("MAIL FROM:<a@b.example> SMTPUTF8").await;
            let said = client.say(&command).await;
            let plain = |b: u8| matches!(b, 0x20..=0x7e);
            assert!(said.bytes().all(plain), "{command:?}: {said:?}");
        }
        // What is accepted must be as harmless: in the trace field and in the lines about it.
        let mut client = Client::greeted([127, 0, 0, 1], prey.smtp).await;
        client.say("MAIL FROM:<\"a,b\"@client.example>").await;
        client.say("RCPT TO:<postmaster>").await;
        client.say("DATA").await;
        client.say(format!("Subject: {}\r\n\r\nhello\r\n.", text.replace(['\r', '\n', '\0'], ""))).await;
    }
    let events = prey.log(); // each line is one JSON object, or this fails
    assert!(events.iter().all(|event| event["event"] != "relay.forged"));
    let raw = prey.log_text();
    assert!(raw.iter().all(|&b| b == b'\n' || b >= 0x20), "control characters in the log");
    println!("control characters: {} events for {} commands", events.len(), nasty.len() * 12);
    let mut client = Client::greeted([127, 0, 0, 1], prey.smtp).await;
    for (known, unknown) in [("VRFY postmaster", "VRFY nobody"), ("EXPN postmaster", "EXPN nobody")] {
        assert_eq!(client.say(known).await, client.say(unknown).await); // A14
    }
}
