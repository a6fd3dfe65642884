//! Command lines: framing by CRLF alone, then grammar.
//!
//! Promises: only CR LF ends a line (RFC 5321 §2.3.8); a line with another CR, LF or NUL is refused as a
//! whole, so nothing can hide in it; memory is bounded by [`LINE_BYTES_MAX`] whatever arrives; paths keep
//! their spelling.
//!
//! The grammar of the simple verbs is `smtp-proto`'s. MAIL and RCPT are read here, because that parser
//! unquotes paths, lets duplicate parameters pass, and drops what it does not know.

use std::borrow::Cow;

use smtp_proto::Request;

use crate::mail::address::{self, AddressError, ForwardPath, ReversePath};
use crate::mail::envelope::BodyType;
use crate::mail::smtp::foreign;
use crate::mail::smtp::reply::Reply;

/// Longest command line with CRLF, octets: 512 of RFC 5321, what our extensions add, and room for
/// clients that count differently.
pub const LINE_BYTES_MAX: usize = 2048;
/// Octets of one endless line that are thrown away before the connection is.
pub const FLOOD_BYTES_MAX: usize = 64 * 1024;
/// Digits of `SIZE=` (RFC 1870 §4) and of a BDAT size.
const SIZE_DIGITS_MAX: usize = 20;

/// What the framing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    /// A line without its CRLF.
    Line(Vec<u8>),
    /// A line over [`LINE_BYTES_MAX`] has ended.
    TooLong,
    /// A line with a lone CR, a lone LF or a NUL has ended.
    Stray,
    /// More than [`FLOOD_BYTES_MAX`] octets without an end: give up.
    Flood,
}

/// Collects octets until CRLF.
#[derive(Debug, Default)]
pub struct LineReader {
    line: Vec<u8>,
    seen: usize,
    after_cr: bool,
    stray: bool,
}

impl LineReader {
    /// Reads up to the end of one line. Returns how many octets of `input` were used, and the line if it
    /// has ended; without a line everything was used.
    pub fn push(&mut self, input: &[u8]) -> (usize, Option<Framed>) {
        for (n, &byte) in input.iter().enumerate() {
            self.seen += 1;
            if byte == b'\n' && self.after_cr {
                return (n + 1, Some(self.finish()));
            }
            self.stray |= self.after_cr || byte == b'\n' || byte == 0;
            self.after_cr = byte == b'\r';
            if !self.after_cr && self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            }
            if self.seen > FLOOD_BYTES_MAX {
                return (n + 1, Some(Framed::Flood));
            }
        }
        (input.len(), None)
    }

    /// True when the line under way has begun.
    #[must_use]
    pub fn is_inside_line(&self) -> bool {
        self.seen > 0
    }

    fn finish(&mut self) -> Framed {
        let Self { line, seen, stray, .. } = std::mem::take(self);
        if seen > LINE_BYTES_MAX {
            Framed::TooLong
        } else if stray {
            Framed::Stray
        } else {
            Framed::Line(line)
        }
    }
}

/// Argument of `MAIL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Reverse-path.
    pub from: ReversePath,
    /// `SIZE=`; saturated.
    pub size: Option<u64>,
    /// `BODY=`.
    pub body: BodyType,
    /// `SMTPUTF8`.
    pub utf8: bool,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `HELO name`
    Helo(String),
    /// `EHLO name`
    Ehlo(String),
    /// `MAIL FROM:<...> ...`
    Mail(Mail),
    /// `RCPT TO:<...>`
    Rcpt(ForwardPath),
    /// `DATA`
    Data,
    /// `BDAT n [LAST]`
    Bdat {
        /// Octets that follow.
        bytes: u64,
        /// The message ends with them.
        last: bool,
    },
    /// `RSET`
    Rset,
    /// `NOOP`
    Noop,
    /// `QUIT`
    Quit,
    /// `VRFY`
    Vrfy,
    /// `HELP`
    Help,
    /// `STARTTLS`
    StartTls,
    /// `AUTH`
    Auth,
}

/// Why a line is no command we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such verb.
    #[error("unknown command")]
    Unknown,
    /// A verb of SMTP that we do not offer.
    #[error("command not implemented")]
    NotImplemented,
    /// Control characters, or octets that are not UTF-8.
    #[error("command is not text")]
    NotText,
    /// An argument is missing, malformed, or one too many.
    #[error("bad argument, usage: {0}")]
    Argument(&'static str),
    /// BDAT without a usable size: nobody knows where the next command begins.
    #[error("bad BDAT size")]
    ChunkSize,
    /// Path in MAIL.
    #[error("sender: {0}")]
    Sender(AddressError),
    /// Path in RCPT.
    #[error("recipient: {0}")]
    Recipient(AddressError),
    /// A parameter we do not offer.
    #[error("unknown parameter")]
    UnknownParameter,
    /// A parameter given twice.
    #[error("duplicate parameter")]
    DuplicateParameter,
    /// A parameter with a bad value.
    #[error("bad parameter value")]
    BadParameter,
    /// An HTTP request line or a TLS handshake.
    #[error("not SMTP")]
    NotSmtp,
}

