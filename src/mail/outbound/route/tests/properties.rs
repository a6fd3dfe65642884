//! Parsers take anything.

use proptest::prelude::*;

use super::*;
use crate::mail::outbound::route::mta_sts::{MAX_AGE_SECONDS_MAX, PATTERNS_MAX, announced_id, parse};

/// Lines that look like a policy, with noise.
fn policy_like() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("version: STSv1".to_owned()),
        Just("mode: enforce".to_owned()),
        Just("max_age: 86400".to_owned()),
        "(mx|mode|max_age|version|x-y): ?[*.a-z0-9\u{e4}:;= -]{0,20}",
        "\\PC{0,30}",
    ];
    (prop::collection::vec(line, 0..12), "\r?\n").prop_map(|(lines, end)| lines.join(&end).into_bytes())
}

proptest! {
    #[test]
    fn policies_never_panic_and_stay_bounded(text in prop_oneof![policy_like(), prop::collection::vec(any::<u8>(), 0..300)]) {
        if let Ok(policy) = parse(&text) {
            prop_assert!(policy.max_age_seconds <= MAX_AGE_SECONDS_MAX);
            prop_assert!(policy.mx.len() <= PATTERNS_MAX);
            prop_assert!(policy.mx.iter().all(|pattern| pattern.is_ascii()));
            let _ = policy.names("mx.example");
        }
    }

    #[test]
    fn records_never_panic_and_ids_are_plain(
        records in prop::collection::vec(prop_oneof![
            "v=STSv1;? ?(id=[a-z0-9-]{0,40})?;?".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..80),
        ], 0..4)
    ) {
        if let Some(id) = announced_id(&records) {
            prop_assert!((1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn smarthosts_never_panic(text in "\\PC{0,40}") {
        if let Some(smarthost) = Smarthost::parse(&text) {
            prop_assert!(smarthost.port != 0 && !smarthost.host.is_empty());
        }
    }
}
