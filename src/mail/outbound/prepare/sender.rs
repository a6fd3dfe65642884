//! PURE: whose addresses a submission may carry, and where it may go.
//!
//! Promise: the envelope sender, every address of `From`, and that of `Sender` belong to the key that submitted;
//! and no reader of the message sees another author than we did. So the fields are read strictly (RFC 5322
//! section 3.4 without its obsolete forms), read again by an independent parser, and refused when the two differ.
//!
//! Decision: the null reverse-path is for bounces and automatic answers alone; their `From` must be owned too.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

use super::draft::Draft;
use super::refusal::Refusal;
use crate::mail::address::{ForwardPath, Mailbox, ReversePath, domain_key};

/// Most addresses in one `From`.
const FROM_ADDRESSES_MAX: usize = 32;
/// Deepest nesting of comments.
const COMMENT_DEPTH_MAX: usize = 8;

/// Checks the envelope sender (without brackets, empty for the null path) and the header's author.
///
/// # Errors
/// [`Refusal`], by the first rule that is broken.
pub fn check_sender(draft: &Draft, mail_from: &str, owns: &dyn Fn(&Mailbox) -> bool) -> Result<(), Refusal> {
    let owned = |place: &'static str, mailbox: &Mailbox| match owns(mailbox) {
        true => Ok(()),
        false => Err(Refusal::NotOwned { place, address: mailbox.verbatim().to_owned() }),
    };
    match ReversePath::parse(mail_from.as_bytes(), true) {
        Ok(ReversePath::Mailbox(mailbox)) => owned("sender", &mailbox)?,
        Ok(ReversePath::Null) if draft.is_automatic() => {}
        Ok(ReversePath::Null) => return Err(Refusal::NullSender),
        Err(problem) => return Err(Refusal::SenderSyntax { problem }),
    }
    author(draft)?.iter().try_for_each(|mailbox| owned("From", mailbox))?;
    match draft.count("Sender") {
        0 => Ok(()),
        1 => match mailboxes(&draft.value("Sender").unwrap_or_default()).as_deref() {
            Some([mailbox]) => owned("Sender", mailbox),
            Some(_) | None => Err(Refusal::Sender),
        },
        _ => Err(Refusal::Sender),
    }
}

/// The addresses of the `From` field; at least one.
///
/// # Errors
/// [`Refusal::From`].
pub fn author(draft: &Draft) -> Result<Vec<Mailbox>, Refusal> {
    let problem = match draft.count("From") {
        0 => "there is none",
        1 => match mailboxes(&draft.value("From").unwrap_or_default()) {
            Some(mailboxes) => return Ok(mailboxes),
            None => "it cannot be read without doubt",
        },
        _ => "there are several",
    };
    Err(Refusal::From { problem })
}

/// Reads a forward-path that mail can be sent to.
///
/// # Errors
/// [`Refusal`]: no address, no domain, or an address literal (O12).
pub fn recipient(rcpt_to: &str) -> Result<Mailbox, Refusal> {
    match ForwardPath::parse(rcpt_to.as_bytes(), true) {
        Ok(ForwardPath::Mailbox(mailbox)) if mailbox.is_literal() => Err(Refusal::AddressLiteral),
        Ok(ForwardPath::Mailbox(mailbox)) => Ok(mailbox),
        Ok(ForwardPath::Postmaster(_)) => Err(Refusal::NoDomain),
        // `path` has refused controls by now; a text without an `@` outside quotes is a name, not an address.
        Err(_) if !rcpt_to.is_empty() && !rcpt_to.contains('@') => Err(Refusal::NoDomain),
        Err(problem) => Err(Refusal::RecipientSyntax { problem }),
    }
}

/// A `mailbox-list` as both parsers read it; `None` when it is none, or they differ.
pub(super) fn mailboxes(value: &str) -> Option<Vec<Mailbox>> {
    let strict = Reader { text: value, at: 0 }.list()?;
    let second = second_opinion(value)?;
    let same = |(ours, theirs): (&Mailbox, &String)| {
        theirs.rsplit_once('@').is_some_and(|(local, domain)| {
            local == ours.local()
                && (domain == ours.domain() || domain_key(domain).as_deref() == Ok(ours.domain()))
        })
    };
    (strict.len() == second.len() && strict.iter().zip(&second).all(same)).then_some(strict)
}

/// The addresses that mail-parser finds; `None` for groups.
fn second_opinion(value: &str) -> Option<Vec<String>> {
    let line = format!("{value}\r\n");
    let HeaderValue::Address(address) = MessageStream::new(line.as_bytes()).parse_address() else {
        return None;
    };
    let list = address.as_list()?;
    list.iter().map(|one| one.address.as_deref().map(str::to_owned)).collect()
}

