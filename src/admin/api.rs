//! Driver: the admin socket's routes. Each turns a request into one question or one change.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use spool::engine::Handle;
use spool::error::SpoolError;
use spool::types::ItemInfo;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::ask::{self, AskError, Terms};
use super::change::{self, Running};
use super::control::{self, Control, Order};
use super::jobs::{Jobs, Kind, Tell};
use super::list::{self, ItemsAsk};
use super::overview::Condition;
use super::presence::{self, Presence};
use super::{backup, bytes, deliveries, keys, request, verify};
use crate::current::Current;
use crate::mail::outbound::delivery::standing::Standing;
use crate::mail::outbound::delivery::switch::Switch;
use crate::mail::signer::Signer;
use crate::observe::{Live, Metrics};
use crate::records::desk::Desk;
use crate::spooler::Spooler;
use asked::{Asked, Named, Posted};

mod asked;
mod live;
pub mod routes;
pub mod socket;

/// Largest request body, bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// How often an item may be moved while its bytes are checked.
const MOVES_MAX: usize = 8;

/// What the routes need.
pub struct Admin {
    /// The spool.
    pub spooler: Spooler,
    /// The same, for `verify`, which may block.
    pub handle: Handle,
    /// Who is connected.
    pub presence: Arc<dyn Presence>,
    /// How the relay is.
    pub condition: Arc<dyn Condition>,
    /// The relay's metrics.
    pub metrics: Arc<Metrics>,
    /// Pauses deliveries.
    pub switch: Arc<Switch>,
    /// Tells what deliveries do.
    pub standing: Arc<Standing>,
    /// What answers need to know of the configuration.
    pub terms: Current<Terms>,
    /// The signing keys; `None`: nothing is signed.
    pub signer: Option<Arc<Signer>>,
    /// What the DNS says of this relay.
    pub records: Arc<Desk>,
    /// Events as they happen.
    pub live: Live,
    /// Places of those who watch the events.
    pub onlookers: Arc<Semaphore>,
    /// Cancelled when the relay stops; nobody looks on then any more.
    pub stop: CancellationToken,
    /// Takes orders for the process; `None`: nobody does.
    pub control: Option<Control>,
    /// What takes long.
    pub jobs: Jobs,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

type Shared = State<Arc<Admin>>;

/// All routes below `/admin`.
pub fn router(admin: Arc<Admin>) -> Router {
    routes::table()
        .method_not_allowed_fallback(|| async {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path answers to another method",
            )
        })
        .fallback(|| async { problem(&AskError::NotFound("no such request".to_owned())) })
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(admin)
}

