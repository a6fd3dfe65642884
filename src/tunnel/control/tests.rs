//! The words of the protocol, and text that is none of them.

use super::*;
use crate::tunnel::signed::{RelayKey, RelayKeyStatus, Signed};

fn signed() -> Signed {
    Signed {
        key_id: "r".into(),
        payload_base64: "e30=".into(),
        signature_base64: "AA==".into(),
        batch_path: None,
    }
}

fn to_relay(text: &str) -> Result<ToRelay, ControlError> {
    ToRelay::parse(text, CONTROL_BYTES_MAX)
}

fn said_by_relay() -> Vec<(ToGateway, &'static str)> {
    vec![
        (
            ToGateway::AuthChallenge(AuthChallenge {
                public_key_base32: "k".into(),
                challenge_id: "c".into(),
                challenge_text: "relay-auth:c:n".into(),
                expires_at: "2026-03-09T00:00:00.000Z".into(),
            }),
            r#"{"type":"auth_challenge","publicKeyBase32":"k","challengeId":"c","challengeText":"relay-auth:c:n","expiresAt":"2026-03-09T00:00:00.000Z"}"#,
        ),
        (
            ToGateway::AuthOk(AuthOk {
                aliases: Vec::new(),
                domains: Vec::new(),
                public_key_base32: "k".into(),
                email_local_part: "k".into(),
                session_role: SessionRole::Inbound,
                replaced_socket_id: None,
                features: Features::NONE,
                credit: None,
                relay_keys: Vec::new(),
            }),
            r#"{"type":"auth_ok","publicKeyBase32":"k","emailLocalPart":"k","sessionRole":"inbound","replacedSocketId":null}"#,
        ),
        (
            ToGateway::AuthOk(AuthOk {
                aliases: Vec::new(),
                domains: Vec::new(),
                public_key_base32: "k".into(),
                email_local_part: "k".into(),
                session_role: SessionRole::Outbound,
                replaced_socket_id: Some("s".into()),
                features: Features::of(&[Feature::Ack, Feature::Replay]),
                credit: Some(Credit { items: 4, bytes: 5, item_bytes_max: None }),
                relay_keys: vec![RelayKey {
                    key_id: "r2".into(),
                    public_key: "p".into(),
                    status: RelayKeyStatus::Next,
                    endorsed_by: Some("r".into()),
                    endorsement: Some(signed()),
                }],
            }),
            r#"{"type":"auth_ok","publicKeyBase32":"k","emailLocalPart":"k","sessionRole":"outbound","replacedSocketId":"s","features":["ack","replay"],"credit":{"items":4,"bytes":5},"relayKeys":[{"keyId":"r2","publicKey":"p","status":"next","endorsedBy":"r","endorsement":{"keyId":"r","payloadBase64":"e30=","signatureBase64":"AA=="}}]}"#,
        ),
        (
            ToGateway::AuthError(AuthError { code: "invalid_signature".into() }),
            r#"{"type":"auth_error","code":"invalid_signature"}"#,
        ),
        (
            ToGateway::RelayDeliveryResult(RelayDeliveryResult {
                stream_id: "s".into(),
                status: "failed".into(),
                message_id: None,
                error: Some("no".into()),
                result_id: None,
            }),
            r#"{"type":"relay_delivery_result","streamId":"s","status":"failed","error":"no"}"#,
        ),
        (
            ToGateway::OutboundAccepted(OutboundAccepted {
                stream_id: "s".into(),
                submission_id: "i".into(),
                receipt: None,
            }),
            r#"{"type":"outbound_accepted","streamId":"s","submissionId":"i"}"#,
        ),
        (
            ToGateway::OutboundAccepted(OutboundAccepted {
                stream_id: "s".into(),
                submission_id: "i".into(),
                receipt: Some(signed()),
            }),
            r#"{"type":"outbound_accepted","streamId":"s","submissionId":"i","receipt":{"keyId":"r","payloadBase64":"e30=","signatureBase64":"AA=="}}"#,
        ),
        (ToGateway::ReplayAccepted(ReplayAccepted { items: 3 }), r#"{"type":"replay_accepted","items":3}"#),
        (ToGateway::RelayKeys(RelayKeys { keys: Vec::new() }), r#"{"type":"relay_keys","keys":[]}"#),
        (ToGateway::Drain(Drain { reconnect_after_ms: 7 }), r#"{"type":"drain","reconnectAfterMs":7}"#),
    ]
}

fn said_by_gateway() -> Vec<(ToRelay, &'static str)> {
    vec![
        (
            ToRelay::AuthChallengeRequest(AuthChallengeRequest {
                public_key_base32: "k".into(),
                session_role: Some(SessionRole::Inbound),
                features: Features::NONE,
                credit: None,
            }),
            r#"{"type":"auth_challenge_request","publicKeyBase32":"k","sessionRole":"inbound"}"#,
        ),
        (
            ToRelay::AuthChallengeRequest(AuthChallengeRequest {
                public_key_base32: "k".into(),
                session_role: None,
                features: Features::of(&[Feature::Ack, Feature::Results, Feature::Credit, Feature::Replay]),
                credit: Some(Credit { items: 64, bytes: 1 << 20, item_bytes_max: Some(9) }),
            }),
            r#"{"type":"auth_challenge_request","publicKeyBase32":"k","features":["ack","results","credit","replay"],"credit":{"items":64,"bytes":1048576,"itemBytesMax":9}}"#,
        ),
        (
            ToRelay::AuthChallengeResponse(AuthChallengeResponse {
                invite: None,
                public_key_base32: "k".into(),
                challenge_id: "c".into(),
                signature_base64: "AAAA".into(),
                session_role: None,
            }),
            r#"{"type":"auth_challenge_response","publicKeyBase32":"k","challengeId":"c","signatureBase64":"AAAA"}"#,
        ),
        (
            ToRelay::ItemAck(ItemAck {
                item_id: "i".into(),
                status: AckStatus::Rejected,
                reason: Some("policy".into()),
                sha256: None,
            }),
            r#"{"type":"item_ack","itemId":"i","status":"rejected","reason":"policy"}"#,
        ),
        (
            ToRelay::ItemNack(ItemNack { item_id: "i".into(), retry_after_ms: 5 }),
            r#"{"type":"item_nack","itemId":"i","retryAfterMs":5}"#,
        ),
        (
            ToRelay::ReplayRequest(ReplayRequest { from_seq: Some(3), since_ms: None }),
            r#"{"type":"replay_request","fromSeq":3}"#,
        ),
        (
            ToRelay::DeliveryResultAck(DeliveryResultAck { result_id: "r".into() }),
            r#"{"type":"delivery_result_ack","resultId":"r"}"#,
        ),
    ]
}

#[test]
fn messages_are_written_and_read_as_agreed() {
    for (message, text) in said_by_relay() {
        assert_eq!(message.to_text(), text);
        assert_eq!(ToGateway::parse(text, CONTROL_BYTES_MAX), Ok(message));
    }
    for (message, text) in said_by_gateway() {
        assert_eq!(message.to_text(), text);
        assert_eq!(to_relay(text), Ok(message));
    }
}

#[test]
fn what_is_unknown_is_ignored_or_a_value() {
    let text = r#"{"type":"auth_challenge_request","publicKeyBase32":"k","sessionRole":"weird","features":["ack","teleport",7],"credit":"much","x":{}}"#;
    let Ok(ToRelay::AuthChallengeRequest(request)) = to_relay(text) else { panic!() };
    assert_eq!(request.session_role, None);
    assert_eq!(request.features, Features::of(&[Feature::Ack]));
    assert_eq!(request.credit, None);
    assert_eq!(to_relay(r#"{"type":"hello"}"#), Ok(ToRelay::Unknown("hello".into())));
    assert_eq!(
        ToGateway::parse(r#"{"type":"hello"}"#, CONTROL_BYTES_MAX),
        Ok(ToGateway::Unknown("hello".into()))
    );
}

#[test]
fn negative_and_absurd_positions_are_clamped() {
    // X10
    let asked = |text| match to_relay(text) {
        Ok(ToRelay::ReplayRequest(request)) => request,
        other => panic!("{other:?}"),
    };
    assert_eq!(asked(r#"{"type":"replay_request","fromSeq":-4}"#).from_seq, Some(0));
    assert_eq!(asked(r#"{"type":"replay_request","sinceMs":18446744073709551615}"#).since_ms, Some(u64::MAX));
    assert_eq!(asked(r#"{"type":"replay_request","fromSeq":"x"}"#).from_seq, None);
}

#[test]
fn what_is_no_control_message_is_an_error() {
    for text in ["", "{x", "null", "[]", "7", "{}", r#"{"type":7}"#] {
        assert_eq!(to_relay(text), Err(ControlError::NotAnObject), "{text}");
    }
    assert!(matches!(to_relay(r#"{"type":"item_ack","itemId":"i"}"#), Err(ControlError::Field { .. })));
    assert!(matches!(
        to_relay(r#"{"type":"item_ack","itemId":"i","status":"eaten"}"#),
        Err(ControlError::Field { .. })
    ));
    assert_eq!(ToRelay::parse("{}", 1), Err(ControlError::TooLong(2)));
    let deep = "[".repeat(CONTROL_BYTES_MAX);
    assert_eq!(to_relay(&deep), Err(ControlError::NotAnObject));
}

#[test]
fn decoding_perturbed_text_never_panics() {
    for (_, text) in said_by_gateway() {
        for at in 0..text.len() {
            let mut broken = text.as_bytes().to_vec();
            broken[at] ^= 0x15;
            let _ = to_relay(&String::from_utf8_lossy(&broken));
            let _ = to_relay(&String::from_utf8_lossy(&text.as_bytes()[..at]));
        }
    }
}
