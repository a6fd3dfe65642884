//! Who gets in with an invitation, and who is put out.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use axum::body::Body;
use serde_json::Value;
use spool::invitations::Invitation;
use tower::ServiceExt as _;
use waystation::clock;
use waystation::identity::invite::Code;

use super::*;

/// What a gateway of tunnel 2 says in its request.
const OFFER: &str = r#","features":["ack","results"]"#;

async fn invite(relay: &Relay, code: &Code, aliases: &[&str]) {
    let now = clock::wall();
    let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    let until = now.plus(60_000);
    let new = Invitation { code_sha256: code.sha256(), aliases, until, ..Invitation::default() };
    relay.spooler.call(move |spool| spool.invite(&new, now)).await.unwrap().unwrap();
}

/// Logs in with a code; what the relay said.
async fn redeem(relay: &Relay, key: &SecretKey, code: &str, offer: &str) -> (Gateway, Value) {
    let mut gateway = Gateway::connect(relay.address, "").await;
    gateway.prove_with(key, offer, &format!(r#","invite":"{code}""#)).await;
    let said = gateway.said().await;
    (gateway, said)
}

#[tokio::test]
async fn an_invitation_admits_one_key_and_tells_it_its_addresses() {
    let relay = Relay::with(Settings::default(), Admission::AllowList).await;
    let code = Code::from_random(&[3; 15]);
    invite(&relay, &code, &["aunt@mail.example"]).await;
    let spelled = code.text().to_uppercase().replace('-', " ");
    let (_home, said) = redeem(&relay, &key(1), &spelled, OFFER).await;
    assert_eq!(said["type"], "auth_ok", "{said}");
    assert_eq!(said["aliases"], serde_json::json!(["aunt@mail.example"]));
    assert_eq!(said["domains"], serde_json::json!(["mail.example"]));
    // Anybody else is late; the same key may ask again, because it may not have heard the answer.
    let (mut thief, said) = redeem(&relay, &key(2), &code.text(), OFFER).await;
    assert_eq!(
        (said["type"].as_str(), said["code"].as_str()),
        (Some("auth_error"), Some("invitation_refused"))
    );
    assert_eq!(thief.closed().await, (4401, "invitation_refused".into()));
    let (_home, said) = redeem(&relay, &key(1), &code.text(), OFFER).await;
    assert_eq!(said["type"], "auth_ok", "{said}");
    assert_eq!(Gateway::refused(&relay, &key(2)).await.1, "not_admitted");
    // From now on the key needs no code, and hears of its aliases all the same.
    let home = Gateway::login_as(relay.address, &key(1), OFFER, "").await;
    assert_eq!(home.auth_ok["aliases"][0], "aunt@mail.example");
}

#[tokio::test]
async fn a_gateway_of_tunnel_1_is_told_nothing_new() {
    let relay = Relay::start().await;
    let code = Code::from_random(&[4; 15]);
    invite(&relay, &code, &["uncle@mail.example"]).await;
    let (_home, said) = redeem(&relay, &key(1), &code.text(), "").await;
    let fields: Vec<_> = said.as_object().unwrap().keys().map(String::as_str).collect();
    let known = ["emailLocalPart", "publicKeyBase32", "replacedSocketId", "sessionRole", "type"];
    assert_eq!(fields, known, "{said}");
}

#[tokio::test]
async fn codes_that_are_none_are_refused_and_change_nothing() {
    let relay = Relay::start().await;
    let unknown = Code::from_random(&[5; 15]);
    for (code, word) in [(unknown.text().as_str(), "invitation_refused"), ("hello", "")] {
        let (_gateway, said) = redeem(&relay, &key(1), code, OFFER).await;
        match word {
            // A text that is no code counts as absent, as any field of a wrong kind does.
            "" => assert_eq!(said["type"], "auth_ok", "{said}"),
            word => assert_eq!(said["code"], word, "{said}"),
        }
    }
}

#[tokio::test]
async fn a_revoked_key_stays_out_with_the_best_of_codes() {
    let relay = Relay::start().await;
    let code = Code::from_random(&[6; 15]);
    invite(&relay, &code, &[]).await;
    relay.register(&key(1)).await;
    relay.change(&key(1), MailboxChange::Revoke).await;
    let (_gateway, said) = redeem(&relay, &key(1), &code.text(), OFFER).await;
    assert_eq!(said["code"], "revoked");
    let (_other, said) = redeem(&relay, &key(2), &code.text(), OFFER).await;
    assert_eq!(said["type"], "auth_ok", "the code is still good");
}

#[tokio::test]
async fn revocation_ends_every_session_of_the_key() {
    // U5, X13: sessions that only send end, too.
    let relay = Relay::start().await;
    let mut inbound = Gateway::login_as(relay.address, &key(1), OFFER, "").await;
    let sender = format!(r#"{OFFER},"sessionRole":"outbound""#);
    let mut senders = Vec::new();
    for _ in 0..3 {
        senders.push(Gateway::login_as(relay.address, &key(1), &sender, "").await);
    }
    let mut other = Gateway::login_as(relay.address, &key(2), &sender, "").await;
    relay.change(&key(1), MailboxChange::Revoke).await;
    relay.tunnel.revoke(&key(1).key_text());
    for gateway in std::iter::once(&mut inbound).chain(&mut senders) {
        assert_eq!(gateway.said().await["code"], "revoked");
        assert_eq!(gateway.closed().await.0, 4401);
    }
    eventually("they are gone", async || relay.tunnel.sessions() == 1).await;
    other.tell(r#"{"type":"delivery_result_ack","resultId":"x"}"#).await;
}

/// Goal: who hangs up does not take back what he asked for. Method: the ledger is busy while the request reaches it, and the
/// request is dropped before its commit, as a connection's end drops it.
#[tokio::test]
async fn a_revocation_is_carried_to_its_end_when_whoever_asked_hangs_up() {
    let relay = Relay::start().await;
    let mut gateway = Gateway::login_as(relay.address, &key(1), OFFER, "").await;
    let (go_on, held_up) = std::sync::mpsc::channel::<()>();
    let (begun, is_busy) = tokio::sync::oneshot::channel();
    let spooler = relay.spooler.clone();
    let busy = tokio::spawn(async move {
        let hold_up = spooler.call(move |_| {
            let _ = begun.send(());
            let _ = held_up.recv();
        });
        hold_up.await
    });
    is_busy.await.unwrap();
    let target = format!("/admin/mailboxes/{}/revoke", key(1).key_text());
    let request = axum::http::Request::post(target).body(Body::empty()).unwrap();
    let mut asking = Box::pin(relay.admin().oneshot(request));
    for _ in 0..10 {
        assert!(futures_util::poll!(&mut asking).is_pending());
        tokio::task::yield_now().await;
    }
    drop(asking);
    go_on.send(()).unwrap();
    busy.await.unwrap().unwrap();
    assert_eq!(gateway.said().await["code"], "revoked");
    assert_eq!(gateway.closed().await.0, 4401);
    assert_eq!(Gateway::refused(&relay, &key(1)).await, (4401, "revoked".into()));
}
