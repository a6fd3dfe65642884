//! Replies: code, enhanced code (RFC 3463, RFC 2034) and public text, made together by named constructors.
//!
//! Promises: the class of the enhanced code is the first digit of the code, because it is computed from
//! it; no line is longer than 512 octets with its CRLF; every line of a reply carries the same code; no
//! octet outside printable ASCII leaves. Texts are bland: causes belong into the log.

use std::borrow::Cow;

use spool::ids::ItemId;

/// Longest reply line with code, separator and CRLF, octets (RFC 5321 §4.5.3.1.5).
pub const REPLY_LINE_BYTES_MAX: usize = 512;

/// One complete reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    /// Subject and detail; the class is `code / 100`.
    enhanced: Option<(u16, u16)>,
    lines: Vec<Cow<'static, str>>,
}

impl Reply {
    fn coded(code: u16, subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced: Some((subject, detail)), lines: vec![text.into()] }
    }

    fn plain(code: u16, lines: Vec<Cow<'static, str>>) -> Self {
        Self { code, enhanced: None, lines }
    }

    /// The three digits.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// First line of the text, for logs.
    #[must_use]
    pub fn text(&self) -> &str {
        self.lines.first().map_or("", AsRef::as_ref)
    }

    /// `x.y.z`, when the reply carries one.
    #[must_use]
    pub fn enhanced_code(&self) -> Option<String> {
        self.enhanced.map(|(subject, detail)| format!("{}.{subject}.{detail}", self.code / 100))
    }

    /// 4yz or 5yz.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.code >= 400
    }

    /// Appends the reply as it goes on the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let last = self.lines.len().saturating_sub(1);
        for (n, text) in self.lines.iter().enumerate() {
            let start = out.len();
            let separator = if n == last { ' ' } else { '-' };
            out.extend_from_slice(format!("{}{separator}", self.code).as_bytes());
            if let Some(enhanced) = self.enhanced_code() {
                out.extend_from_slice(enhanced.as_bytes());
                out.push(b' ');
            }
            let room = (REPLY_LINE_BYTES_MAX - 2).saturating_sub(out.len() - start);
            let printable = |b: u8| if matches!(b, 0x20..=0x7e) { b } else { b'?' };
            out.extend(text.bytes().take(room).map(printable));
            out.extend_from_slice(b"\r\n");
        }
    }

    /// 220 banner; never an enhanced code (RFC 2034 §4).
    #[must_use]
    pub fn banner(hostname: &str) -> Self {
        Self::plain(220, vec![format!("{hostname} ESMTP waystation").into()])
    }

    /// 554 in place of the banner (RFC 5321 §3.1).
    #[must_use]
    pub fn no_service_here(hostname: &str) -> Self {
        Self::plain(554, vec![format!("{hostname} no SMTP service here").into()])
    }

    /// 250 to HELO; never an enhanced code.
    #[must_use]
    pub fn helo(hostname: &str) -> Self {
        Self::plain(250, vec![hostname.to_owned().into()])
    }

    /// 250 to EHLO with one keyword per line; never an enhanced code.
    #[must_use]
    pub fn ehlo(hostname: &str, keywords: Vec<String>) -> Self {
        let first = Cow::Owned(hostname.to_owned());
        Self::plain(250, std::iter::once(first).chain(keywords.into_iter().map(Cow::Owned)).collect())
    }

    /// 354, go ahead.
    #[must_use]
    pub fn start_data() -> Self {
        Self::plain(354, vec!["End data with <CR><LF>.<CR><LF>".into()])
    }

    /// 250 to MAIL.
    #[must_use]
    pub fn sender_ok() -> Self {
        Self::coded(250, 1, 0, "Sender OK")
    }

    /// 250 to RCPT.
    #[must_use]
    pub fn recipient_ok() -> Self {
        Self::coded(250, 1, 5, "Recipient OK")
    }

    /// 250 to the message: it is on stable storage. The id is the item's id everywhere else.
    #[must_use]
    pub fn accepted(id: ItemId) -> Self {
        Self::coded(250, 0, 0, format!("OK queued as {id}"))
    }

    /// 250 to a BDAT chunk that was not the last.
    #[must_use]
    pub fn chunk_ok(bytes: u64) -> Self {
        Self::coded(250, 0, 0, format!("{bytes} octets received"))
    }

    /// 250 to RSET and NOOP.
    #[must_use]
    pub fn ok() -> Self {
        Self::coded(250, 0, 0, "OK")
    }

    /// 221 to QUIT.
    #[must_use]
    pub fn bye() -> Self {
        Self::coded(221, 0, 0, "Bye")
    }

    /// 252 to VRFY, the same for every argument (RFC 5321 §3.5.3).
    #[must_use]
    pub fn cannot_verify() -> Self {
        Self::coded(252, 5, 0, "Cannot verify, but will accept and try")
    }

    /// 214 to HELP.
    #[must_use]
    pub fn help() -> Self {
        Self::coded(214, 0, 0, "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY (RFC 5321)")
    }

    /// 500: no such verb.
    #[must_use]
    pub fn unknown_command() -> Self {
        Self::coded(500, 5, 2, "Command not recognized")
    }

    /// 500: longer than a command may be.
    #[must_use]
    pub fn line_too_long() -> Self {
        Self::coded(500, 5, 2, "Line too long")
    }

    /// 500: a CR, LF or NUL stands alone in the line.
    #[must_use]
    pub fn stray_octet_in_command() -> Self {
        Self::coded(500, 5, 2, "Commands end with CR LF and hold no other CR, LF or NUL")
    }

    /// 502: known, not offered.
    #[must_use]
    pub fn not_implemented() -> Self {
        Self::coded(502, 5, 1, "Command not implemented")
    }

    /// 501: octets no command has.
    #[must_use]
    pub fn not_text() -> Self {
        Self::coded(501, 5, 2, "Syntax error: command is not text")
    }

    /// 501: argument missing, malformed, or given where none belongs.
    #[must_use]
    pub fn bad_argument(usage: &'static str) -> Self {
        Self::coded(501, 5, 4, format!("Syntax: {usage}"))
    }

    /// 501: reverse-path malformed.
    #[must_use]
    pub fn bad_sender(why: &'static str) -> Self {
        Self::coded(501, 1, 7, why)
    }

    /// 501: forward-path malformed.
    #[must_use]
    pub fn bad_recipient(why: &'static str) -> Self {
        Self::coded(501, 1, 3, why)
    }

    /// 501: path is not UTF-8.
    #[must_use]
    pub fn path_not_utf8() -> Self {
        Self::coded(501, 5, 2, "Address is not UTF-8")
    }

    /// 553: path needs SMTPUTF8 (RFC 6531 §3.5).
    #[must_use]
    pub fn path_needs_utf8() -> Self {
        Self::coded(553, 6, 7, "Address needs SMTPUTF8")
    }

    /// 555: parameter unknown or not offered (RFC 5321 §4.1.1.11).
    #[must_use]
    pub fn unknown_parameter() -> Self {
        Self::coded(555, 5, 4, "Parameter not recognized")
    }

    /// 501: parameter given twice.
    #[must_use]
    pub fn duplicate_parameter() -> Self {
        Self::coded(501, 5, 4, "Parameter given twice")
    }

    /// 501: parameter value malformed.
    #[must_use]
    pub fn bad_parameter() -> Self {
        Self::coded(501, 5, 4, "Bad parameter value")
    }

    /// 503: not now. `need` says what belongs before.
    #[must_use]
    pub fn bad_sequence(need: &'static str) -> Self {
        Self::coded(503, 5, 1, need)
    }

    /// 554: DATA without a valid recipient (RFC 2920 §3.1).
    #[must_use]
    pub fn no_valid_recipients() -> Self {
        Self::coded(554, 5, 1, "No valid recipients")
    }

    /// 220 to STARTTLS.
    #[must_use]
    pub fn ready_for_tls() -> Self {
        Self::coded(220, 0, 0, "Ready to start TLS")
    }

    /// 530: MAIL in the clear where that is not allowed (RFC 3207 §4).
    #[must_use]
    pub fn must_start_tls() -> Self {
        Self::coded(530, 7, 0, "Must issue a STARTTLS command first")
    }

    /// 454: STARTTLS without a certificate.
    #[must_use]
    pub fn tls_not_available() -> Self {
        Self::coded(454, 7, 0, "TLS not available")
    }

    /// 554: bytes before the banner.
    #[must_use]
    pub fn talks_too_soon() -> Self {
        Self::coded(554, 5, 1, "You talk before the greeting")
    }

    /// 554: another protocol came to this port.
    #[must_use]
    pub fn not_smtp() -> Self {
        Self::coded(554, 5, 1, "This is SMTP")
    }

    /// 554: bytes arrived that had to wait for our reply (RFC 2920 §3.1).
    #[must_use]
    pub fn pipelining_violation() -> Self {
        Self::coded(554, 5, 0, "Protocol violation: wait for the reply")
    }

    /// 452: recipients over the cap (RFC 5321 §4.5.3.1.10); those before stay valid.
    #[must_use]
    pub fn too_many_recipients() -> Self {
        Self::coded(452, 5, 3, "Too many recipients")
    }

    /// 550: no such mailbox here.
    #[must_use]
    pub fn unknown_mailbox() -> Self {
        Self::coded(550, 1, 1, "No such mailbox")
    }

    /// 550: an address literal that is not ours.
    #[must_use]
    pub fn foreign_literal() -> Self {
        Self::coded(550, 1, 2, "Address literals are not served here")
    }

    /// 550: domain is not ours.
    #[must_use]
    pub fn relay_denied() -> Self {
        Self::coded(550, 7, 1, "Relaying denied")
    }

    /// 550: a submission with somebody else's sender (RFC 6409 §6.1).
    #[must_use]
    pub fn sender_not_owned(own: &str) -> Self {
        Self::coded(550, 7, 1, format!("Not your address: send as <{own}>"))
    }

    /// 550: the client's address is on a block list. `text` is what the list says about it; may be empty.
    #[must_use]
    pub fn listed(zone: &str, text: &str) -> Self {
        let more = if text.is_empty() { String::new() } else { format!(": {text}") };
        Self::coded(550, 7, 1, format!("Client address is listed by {zone}{more}"))
    }

    /// 550: the sender's domain says that it takes no mail (RFC 7505 §4.2), so nobody can answer.
    #[must_use]
    pub fn null_mx_sender() -> Self {
        Self::coded(550, 7, 27, "Sender's domain accepts no mail (null MX)")
    }

    /// 550: mailbox revoked.
    #[must_use]
    pub fn mailbox_disabled() -> Self {
        Self::coded(550, 2, 1, "Mailbox disabled")
    }

    /// 452: mailbox over its quota.
    #[must_use]
    pub fn mailbox_full() -> Self {
        Self::coded(452, 2, 2, "Mailbox full, try again later")
    }

    /// 452: storage below its floor.
    #[must_use]
    pub fn storage_full() -> Self {
        Self::coded(452, 3, 1, "Insufficient storage, try again later")
    }

    /// 451: the spool failed or took too long. Nothing was accepted.
    #[must_use]
    pub fn try_later() -> Self {
        Self::coded(451, 3, 0, "Temporary failure, try again later")
    }

    /// 552: larger than SIZE.
    #[must_use]
    pub fn too_large() -> Self {
        Self::coded(552, 3, 4, "Message exceeds the size limit")
    }

    /// 554: stray CR, LF or NUL in the message.
    #[must_use]
    pub fn stray_octet() -> Self {
        Self::coded(554, 6, 0, "Message holds a lone CR, a lone LF or a NUL")
    }

    /// 554: text line over 998 octets (RFC 5322 §2.1.1).
    #[must_use]
    pub fn text_line_too_long() -> Self {
        Self::coded(554, 6, 0, "Message has a line of more than 998 octets")
    }

    /// 552: header section too large.
    #[must_use]
    pub fn header_too_large() -> Self {
        Self::coded(552, 3, 4, "Message header is too large")
    }

    /// 554: the first line is a continuation of nothing (RFC 5322 §2.2.3).
    #[must_use]
    pub fn continuation_first() -> Self {
        Self::coded(554, 6, 0, "Message begins with a blank: its first line continues no field")
    }

    /// 554: too many hops.
    #[must_use]
    pub fn mail_loop() -> Self {
        Self::coded(554, 4, 6, "Mail loop: too many Received fields")
    }

    /// 550: the domain of `From` asks for the refusal of such mail (RFC 7489 §10.3, RFC 7372 §3.3).
    #[must_use]
    pub fn dmarc_reject() -> Self {
        Self::coded(
            550,
            7,
            26,
            "Neither SPF nor DKIM vouches for the domain of From, whose DMARC policy is reject",
        )
    }

    /// 450: rate limit of messages.
    #[must_use]
    pub fn too_many_messages() -> Self {
        Self::coded(450, 7, 1, "Too many messages, try again later")
    }

    /// 421 in place of the banner: rate or number of connections.
    #[must_use]
    pub fn too_many_connections(hostname: &str) -> Self {
        Self::coded(421, 7, 0, format!("{hostname} Too many connections, try again later"))
    }

    /// 421: harvesting of addresses.
    #[must_use]
    pub fn too_many_unknown(hostname: &str) -> Self {
        Self::coded(421, 7, 1, format!("{hostname} Too many unknown recipients"))
    }

    /// 421: session used up (messages, errors or idle commands).
    #[must_use]
    pub fn session_over(hostname: &str) -> Self {
        Self::coded(421, 7, 0, format!("{hostname} Too much in one session, closing"))
    }

    /// 421: silence or trickle.
    #[must_use]
    pub fn timeout(hostname: &str) -> Self {
        Self::coded(421, 4, 2, format!("{hostname} Timeout, closing"))
    }

    /// 421: we are going down.
    #[must_use]
    pub fn shutting_down(hostname: &str) -> Self {
        Self::coded(421, 3, 2, format!("{hostname} Shutting down, try again later"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn class_of_the_enhanced_code_is_the_first_digit() {
        assert_eq!(wire(&Reply::mailbox_full()), "452 4.2.2 Mailbox full, try again later\r\n"); // B19
        assert_eq!(wire(&Reply::unknown_mailbox()), "550 5.1.1 No such mailbox\r\n");
        assert_eq!(wire(&Reply::bye()), "221 2.0.0 Bye\r\n");
    }

    #[test]
    fn banner_and_ehlo_have_no_enhanced_code_and_lines_share_the_code() {
        assert_eq!(wire(&Reply::banner("mx.example")), "220 mx.example ESMTP waystation\r\n"); // A1
        let ehlo = Reply::ehlo("mx.example", vec!["SIZE 10".into(), "CHUNKING".into()]);
        assert_eq!(wire(&ehlo), "250-mx.example\r\n250-SIZE 10\r\n250 CHUNKING\r\n"); // A4, B18
    }

    #[test]
    fn lines_are_capped_and_printable() {
        let text = wire(&Reply::banner(&format!("x\r\n\x1b{}", "h".repeat(2000))));
        assert_eq!(text.len(), REPLY_LINE_BYTES_MAX); // E11
        assert!(text.starts_with("220 x???h") && text.ends_with("h\r\n")); // B20
    }
}
