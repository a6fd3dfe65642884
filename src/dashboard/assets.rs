//! PURE: the style sheet, the script and the icon, each under a name made of its contents, so that it may be kept for ever.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/live.js");
const ICON: &str = include_str!("assets/icon.svg");
/// Octets of the hash in a name.
const HASH_BYTES: usize = 8;

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asset {
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Assets {
    style: String,
    script: String,
    icon: String,
}

impl Assets {
    pub(super) fn new() -> Self {
        let path = |text: &str, ending: &str| {
            let hash = Sha256::digest(text.as_bytes());
            format!("/assets/{}.{ending}", HEXLOWER.encode(&hash[..HASH_BYTES]))
        };
        Self { style: path(STYLE, "css"), script: path(SCRIPT, "js"), icon: path(ICON, "svg") }
    }

    pub(super) fn style(&self) -> &str {
        &self.style
    }

    pub(super) fn script(&self) -> &str {
        &self.script
    }

    pub(super) fn icon(&self) -> &str {
        &self.icon
    }

    /// The file of that name below `/assets`.
    pub(super) fn find(&self, name: &str) -> Option<Asset> {
        let all = [
            (&self.style, "text/css; charset=utf-8", STYLE),
            (&self.script, "text/javascript; charset=utf-8", SCRIPT),
            (&self.icon, "image/svg+xml", ICON),
        ];
        let found = all.into_iter().find(|(path, ..)| path.strip_prefix("/assets/") == Some(name));
        found.map(|(_, kind, text)| Asset { kind, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_their_whole_name_only() {
        let assets = Assets::new();
        let name = assets.style().trim_start_matches("/assets/");
        assert!(assets.find(name).is_some_and(|asset| asset.text == STYLE));
        for other in ["", "style.css", "../secret", &name[1..]] {
            assert_eq!(assets.find(other), None, "{other}");
        }
    }

    #[test]
    fn nothing_of_them_asks_for_anything_elsewhere() {
        for text in [STYLE, SCRIPT, ICON] {
            let without_name = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !without_name.contains("http:")
                    && !without_name.contains("https:")
                    && !without_name.contains("url(")
            );
            assert!(!text.contains("innerHTML") && !text.contains("eval(") && !text.contains("@import"));
        }
    }
}
