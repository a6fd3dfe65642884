//! Driver: changes that a person has confirmed.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::ask::Refusal;
use super::door::{Visitor, form};
use super::route::{Fields, Route, Switch, Verb, lane_path};
use super::view::{self, text};
use super::{Dashboard, answer};
use crate::clock;

impl Dashboard {
    /// Makes the change of a route, if the form is this session's.
    pub(super) async fn change(&self, route: Route, request: Request, visitor: &Visitor) -> Response {
        let Some(fields) = form(request).await else { return self.bad_form() };
        if !visitor.session.sent(fields.get("form_token")) {
            return self.bad_form();
        }
        match route {
            Route::Logout => self.log_out(visitor),
            Route::Act(id, verb) => self.act(&id, verb, &fields, visitor).await,
            Route::Replay(name) => self.replay(&name, &fields, visitor).await,
            Route::Deliveries(switch) => self.throw(switch, &fields, visitor).await,
            Route::Overview
            | Route::Lanes
            | Route::Lane(_)
            | Route::Items
            | Route::Item(_)
            | Route::Raw(_)
            | Route::Dns
            | Route::Login
            | Route::Live
            | Route::Asset(_) => answer::not_found(),
        }
    }

    /// One line and one number for each change that was asked for.
    fn note<T>(&self, verb: &'static str, of: &str, outcome: &Result<T, Refusal>, visitor: &Visitor) {
        self.metrics.dashboard.change(verb, outcome.is_ok());
        let client = visitor.client;
        match outcome {
            Ok(_) => tracing::info!(
                event = "relay.dashboard.changed", client.ip = %client, verb, of, "change made through the dashboard: {verb}"
            ),
            Err(refusal) => tracing::info!(
                event = "relay.dashboard.change_refused", client.ip = %client, verb, of, reason = refusal.message,
                "change refused: {verb}"
            ),
        }
    }

    async fn act(&self, id: &str, verb: Verb, fields: &Fields, visitor: &Visitor) -> Response {
        let reason = fields.get("reason");
        let body = json!({ "reason": reason });
        let made = self.api.post(&format!("/spool/items/{id}/{}", verb.word()), &body).await;
        self.note(verb.word(), id, &made, visitor);
        let refusal = match made {
            Ok(_) => return answer::go_to(&format!("/items/{id}?done={}", verb.word())),
            Err(refusal) => refusal,
        };
        match self.api.get(&format!("/spool/items/{id}")).await {
            Ok(record) => {
                let frame = self.frame(Some(visitor));
                let asked = view::confirm::item(&frame, &record, verb, reason, Some(&refusal.message));
                answer::page(StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY), asked)
            }
            Err(refusal) => self.refused(&refusal, visitor),
        }
    }

    async fn replay(&self, name: &str, fields: &Fields, visitor: &Visitor) -> Response {
        let span = view::items::SPANS.iter().find(|(value, ..)| *value == fields.get("since"));
        let Some((_, _, seconds)) = span else { return self.bad_form() };
        let since_ms = clock::wall().0.saturating_sub(seconds * 1000);
        let made = self.api.post("/spool/replay", &json!({ "lane": name, "since_ms": since_ms })).await;
        self.note("replay_lane", name, &made, visitor);
        match made {
            Ok(answer) => {
                let count = answer["replayed"].as_u64().unwrap_or(0);
                answer::go_to(&format!("{}?replayed={count}", lane_path(text(&answer, "lane"))))
            }
            Err(refusal) => {
                let asked = self.replay_question(name, Some(&refusal), visitor).await;
                asked.unwrap_or_else(|refusal| self.refused(&refusal, visitor))
            }
        }
    }

    async fn throw(&self, switch: Switch, fields: &Fields, visitor: &Visitor) -> Response {
        let reason = fields.get("reason");
        let body = match switch {
            Switch::Pause => json!({ "reason": reason }),
            Switch::Resume => json!({}),
        };
        let made = self.api.post(&format!("/delivery/{}", switch.word()), &body).await;
        self.note(switch.word(), "", &made, visitor);
        match made {
            Ok(_) => answer::go_to(&format!("/?done={}", switch.word())),
            Err(refusal) => self.deliveries_question(switch, reason, Some(&refusal), visitor),
        }
    }
}
