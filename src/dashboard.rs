//! Pages for a person who asks "where is my mail?", below `/` of the HTTP listeners.
//!
//! Promises: nothing of the relay is shown or changed without a login; a login is the token of `admin.http_token_file`, or, when none is
//! configured, the one that lies in the data directory, and then only directly on a loopback address and under its name; the session is
//! a random cookie that scripts cannot read, that other sites cannot send, and that ends by itself; every change is confirmed on a page and
//! carries the session's form token; a browser runs and loads nothing but the three files that come with the program.
//! Does not: know mail, or have ways of its own. It asks the admin API in this process and can do what that can; it works without
//! script. What strangers wrote is text.
//! Failure policy: a question that has no answer is a page with the relay's words; wrong tokens count as they do for the API.

mod answer;
mod ask;
mod assets;
mod changes;
mod cookie;
mod door;
mod head;
mod pages;
mod route;
mod sessions;
mod view;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use futures_util::future::BoxFuture;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::clock;
use crate::http::Pages;
use crate::http::guard::{self, Denied, Line, SharedGuard};
use crate::observe::Metrics;
use crate::proxy::client_of;
use ask::Api;
use assets::Assets;
use door::Visitor;
use route::Route;
use sessions::{Sessions, Use};
use view::Frame;

pub use sessions::RANDOM_BYTES;

/// Streams of events that browsers may have open at once: half of what the API has, so that programs get theirs.
const LIVES_MAX: usize = 16;
/// Header fields that a proxy adds.
const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];
/// Says that a page asks for itself again.
const REFRESH: &str = "x-refresh";

/// How it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// With the token of the configuration, wherever the admin API is.
    Configured,
    /// With the token in this file, directly on loopback only.
    Local {
        /// The file.
        file: String,
    },
}

/// How it is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The relay's name.
    pub hostname: String,
    /// How it is reached.
    pub access: Access,
    /// Whose `X-Forwarded-For` counts when wrong tokens are counted.
    pub trusted_proxies: Vec<IpNet>,
    /// Makes names of sessions.
    pub random: fn() -> [u8; RANDOM_BYTES],
}

/// See the module.
#[derive(Debug)]
pub struct Dashboard {
    settings: Settings,
    api: Api,
    assets: Assets,
    guard: SharedGuard,
    sessions: Mutex<Sessions>,
    metrics: Arc<Metrics>,
    lives: Arc<Semaphore>,
}

impl Dashboard {
    /// * `admin` – the routes below `/admin`.
    /// * `guard` – who may come in.
    #[must_use]
    pub fn new(settings: Settings, admin: Router, guard: SharedGuard, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            api: Api::new(admin),
            assets: Assets::new(),
            guard,
            sessions: Mutex::default(),
            metrics,
            lives: Arc::new(Semaphore::new(LIVES_MAX)),
        })
    }

    /// The sessions that the present token opened.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        let generation = self.guard.lock().unwrap_or_else(PoisonError::into_inner).generation();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.belong_to(generation);
        sessions
    }

    /// What a page needs to know; `visitor`: who is logged in.
    fn frame<'a>(&'a self, visitor: Option<&'a Visitor>) -> Frame<'a> {
        Frame {
            hostname: &self.settings.hostname,
            assets: &self.assets,
            form_token: visitor.map(|visitor| visitor.session.form_token.as_str()),
            now_ms: clock::wall().0,
        }
    }

    /// Judges how a request came, before anything else.
    fn arrives(&self, request: &Request) -> Result<(), Denied> {
        let line = request.extensions().get::<Line>().copied().unwrap_or_default();
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.arrives(line, request.uri(), request.headers())
    }

    async fn handle(self: Arc<Self>, route: Route, request: Request) -> Response {
        if let Err(denied) = self.arrives(&request) {
            return self.turned_away(denied, &request);
        }
        let client = client_of(&request, &self.settings.trusted_proxies);
        let is_post = request.method() == Method::POST;
        if let Route::Asset(name) = &route {
            return answer::asset(&self.assets, name);
        }
        if route == Route::Login {
            return if is_post { self.log_in(request, client).await } else { self.login_page(&request) };
        }
        let refreshes = request.headers().contains_key(REFRESH) || route == Route::Live;
        let what = if refreshes { Use::Refresh } else { Use::Person };
        let Some(visitor) = self.visitor(request.headers(), what, client) else {
            return if refreshes { answer::unauthorized() } else { answer::to_login(&route, request.uri()) };
        };
        if is_post {
            return self.change(route, request, &visitor).await;
        }
        let query = request.uri().query().unwrap_or("").to_owned();
        if route == Route::Live {
            self.live(&visitor, &query).await
        } else {
            self.show(route, &query, &visitor).await
        }
    }
}

impl Pages for Dashboard {
    fn has(&self, request: &Request) -> bool {
        let route = Route::of(request.uri().path()).filter(|route| route.takes(request.method().as_str()));
        route.is_some()
            && match self.settings.access {
                Access::Configured => true,
                Access::Local { .. } => is_direct(request),
            }
    }

    fn answer(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        Box::pin(async move {
            match Route::of(request.uri().path()) {
                Some(route) => self.handle(route, request).await,
                None => answer::not_found(),
            }
        })
    }
}

/// Whether somebody on this machine speaks to us without a proxy between, and by a name of this machine.
fn is_direct(request: &Request) -> bool {
    let line = request.extensions().get::<Line>().copied().unwrap_or_default();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let is_forwarded = |headers: &HeaderMap| FORWARDED.iter().any(|name| headers.contains_key(*name));
    line.loopback
        && peer.is_some_and(|peer: IpAddr| peer.to_canonical().is_loopback())
        && !is_forwarded(request.headers())
        && guard::is_local_host(request.headers())
}

#[cfg(test)]
mod tests;