/// Reads `mailbox-list` of RFC 5322 section 3.4, UTF-8 as in RFC 6532.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn list(mut self) -> Option<Vec<Mailbox>> {
        let mut found = Vec::new();
        loop {
            found.push(self.mailbox()?);
            self.skip_blanks()?;
            match self.peek() {
                None => return Some(found),
                Some(',') if found.len() < FROM_ADDRESSES_MAX => self.at += 1,
                Some(_) => return None,
            }
        }
    }

    /// `[phrase] "<" addr-spec ">"`, or `addr-spec`.
    fn mailbox(&mut self) -> Option<Mailbox> {
        let mut words = 0;
        loop {
            self.skip_blanks()?;
            let start = self.at;
            match self.peek()? {
                '<' => {
                    self.at += 1;
                    return self.address('>');
                }
                '"' => self.quoted()?,
                c if is_word(c) => self.skip_while(is_word),
                _ => return None,
            }
            words += 1;
            if self.peek() == Some('@') {
                // Without brackets nothing may stand before the address.
                if words > 1 {
                    return None;
                }
                self.at += 1;
                self.skip_while(|c| is_word(c) || "[:]".contains(c));
                return Mailbox::parse(&self.text[start..self.at], true).ok();
            }
        }
    }

    /// The address up to `end`, which is taken too.
    fn address(&mut self, end: char) -> Option<Mailbox> {
        let start = self.at;
        while self.peek()? != end {
            if self.peek()? == '"' {
                self.quoted()?;
            } else {
                self.at += self.peek()?.len_utf8();
            }
        }
        let inner = &self.text[start..self.at];
        self.at += end.len_utf8();
        Mailbox::parse(inner, true).ok().filter(|mailbox| !mailbox.verbatim().chars().any(char::is_control))
    }

    fn quoted(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let c = self.peek()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(()),
                '\\' => self.at += self.peek()?.len_utf8(),
                '\t' => {}
                c if c.is_control() => return None,
                _ => {}
            }
        }
    }

    /// Blanks and comments.
    fn skip_blanks(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(' ' | '\t') => {}
                Some('(') if depth < COMMENT_DEPTH_MAX => depth += 1,
                Some(')') if depth > 0 => depth -= 1,
                Some('\\') if depth > 0 => {
                    self.at += 1;
                    self.peek()?;
                }
                Some('(') => return None,
                Some(c) if depth > 0 && !c.is_control() => {}
                Some(_) if depth > 0 => return None,
                None if depth > 0 => return None,
                Some(_) | None => return Some(()),
            }
            self.at += self.peek()?.len_utf8();
        }
    }

    fn skip_while(&mut self, known: impl Fn(char) -> bool) {
        while let Some(c) = self.peek().filter(|c| known(*c)) {
            self.at += c.len_utf8();
        }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }
}

