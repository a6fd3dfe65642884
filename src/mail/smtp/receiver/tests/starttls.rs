//! STARTTLS, by rule id.

use super::*;

const TLS: &str = "TLSv1.3 TLS_AES_256_GCM_SHA384";

fn offering(settings: Settings) -> World {
    let mut world = World::with(settings);
    world.receiver.set_tls_ready(true);
    world
}

fn encrypted(world: &mut World) {
    world.say("EHLO client.example\r\n");
    assert_eq!(world.say("STARTTLS\r\n"), "220 2.0.0|tls");
    world.receiver.tls_established(TLS.to_owned(), world.now);
    world.perform();
}

#[test]
fn the_offer_follows_the_certificate() {
    let mut world = World::new();
    world.say("EHLO client.example\r\n");
    assert!(!world.wire.contains("STARTTLS")); // J6
    assert_eq!(world.say("STARTTLS\r\n"), "454 4.7.0");
    world.receiver.set_tls_ready(true);
    world.say("EHLO client.example\r\n");
    assert!(world.wire.contains("250 STARTTLS\r\n") && !world.wire.contains("AUTH")); // J9
    assert_eq!(world.say("STARTTLS x\r\n"), "501 5.5.4"); // J2
    assert_eq!(world.say("AUTH PLAIN AGEAYg==\r\n"), "503 5.5.1"); // J9
    assert_eq!(world.say("HELO client.example\r\nSTARTTLS\r\n"), "554 5.5.0|closed");
    let mut world = offering(settings());
    assert_eq!(world.say("STARTTLS\r\n"), "503 5.5.1");
    world.say("HELO client.example\r\n");
    assert_eq!(world.say("STARTTLS\r\n"), "503 5.5.1"); // it was not offered
}

#[test]
fn what_was_said_before_the_handshake_is_forgotten() {
    let mut world = offering(settings());
    world.say("EHLO liar.example\r\n");
    world.say("MAIL FROM:<a@client.example>\r\nRCPT TO:<home@our.example>\r\nBDAT 2\r\nhi");
    assert_eq!(world.say("STARTTLS\r\n"), "220 2.0.0|tls");
    assert!(world.body.is_none());
    assert!(!world.receiver.wants_input());
    world.receiver.tls_established(TLS.to_owned(), world.now);
    assert_eq!(world.say("RCPT TO:<home@our.example>\r\n"), "503 5.5.1"); // J1
    assert_eq!(world.say("MAIL FROM:<>\r\n"), "503 5.5.1");
    assert_eq!(world.say("EHLO client.example\r\n"), "250");
    assert!(!world.wire.contains("STARTTLS") && !world.wire.contains("AUTH")); // J1, J9
    assert_eq!(world.say("STARTTLS\r\n"), "503 5.5.1"); // J5
    world.say("MAIL FROM:<a@client.example>\r\nRCPT TO:<home@our.example>\r\nDATA\r\n");
    world.say(format!("{MESSAGE}.\r\n"));
    let (acceptance, body) = &world.stored[0];
    assert_eq!((acceptance.helo.as_str(), acceptance.protocol), ("client.example", "ESMTPS"));
    assert_eq!((acceptance.tls.as_str(), body.as_slice()), (TLS, MESSAGE.as_bytes()));
}

#[test]
fn trace_words_follow_greeting_and_encryption() {
    for (hello, mail, word) in [
        ("EHLO x\r\n", "MAIL FROM:<> SMTPUTF8\r\n", "UTF8SMTPS"),
        ("EHLO x\r\n", "MAIL FROM:<>\r\n", "ESMTPS"),
        ("HELO x\r\n", "MAIL FROM:<>\r\n", "SMTP"),
    ] {
        let mut world = offering(settings());
        encrypted(&mut world);
        world.say(hello);
        world.say(mail);
        world.say("RCPT TO:<home@our.example>\r\n");
        world.say("DATA\r\n");
        world.say(".\r\n");
        assert_eq!((world.stored[0].0.protocol, world.stored[0].0.tls.as_str()), (word, TLS));
    }
}

#[test]
fn octets_behind_starttls_end_the_session() {
    let mut world = offering(settings()); // J3
    world.say("EHLO client.example\r\n");
    assert_eq!(world.say("STARTTLS\r\nRSET\r\nNOOP\r\n"), "554 5.5.0|closed");
    let mut world = offering(settings());
    world.say("EHLO client.example\r\n");
    assert_eq!(world.say("STARTTLS\r\n"), "220 2.0.0|tls");
    assert_eq!(world.say("RSET\r\nNOOP\r\n"), "closed");
    world.receiver.tls_established(TLS.to_owned(), world.now);
    world.perform();
    assert!(world.receiver.is_closed());
}

#[test]
fn a_failed_or_slow_handshake_closes_without_a_word() {
    let shaking = || {
        let mut world = offering(settings());
        world.say("EHLO client.example\r\n");
        world.say("STARTTLS\r\n");
        world.wire.clear();
        world
    };
    let mut world = shaking(); // J4
    world.receiver.tls_failed();
    world.perform();
    assert_eq!(codes(&world.wire), "closed");
    assert_eq!(shaking().pass(Duration::from_secs(30)), "closed"); // U2
    let mut world = shaking();
    world.receiver.set_load(Load::of(1, 1));
    assert_eq!(world.pass(Duration::from_secs(10)), "closed");
    // A relay that stops says so inside TLS.
    let mut world = shaking();
    world.receiver.drain(Grace { until: world.now, newcomers: false });
    world.perform();
    assert_eq!(world.wire, "");
    world.receiver.tls_established(TLS.to_owned(), world.now);
    world.perform();
    assert_eq!(codes(&world.wire), "421 4.3.2|closed");
    // An answer to what was never asked opens nothing.
    let mut world = offering(settings());
    world.receiver.tls_established(TLS.to_owned(), world.now);
    world.say("EHLO client.example\r\n");
    assert!(world.wire.contains("STARTTLS"));
}

#[test]
fn mail_in_the_clear_can_be_refused() {
    let strict = || Settings { require_tls: true, ..settings() };
    let mut world = offering(strict());
    world.say("EHLO client.example\r\n");
    assert_eq!(world.say("NOOP\r\n"), "250 2.0.0");
    assert_eq!(world.say("MAIL FROM:<>\r\n"), "530 5.7.0");
    encrypted(&mut world);
    world.say("EHLO client.example\r\n");
    assert_eq!(world.say("MAIL FROM:<>\r\n"), "250 2.1.0");
    // Until there is a certificate nobody can do better: come back later.
    let mut world = World::with(strict());
    world.say("EHLO client.example\r\n");
    assert_eq!(world.say("MAIL FROM:<>\r\n"), "454 4.7.0");
}
