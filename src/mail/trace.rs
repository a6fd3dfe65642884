//! The trace field we put on top of a message (RFC 5321 §4.4, RFC 3848, RFC 6531 §4.3).
//!
//! Promises: one `Received` field, folded, every line far below 998 octets, printable apart from UTF-8 of
//! an address that came with `SMTPUTF8`. Nothing a client said can end or break the field. `for` is given
//! only when there is one recipient, so that nobody learns of the others.

use core::net::IpAddr;

use spool::ids::{ItemId, WallMs};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// What the field tells.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Argument of EHLO or HELO.
    pub helo: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// Our name.
    pub hostname: &'a str,
    /// `SMTP`, `ESMTPS`, `UTF8SMTP`, ...
    pub protocol: &'a str,
    /// Version and cipher of TLS, two words; empty without it.
    pub tls: &'a str,
    /// Id in the `250`.
    pub id: ItemId,
    /// The recipient, when it is the only one; as given.
    pub only_recipient: Option<&'a str>,
    /// Time of acceptance.
    pub at: WallMs,
}

impl Received<'_> {
    /// The field with its final CRLF.
    #[must_use]
    pub fn field(&self) -> Vec<u8> {
        let Self { hostname, protocol, id, .. } = self;
        let (helo, client) = (clean(self.helo), literal(self.client));
        let path = self.only_recipient.map(|path| format!("\r\n\tfor <{}>", clean(path))).unwrap_or_default();
        let tls = self.tls.split_once(' ').map(|(version, cipher)| {
            format!("\r\n\t(using {} with cipher {})", clean(version), clean(cipher)) // as Postfix has it
        });
        let tls = tls.unwrap_or_default();
        let date = date(self.at);
        format!(
            "Received: from {helo} ({client}){tls}\r\n\tby {hostname} with {protocol} id {id}{path};\r\n\t{date}\r\n"
        )
        .into_bytes()
    }
}

/// What the field of a submission tells: nothing of where it came from, because a gateway sits at somebody's home.
#[derive(Clone, Copy, Debug)]
pub struct Submitted<'a> {
    /// Our name.
    pub hostname: &'a str,
    /// The submission.
    pub id: ItemId,
    /// Time of acceptance.
    pub at: WallMs,
}

impl Submitted<'_> {
    /// The field with its final CRLF. `TUNNEL` is no registered word, as the tunnel is no registered protocol.
    #[must_use]
    pub fn field(&self) -> Vec<u8> {
        let Self { hostname, id, at } = self;
        format!("Received: by {hostname} with TUNNEL id {id};\r\n\t{}\r\n", date(*at)).into_bytes()
    }
}

/// `[192.0.2.1]`, `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

/// RFC 5322 §3.3 date with zone.
#[must_use]
pub(crate) fn date(at: WallMs) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc2822).unwrap_or_default()
}

/// The parsers let no control character through; this is the second lock on the same door.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_who_where_how_and_when() {
        let id = ItemId::new(WallMs(1_790_000_000_123), [7; 10]);
        let received = Received {
            helo: "client.example",
            client: IpAddr::V4([192, 0, 2, 1].into()),
            hostname: "mx.our.example",
            protocol: "ESMTP",
            tls: "",
            id,
            only_recipient: Some("Home@our.example"),
            at: WallMs(1_790_000_000_123),
        };
        let text = String::from_utf8(received.field()).unwrap(); // L1
        assert_eq!(
            text,
            format!(
                "Received: from client.example ([192.0.2.1])\r\n\tby mx.our.example with ESMTP id {id}\r\n\
                 \tfor <Home@our.example>;\r\n\tMon, 21 Sep 2026 14:13:20 +0000\r\n"
            )
        );
        let encrypted = Received { protocol: "ESMTPS", tls: "TLSv1.3 TLS_AES_256_GCM_SHA384", ..received };
        let text = String::from_utf8(encrypted.field()).unwrap();
        let start = "Received: from client.example ([192.0.2.1])\r\n\
                     \t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\tby mx.our.example with ESMTPS id ";
        assert!(text.starts_with(start), "{text}");
        let several = Received { only_recipient: None, client: "2001:db8::1".parse().unwrap(), ..received };
        let text = String::from_utf8(several.field()).unwrap();
        assert!(!text.contains("for <") && text.contains("([IPv6:2001:db8::1])"), "{text}");
    }

    #[test]
    fn client_text_cannot_break_the_field() {
        let received = Received {
            helo: "x\r\nInjected: yes",
            client: "::1".parse().unwrap(),
            hostname: "mx",
            protocol: "ESMTP",
            tls: "",
            id: ItemId([0; 16]),
            only_recipient: Some("a\nb@c"),
            at: WallMs(0),
        };
        let text = String::from_utf8(received.field()).unwrap(); // L2
        assert!(text.split("\r\n").skip(1).all(|line| line.is_empty() || line.starts_with('\t')), "{text}");
    }
}
