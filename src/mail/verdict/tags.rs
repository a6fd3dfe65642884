//! PURE: tag lists (RFC 6376 section 3.2), as far as the checks look at them themselves.
//!
//! Policy: nothing is repaired; a list with a tag twice or without a name is no list. Letter case tells tags apart, but not
//! for mail-auth, which takes the last of `d=` and `D=`: so both are one tag twice.

/// Tags of one list, values without any blanks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<(String, String)>);

impl Tags {
    /// Reads a list; `None` when it is none.
    #[must_use]
    pub fn parse(list: &[u8]) -> Option<Self> {
        let mut tags: Vec<(String, String)> = Vec::new();
        for spec in list.split(|&b| b == b';') {
            if spec.trim_ascii().is_empty() {
                continue;
            }
            let equals = memchr::memchr(b'=', spec)?;
            let name = std::str::from_utf8(spec[..equals].trim_ascii()).ok()?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return None;
            }
            let value = spec[equals + 1..].iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            tags.push((name.to_owned(), String::from_utf8(value).ok()?));
        }
        let mut names: Vec<String> = tags.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
        (!twice).then_some(Self(tags))
    }

    /// The tag that comes first, and its value.
    #[must_use]
    pub fn first(&self) -> Option<(&str, &str)> {
        self.0.first().map(|(tag, value)| (tag.as_str(), value.as_str()))
    }

    /// The value of a tag.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
    }

    /// Whether a colon-separated value has the word, in any letter case; `None` without such a tag.
    #[must_use]
    pub fn lists(&self, name: &str, word: &str) -> Option<bool> {
        self.get(name).map(|value| value.split(':').any(|entry| entry.eq_ignore_ascii_case(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_nonsense_is_none() {
        let tags = Tags::parse(b" v=1; h=from :\r\n\t To;b= a b\r\n c ;").unwrap();
        assert_eq!((tags.get("v"), tags.get("b"), tags.get("x")), (Some("1"), Some("abc"), None));
        assert_eq!(
            (tags.lists("h", "TO"), tags.lists("h", "cc"), tags.lists("y", "z")),
            (Some(true), Some(false), None)
        );
        assert_eq!((tags.first(), Tags::default().first()), (Some(("v", "1")), None));
        for list in ["v=1; v=1", "d=a; b=c; D=e", "v", "=x", "a b=c", "\u{e9}=1"] {
            assert_eq!(Tags::parse(list.as_bytes()), None, "{list}");
        }
    }
}
