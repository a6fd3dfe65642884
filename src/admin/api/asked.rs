//! What comes with a request: query, name in the path, body. What is wrong with it is said in our words, as JSON.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::{REQUEST_BYTES_MAX, problem, refusal};
use crate::admin::ask::AskError;

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => Err(problem(&AskError::Bad(format!("the query is wrong: {}", error.body_text())))),
        }
    }
}

/// The one name in the path.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => Err(problem(&AskError::Bad(format!("the path is wrong: {}", error.body_text())))),
        }
    }
}

/// The body.
pub(super) struct Posted(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let read: Result<Bytes, BytesRejection> = Bytes::from_request(request, state).await;
        read.map(Self).map_err(|error| {
            if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let words = format!("a request has at most {REQUEST_BYTES_MAX} bytes");
                refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &words)
            } else {
                problem(&AskError::Bad("the body could not be read".to_owned()))
            }
        })
    }
}
