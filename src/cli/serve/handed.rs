//! What one process tells the next in a hand-over, in the environment, beside the sockets.

use std::ffi::OsStr;

/// The variable's name; no key of the configuration is called so.
pub(super) const VARIABLE: &str = "WAYSTATION_HANDED_OVER";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handed {
    /// The how manyth hand-over of this process it is.
    pub(super) count: u64,
    /// Since when there are no gateways, milliseconds since 1970 UTC.
    pub(super) since_ms: u64,
    /// The version before.
    pub(super) version: String,
}

impl Handed {
    /// What the process before us told; `None`: there was none.
    pub(super) fn find() -> Option<Self> {
        Self::read(&std::env::var_os(VARIABLE)?)
    }

    fn read(text: &OsStr) -> Option<Self> {
        let mut words = text.to_str()?.splitn(3, ' ');
        let mut number = || words.next()?.parse().ok();
        let (count, since_ms) = (number()?, number()?);
        Some(Self { count, since_ms, version: words.next()?.chars().take(32).collect() })
    }

    pub(super) fn text(&self) -> String {
        format!("{} {} {}", self.count, self.since_ms, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_and_nonsense_is_nobody() {
        let handed = Handed { count: 3, since_ms: 1_700_000_000_000, version: "0.1.0".to_owned() };
        assert_eq!(Handed::read(OsStr::new(&handed.text())), Some(handed));
        for text in ["", "1", "x 2 3", "1 2"] {
            assert_eq!(Handed::read(OsStr::new(text)), None, "{text}");
        }
    }
}
