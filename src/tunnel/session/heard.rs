//! What the gateway says, and what it changes: acks, nacks, replay requests, streams of its own.
//!
//! Promises: nothing a gateway says touches an item that was not sent to it completely in this session; what does not
//! fit is noted and ignored.
//!
//! Failure policy: what is no message of the session's protocol is told by its code, and the session ends.

use std::time::Instant;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use spool::ids::ItemId;

use super::outbound::result_of_pong;
use super::{Change, Note, Output, REASON_BYTES_MAX, RETRY_AFTER_MS_MAX, Session, clip, one_line};
use crate::identity::challenge::AuthCode;
use crate::tunnel::Dialect;
use crate::tunnel::control::{AckStatus, CONTROL_BYTES_MAX, Feature, ItemAck, ReplayRequest, ToRelay};
use crate::tunnel::frame::Frame;
use crate::tunnel::inflow::Heard;
use crate::tunnel::outflow::Flight;

impl Session {
    pub(super) fn text(&mut self, text: &str) {
        // In tunnel 1 text was fed to the frame parser, which no JSON passes.
        if self.dialect == Dialect::One {
            return self.refuse(AuthCode::InvalidTunnelFrame);
        }
        match ToRelay::parse(text, CONTROL_BYTES_MAX) {
            Ok(ToRelay::ItemAck(ack)) => self.ack(&ack),
            Ok(ToRelay::ItemNack(nack)) => {
                let retry_after_ms = nack.retry_after_ms.min(RETRY_AFTER_MS_MAX);
                let change = |item| Change::Nack { item, retry_after_ms };
                self.decline(&nack.item_id, "not now", change);
            }
            Ok(ToRelay::ReplayRequest(request)) => self.replay(request),
            Ok(ToRelay::DeliveryResultAck(ack)) if self.features.has(Feature::Results) => {
                self.inflow.told(clip(&ack.result_id, REASON_BYTES_MAX).to_owned());
            }
            // Later protocols may say more.
            Ok(ToRelay::DeliveryResultAck(_) | ToRelay::Unknown(_)) => {}
            Ok(ToRelay::AuthChallengeRequest(_) | ToRelay::AuthChallengeResponse(_)) | Err(_) => {
                self.refuse(AuthCode::InvalidMessage);
            }
        }
    }

    pub(super) fn binary(&mut self, message: &Bytes, now: Instant) {
        match Frame::decode(message, self.dialect) {
            Ok(frame) => match self.inflow.hear(frame, now) {
                Heard::Noted => {}
                Heard::TooMany(stream) => self.too_many(stream),
                Heard::Ignored(stream) => self.note(Note::StreamIgnored(stream)),
            },
            Err(error) => {
                self.out.push_back(Output::Note(Note::BadFrame(error)));
                self.refuse(AuthCode::InvalidTunnelFrame);
            }
        }
    }

    pub(super) fn pong(&mut self, payload: &[u8]) {
        let text = std::str::from_utf8(payload).ok();
        if let Some(result) = text.and_then(result_of_pong) {
            if !self.features.has(Feature::Results) {
                self.inflow.told(result.to_owned());
            }
            return;
        }
        if self.dialect == Dialect::Two {
            return;
        }
        let item = text.and_then(|text| text.parse::<ItemId>().ok());
        if let Some(flight) = item.and_then(|item| self.outflow.land_for_good(item)) {
            self.acked += 1;
            self.changes.push(Change::Ack(flight));
        }
    }

    fn ack(&mut self, ack: &ItemAck) {
        if ack.status == AckStatus::Rejected {
            let reason = one_line(ack.reason.as_deref().unwrap_or("rejected by the gateway"));
            let told = reason.clone();
            return self.decline(&ack.item_id, &told, |item| Change::Reject { item, reason });
        }
        let flight = ack.item_id.parse().ok().and_then(|item| self.outflow.flight(item).copied());
        let right = |flight: &Flight| {
            ack.sha256.as_ref().is_none_or(|hash| hash.eq_ignore_ascii_case(&HEXLOWER.encode(&flight.sha256)))
        };
        match flight {
            Some(flight) if right(&flight) => {
                self.outflow.land(flight.item);
                self.acked += 1;
                self.changes.push(Change::Ack(flight));
            }
            Some(flight) => {
                // It stored something else: not acked, offered again.
                self.outflow.land(flight.item);
                self.changes.push(Change::Nack { item: flight.item, retry_after_ms: 0 });
                self.note(Note::AckIgnored(format!("{} with another hash", flight.item)));
            }
            None => self.note(Note::AckIgnored(clip(&ack.item_id, REASON_BYTES_MAX).to_owned())),
        }
    }

    /// The gateway does not take an item, which is in flight or being written.
    fn decline(&mut self, id: &str, reason: &str, change: impl FnOnce(ItemId) -> Change) {
        let item = id.parse::<ItemId>().ok();
        if let Some(flight) = item.and_then(|item| self.outflow.land(item)) {
            self.changes.push(change(flight.item));
        } else if let Some((item, frame)) = item.and_then(|item| self.outflow.abort(item, reason)) {
            self.send_abort(frame);
            self.changes.push(change(item));
        } else {
            self.note(Note::AckIgnored(clip(id, REASON_BYTES_MAX).to_owned()));
        }
    }

    fn replay(&mut self, request: ReplayRequest) {
        let asked = request.from_seq.is_some() || request.since_ms.is_some();
        // One at a time: a repeat of a replay that is under way brings nothing new.
        if self.inbound && asked && self.features.has(Feature::Replay) && !self.replay_waits {
            self.replay_waits = true;
            self.changes.push(Change::Replay(request));
        }
    }
}
