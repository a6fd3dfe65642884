//! Command lines and addresses: whatever is typed, the parser answers, and what it lets through is clean.

use proptest::collection::vec;
use proptest::prelude::*;
use waystation::mail::address::{ForwardPath, Mailbox, PATH_BYTES_MAX};
use waystation::mail::smtp::command::{self, Command, Context, Framed, LineReader};

use crate::smtp_split::config;

const LINES: [&str; 12] = [
    "EHLO client.example",
    "HELO [IPv6:2001:db8::1]",
    "MAIL FROM:<a.b@client.example> SIZE=1000 BODY=8BITMIME SMTPUTF8",
    "MAIL FROM:<\"a b\\\"c\"@client.example>",
    "MAIL FROM:<>",
    "RCPT TO:<@x.example,@y.example:home+tag@our.example>",
    "RCPT TO:<josé@bücher.example>",
    "RCPT TO:<u@[192.0.2.1]>",
    "RCPT TO:<postmaster>",
    "BDAT 1000 LAST",
    "VRFY home",
    "DATA",
];

/// A good line with some octets replaced, removed or put in.
fn nearly_a_command() -> impl Strategy<Value = Vec<u8>> {
    let octet =
        prop_oneof![any::<u8>(), Just(b'<'), Just(b'>'), Just(b'"'), Just(b'\\'), Just(b'@'), Just(b' ')];
    let change = (0_usize..80, 0_u8..3, octet);
    (prop::sample::select(&LINES[..]), vec(change, 0..6)).prop_map(|(line, changes)| {
        let mut bytes = line.as_bytes().to_vec();
        for (at, kind, octet) in changes {
            let at = at.min(bytes.len());
            match kind {
                0 => bytes.insert(at, octet),
                1 if at < bytes.len() => bytes[at] = octet,
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        bytes
    })
}

fn is_clean(text: &str) -> bool {
    text.len() + 2 <= PATH_BYTES_MAX && !text.chars().any(char::is_control)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_line_has_an_answer_and_what_passes_is_clean(
        line in nearly_a_command(), extended: bool, utf8: bool,
    ) {
        match command::parse(&line, Context { extended, utf8 }) {
            Ok(Command::Mail(mail)) => {
                prop_assert!(is_clean(mail.from.verbatim()));
                prop_assert!(mail.utf8 || mail.from.verbatim().is_ascii());
            }
            Ok(Command::Rcpt(path)) => {
                prop_assert!(is_clean(path.verbatim()));
                prop_assert!(utf8 || path.verbatim().is_ascii());
                // What we tell a gateway is read back by it as the same address.
                prop_assert_eq!(ForwardPath::parse(path.verbatim().as_bytes(), utf8), Ok(path));
            }
            Ok(Command::Ehlo(name) | Command::Helo(name)) => {
                prop_assert!(name.bytes().all(|b| b.is_ascii_graphic() && !b"()<>;,\"\\".contains(&b)));
            }
            Ok(_) => {}
            Err(error) => {
                let mut wire = Vec::new();
                error.reply().encode(&mut wire);
                prop_assert!(error.reply().code() >= 500 && wire.ends_with(b"\r\n"));
            }
        }
    }

    #[test]
    fn printed_addresses_do_not_tell_the_local_part(local in "[a-z]{3,20}", domain in "[a-z]{1,10}\\.example") {
        let mailbox = Mailbox::parse(&format!("{local}@{domain}"), false).expect("an address");
        let printed = [mailbox.to_string(), format!("{mailbox:?}")].concat();
        prop_assert!(!printed.replace(&domain, "").contains(&local));
        prop_assert!(mailbox.to_string().ends_with(&domain));
    }

    #[test]
    fn framing_sees_octets_not_packets(bytes in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(0), any::<u8>()], 0..300)) {
        let read = |size: usize| {
            let (mut reader, mut found) = (LineReader::default(), Vec::new());
            for piece in bytes.chunks(size) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let (used, framed) = reader.push(rest);
                    rest = &rest[used..];
                    found.extend(framed);
                }
            }
            found
        };
        let whole = read(bytes.len().max(1));
        prop_assert_eq!(&whole, &read(1));
        prop_assert_eq!(&whole, &read(7));
        for framed in whole {
            if let Framed::Line(line) = framed {
                prop_assert!(!line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
            }
        }
    }
}
