//! PURE: whose name an `Authentication-Results` field bears (RFC 8601 section 2.2).
//!
//! Promise: a field that some reader may take for one of ours is never called [`Claim::Other`]: what cannot be read
//! counts as unclear, and an unclear field that mentions us counts as ours.

/// Deepest nesting of comments that is followed.
const COMMENTS_MAX: usize = 50;

/// How encoded words begin.
const ENCODED_WORD: &[u8] = b"=?";

/// Whose field it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Ours.
    Ours,
    /// Somebody else's.
    Other,
    /// It cannot be read.
    Unclear,
}

/// Reads the `authserv-id` of a field's value, folded or not. `ours` is compared without regard to letter case,
/// final dots, and the form of international labels.
#[must_use]
pub fn claim(value: &[u8], ours: &str) -> Claim {
    // Readers that decode before they parse see another id than stands there.
    let upto = memchr::memchr(b';', value).unwrap_or(value.len());
    if memchr::memmem::find(&value[..upto], ENCODED_WORD).is_some() {
        return Claim::Unclear;
    }
    let Some(id) = authserv_id(value).and_then(|id| String::from_utf8(id).ok()) else {
        return Claim::Unclear;
    };
    match plain(&id) {
        Some(id) if plain(ours).is_some_and(|ours| id == ours) => Claim::Ours,
        Some(_) => Claim::Other,
        None => Claim::Unclear,
    }
}

/// Whether the value mentions us anywhere, or may do so for a reader who takes more off it than is right: folds, controls,
/// quotes, comments, encoded words (RFC 2047 section 5 forbids those here, and readers decode them all the same).
#[must_use]
pub fn mentions(value: &[u8], ours: &str) -> bool {
    if memchr::memmem::find(value, ENCODED_WORD).is_some() {
        return true;
    }
    named(value.iter().copied(), ours) || named(without_comments(value), ours)
}

fn without_comments(value: &[u8]) -> impl Iterator<Item = u8> {
    let mut depth = 0_usize;
    value.iter().copied().filter(move |octet| {
        match octet {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    })
}

fn named(value: impl Iterator<Item = u8>, ours: &str) -> bool {
    let solid = value.filter(|b| !(b.is_ascii_whitespace() || b.is_ascii_control() || b"\"\\".contains(b)));
    let solid: Vec<u8> = solid.map(|b| b.to_ascii_lowercase()).collect();
    let ours = plain(ours).unwrap_or_else(|| ours.to_lowercase());
    memchr::memmem::find(&solid, ours.as_bytes()).is_some()
        || memchr::memmem::find(&solid, idna::domain_to_unicode(&ours).0.as_bytes()).is_some()
}

/// `[CFWS] authserv-id [CFWS version] [CFWS] ";"`; `None` when it is not of that form.
fn authserv_id(value: &[u8]) -> Option<Vec<u8>> {
    let rest = skip_cfws(value)?;
    let (id, rest) = match rest.first()? {
        b'"' => quoted(&rest[1..])?,
        _ => {
            let end = rest.iter().position(|&b| !is_token(b)).unwrap_or(rest.len());
            (rest[..end].to_vec(), &rest[end..])
        }
    };
    let after = skip_cfws(rest)?;
    let spaced = after.len() < rest.len();
    let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
    let after = if spaced && digits > 0 { skip_cfws(&after[digits..])? } else { after };
    // The end of the value is no proper end, but readers are known to be content with it.
    (!id.is_empty() && matches!(after.first(), None | Some(b';'))).then_some(id)
}

/// RFC 2045 token, and octets beyond ASCII (RFC 6532).
fn is_token(byte: u8) -> bool {
    !byte.is_ascii() || (byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte))
}

