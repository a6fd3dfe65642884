//! Driver: asks for what a page shows, and shows it.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::ask::Refusal;
use super::door::Visitor;
use super::head::{Head, is_whole};
use super::route::{Fields, Route, Switch, Verb, escape, item_id};
use super::view::overview::Overview;
use super::view::{self, problem, text};
use super::{Dashboard, answer};
use crate::clock;

/// Items on a page of a search.
const ITEMS_SHOWN: usize = 50;
/// Items on the overview.
const NEWEST_SHOWN: usize = 12;
/// Items on the page of a lane.
const LANE_ITEMS_SHOWN: usize = 25;
/// Lanes on a page.
const LANES_SHOWN: usize = 100;

impl Dashboard {
    /// The page of a route.
    pub(super) async fn show(&self, route: Route, query: &str, visitor: &Visitor) -> Response {
        let fields = Fields::read(query);
        let shown = match route {
            Route::Overview => self.overview(&fields, visitor).await,
            Route::Lanes => self.lanes(&fields, visitor).await,
            Route::Lane(name) => self.lane(&name, &fields, visitor).await,
            Route::Items => self.items(fields, visitor).await,
            Route::Item(id) => self.item(&id, &fields, visitor).await,
            Route::Raw(id) => self.raw(&id).await,
            Route::Dns => Ok(self.dns(&fields, visitor).await),
            Route::Act(id, verb) => self.question(&id, verb, visitor).await,
            Route::Replay(name) => self.replay_question(&name, None, visitor).await,
            Route::Deliveries(switch) => Ok(self.deliveries_question(switch, "", None, visitor)),
            Route::Login | Route::Logout | Route::Live | Route::Asset(_) => Ok(answer::not_found()),
        };
        shown.unwrap_or_else(|refusal| self.refused(&refusal, visitor))
    }

    /// The relay's no as a page.
    pub(super) fn refused(&self, refusal: &Refusal, visitor: &Visitor) -> Response {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let title = if refusal.is_absent() { "Not here" } else { "No answer" };
        let message = view::words::clip(&refusal.message, 400);
        answer::page(
            status,
            problem(&self.frame(Some(visitor)), title, &message, ("/items", "Look for messages")),
        )
    }

    async fn overview(&self, fields: &Fields, visitor: &Visitor) -> Result<Response, Refusal> {
        let newest = format!("/spool/items?order=newest&limit={NEWEST_SHOWN}");
        let (numbers, newest) = tokio::join!(self.api.get("/overview"), self.api.get(&newest));
        let done = match fields.get("done") {
            "pause" => Some("Deliveries are paused."),
            "resume" => Some("Deliveries go on."),
            _ => None,
        };
        // A relay in trouble shows what it can.
        let (none, newest) = (Value::Null, newest.unwrap_or(Value::Null));
        let numbers = numbers.unwrap_or(none);
        let seen = Overview { numbers: (!numbers.is_null()).then_some(&numbers), newest: &newest, done };
        Ok(answer::page(StatusCode::OK, view::overview::overview(&self.frame(Some(visitor)), &seen)))
    }

    async fn lanes(&self, fields: &Fields, visitor: &Visitor) -> Result<Response, Refusal> {
        let wanted = fields.get("q");
        if !wanted.is_empty()
            && let Ok(mailbox) = self.api.get(&format!("/mailboxes/{}", escape(wanted))).await
        {
            return Ok(answer::go_to(&super::route::lane_path(text(&mailbox, "lane"))));
        }
        let after = fields
            .get("after")
            .parse::<u32>()
            .map_or_else(|_| String::new(), |after| format!("&after={after}"));
        let answer = self.api.get(&format!("/mailboxes?limit={LANES_SHOWN}{after}")).await?;
        Ok(answer::page(StatusCode::OK, view::lanes::lanes(&self.frame(Some(visitor)), &answer, fields)))
    }

