//! Names of submissions; the rest is tried over real sockets (`tests/outbound`, `tests/submissions`).

use super::*;
use crate::identity::key::SecretKey;
use crate::mail::outbound::values::Note;

#[test]
fn names_of_submissions_belong_to_their_mailbox() {
    let (one, two) = (SecretKey::from_seed(&[1; 32]).key_text(), SecretKey::from_seed(&[2; 32]).key_text());
    assert_eq!(submission_key(&one, "s"), submission_key(&one, "s"));
    assert_ne!(submission_key(&one, "s"), submission_key(&two, "s"));
    assert_ne!(submission_key(&one, "s"), submission_key(&one, "t"));
    assert_ne!(twin_key(&one, &[0; 32]), twin_key(&two, &[0; 32]));
}

#[test]
fn an_error_has_its_code_once() {
    let note = |text: &str, code: &str| Note {
        text: text.to_owned(),
        enhanced_code: code.to_owned(),
        ..Note::default()
    };
    assert_eq!(results::error_text(&note("no", "5.1.1")), "5.1.1 no");
    assert_eq!(results::error_text(&note("550 5.1.1 no", "5.1.1")), "550 5.1.1 no");
    assert_eq!(results::error_text(&note("no", "")), "no");
}