fn quoted(value: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut rest = value;
    loop {
        match rest {
            [b'"', after @ ..] => return Some((text, after)),
            [b'\\', next, after @ ..] => {
                text.push(*next);
                rest = after;
            }
            [b'\r' | b'\n', after @ ..] => rest = after,
            [next, after @ ..] => {
                text.push(*next);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// Blanks, folds and comments; `None` for a comment without end.
fn skip_cfws(value: &[u8]) -> Option<&[u8]> {
    let mut rest = value;
    let mut depth = 0_usize;
    loop {
        rest = match (rest, depth) {
            ([b'(', after @ ..], _) if depth < COMMENTS_MAX => {
                depth += 1;
                after
            }
            ([b'(', ..], _) => return None,
            ([b')', after @ ..], 1..) => {
                depth -= 1;
                after
            }
            ([b'\\', _, after @ ..], 1..) => after,
            ([_, after @ ..], 1..) => after,
            ([], 1..) => return None,
            ([b' ' | b'\t' | b'\r' | b'\n', after @ ..], 0) => after,
            (_, 0) => return Some(rest),
        };
    }
}

/// A-labels, lower case, no blanks, no final dots; `None` for a text beyond ASCII that has no such form.
fn plain(name: &str) -> Option<String> {
    let name = name.trim().trim_end_matches('.');
    match idna::domain_to_ascii(name) {
        Ok(name) => Some(name),
        Err(_) => name.is_ascii().then(|| name.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_name_is_recognised_in_every_dress() {
        for value in [
            " mx.our.example; dmarc=pass",
            "mx.our.example;spf=pass",
            " MX.Our.Example; none",
            " mx.our.example.; none",
            "\r\n\tmx.our.example\r\n ; dmarc=pass",
            " (a (nested \\) one)) mx.our.example (c) 1 (d); dmarc=pass",
            " mx.our.example 1; dmarc=pass",
            " \"mx.our.example\"; dmarc=pass",
            " \"m\\x.our.\\example\" 1; dmarc=pass",
            " mx.our.example",
        ] {
            assert_eq!(claim(value.as_bytes(), "mx.our.example"), Claim::Ours, "{value}"); // M1
        }
        assert_eq!(claim(" mx.bücher.example; none".as_bytes(), "mx.xn--bcher-kva.example"), Claim::Ours);
    }

    #[test]
    fn others_keep_theirs_and_nonsense_is_unclear() {
        for value in [
            " mx.other.example; dmarc=pass (mx.our.example)",
            " mx.our.example.net; none",
            " our.example; none",
            " \"mx.our.example x\"; none",
            " other 1; spf=pass smtp.mailfrom=mx.our.example",
        ] {
            assert_eq!(claim(value.as_bytes(), "mx.our.example"), Claim::Other, "{value}");
        }
        for value in [
            " mx.our.example/1; x",
            " (mx.our.example",
            " <mx.our.example>;",
            "",
            " ; x",
            " \"mx.our.example",
        ] {
            assert_eq!(claim(value.as_bytes(), "mx.our.example"), Claim::Unclear, "{value}");
        }
        assert!(mentions(b" <MX.our.\r\n\texample>;", "mx.our.example"));
        let latin = b" mx.our.example\xa0; dmarc=pass"; // a blank to readers of Latin-1
        assert_eq!(claim(latin, "mx.our.example"), Claim::Unclear);
        assert!(mentions(latin, "mx.our.example"));
        assert_eq!(claim(" mx.our.example\u{200e}; none".as_bytes(), "mx.our.example"), Claim::Unclear);
        for value in [
            " mx.(c)our.example; dmarc=pass", // each is nonsense by the grammar, and some reader's field of ours
            " \"mx\".our.example; dmarc=pass",
            " mx.our.\x0bexample; dmarc=pass",
            " =?utf-8?b?bXgub3VyLmV4YW1wbGU=?=; dmarc=pass",
            " =?utf-8?q?mx=2Eour=2Eexample?=; dmarc=pass",
            " \"=?utf-8?q?mx=2Eour=2Eexample?=\"; dmarc=pass",
            " (=?utf-8?q?)_mx=2Eour=2Eexample;_dmarc=3Dpass_(?=) other; none",
        ] {
            let value = value.as_bytes();
            assert_eq!(claim(value, "mx.our.example"), Claim::Unclear);
            assert!(mentions(value, "mx.our.example"), "{}", value.escape_ascii()); // M1
        }
        assert!(!mentions(b" <mx.their.example>;", "mx.our.example"));
    }
}