    async fn lane(&self, name: &str, fields: &Fields, visitor: &Visitor) -> Result<Response, Refusal> {
        let mailbox = self.api.get(&format!("/mailboxes/{}", escape(name))).await?;
        let lane = escape(text(&mailbox, "lane"));
        let items = format!("/spool/items?order=newest&limit={LANE_ITEMS_SHOWN}&lane={lane}");
        let newest = self.api.get(&items).await?;
        let done = fields.get("replayed").parse::<u64>().ok().map(|count| {
            let s = view::words::plural(count);
            format!("{} message{s} offered again.", view::words::count(count))
        });
        let seen = view::lanes::Lane { mailbox: &mailbox, newest: &newest, done: done.as_deref() };
        Ok(answer::page(StatusCode::OK, view::lanes::lane(&self.frame(Some(visitor)), &seen)))
    }

    async fn items(&self, fields: Fields, visitor: &Visitor) -> Result<Response, Refusal> {
        let wanted = fields.get("q");
        if let Some(id) = item_id(&wanted.to_ascii_lowercase()) {
            return Ok(answer::go_to(&format!("/items/{id}")));
        }
        let answer = self.api.get(&search(&fields, clock::wall().0)).await;
        let mailbox = match wanted {
            "" => None,
            wanted => self.api.get(&format!("/mailboxes/{}", escape(wanted))).await.ok(),
        };
        let (status, answer) = match &answer {
            Ok(found) => (StatusCode::OK, Ok(found)),
            Err(refusal) if refusal.status < 500 => (StatusCode::OK, Err(refusal.message.as_str())),
            Err(refusal) => return Err(refusal.clone()),
        };
        let search = view::items::Search {
            fields: &fields,
            answer,
            mailbox: mailbox.as_ref().map(|mailbox| text(mailbox, "lane")),
        };
        Ok(answer::page(status, view::items::items(&self.frame(Some(visitor)), &search)))
    }

    async fn item(&self, id: &str, fields: &Fields, visitor: &Visitor) -> Result<Response, Refusal> {
        let record = self.api.get(&format!("/spool/items/{id}")).await?;
        let target = format!("/spool/items/{id}/explain");
        let (explanation, head) = tokio::join!(self.api.get(&target), self.head(id, &record));
        let done = Verb::ALL.into_iter().find(|verb| verb.word() == fields.get("done"));

        let seen = view::item::Item {
            record: &record,
            explanation: explanation.as_ref().ok().map(|answer| text(answer, "text")),
            head: head.as_ref(),
            done: done.map(view::confirm::done),
        };
        Ok(answer::page(StatusCode::OK, view::item::item(&self.frame(Some(visitor)), &seen)))
    }

    /// The header, when the bytes are there. A purged item has none: looking for them would read what is left.
    async fn head(&self, id: &str, record: &Value) -> Option<Head> {
        if text(record, "state") == "purged" {
            return None;
        }
        let bytes = self.api.beginning(&format!("/spool/items/{id}/raw"), is_whole).await.ok()?;
        Some(Head::read(&bytes))
    }

    async fn raw(&self, id: &str) -> Result<Response, Refusal> {
        let response = self.api.stream(&format!("/spool/items/{id}/raw")).await?;
        Ok(answer::message(id, response.into_body()))
    }

    async fn dns(&self, fields: &Fields, visitor: &Visitor) -> Response {
        let fresh = if fields.get("fresh") == "true" { "?fresh=true" } else { "" };
        let answer = self.api.get(&format!("/dns{fresh}")).await;
        let seen = match &answer {
            Ok(answer) => Some(Ok(answer)),
            Err(refusal) if refusal.is_absent() => None,
            Err(refusal) => Some(Err(refusal.message.as_str())),
        };
        answer::page(StatusCode::OK, view::dns::dns(&self.frame(Some(visitor)), seen))
    }

    async fn question(&self, id: &str, verb: Verb, visitor: &Visitor) -> Result<Response, Refusal> {
        let record = self.api.get(&format!("/spool/items/{id}")).await?;
        Ok(answer::page(
            StatusCode::OK,
            view::confirm::item(&self.frame(Some(visitor)), &record, verb, "", None),
        ))
    }

