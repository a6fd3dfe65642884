//! Framing and grammar, edge by edge.

use super::*;

const EXTENDED: Context = Context { extended: true, utf8: false };

fn ok(line: &str) -> Command {
    parse(line.as_bytes(), EXTENDED).unwrap()
}

fn code(line: &[u8]) -> String {
    let reply = parse(line, EXTENDED).unwrap_err().reply();
    format!("{} {}", reply.code(), reply.enhanced_code().unwrap())
}

fn lines(input: &[u8]) -> Vec<Framed> {
    let (mut reader, mut at, mut found) = (LineReader::default(), 0, Vec::new());
    while at < input.len() {
        let (used, framed) = reader.push(&input[at..]);
        at += used;
        found.extend(framed);
    }
    found
}

#[test]
fn only_crlf_ends_a_line() {
    let line = |text: &str| Framed::Line(text.as_bytes().to_vec());
    assert_eq!(lines(b"NOOP\r\nQUIT\r\n"), [line("NOOP"), line("QUIT")]);
    assert_eq!(lines(b"NOOP\nQUIT\r\nRSET\r\n"), [Framed::Stray, line("RSET")]); // C21
    assert_eq!(lines(b"NOOP\rQUIT\r\n"), [Framed::Stray]);
    assert_eq!(lines(b"NOOP\r\r\n"), [Framed::Stray]);
    assert_eq!(lines(b"NOOP \0\r\n"), [Framed::Stray]); // B16
    assert_eq!(lines(b"NOOP\n"), []);
}

#[test]
fn long_lines_are_refused_once_and_the_next_one_is_read() {
    let long = [vec![b'x'; 5000], b"\r\nNOOP\r\n".to_vec()].concat();
    assert_eq!(lines(&long), [Framed::TooLong, Framed::Line(b"NOOP".to_vec())]); // E4
    let mut reader = LineReader::default();
    let (used, framed) = reader.push(&vec![b'x'; 1 << 20]); // E5
    assert_eq!((used, framed), (FLOOD_BYTES_MAX + 1, Some(Framed::Flood)));
    assert!(reader.line.capacity() <= 2 * LINE_BYTES_MAX);
    let exact = [vec![b'x'; LINE_BYTES_MAX - 2], b"\r\n".to_vec()].concat();
    assert!(matches!(lines(&exact)[..], [Framed::Line(_)]));
}

#[test]
fn verbs_are_case_insensitive_and_a_blank_after_the_colon_is_tolerated() {
    for line in ["mAiL fRoM:<a@b.example>", "MAIL FROM: <a@b.example>", "MAIL FROM:<a@b.example> "] {
        let Command::Mail(mail) = ok(line) else { panic!("{line}") }; // B1, B2
        assert_eq!(mail.from.verbatim(), "a@b.example");
    }
    assert_eq!(ok("data"), Command::Data);
    assert_eq!(ok("DATA "), Command::Data);
    assert_eq!(code(b" NOOP"), "500 5.5.2");
}

