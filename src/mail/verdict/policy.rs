//! PURE: the syntax of an SPF record (RFC 7208 section 4.6, 5, 6, 7.1 and 12).
//!
//! mail-auth repairs or skips much of what the RFC calls an error, and lets networks of one address family match clients
//! of the other. So a record is read here first: one that is wrong anywhere is an error as a whole, and of one that is
//! right only the terms are handed on that can matter to the client.

/// Letters of macros in names (section 7.2); `c`, `r` and `t` are for explanations.
const MACRO_LETTERS: &[u8] = b"slodiphv";
/// What may separate the parts of a macro's value.
const DELIMITERS: &[u8] = b".-+,/_=";

/// The record as it concerns a client of one address family; `None` when it has a syntax error.
#[must_use]
pub fn read(record: &[u8], client_is_v4: bool) -> Option<String> {
    let text =
        std::str::from_utf8(record).ok().filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~')))?;
    let (mut kept, mut redirects, mut explanations) = (Vec::new(), Vec::new(), 0);
    let mut has_all = false;
    for term in text.get(6..)?.split(' ').filter(|term| !term.is_empty()) {
        let lower = term.to_ascii_lowercase();
        if !is_term(&lower) {
            return None;
        }
        let bare = lower.trim_start_matches(['+', '-', '?', '~']);
        has_all |= bare == "all";
        explanations += usize::from(lower.starts_with("exp="));
        if lower.starts_with("redirect=") {
            redirects.push(term);
        } else if !is_modifier(&lower) && !bare.starts_with(if client_is_v4 { "ip6:" } else { "ip4:" }) {
            kept.push(term);
        }
    }
    if redirects.len() > 1 || explanations > 1 {
        return None;
    }
    // Explanations are never shown, and asking for them is a question that a stranger chooses.
    kept.extend(redirects.into_iter().filter(|_| !has_all)); // section 6.1
    kept.insert(0, "v=spf1");
    Some(kept.join(" "))
}

fn is_modifier(term: &str) -> bool {
    term.split_once('=').is_some_and(|(name, _)| !name.contains([':', '/']))
}

/// A directive or a modifier, in lower case.
fn is_term(term: &str) -> bool {
    if let Some((name, value)) = term.split_once('=')
        && !name.contains([':', '/'])
    {
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let sound =
            if matches!(name, "redirect" | "exp") { is_domain(value) } else { literals(value).is_some() };
        return named && sound;
    }
    let term = term.strip_prefix(['+', '-', '?', '~']).unwrap_or(term);
    let (name, rest) = term.split_at(term.find([':', '/']).unwrap_or(term.len()));
    match name {
        "all" => rest.is_empty(),
        "include" | "exists" => rest.strip_prefix(':').is_some_and(is_domain),
        "ptr" => rest.is_empty() || rest.strip_prefix(':').is_some_and(is_domain),
        "a" | "mx" => {
            let Some(domain) = without_lengths(rest) else { return false };
            domain.is_empty() || domain.strip_prefix(':').is_some_and(is_domain)
        }
        "ip4" => rest.strip_prefix(':').is_some_and(|network| is_network::<core::net::Ipv4Addr>(network, 32)),
        "ip6" => {
            rest.strip_prefix(':').is_some_and(|network| is_network::<core::net::Ipv6Addr>(network, 128))
        }
        _ => false,
    }
}

fn is_network<A: core::str::FromStr>(network: &str, most: u8) -> bool {
    let (address, length) = network.split_once('/').map_or((network, None), |(a, l)| (a, Some(l)));
    address.parse::<A>().is_ok() && length.is_none_or(|length| is_length(length, most))
}

/// No leading zeros.
fn is_length(text: &str, most: u8) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
        && text.parse::<u8>().is_ok_and(|length| length <= most)
}