/// `atext` and dots; a name like `J. R.` is common, although only the obsolete grammar has it.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || (!c.is_ascii() && !c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::outbound::prepare::Canonical;

    fn draft(header: &str) -> Draft {
        let (mut filter, mut out) = (Canonical::new(1 << 20, "mx"), Vec::new());
        filter.feed(header.as_bytes(), &mut out).unwrap();
        filter.finish(&mut out).unwrap()
    }

    fn check(header: &str, mail_from: &str) -> Result<(), Refusal> {
        let owns =
            |mailbox: &Mailbox| matches!(mailbox.key().as_str(), "me@our.example" | "me+x@our.example");
        check_sender(&draft(header), mail_from, &owns)
    }

    fn from(value: &str) -> Result<(), Refusal> {
        check(&format!("From: {value}\n\n"), "me@our.example")
    }

    #[test]
    fn an_owned_author_passes_in_every_spelling() {
        for value in [
            "me@our.example",
            "Me@OUR.example",
            "<me@our.example>",
            "Me Myself <me@our.example>",
            "\"Myself, Me\" <me@our.example>",
            "J. R. Me <me@our.example> (comment (nested) \\) more)",
            "=?utf-8?q?J=C3=B6?= <me@our.example>",
            "Jörg Größe <me@our.example>",
            "me@our.example, Other Me\n\t<me+x@our.example>",
            "\"boss@bank.example\" <me@our.example>",
        ] {
            assert_eq!(from(value), Ok(()), "{value}"); // K12
        }
    }

    #[test]
    fn somebody_else_is_refused_wherever_he_stands() {
        let other = |place| {
            Err(Refusal::NotOwned { place, address: "boss@bank.example".to_owned() }) // K12
        };
        assert_eq!(from("boss@bank.example"), other("From"));
        assert_eq!(from("Me <boss@bank.example>"), other("From"));
        assert_eq!(from("me@our.example, boss@bank.example"), other("From"));
        assert_eq!(check("From: me@our.example\n\n", "boss@bank.example"), other("sender"));
        let sender = "From: me@our.example\nSender: Boss <boss@bank.example>\n\n";
        assert_eq!(check(sender, "me@our.example"), other("Sender"));
        let text = check("From: boss@bank.example\n\n", "me@our.example").unwrap_err();
        assert_eq!(text.to_string(), "From <boss@bank.example> is not an address of this gateway");
        assert_eq!(text.enhanced_code(), "5.7.1");
    }

    #[test]
    fn an_author_that_could_be_read_in_two_ways_is_refused() {
        for value in [
            "",
            "Me",
            "boss@bank.example <me@our.example>",
            "me@our.example <boss@bank.example>",
            "<me@our.example> <boss@bank.example>",
            "me@our.example boss@bank.example",
            "me@our.example,",
            ",me@our.example",
            "<@bank.example:me@our.example>",
            "Group: me@our.example;",
            "Group: me@our.example, boss@bank.example;",
            "me @our.example",
            "me@our.example(",
            "(me@our.example",
            "\"me@our.example",
            "<me@our.example",
            "<me@our.example>>",
            "<boss@bank.example(<me@our.example>)>",
            "me@our.example;boss@bank.example",
            "me@our.example\u{0}",
            "\"a\" b@our.example <me@our.example>",
            "<>",
            "me@[192.0.2.1",
        ] {
            let refused = if value.contains('\0') { continue } else { from(value) };
            assert!(matches!(refused, Err(Refusal::From { .. })), "{value}: {refused:?}"); // M7
        }
        let twice = "From: me@our.example\nfrom: me@our.example\n\n";
        assert!(matches!(check(twice, "me@our.example"), Err(Refusal::From { .. })));
        assert!(matches!(check("To: x@y.example\n\n", "me@our.example"), Err(Refusal::From { .. })));
        let senders = "From: me@our.example\nSender: me@our.example, me+x@our.example\n\n";
        assert_eq!(check(senders, "me@our.example"), Err(Refusal::Sender));
        let senders = "From: me@our.example\nSender: me@our.example\nSender: me@our.example\n\n";
        assert_eq!(check(senders, "me@our.example"), Err(Refusal::Sender));
    }

    #[test]
    fn the_null_sender_is_for_automatic_mail_of_an_owned_author() {
        let header = "From: me@our.example\nAuto-Submitted: auto-replied\n\n";
        assert_eq!(check(header, ""), Ok(()));
        assert_eq!(check("From: me@our.example\n\n", ""), Err(Refusal::NullSender));
        let other = "From: boss@bank.example\nAuto-Submitted: auto-replied\n\n";
        assert!(matches!(check(other, ""), Err(Refusal::NotOwned { place: "From", .. })));
        assert!(matches!(check(header, "me"), Err(Refusal::SenderSyntax { .. })));
        assert!(matches!(check(header, "<me@our.example>"), Err(Refusal::SenderSyntax { .. })));
    }

    #[test]
    fn recipients_need_a_domain_that_mail_can_go_to() {
        assert_eq!(recipient("Bob@there.example").unwrap().verbatim(), "Bob@there.example");
        assert_eq!(recipient("bob@bücher.example").unwrap().domain(), "xn--bcher-kva.example");
        assert_eq!(recipient("bob"), Err(Refusal::NoDomain));
        assert_eq!(recipient("postmaster"), Err(Refusal::NoDomain));
        for literal in ["bob@[192.0.2.9]", "bob@[IPv6:2001:db8::1]"] {
            assert_eq!(recipient(literal), Err(Refusal::AddressLiteral)); // O12
        }
        let long = format!("bob@{}.example", "a".repeat(64));
        for bad in
            ["", "bob@", "@x.example", "a b@x.example", "bob@x.example\r\nRCPT", &long, "bob@x..example"]
        {
            assert!(matches!(recipient(bad), Err(Refusal::RecipientSyntax { .. })), "{bad:?}");
        }
        let long = format!("{}@x.example", "a".repeat(65));
        assert_eq!(recipient(&long).unwrap_err().enhanced_code(), "5.1.3"); // E1
    }
}