#[test]
fn paths_need_brackets_and_nothing_may_stick_to_them() {
    assert_eq!(code(b"RCPT TO:a@b.example"), "501 5.1.3"); // B2
    assert_eq!(code(b"MAIL FROM:a@b.example"), "501 5.1.7");
    assert_eq!(code(b"RCPT TO:<u@our.example>x"), "501 5.5.4"); // B17
    assert_eq!(code(b"RCPT TO:<u@our.example"), "501 5.1.3");
    assert_eq!(code(b"RCPT TO:<>"), "501 5.1.3"); // B3
    assert_eq!(code(b"RCPT"), "501 5.5.4");
    assert_eq!(code(b"MAIL <a@b.example>"), "501 5.5.4");
    let Command::Rcpt(to) = ok(r#"RCPT TO:<"a>b"@our.example>"#) else { panic!() }; // B6
    assert_eq!(to.verbatim(), r#""a>b"@our.example"#);
}

#[test]
fn parameters_are_known_unique_and_well_formed() {
    for (tail, expected) in [
        ("FOO=1", "555 5.5.4"),         // B9
        ("SIZE=1 SIZE=2", "501 5.5.4"), // B10
        ("BODY=7BIT BODY=7BIT", "501 5.5.4"),
        ("SMTPUTF8 SMTPUTF8", "501 5.5.4"),
        ("SMTPUTF8=1", "501 5.5.4"),
        ("SIZE", "501 5.5.4"), // H3
        ("SIZE=", "501 5.5.4"),
        ("SIZE=abc", "501 5.5.4"),
        ("SIZE=1234567890123456789012345", "501 5.5.4"),
        ("BODY=BINARYMIME", "555 5.5.4"), // G9
        ("BODY=x", "501 5.5.4"),
        ("RET=HDRS", "555 5.5.4"), // N1
        ("AUTH=<>", "555 5.5.4"),
    ] {
        assert_eq!(code(format!("MAIL FROM:<a@b.example> {tail}").as_bytes()), expected, "{tail}");
    }
    assert_eq!(code(b"RCPT TO:<u@our.example> FOO=1"), "555 5.5.4");
    let Command::Mail(mail) = ok("MAIL FROM:<> size=0 body=8bitmime smtputf8") else { panic!() };
    assert_eq!((mail.size, mail.body, mail.utf8), (Some(0), BodyType::EightBit, true));
    let Command::Mail(mail) = ok("MAIL FROM:<> SIZE=99999999999999999999") else { panic!() };
    assert_eq!(mail.size, Some(u64::MAX));
}

#[test]
fn helo_sessions_know_no_parameters() {
    let plain = Context { extended: false, utf8: false };
    assert_eq!(parse(b"MAIL FROM:<a@b.example> SIZE=1", plain), Err(CommandError::UnknownParameter)); // A5
}

#[test]
fn verbs_without_argument_take_none() {
    for line in ["DATA x", "RSET x", "QUIT x", "STARTTLS x"] {
        assert_eq!(code(line.as_bytes()), "501 5.5.4", "{line}"); // B12, J2
    }
    assert_eq!(ok("NOOP anything"), Command::Noop);
    assert_eq!(code(b"FROB"), "500 5.5.2"); // B11
    assert_eq!(code(b"STARTTLSX"), "500 5.5.2");
    assert_eq!(code(b""), "500 5.5.2");
    assert_eq!(code(b"EXPN list"), "502 5.5.1"); // A14
    assert_eq!(ok("VRFY user"), Command::Vrfy);
}

#[test]
fn host_names_and_literals_greet_and_nothing_else() {
    for name in ["a.example", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "my_host", "::1"] {
        assert_eq!(ok(&format!("EHLO {name}")), Command::Ehlo(name.to_owned()), "{name}"); // A8
    }
    for line in ["EHLO", "EHLO ", "HELO", "HELO <script>", "EHLO a)b", "EHLO a;b", "EHLO a b"] {
        assert_eq!(code(line.as_bytes()), "501 5.5.4", "{line}"); // A9, B20, L2
    }
    assert_eq!(code(b"EHLO x\x1b[31m"), "501 5.5.2");
    let name = "x".repeat(255);
    assert_eq!(ok(&format!("EHLO {name}")), Command::Ehlo(name.clone())); // E2
    assert_eq!(code(format!("EHLO {name}x").as_bytes()), "501 5.5.4");
}

#[test]
fn octets_beyond_text_are_refused_and_the_session_lives() {
    for line in [&b"MAIL FROM:<\xff@b>"[..], b"NOOP \x01", b"MAIL FROM:<a\tb@c>"] {
        assert_eq!(code(line), "501 5.5.2"); // B15
        assert!(!parse(line, EXTENDED).unwrap_err().is_fatal());
    }
    assert_eq!(code("MAIL FROM:<jos\u{e9}@b.example>".as_bytes()), "553 5.6.7"); // I2
}

#[test]
fn chunk_sizes_are_digits() {
    assert_eq!(ok("BDAT 5"), Command::Bdat { bytes: 5, last: false });
    assert_eq!(ok("bdat 0 last"), Command::Bdat { bytes: 0, last: true });
    for line in ["BDAT", "BDAT -1", "BDAT x", "BDAT 99999999999999999999", "BDAT 5 FIRST", "BDAT 5 LAST x"] {
        let error = parse(line.as_bytes(), EXTENDED).unwrap_err();
        assert_eq!(error.reply().code(), 501, "{line}"); // G5
        assert!(error.is_fatal(), "{line}");
    }
}

#[test]
fn other_protocols_are_recognised() {
    let error = parse(b"GET / HTTP/1.1", EXTENDED).unwrap_err(); // A15
    assert_eq!((error, error.is_fatal()), (CommandError::NotSmtp, true));
}