impl CommandError {
    /// What we say to it.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::Unknown => Reply::unknown_command(),
            Self::NotImplemented => Reply::not_implemented(),
            Self::NotText => Reply::not_text(),
            Self::Argument(usage) => Reply::bad_argument(usage),
            Self::ChunkSize => Reply::bad_argument("BDAT size [LAST]"),
            Self::Sender(error) => path_reply(error, Reply::bad_sender),
            Self::Recipient(error) => path_reply(error, Reply::bad_recipient),
            Self::UnknownParameter => Reply::unknown_parameter(),
            Self::DuplicateParameter => Reply::duplicate_parameter(),
            Self::BadParameter => Reply::bad_parameter(),
            Self::NotSmtp => Reply::not_smtp(),
        }
    }

    /// The stream cannot be trusted any more after this one.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::ChunkSize | Self::NotSmtp)
    }
}

fn path_reply(error: AddressError, refuse: fn(&'static str) -> Reply) -> Reply {
    match error {
        AddressError::Syntax => refuse("Bad address syntax"),
        AddressError::PathTooLong => refuse("Path too long"),
        AddressError::LocalPartTooLong => refuse("Local part too long"),
        AddressError::DomainTooLong => refuse("Domain too long"),
        AddressError::NotUtf8 => Reply::path_not_utf8(),
        AddressError::NeedsUtf8 => Reply::path_needs_utf8(),
    }
}

/// What of the session decides how a line is read.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The client said EHLO: parameters are known.
    pub extended: bool,
    /// The transaction was opened with SMTPUTF8.
    pub utf8: bool,
}

/// Reads one framed line.
///
/// # Errors
/// [`CommandError`], which knows its reply.
pub fn parse(line: &[u8], context: Context) -> Result<Command, CommandError> {
    let end = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    let (verb, rest) = line.split_at(end);
    if verb.is_empty() {
        return Err(CommandError::Unknown);
    }
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    if foreign::is_foreign(line) {
        return Err(CommandError::NotSmtp);
    }
    let text = std::str::from_utf8(line).map_err(|_| CommandError::NotText)?;
    if text.chars().any(char::is_control) {
        return Err(CommandError::NotText);
    }
    if is("MAIL") {
        return mail(rest, context);
    }
    if is("RCPT") {
        return rcpt(rest, context);
    }
    simple(line, text.get(end..).unwrap_or("").trim_matches(' '))
}

/// Everything but MAIL and RCPT: the verb and its shape come from `smtp-proto`, the checks it leaves out
/// (arguments where none belong, digits, host names) are here.
fn simple(line: &[u8], argument: &str) -> Result<Command, CommandError> {
    let framed = [line, b"\r\n"].concat();
    let bare = |command: Command, usage: &'static str| {
        if argument.is_empty() { Ok(command) } else { Err(CommandError::Argument(usage)) }
    };
    match Request::parse(&mut framed.iter()) {
        Ok(Request::Ehlo { .. }) => host(argument, "EHLO name").map(Command::Ehlo),
        Ok(Request::Helo { .. }) => host(argument, "HELO name").map(Command::Helo),
        Ok(Request::Bdat { is_last, .. }) => chunk(argument, is_last),
        Ok(Request::Data) => bare(Command::Data, "DATA"),
        Ok(Request::Rset) => bare(Command::Rset, "RSET"),
        Ok(Request::Quit) => bare(Command::Quit, "QUIT"),
        Ok(Request::StartTls) => bare(Command::StartTls, "STARTTLS"),
        Ok(Request::Noop { .. }) => Ok(Command::Noop),
        Ok(Request::Help { .. }) => Ok(Command::Help),
        Ok(Request::Vrfy { .. }) => Ok(Command::Vrfy),
        Ok(Request::Auth { .. }) => Ok(Command::Auth),
        Ok(
            Request::Expn { .. }
            | Request::Lhlo { .. }
            | Request::Etrn { .. }
            | Request::Atrn { .. }
            | Request::Burl { .. },
        ) => Err(CommandError::NotImplemented),
        Ok(Request::Mail { .. } | Request::Rcpt { .. }) => Err(CommandError::Unknown),
        Err(_) => Err(shapeless(line)),
    }
}

/// What to say when the parser found no shape: depends on the verb alone.
fn shapeless(line: &[u8]) -> CommandError {
    let verb = line.split(|&b| b == b' ').next().unwrap_or_default().to_ascii_uppercase();
    match verb.as_slice() {
        b"EHLO" => CommandError::Argument("EHLO name"),
        b"HELO" => CommandError::Argument("HELO name"),
        b"VRFY" => CommandError::Argument("VRFY name"),
        b"BDAT" => CommandError::ChunkSize,
        b"EXPN" | b"LHLO" | b"ETRN" | b"ATRN" | b"BURL" | b"AUTH" | b"TURN" => CommandError::NotImplemented,
        _ => CommandError::Unknown,
    }
}

