//! PURE: which page a request means, and where the pages are.
//!
//! Promise: what is read here is bounded and typed; a path that is none of ours is `None`, and then the listener's 404 answers.

/// Most fields of a query or a form.
const FIELDS_MAX: usize = 32;
/// Longest value of a field, bytes: what is longer is cut.
const VALUE_BYTES_MAX: usize = 1024;
/// Characters of an item's id.
const ID_CHARS: usize = 26;

/// A page, an asset, or a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Overview,
    Lanes,
    /// One mailbox, by any of its names.
    Lane(String),
    Replay(String),
    Items,
    Item(String),
    Raw(String),
    Act(String, Verb),
    Deliveries(Switch),
    Dns,
    Login,
    Logout,
    Live,
    Asset(String),
}

/// What can be done to an item or a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Hold,
    Release,
    Replay,
    Retry,
    Cancel,
    Purge,
}

impl Verb {
    pub(super) const ALL: [Self; 6] =
        [Self::Hold, Self::Release, Self::Replay, Self::Retry, Self::Cancel, Self::Purge];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Replay => "replay",
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Purge => "purge",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.word() == word)
    }

    /// What makes sense for an item in this state, most likely first.
    pub(super) fn for_state(direction: &str, state: &str) -> &'static [Self] {
        match (direction, state) {
            ("out", "ready") => &[Self::Retry, Self::Hold, Self::Cancel],
            ("out", "held") => &[Self::Release, Self::Cancel],
            ("out", "sent" | "failed" | "indeterminate") => &[Self::Purge],
            ("in", "ready" | "leased") => &[Self::Hold, Self::Purge],
            ("in", "held") => &[Self::Release, Self::Purge],
            ("in", "acked" | "expired") => &[Self::Replay, Self::Purge],
            ("in", "quarantined") => &[Self::Purge],
            _ => &[],
        }
    }
}

/// What can be done to all deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    Pause,
    Resume,
}

impl Switch {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

impl Route {
    /// The route of a path.
    pub(super) fn of(path: &str) -> Option<Self> {
        let pieces: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match pieces.as_slice() {
            [""] => Self::Overview,
            ["lanes"] => Self::Lanes,
            ["lanes", name] => Self::Lane(text(name)?),
            ["lanes", name, "replay"] => Self::Replay(text(name)?),
            ["items"] => Self::Items,
            ["items", id] => Self::Item(item_id(id)?),
            ["items", id, "raw"] => Self::Raw(item_id(id)?),
            ["items", id, verb] => Self::Act(item_id(id)?, Verb::from_word(verb)?),
            ["deliveries", "pause"] => Self::Deliveries(Switch::Pause),
            ["deliveries", "resume"] => Self::Deliveries(Switch::Resume),
            ["dns"] => Self::Dns,
            ["login"] => Self::Login,
            ["logout"] => Self::Logout,
            ["live"] => Self::Live,
            ["assets", name] => Self::Asset((*name).to_owned()),
            _ => return None,
        })
    }

    /// Whether it is asked for with this method.
    pub(super) fn takes(&self, method: &str) -> bool {
        match self {
            Self::Overview
            | Self::Lanes
            | Self::Lane(_)
            | Self::Items
            | Self::Item(_)
            | Self::Raw(_)
            | Self::Dns
            | Self::Live
            | Self::Asset(_) => method == "GET",
            Self::Logout => method == "POST",
            Self::Replay(_) | Self::Act(..) | Self::Deliveries(_) | Self::Login => {
                matches!(method, "GET" | "POST")
            }
        }
    }

    /// A page that may be shown after a login: never a change, never a place elsewhere.
    pub(super) fn is_page(&self) -> bool {
        match self {
            Self::Overview
            | Self::Lanes
            | Self::Lane(_)
            | Self::Items
            | Self::Item(_)
            | Self::Dns
            | Self::Replay(_)
            | Self::Act(..)
            | Self::Deliveries(_) => true,
            Self::Raw(_) | Self::Login | Self::Logout | Self::Live | Self::Asset(_) => false,
        }
    }
}

/// Whether a text is an item's id.
pub(super) fn item_id(text: &str) -> Option<String> {
    let fits =
        text.len() == ID_CHARS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'v').contains(&b));
    fits.then(|| text.to_owned())
}

/// Where the page of a mailbox is.
pub(super) fn lane_path(name: &str) -> String {
    format!("/lanes/{}", escape(name))
}