/// Puts a question to the spool's thread.
async fn ask_spool(
    admin: Arc<Admin>,
    question: impl FnOnce(&spool::Spool, &ask::Context<'_>) -> Result<Value, AskError> + Send + 'static,
) -> Response {
    let spooler = admin.spooler.clone();
    let now = crate::clock::wall();
    let answer = spooler
        .query(move |spool| {
            let doing = deliveries::Now::look(&admin.switch, Some(&admin.standing), now);
            let terms = admin.terms.get();
            let context = ask::Context { now, terms: &terms, deliveries: Some(&doing) };
            question(spool, &context)
        })
        .await;
    respond(answer.map_err(AskError::from).and_then(|inner| inner))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    after: Option<u32>,
    limit: Option<usize>,
}

async fn mailboxes(State(admin): Shared, Asked(page): Asked<After>) -> Response {
    let presence = Arc::clone(&admin.presence);
    ask_spool(admin, move |spool, context| {
        let mut answer = ask::mailboxes(spool, page.after, page.limit, context)?;
        presence::tell(&mut answer, Some(presence.as_ref()));
        Ok(answer)
    })
    .await
}

async fn invitations(State(admin): Shared) -> Response {
    ask_spool(admin, change::people::list).await
}

async fn mailbox(State(admin): Shared, Named(name): Named) -> Response {
    let presence = Arc::clone(&admin.presence);
    ask_spool(admin, move |spool, context| {
        let mut answer = ask::mailbox(spool, &name, context)?;
        presence::tell(&mut answer, Some(presence.as_ref()));
        Ok(answer)
    })
    .await
}

async fn items(State(admin): Shared, Asked(ask): Asked<ItemsAsk>) -> Response {
    ask_spool(admin, move |spool, context| list::items(spool, &ask, context)).await
}

async fn item(State(admin): Shared, Named(id): Named) -> Response {
    match request::item_id(&id) {
        Ok(id) => ask_spool(admin, move |spool, context| ask::item(spool, id, context)).await,
        Err(error) => problem(&error),
    }
}

async fn explain(State(admin): Shared, Named(id): Named) -> Response {
    match request::item_id(&id) {
        Ok(id) => {
            let presence = Arc::clone(&admin.presence);
            ask_spool(admin, move |spool, context| {
                let lane = ask::known(spool, id)?.lane_name;
                ask::explanation(spool, id, Some(presence.connected(&lane)), context)
            })
            .await
        }
        Err(error) => problem(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fresh {
    #[serde(default)]
    fresh: bool,
}

async fn dns(State(admin): Shared, Asked(ask): Asked<Fresh>) -> Response {
    Json(admin.records.outcome(ask.fresh).await).into_response()
}

async fn dns_wanted(State(admin): Shared) -> Response {
    Json(admin.records.wanted()).into_response()
}

async fn compare(State(admin): Shared) -> Response {
    give(&admin, Order::Compare).await
}

async fn reload(State(admin): Shared, _whole: Bytes) -> Response {
    give(&admin, Order::Reload).await
}

/// What is sent along is read to its end here, too: who closes with something unread resets the line under the answer.
async fn restart(State(admin): Shared, _whole: Bytes) -> Response {
    give(&admin, Order::Restart).await
}

async fn give(admin: &Admin, order: Order) -> Response {
    let Some(control) = &admin.control else { return problem(&control::nobody()) };
    respond(control.give(order).await)
}

async fn process(State(admin): Shared) -> Response {
    respond(admin.control.as_ref().map(Control::process).ok_or_else(control::nobody))
}

async fn attestation(State(admin): Shared) -> Response {
    Json(keys::object(admin.signer.as_deref(), crate::clock::wall())).into_response()
}

async fn rotate(State(admin): Shared, _whole: Bytes) -> Response {
    let Some(signer) = admin.signer.clone() else { return problem(&keys::off()) };
    let now = crate::clock::wall();
    let rotated = tokio::task::spawn_blocking(move || keys::rotate(&signer, now)).await;
    respond(rotated.unwrap_or(Err(AskError::Spool(SpoolError::Closed))))
}

async fn receipt(State(admin): Shared, Named(id): Named) -> Response {
    let id = match request::item_id(&id) {
        Ok(id) => id,
        Err(error) => return problem(&error),
    };
    let Some(signer) = admin.signer.clone() else { return problem(&keys::off()) };
    let found = admin.spooler.query(move |spool| ask::known(spool, id)).await;
    let found = found.map_err(AskError::from).and_then(|inner| inner);
    respond(found.and_then(|info| keys::receipt(&signer, &info, crate::clock::wall())))
}

async fn delivery(State(admin): Shared) -> Response {
    let now = deliveries::Now::look(&admin.switch, Some(&admin.standing), crate::clock::wall());
    Json(now.object(true)).into_response()
}

async fn throw(State(admin): Shared, uri: Uri, Posted(body): Posted) -> Response {
    let verb = uri.path().rsplit('/').next().unwrap_or_default();
    let ask = match request::switch(verb, &body) {
        Ok(ask) => ask,
        Err(error) => return problem(&error),
    };
    let switch = Arc::clone(&admin.switch);
    let now = crate::clock::wall();
    let thrown = tokio::task::spawn_blocking(move || deliveries::throw(&switch, &ask, now)).await;
    match thrown.unwrap_or(Err(AskError::Spool(SpoolError::Closed))) {
        Ok(()) => delivery(State(admin)).await,
        Err(error) => problem(&error),
    }
}

/// Every other `POST` is a change; path and body say which. It is made on a task of its own: this handler ends when whoever
/// asked hangs up, and a change that has begun is carried to its end all the same, with all that follows from it.
async fn make(State(admin): Shared, uri: Uri, Posted(body): Posted) -> Response {
    let target = uri.path().strip_prefix("/admin").unwrap_or_default();
    let change = match request::change(target, &body) {
        Ok(change) => change,
        Err(error) => return problem(&error),
    };
    let now = crate::clock::wall();
    let made = tokio::spawn(async move {
        let running = Running { presence: admin.presence.as_ref(), metrics: &admin.metrics };
        let answer = change::apply(&admin.spooler, change, &admin.terms.get(), Some(running), now).await;
        answer.map(|mut answer| {
            presence::tell(&mut answer, Some(running.presence));
            answer
        })
    });
    respond(made.await.unwrap_or(Err(AskError::Spool(SpoolError::Closed))))
}

/// What can be asked here, for programs that read such documents.
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

async fn stats(State(admin): Shared) -> Response {
    ask_spool(admin, ask::stats).await
}

async fn verify_all(State(admin): Shared, headers: HeaderMap, _whole: Bytes) -> Response {
    let handle = admin.handle.clone();
    let work = move |tell: Tell<'_>| verify::verify(&handle, tell).map_err(AskError::from);
    admin.jobs.answer(Kind::Verify, &headers, work).await
}

async fn make_backup(State(admin): Shared, headers: HeaderMap, Posted(body): Posted) -> Response {
    let dir = match request::backup(&body) {
        Ok(dir) => dir,
        Err(error) => return problem(&error),
    };
    let (mut handle, data_dir) = (admin.handle.clone(), admin.jobs.data_dir.clone());
    let work = move |tell: Tell<'_>| backup::make(&mut handle, &data_dir, &dir, tell);
    admin.jobs.answer(Kind::Backup, &headers, work).await
}

/// The bytes that a gateway gets: trace fields, then the body, one piece at a time.
async fn raw(State(admin): Shared, Named(id): Named) -> Response {
    let id = match request::item_id(&id) {
        Ok(id) => id,
        Err(error) => return problem(&error),
    };
    let found = admin.spooler.query(move |spool| ask::known(spool, id)).await;
    let info = match found.map_err(AskError::from).and_then(|inner| inner) {
        Ok(info) => info,
        Err(error) => return problem(&error),
    };
    let spooler = admin.spooler.clone();
    let info = match whole(&spooler, info).await {
        Ok(info) => info,
        Err(error) => return problem(&error),
    };
    let head = Bytes::from(info.head.clone());
    let pieces = stream::unfold((spooler, info, 0), |(spooler, info, n)| async move {
        let piece = next_piece(&spooler, &info, n).await?;
        Some((piece, (spooler, info, n + 1)))
    });
    let whole = futures_util::StreamExt::chain(stream::iter([Ok(head)]), pieces);
    ([(header::CONTENT_TYPE, "message/rfc822")], Body::from_stream(whole)).into_response()
}

/// The item as it is now, when its bytes are whole: compaction may have moved it since it was looked up.
async fn whole(spooler: &Spooler, mut info: ItemInfo) -> Result<ItemInfo, AskError> {
    for _ in 0..MOVES_MAX {
        let (reader, now) = (spooler.reader(), info.clone());
        let checked = tokio::task::spawn_blocking(move || bytes::whole(&reader, &now)).await;
        let Err(problem) = checked.unwrap_or(Err(AskError::Spool(SpoolError::Closed))) else {
            return Ok(info);
        };
        let id = info.id;
        let again = spooler.query(move |spool| ask::known(spool, id)).await??;
        if again.chunks == info.chunks {
            return Err(problem);
        }
        info = again;
    }
    Err(AskError::Conflict(format!("item {} is being moved; ask again", info.id)))
}

async fn next_piece(spooler: &Spooler, info: &ItemInfo, n: usize) -> Option<Result<Bytes, SpoolError>> {
    if n >= info.chunks.len() { None } else { Some(spooler.read_chunk(info, n).await) }
}

fn respond(answer: Result<Value, AskError>) -> Response {
    match answer {
        Ok(value) => Json(value).into_response(),
        Err(error) => problem(&error),
    }
}

pub(super) fn problem(error: &AskError) -> Response {
    let (status, word) = status(error);
    refusal(status, word, &error.to_string())
}

/// Status and word of a refusal.
pub(super) fn status(error: &AskError) -> (StatusCode, &'static str) {
    match error {
        AskError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        AskError::Bad(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        AskError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        AskError::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        // Trying again later does not help.
        AskError::Spool(SpoolError::Corrupt { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
        AskError::Spool(_) => (StatusCode::SERVICE_UNAVAILABLE, "spool"),
    }
}

fn refusal(status: StatusCode, word: &str, message: &str) -> Response {
    (status, Json(json!({ "error": word, "message": message }))).into_response()
}