/// A host name or an address literal. Only the character set is checked (RFC 5321 §4.1.4: no refusal
/// because a name does not resolve); it is narrow enough that the name cannot break a header field.
fn host(argument: &str, usage: &'static str) -> Result<String, CommandError> {
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    let fits = (1..=address::DOMAIN_BYTES_MAX).contains(&argument.len());
    if fits && (argument.bytes().all(named) || address::literal(argument).is_ok()) {
        Ok(argument.to_owned())
    } else {
        Err(CommandError::Argument(usage))
    }
}

/// `chunk-size [SP LAST]` (RFC 3030 §2).
fn chunk(argument: &str, last: bool) -> Result<Command, CommandError> {
    let (size, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let word_fits = if last { rest.trim().eq_ignore_ascii_case("LAST") } else { rest.trim().is_empty() };
    if size.is_empty()
        || size.len() > SIZE_DIGITS_MAX
        || !size.bytes().all(|b| b.is_ascii_digit())
        || !word_fits
    {
        return Err(CommandError::ChunkSize);
    }
    size.parse().map(|bytes| Command::Bdat { bytes, last }).map_err(|_| CommandError::ChunkSize)
}

fn mail(rest: &[u8], context: Context) -> Result<Command, CommandError> {
    let usage = CommandError::Argument("MAIL FROM:<path> [parameters]");
    let argument = keyword(rest, b"FROM:").ok_or(usage)?;
    let (inner, parameters) = bracketed(argument).ok_or(CommandError::Sender(AddressError::Syntax))?;
    let (mut size, mut body, mut utf8) = (None, None, false);
    for parameter in Parameters::after(parameters).ok_or(usage)? {
        let (name, value) = parameter;
        let known = |name_of: &str| context.extended && name.eq_ignore_ascii_case(name_of);
        if known("SIZE") {
            once(size.is_some())?;
            size = Some(size_value(value.ok_or(CommandError::BadParameter)?)?);
        } else if known("BODY") {
            once(body.is_some())?;
            body = Some(body_value(value.ok_or(CommandError::BadParameter)?)?);
        } else if known("SMTPUTF8") {
            once(utf8)?;
            utf8 = value.is_none();
            if !utf8 {
                return Err(CommandError::BadParameter);
            }
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    let from = ReversePath::parse(inner, utf8).map_err(CommandError::Sender)?;
    Ok(Command::Mail(Mail { from, size, body: body.unwrap_or_default(), utf8 }))
}

fn rcpt(rest: &[u8], context: Context) -> Result<Command, CommandError> {
    let usage = CommandError::Argument("RCPT TO:<path>");
    let argument = keyword(rest, b"TO:").ok_or(usage)?;
    let (inner, parameters) = bracketed(argument).ok_or(CommandError::Recipient(AddressError::Syntax))?;
    if Parameters::after(parameters).ok_or(usage)?.next().is_some() {
        return Err(CommandError::UnknownParameter);
    }
    ForwardPath::parse(inner, context.utf8).map(Command::Rcpt).map_err(CommandError::Recipient)
}

fn once(given: bool) -> Result<(), CommandError> {
    if given { Err(CommandError::DuplicateParameter) } else { Ok(()) }
}

fn size_value(value: &str) -> Result<u64, CommandError> {
    if value.is_empty() || value.len() > SIZE_DIGITS_MAX || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CommandError::BadParameter);
    }
    Ok(value.parse().unwrap_or(u64::MAX)) // 20 digits can exceed 64 bits; either way it is too much
}

fn body_value(value: &str) -> Result<BodyType, CommandError> {
    if value.eq_ignore_ascii_case("7BIT") {
        Ok(BodyType::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Ok(BodyType::EightBit)
    } else if value.eq_ignore_ascii_case("BINARYMIME") {
        Err(CommandError::UnknownParameter) // not offered (RFC 3030 §3)
    } else {
        Err(CommandError::BadParameter)
    }
}

/// What follows `FROM:` or `TO:`; blanks after the colon are tolerated, because many clients send one.
fn keyword<'a>(rest: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let rest = rest.trim_ascii_start();
    let (head, tail) = rest.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then(|| tail.trim_ascii_start())
}

/// Splits `<inner>after`; a `>` inside a quoted local part does not count.
fn bracketed(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.strip_prefix(b"<")?;
    let (mut quoted, mut escaped) = (false, false);
    for (n, &byte) in inner.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some((&inner[..n], &inner[n + 1..])),
            _ => {}
        }
    }
    None
}

/// `keyword[=value]` words after a path.
struct Parameters<'a>(std::str::SplitAsciiWhitespace<'a>);

impl<'a> Parameters<'a> {
    /// `None` when something sticks to the path.
    fn after(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        (text.is_empty() || text.starts_with(' ')).then(|| Self(text.split_ascii_whitespace()))
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (Cow<'a, str>, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        let word = self.0.next()?;
        Some(match word.split_once('=') {
            Some((name, value)) => (name.into(), Some(value)),
            None => (word.into(), None),
        })
    }
}

#[cfg(test)]
mod tests;
