//! PURE: what is configured about traces, in builds that can send them and in those that cannot.

use hyper::Uri;

/// Whether this build can send traces: cargo feature `otel`.
pub const TRACES_BUILT: bool = cfg!(feature = "otel");

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The collector; see [`check_endpoint`].
    pub endpoint: String,
    /// Of a hundred traces, how many are sent.
    pub sample_percent: u64,
    /// Our name, for the collector.
    pub hostname: String,
}

/// Checks the address of a collector.
///
/// # Errors
/// What is wrong with it, to be said behind its text.
pub fn check_endpoint(text: &str) -> Result<(), &'static str> {
    target(text).map(|_| ())
}

/// Where spans are posted: the path that OTLP has for them, unless another one is named.
///
/// # Errors
/// As for [`check_endpoint`].
pub(super) fn target(text: &str) -> Result<String, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is no URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("begins neither with http:// nor with https://");
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.is_empty() || authority.contains('@') {
        return Err("must name a host, and no user");
    }
    if uri.query().is_some() {
        return Err("must not have a query");
    }
    let path = if uri.path() == "/" { "/v1/traces" } else { uri.path() };
    Ok(format!("{}://{authority}{path}", uri.scheme_str().unwrap_or("http")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_protocol_is_added_where_none_is_named() {
        for (text, posted) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/otlp/v1/traces", "https://otel.example/otlp/v1/traces"),
        ] {
            assert_eq!(target(text).as_deref(), Ok(posted));
        }
    }

    #[test]
    fn what_is_no_collector_is_refused() {
        for text in
            ["", "localhost:4318", "grpc://h:4317", "/v1/traces", "http://u:p@h/", "http://h/?k=v", "a b"]
        {
            assert!(check_endpoint(text).is_err(), "{text}");
        }
    }
}
