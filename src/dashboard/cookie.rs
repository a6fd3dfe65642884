//! PURE: the cookie with a session's name.

use axum::http::{HeaderMap, header};

/// Inside TLS: no other host or port can set it, and it never travels in the clear.
const SECURE: &str = "__Host-waystation";
/// In the clear, on loopback.
const PLAIN: &str = "waystation";
/// Cookies of one request that are looked at.
const COOKIES_MAX: usize = 50;

/// The texts that may be a session's name: on one machine several programs may have set one.
pub(super) fn names(headers: &HeaderMap) -> Vec<&str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).take(COOKIES_MAX);
    let ours = pairs.filter_map(|pair| pair.trim().split_once('='));
    ours.filter(|(name, _)| [SECURE, PLAIN].contains(name)).map(|(_, value)| value).collect()
}

/// Sets it for this browser until it is closed, for requests of our own pages only.
pub(super) fn set(session: &str, secure: bool) -> String {
    let attributes = "Path=/; HttpOnly; SameSite=Strict";
    if secure {
        format!("{SECURE}={session}; {attributes}; Secure")
    } else {
        format!("{PLAIN}={session}; {attributes}")
    }
}

/// Takes both away.
pub(super) fn unset() -> [String; 2] {
    [
        format!("{SECURE}=; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=0"),
        format!("{PLAIN}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"),
    ]
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn cookies_of_ours_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers
            .append(header::COOKIE, HeaderValue::from_static("a=1; waystation=one; __Host-waystation=two"));
        headers.append(header::COOKIE, HeaderValue::from_static("waystationx=3; waystation=three"));
        assert_eq!(names(&headers), ["one", "two", "three"]);
        assert_eq!(names(&HeaderMap::new()), Vec::<&str>::new());
    }

    #[test]
    fn it_is_for_our_own_pages_and_for_no_script() {
        for text in [set("x", true), set("x", false)] {
            assert!(
                text.contains("HttpOnly") && text.contains("SameSite=Strict") && text.contains("Path=/"),
                "{text}"
            );
        }
        assert!(set("x", true).starts_with("__Host-") && set("x", true).ends_with("Secure"));
        assert!(!set("x", false).contains("Secure"));
    }
}
