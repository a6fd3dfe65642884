//! Driver: asks the admin API inside this process, as a client of the socket would.
//!
//! So the dashboard can see and do what that API can and nothing else, in its words.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

/// Largest JSON answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The API's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
}

impl Refusal {
    /// There is no such thing, or this relay has no such question.
    pub(super) fn is_absent(&self) -> bool {
        self.status == StatusCode::NOT_FOUND.as_u16()
    }
}

/// The API.
#[derive(Clone, Debug)]
pub(super) struct Api(Router);

impl Api {
    pub(super) fn new(router: Router) -> Self {
        Self(router)
    }

    /// Answers a question; `target` is below `/admin`, its pieces percent-encoded.
    pub(super) async fn get(&self, target: &str) -> Result<Value, Refusal> {
        json(self.call(Method::GET, target, Body::empty()).await).await
    }

    /// Makes a change.
    pub(super) async fn post(&self, target: &str, body: &Value) -> Result<Value, Refusal> {
        json(self.call(Method::POST, target, Body::from(body.to_string())).await).await
    }

    /// An answer that is no JSON, as it comes.
    pub(super) async fn stream(&self, target: &str) -> Result<Response, Refusal> {
        let response = self.call(Method::GET, target, Body::empty()).await;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// The first bytes of such an answer, until `enough` of them.
    pub(super) async fn beginning(
        &self,
        target: &str,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, Refusal> {
        let mut pieces = self.stream(target).await?.into_body().into_data_stream();
        let mut bytes = Vec::new();
        while !enough(&bytes) {
            match pieces.next().await {
                Some(Ok(piece)) => bytes.extend_from_slice(&piece),
                Some(Err(error)) => return Err(broken(&error)),
                None => break,
            }
        }
        Ok(bytes)
    }

    async fn call(&self, method: Method, target: &str, body: Body) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(format!("/admin{target}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        match request {
            Ok(request) => {
                let Ok(response) = self.0.clone().oneshot(request).await;
                response
            }
            Err(_) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
        }
    }
}

async fn json(response: Response) -> Result<Value, Refusal> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let bytes = bytes(response).await?;
    serde_json::from_slice(&bytes).map_err(|error| broken(&error))
}

async fn refusal(response: Response) -> Refusal {
    let status = response.status().as_u16();
    let body = bytes(response).await.ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let message =
        body.as_ref().and_then(|body| body["message"].as_str()).unwrap_or("the relay gave no answer");
    Refusal { status, message: message.to_owned() }
}

async fn bytes(response: Response) -> Result<Bytes, Refusal> {
    axum::body::to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.map_err(|error| broken(&error))
}

fn broken(error: &dyn std::fmt::Display) -> Refusal {
    Refusal {
        status: StatusCode::BAD_GATEWAY.as_u16(),
        message: format!("the answer could not be read: {error}"),
    }
}