/// Takes `/24//64` off the end; `None` when a length is wrong.
fn without_lengths(rest: &str) -> Option<&str> {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let mut rest = rest;
    if let Some((before, length)) = rest.rsplit_once("//")
        && digits(length)
    {
        rest = is_length(length, 128).then_some(before)?;
    }
    if let Some((before, length)) = rest.rsplit_once('/')
        && digits(length)
    {
        rest = is_length(length, 32).then_some(before)?;
    }
    Some(rest)
}

/// `domain-spec`: it ends in a macro, or in a label that is not only digits.
fn is_domain(text: &str) -> bool {
    let Some(ends_in_macro) = literals(text) else { return false };
    if ends_in_macro {
        return true;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let Some((_, label)) = name.rsplit_once('.') else { return false };
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.bytes().all(|b| b.is_ascii_digit())
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `macro-string`; tells whether it ends in a macro, and `None` when it is none.
fn literals(text: &str) -> Option<bool> {
    let (mut rest, mut ends_in_macro) = (text.as_bytes(), false);
    while let Some((&first, after)) = rest.split_first() {
        ends_in_macro = first == b'%';
        rest = match (first, after) {
            (b'%', [b'%' | b'_' | b'-', after @ ..]) => after,
            (b'%', [b'{', letter, after @ ..]) if MACRO_LETTERS.contains(letter) => {
                let end = after.iter().position(|&b| b == b'}')?;
                let inside = &after[..end];
                let digits = inside.iter().take_while(|b| b.is_ascii_digit()).count();
                let number = std::str::from_utf8(&inside[..digits]).ok()?;
                let tail = inside[digits..].strip_prefix(b"r").unwrap_or(&inside[digits..]);
                let sound = (digits == 0 || number.bytes().any(|b| b != b'0'))
                    && tail.iter().all(|b| DELIMITERS.contains(b));
                sound.then_some(&after[end + 1..])?
            }
            (b'%', _) => return None,
            (b'!'..=b'~', _) => after,
            _ => return None,
        };
    }
    Some(ends_in_macro)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_right_as_a_whole_or_not_at_all() {
        for record in [
            "v=spf1",
            "v=spf1 -all",
            "v=spf1  a mx:a.example/24//64 +ptr ?exists:%{ir}.%{d2r.-}.example IP4:192.0.2.0/24 ~all ",
            "v=spf1 include:%{d} redirect=b.example exp=e.example x-y=%% other=",
            "v=spf1 a:a:b/c.example",
        ] {
            assert!(read(record.as_bytes(), true).is_some(), "{record}");
        }
        for term in [
            "a:",
            "a/33",
            "a//129",
            "a/024",
            "a:1.2.3.4",
            "a:x",
            "mx:a.example-",
            "ip4:1.2.3",
            "ip4:1.2.3.4/33",
            "ip6:1.2.3.4",
            "all.",
            "all:x",
            "include",
            "exists",
            "exists:%{x}.a",
            "exists:%(d).a",
            "exists:%{d0}.a",
            "=x",
            "a=\u{e9}",
            "redirect=",
            "exp=a.b exp=a.b",
            "moo",
            "-",
            "1x=y",
        ] {
            assert_eq!(read(format!("v=spf1 {term} -all").as_bytes(), true), None, "{term}");
        }
    }

    #[test]
    fn what_cannot_matter_is_left_out() {
        let record = b"v=spf1 ip4:192.0.2.1 ?ip6:::/0 -all";
        assert_eq!(read(record, true).as_deref(), Some("v=spf1 ip4:192.0.2.1 -all"));
        assert_eq!(read(record, false).as_deref(), Some("v=spf1 ?ip6:::/0 -all"));
        let record = b"v=spf1 redirect=a.example  other=x a exp=b.example";
        assert_eq!(read(record, true).as_deref(), Some("v=spf1 a redirect=a.example"));
        assert_eq!(read(b"v=spf1 redirect=a.example ~all", true).as_deref(), Some("v=spf1 ~all"));
    }
}