/// The place that a login came from, if it is a page of ours.
pub(super) fn after_login(wanted: &str) -> &str {
    let path = wanted.split('?').next().unwrap_or("");
    let plain = wanted.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if plain && Route::of(path).is_some_and(|route| route.is_page()) { wanted } else { "/" }
}

/// Fields of a query or of a form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `a=1&b=2` (application/x-www-form-urlencoded); what is no UTF-8 becomes replacement characters.
    pub(super) fn read(encoded: &str) -> Self {
        let pairs = encoded.split('&').filter(|pair| !pair.is_empty()).take(FIELDS_MAX);
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (form_text(name), form_text(value))
                })
                .collect(),
        )
    }

    /// The first field of that name, without blanks around it; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim())
    }

    /// The same fields with one replaced, as a query.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        let kept = self.0.iter().filter(|(known, value)| known != name && !value.is_empty());
        let mut pairs: Vec<String> =
            kept.map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
        if !value.is_empty() {
            pairs.push(format!("{}={}", escape(name), escape(value)));
        }
        pairs.join("&")
    }
}

fn form_text(encoded: &str) -> String {
    let bytes = unescape(&encoded.replace('+', " "));
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if text.len() > VALUE_BYTES_MAX {
        let end = (0..=VALUE_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// A piece of a path as text; `None` when it is none.
fn text(piece: &str) -> Option<String> {
    let text = String::from_utf8(unescape(piece)).ok()?;
    (!text.is_empty() && text.len() <= VALUE_BYTES_MAX && !text.chars().any(char::is_control)).then_some(text)
}

/// Percent-encodes a piece of a path or a value of a query: everything but letters, digits and `-._~`.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes percent-encoding; a `%` without two digits stays.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "06h4k2v0c8q1r5t7u9v3s6d0ag";

    #[test]
    fn every_page_has_its_path_and_no_other_path_has_a_page() {
        assert_eq!(Route::of("/"), Some(Route::Overview));
        assert_eq!(Route::of("/lanes/home%40our.example"), Some(Route::Lane("home@our.example".into())));
        assert_eq!(Route::of(&format!("/items/{ID}/hold")), Some(Route::Act(ID.into(), Verb::Hold)));
        for none in [
            "",
            "//",
            "/lanes/",
            "/lanes/a/b",
            "/lanes/%00",
            "/lanes/%ff",
            "/items/short",
            "/items/../x",
            "/%2f",
            "/health",
            "/index.html",
            "/favicon.ico",
            "/deliveries/stop",
        ] {
            assert_eq!(Route::of(none), None, "{none}");
        }
        assert_eq!(Route::of(&format!("/items/{ID}/sell")), None);
        assert_eq!(Route::of(&format!("/items/{}", ID.to_uppercase())), None);
    }

    #[test]
    fn changes_are_posted_and_pages_are_got() {
        for (path, get, post) in [("/", true, false), ("/logout", false, true), ("/login", true, true)] {
            let route = Route::of(path).expect(path);
            assert_eq!((route.takes("GET"), route.takes("POST")), (get, post), "{path}");
            assert!(!route.takes("HEAD") && !route.takes("PUT"), "{path}");
        }
    }

    #[test]
    fn a_login_leads_to_a_page_of_ours_and_nowhere_else() {
        let item = format!("/items/{ID}");
        for (wanted, expected) in [
            ("/items?q=a%40b", "/items?q=a%40b"),
            (item.as_str(), item.as_str()),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example/", "/"),
            ("/logout", "/"),
            ("/items?a=b\r\nset-cookie: x", "/"),
            ("", "/"),
        ] {
            assert_eq!(after_login(wanted), expected, "{wanted}");
        }
    }

    #[test]
    fn fields_are_read_bounded_and_written_back() {
        let fields = Fields::read("q=a%40b+c&state=held&x=%zz&q=second&empty=");
        assert_eq!((fields.get("q"), fields.get("state"), fields.get("x")), ("a@b c", "held", "%zz"));
        assert_eq!(fields.get("none"), "");
        assert_eq!(Fields::read("q=a%40b").with("after", "1:2"), "q=a%40b&after=1%3A2");
        assert_eq!(Fields::read("q=a&after=1").with("after", ""), "q=a");
        assert_eq!(Fields::read(&"a=1&".repeat(100)).0.len(), FIELDS_MAX);
        assert!(Fields::read(&format!("a={}", "%c3%bc".repeat(4000))).get("a").len() <= VALUE_BYTES_MAX);
    }
}
