//! Driver: who comes in, and who is turned away.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;

use super::route::{Fields, after_login};
use super::sessions::{Session, Use};
use super::view::login::{Hint, login};
use super::view::problem;
use super::{Access, Dashboard, answer, cookie};
use crate::clock;
use crate::http::guard::{Denied, Line};
use crate::observe::Login;

/// Largest form, bytes.
const FORM_BYTES_MAX: usize = 16 * 1024;
/// How long a form may take to come in.
const FORM_TIMEOUT: Duration = Duration::from_secs(15);

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) session: Session,
    pub(super) cookie: String,
    pub(super) client: IpAddr,
}

impl Dashboard {
    /// Who sent these fields, if he is logged in.
    pub(super) fn visitor(&self, headers: &HeaderMap, what: Use, client: IpAddr) -> Option<Visitor> {
        let now = clock::monotonic();
        let mut sessions = self.sessions();
        cookie::names(headers).into_iter().find_map(|cookie| {
            let session = sessions.find(cookie, what, now)?;
            Some(Visitor { session, cookie: cookie.to_owned(), client })
        })
    }

    pub(super) fn login_page(&self, request: &Request) -> Response {
        let fields = Fields::read(request.uri().query().unwrap_or(""));
        let to = after_login(fields.get("to"));
        let client = IpAddr::from([0, 0, 0, 0]);
        if self.visitor(request.headers(), Use::Person, client).is_some() {
            return answer::go_to(to);
        }
        answer::page(StatusCode::OK, login(&self.frame(None), &self.hint(), to, None))
    }

    fn hint(&self) -> Hint {
        match &self.settings.access {
            Access::Configured => Hint::Configured,
            Access::Local { file } => Hint::File(file.clone()),
        }
    }

    pub(super) async fn log_in(&self, request: Request, client: IpAddr) -> Response {
        let line = request.extensions().get::<Line>().copied().unwrap_or_default();
        // The browser's own word: a proxy in front may end TLS.
        let secure = line.encrypted || came_by_https(request.headers());
        let Some(fields) = form(request).await else { return self.bad_form() };
        let to = after_login(fields.get("to"));
        let token = Some(fields.get("token").as_bytes()).filter(|token| !token.is_empty());
        let judged = {
            let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
            guard.present(client, token, clock::monotonic())
        };
        let (status, failed) = match judged {
            Ok(()) => {
                let random = self.settings.random;
                let session = self.sessions().begin(random(), random(), clock::monotonic());
                self.metrics.dashboard.login(Login::Accepted);
                tracing::info!(event = "relay.dashboard.login", client.ip = %client, "login to the dashboard");
                let mut response = answer::go_to(to);
                if let Ok(value) = HeaderValue::from_str(&cookie::set(&session, secure)) {
                    response.headers_mut().insert(header::SET_COOKIE, value);
                }
                return response;
            }
            Err(Denied::Limited(wait)) => {
                self.metrics.dashboard.login(Login::Limited);
                let minutes = wait.as_secs().div_ceil(60).max(1);
                (
                    StatusCode::TOO_MANY_REQUESTS,
                    format!("Too many wrong tokens from your address. Try again in {minutes} min."),
                )
            }
            Err(denied) => {
                self.metrics.dashboard.login(Login::Refused);
                if denied == Denied::Wrong {
                    tracing::warn!(event = "relay.dashboard.login_refused", client.ip = %client, "wrong token for the dashboard");
                }
                (StatusCode::FORBIDDEN, "This is not the token.".to_owned())
            }
        };
        answer::page(status, login(&self.frame(None), &self.hint(), to, Some(&failed)))
    }

    pub(super) fn log_out(&self, visitor: &Visitor) -> Response {
        self.sessions().end(&visitor.cookie);
        tracing::info!(event = "relay.dashboard.logout", client.ip = %visitor.client, "logout from the dashboard");
        let mut response = answer::go_to("/login");
        for text in cookie::unset() {
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().append(header::SET_COOKIE, value);
            }
        }
        response
    }

    /// Says why a request goes no further.
    pub(super) fn turned_away(&self, denied: Denied, request: &Request) -> Response {
        let (title, text, way_on) = match denied {
            Denied::Plain => (
                "Not in the clear",
                "This relay shows its dashboard over HTTPS and on loopback addresses only: anybody on the way could read the token.",
                ("/", "Try again"),
            ),
            Denied::Host => (
                "Another name",
                "This relay is not called so. Use its own name, or its address.",
                ("/", "Try again"),
            ),
            Denied::Origin if request.method() == Method::GET => (
                "From another site",
                "A page of another site led here. That is harmless, but what you see next should be your own wish.",
                (request.uri().path(), "Open the dashboard"),
            ),
            Denied::Origin | Denied::Limited(_) | Denied::Missing | Denied::Wrong => (
                "From another site",
                "Pages of other sites may not change anything here.",
                ("/", "Open the dashboard"),
            ),
        };
        tracing::debug!(event = "relay.dashboard.refused", reason = title, "refused");
        answer::page(StatusCode::FORBIDDEN, problem(&self.frame(None), title, text, way_on))
    }

    pub(super) fn bad_form(&self) -> Response {
        let text = "The form did not come as it was sent, or belongs to a session that is over.";
        answer::page(
            StatusCode::FORBIDDEN,
            problem(&self.frame(None), "Not done", text, ("/", "Open the dashboard")),
        )
    }
}

/// The fields of a form; `None` when it is none of ours, too large, or too slow.
pub(super) async fn form(request: Request) -> Option<Fields> {
    let kind = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    let body = axum::body::to_bytes(request.into_body(), FORM_BYTES_MAX);
    let bytes = tokio::time::timeout(FORM_TIMEOUT, body).await.ok()?.ok()?;
    Some(Fields::read(str::from_utf8(&bytes).ok()?))
}

fn came_by_https(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}