    pub(super) async fn replay_question(
        &self,
        name: &str,
        failed: Option<&Refusal>,
        visitor: &Visitor,
    ) -> Result<Response, Refusal> {
        let mailbox = self.api.get(&format!("/mailboxes/{}", escape(name))).await?;
        let status =
            failed.and_then(|refusal| StatusCode::from_u16(refusal.status).ok()).unwrap_or(StatusCode::OK);
        let message = failed.map(|refusal| refusal.message.as_str());
        Ok(answer::page(status, view::confirm::replay(&self.frame(Some(visitor)), &mailbox, message)))
    }

    pub(super) fn deliveries_question(
        &self,
        switch: Switch,
        reason: &str,
        failed: Option<&Refusal>,
        visitor: &Visitor,
    ) -> Response {
        let status =
            failed.and_then(|refusal| StatusCode::from_u16(refusal.status).ok()).unwrap_or(StatusCode::OK);
        let message = failed.map(|refusal| refusal.message.as_str());
        answer::page(status, view::confirm::deliveries(&self.frame(Some(visitor)), switch, reason, message))
    }

    /// Tells a page that something happened; what it was, the page asks by itself. Ends with the session.
    pub(super) async fn live(self: Arc<Self>, visitor: &Visitor, query: &str) -> Response {
        let Ok(place) = Arc::clone(&self.lives).try_acquire_owned() else {
            return answer::unavailable();
        };
        let fields = Fields::read(query);
        let target = match (fields.get("item"), fields.get("lane")) {
            ("", "") => "/events".to_owned(),
            ("", lane) => format!("/events?lane={}", escape(lane)),
            (item, _) => format!("/events?item={}", escape(item)),
        };
        let upstream = match self.api.stream(&target).await {
            Ok(response) => response.into_body().into_data_stream(),
            Err(_) => return answer::not_found(),
        };
        let cookie = visitor.cookie.clone();
        let told = stream::unfold(
            (upstream, self, cookie, place),
            |(mut upstream, dashboard, cookie, place)| async move {
                let piece = upstream.next().await?.ok()?;
                let now = clock::monotonic();
                dashboard.sessions().find(&cookie, super::sessions::Use::Refresh, now)?;
                let happened = piece.windows(6).any(|six| six == b"event:");
                let said = if happened { "event: change\ndata: 1\n\n" } else { ":\n\n" };
                Some((
                    Ok::<_, std::convert::Infallible>(Bytes::from_static(said.as_bytes())),
                    (upstream, dashboard, cookie, place),
                ))
            },
        );
        answer::events(Body::from_stream(told))
    }
}

/// The question of a search.
fn search(fields: &Fields, now_ms: u64) -> String {
    let ago = |name: &str| {
        let span = view::items::SPANS.iter().find(|(value, ..)| *value == fields.get(name));
        span.map_or_else(String::new, |(_, _, seconds)| now_ms.saturating_sub(seconds * 1000).to_string())
    };
    let selectors = [
        ("lane", fields.get("lane").to_owned()),
        ("direction", fields.get("direction").to_owned()),
        ("state", fields.get("state").to_owned()),
        ("result", fields.get("result").to_owned()),
        ("from", fields.get("from").to_owned()),
        ("to", fields.get("to").to_owned()),
        ("address", fields.get("q").to_owned()),
        ("since_ms", ago("since")),
        ("until_ms", ago("until")),
        ("after", fields.get("after").to_owned()),
    ];
    let set = selectors.iter().filter(|(_, value)| !value.is_empty());
    let pairs: String = set.map(|(name, value)| format!("&{name}={}", escape(value))).collect();
    format!("/spool/items?order=newest&limit={ITEMS_SHOWN}{pairs}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_asks_for_what_is_filled_in() {
        let none = search(&Fields::read(""), 0);
        assert_eq!(none, "/spool/items?order=newest&limit=50");
        let all = search(&Fields::read("q=a%26b&state=held&since=1h&until=bogus&after=x"), 3_600_001);
        assert_eq!(all, "/spool/items?order=newest&limit=50&state=held&address=a%26b&since_ms=1&after=x");
    }
}
