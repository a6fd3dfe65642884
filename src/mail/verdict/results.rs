//! PURE: our `Authentication-Results` field (RFC 8601).
//!
//! Promises: one field, folded, every line far below 998 octets, ASCII only. What a stranger wrote appears as a token or
//! inside quotes, clipped, and can neither end the field nor begin another result.

use super::{Dkim, Verdicts, Word};

/// Where a line is folded.
const LINE_BYTES: usize = 76;

/// The field with its final CRLF. `b`: the beginnings of the signatures' `b=`, in the order of `verdicts.dkim`.
#[must_use]
pub fn field(ours: &str, verdicts: &Verdicts, b: &[String]) -> Vec<u8> {
    let mut field = Field::new(ours);
    let spf = &verdicts.spf;
    field.method("spf", spf.word, "", &spf.reason);
    field.property(if spf.helo { "smtp.helo" } else { "smtp.mailfrom" }, &spf.domain);
    if verdicts.dkim.is_empty() {
        field.method("dkim", Word::None, "", "");
    }
    for (n, dkim) in verdicts.dkim.iter().enumerate() {
        let Dkim { word, domain, selector, algorithm, reason } = dkim;
        field.method("dkim", *word, "", reason);
        field.property("header.d", domain);
        field.property("header.s", selector);
        field.property("header.a", algorithm);
        field.property("header.b", b.get(n).map_or("", String::as_str));
    }
    let dmarc = &verdicts.dmarc;
    field.method("dmarc", dmarc.word, &dmarc.policy, &dmarc.reason);
    field.property("header.from", &dmarc.domain);
    field.method("arc", verdicts.arc, "", "");
    field.end()
}

struct Field {
    text: String,
    line: usize,
}

impl Field {
    fn new(ours: &str) -> Self {
        let text = format!("Authentication-Results: {}", value(ours));
        Self { line: text.len(), text }
    }

    fn method(&mut self, method: &str, word: Word, policy: &str, reason: &str) {
        self.text.push_str(";\r\n\t");
        self.line = 1;
        self.put(&format!("{method}={}", word.as_str()));
        if !policy.is_empty() {
            let policy: String = policy.chars().filter(char::is_ascii_alphabetic).collect();
            self.word(&format!("(p={policy})"));
        }
        if word != Word::Pass && !reason.is_empty() {
            self.word(&format!("reason={}", quoted(reason)));
        }
    }

    fn property(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.word(&format!("{name}={}", value(text)));
        }
    }

    fn word(&mut self, word: &str) {
        if self.line + 1 + word.len() > LINE_BYTES {
            self.text.push_str("\r\n\t ");
            self.line = 2;
        } else {
            self.put(" ");
        }
        self.put(word);
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        self.line += text.len();
    }

    fn end(mut self) -> Vec<u8> {
        self.text.push_str("\r\n");
        self.text.into_bytes()
    }
}

/// As it is when it is a token, in quotes when not.
fn value(text: &str) -> String {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b);
    if !text.is_empty() && text.bytes().all(token) { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Dmarc, Spf};
    use super::*;

    #[test]
    fn one_field_tells_everything() {
        let verdicts = Verdicts {
            spf: Spf { word: Word::Pass, domain: "pass.example".into(), ..Spf::default() },
            dkim: vec![
                Dkim {
                    word: Word::Pass,
                    domain: "pass.example".into(),
                    selector: "s1".into(),
                    algorithm: "rsa-sha256".into(),
                    reason: String::new(),
                },
                Dkim {
                    word: Word::Policy,
                    domain: "list.example".into(),
                    selector: "x".into(),
                    algorithm: "rsa-sha1".into(),
                    reason: "rsa-sha1 is too weak".into(),
                },
            ],
            dmarc: Dmarc {
                word: Word::Pass,
                domain: "pass.example".into(),
                policy: "reject".into(),
                ..Dmarc::default()
            },
            arc: Word::None,
        };
        let b = ["abc/def+".to_owned(), "12345678".to_owned()];
        let text = String::from_utf8(field("mx.our.example", &verdicts, &b)).unwrap(); // M2
        assert_eq!(
            text,
            "Authentication-Results: mx.our.example;\r\n\
             \tspf=pass smtp.mailfrom=pass.example;\r\n\
             \tdkim=pass header.d=pass.example header.s=s1 header.a=rsa-sha256\r\n\
             \t header.b=\"abc/def+\";\r\n\
             \tdkim=policy reason=\"rsa-sha1 is too weak\" header.d=list.example header.s=x\r\n\
             \t header.a=rsa-sha1 header.b=12345678;\r\n\
             \tdmarc=pass (p=reject) header.from=pass.example;\r\n\
             \tarc=none\r\n"
        );
        let none = String::from_utf8(field("mx.our.example", &Verdicts::default(), &[])).unwrap();
        assert_eq!(
            none,
            "Authentication-Results: mx.our.example;\r\n\tspf=none;\r\n\tdkim=none;\r\n\tdmarc=none;\r\n\tarc=none\r\n"
        );
    }

    proptest! {
        #[test]
        fn no_text_of_a_stranger_breaks_out(text in any::<String>(), other in "[;\"\\\\\r\n() =a.]{0,250}") {
            let verdicts = Verdicts {
                spf: Spf { word: Word::Fail, domain: text.clone(), helo: false, reason: other.clone() },
                dkim: vec![Dkim {
                    word: Word::Fail,
                    domain: other.clone(),
                    selector: text.clone(),
                    algorithm: other.clone(),
                    reason: text.clone(),
                }],
                dmarc: Dmarc { word: Word::Fail, domain: text, policy: other.clone(), reason: other.clone() },
                arc: Word::None,
            };
            let text = String::from_utf8(field("mx.our.example", &verdicts, &[other])).unwrap();
            prop_assert!(text.is_ascii() && text.ends_with("\r\n"));
            let lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
            prop_assert!(lines[1..].iter().all(|line| line.starts_with('\t')));
            prop_assert!(lines.iter().all(|line| line.len() < 998 && !line.contains(['\r', '\n'])));
            // Outside of quotes there are exactly our separators.
            let (mut inside, mut escaped, mut separators) = (false, false, 0);
            for c in text.chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if inside => escaped = true,
                    '"' => inside = !inside,
                    ';' if !inside => separators += 1,
                    _ => {}
                }
            }
            prop_assert!(!inside);
            prop_assert_eq!(separators, 4);
        }
    }
}
