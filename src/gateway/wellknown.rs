//! What a relay says about itself before anybody logs in: `GET /.well-known/waystation`.
//!
//! Fetched once, by `gateway bootstrap`, over the same kind of connection as the tunnel (`https` for `wss`, `http` for
//! `ws`). Bounded in time and bytes; no redirect is followed.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use crate::gateway::dial::{self, DialError, Endpoint, Trust};
use crate::gateway::keyring::Pin;
use crate::tunnel::signed::RelayKey;

/// Where it is.
pub const TARGET: &str = "/.well-known/waystation";
/// Longest wait for all of it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest document, bytes.
const BYTES_MAX: usize = 64 * 1024;

/// A relay's document, as far as a gateway reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Document {
    /// The relay's own name.
    pub hostname: String,
    /// Domains it takes mail for.
    pub domains: Vec<String>,
    /// `open` or `allowlist`.
    pub admission: String,
    /// Its signing keys.
    pub keys: Vec<RelayKey>,
}

impl Document {
    /// The keys that can be pinned.
    #[must_use]
    pub fn pins(&self) -> Vec<Pin> {
        self.keys.iter().filter_map(|key| Pin::read(&format!("{}:{}", key.key_id, key.public_key))).collect()
    }
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The relay cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It was reached, and the exchange failed.
    #[error("{TARGET} of {host}: {problem}")]
    Exchange {
        /// Name or address.
        host: String,
        /// What went wrong.
        problem: String,
    },
}

/// Fetches the document of the relay with this tunnel URL. `None`: the relay has none, because it is an older one.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(relay_url: &str, trust: &Trust) -> Result<Option<Document>, FetchError> {
    let endpoint = Endpoint::relay(relay_url)?;
    let failed = |problem: String| FetchError::Exchange { host: endpoint.host.clone(), problem };
    match tokio::time::timeout(PATIENCE, exchange(&endpoint, trust)).await {
        Ok(Ok(Some(text))) => {
            serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.to_string()))
        }
        Ok(Ok(None)) => Ok(None),
        Ok(Err(Failed::Dial(error))) => Err(error.into()),
        Ok(Err(Failed::Other(problem))) => Err(failed(problem)),
        Err(_) => Err(failed("no answer in time".to_owned())),
    }
}

enum Failed {
    Dial(DialError),
    Other(String),
}

async fn exchange(endpoint: &Endpoint, trust: &Trust) -> Result<Option<Bytes>, Failed> {
    let other = |error: hyper::Error| Failed::Other(error.to_string());
    let request = Request::get(TARGET)
        .header(header::HOST, endpoint.authority.as_str())
        .header(header::USER_AGENT, concat!("waystation/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failed::Other(error.to_string()))?;
    let stream = dial::open(endpoint, trust).await.map_err(Failed::Dial)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(other)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(Failed::Other(format!("the relay answers {status}"))),
        }
        let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
        body.map(|body| Some(body.to_bytes())).map_err(|error| Failed::Other(error.to_string()))
    };
    // The connection lives as long as this request.
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        _ = &mut connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_skipped_and_missing_ones_are_empty() {
        let document: Document = serde_json::from_str(
            r#"{"hostname":"mx.example","domains":["a.example"],"later":1,
                "keys":[{"keyId":"k","publicKey":"AAAA","status":"current"}]}"#,
        )
        .unwrap();
        assert_eq!((document.hostname.as_str(), document.pins().len()), ("mx.example", 0));
        assert_eq!(serde_json::from_str::<Document>("{}").unwrap(), Document::default());
    }
}
