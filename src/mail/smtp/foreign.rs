//! What other protocols say when they come to this port by mistake or by trickery (A15, ALPACA class).
//!
//! A browser can be made to send HTTP here, a proxy TLS or SIP; what they carry must not be read as commands. So
//! the first line that no mail client sends ends the session.
//!
//! Promises: a pure look at one octet or one line; no SMTP verb, known or unknown, is mistaken for something else.
//! A PROXY header where none is expected is just an unknown command (V3).

/// First octets of binary protocols; no command begins with one. A NUL is missing here: it spoils its line anyway.
const OCTETS: [u8; 10] = [
    0x03, // RDP
    0x04, // SOCKS 4
    0x05, // SOCKS 5
    0x10, // MQTT
    0x13, // BitTorrent
    0x15, // TLS alert
    0x16, // TLS handshake
    0x80, // SSL 2
    0xfe, // SMB 2
    0xff, // telnet, SMB
];

/// Verbs of HTTP and its relatives. `PRI` opens HTTP/2.
const VERBS: [&str; 21] = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "CONNECT",
    "PATCH",
    "TRACE",
    "PRI",
    "PROPFIND",
    "INVITE",
    "REGISTER",
    "SUBSCRIBE",
    "DESCRIBE",
    "ANNOUNCE",
    "SOURCE",
    "ICY",
    "M-SEARCH",
    "JDWP-HANDSHAKE",
    "AMQP",
];

/// How a whole line begins.
const STARTS: [&str; 6] = ["SSH-", "<?xml", "<stream", "{\"", "GIOP", "$NMDC"];

/// Last words of request lines.
const ENDS: [&str; 4] = [" HTTP/1.0", " HTTP/1.1", " SIP/2.0", " RTSP/1.0"];

/// True when a line that begins so is no command.
#[must_use]
pub fn is_binary(first: u8) -> bool {
    OCTETS.contains(&first)
}

/// True for a line, without its CRLF, of another protocol.
#[must_use]
pub fn is_foreign(line: &[u8]) -> bool {
    let verb = line.split(|&b| b == b' ').next().unwrap_or(line);
    let has =
        |part: Option<&[u8]>, word: &str| part.is_some_and(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    let resp = line.first() == Some(&b'*') && line.len() > 1 && line[1..].iter().all(u8::is_ascii_digit); // Redis
    resp || VERBS.iter().any(|word| has(Some(verb), word))
        || STARTS.iter().any(|word| has(line.get(..word.len()), word))
        || ENDS.iter().any(|word| has(line.len().checked_sub(word.len()).and_then(|at| line.get(at..)), word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_known_by_their_first_line() {
        let lines = [
            "GET / HTTP/1.1",
            "post /x",
            "PRI * HTTP/2.0",
            "FROBNICATE /x HTTP/1.1",
            "SSH-2.0-OpenSSH_9.2p1",
            "INVITE sip:bob@our.example SIP/2.0",
            "MESSAGE sip:bob@our.example SIP/2.0",
            "SETUP rtsp://our.example/x RTSP/1.0",
            "<?xml version='1.0'?>",
            "<stream:stream xmlns='jabber:server'>",
            "{\"id\":1,\"method\":\"mining.subscribe\"}",
            "*3",
        ];
        lines.iter().for_each(|line| assert!(is_foreign(line.as_bytes()), "{line}")); // A15
        b"\x16\x80\x03\x05\xff".iter().for_each(|&first| assert!(is_binary(first)));
    }

    #[test]
    fn commands_are_no_other_protocol() {
        let lines = [
            "EHLO http",
            "MAIL FROM:<get@http.example>",
            "RCPT TO:<\"GET / HTTP/1.1\"@our.example>",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 25",
            "FROB",
            "*",
            "",
            "HELP",
            "X-GET",
        ];
        lines.iter().for_each(|line| assert!(!is_foreign(line.as_bytes()), "{line}")); // V3
        (b' '..=b'~').for_each(|first| assert!(!is_binary(first)));
        assert!(!is_binary(b'\r') && !is_binary(b'\n') && !is_binary(b'\t') && !is_binary(0));
    }
}
