//! A gateway's key in the wrong hands (U5): what it can send is bounded, held on demand, and ends with the key.

use serde_json::Value;
use waystation::identity::key::SecretKey;

use super::prey::Prey;
use crate::support::line::{Line, Log, Manner};
use crate::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_key_sends_little_and_nothing_after_its_revocation() {
    let env = [("WAYSTATION_LIMITS__OUTBOUND_MESSAGES_PER_HOUR_PER_MAILBOX", "5")];
    let prey = Prey::start(&env).await;
    prey.ask(&["delivery", "pause"]);
    let key = SecretKey::from_seed(&[7; 32]);
    let address = key.key_text().address("our.example");
    let log = Log::default();
    let line = Line::open(prey.http, &key, Manner::Two, &log).await.expect("logged in");
    let letter = format!("From: <{address}>\r\nTo: <v@victim.example>\r\nSubject: spam\r\n\r\nbuy\r\n");
    for n in 0..20 {
        line.submit(&format!("s{n}"), &address, "v@victim.example", letter.as_bytes());
    }
    // Somebody else's name does not go out at all (K12).
    line.submit("forged", "boss@our.example", "v@victim.example", letter.as_bytes());
    until("all were answered", || log.results().len() >= 16).await;
    let queued = || -> Vec<Value> {
        let text = prey.ask(&["spool", "ls", "--direction", "out", "--state", "ready", "--json"]);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    assert_eq!(queued().len(), 5, "the hourly limit holds");
    // One command: the key is worth nothing, and what waits does not leave when deliveries go on.
    prey.ask(&["mailbox", "revoke", key.key_text().as_str(), "--hold-outgoing"]);
    assert_eq!(queued().len(), 0);
    prey.ask(&["delivery", "resume"]);
    until("the session is over", || !line.is_open()).await;
    let again = Line::open(prey.http, &key, Manner::Two, &log).await.err().expect("refused");
    assert!(again.contains("revoked"), "{again}");
    println!("stolen key: 21 submitted, 5 queued, 0 after revocation");
}
