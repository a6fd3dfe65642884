//! DMARC: alignment, where the policy stands, and messages that must not be given the benefit of a guess.

use waystation::mail::verdict::Word;

use super::world::World;

/// SPF passes for these, from this client.
const CLIENT: &str = "192.0.2.10";

struct Case {
    name: &'static str,
    /// `_dmarc.` records: name, texts.
    records: &'static [(&'static str, &'static [&'static str])],
    mail_from: &'static str,
    from: &'static str,
    word: Word,
    policy: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "aligned",
        records: &[("a.test", &["v=DMARC1; p=reject"])],
        mail_from: "x@a.test",
        from: "x@a.test",
        word: Word::Pass,
        policy: "reject",
    },
    Case {
        name: "case does not matter",
        records: &[("a.test", &["v=DMARC1; p=reject"])],
        mail_from: "x@A.Test",
        from: "x@A.TEST",
        word: Word::Pass,
        policy: "reject",
    },
    Case {
        name: "not aligned",
        records: &[("a.test", &["v=DMARC1; p=none"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "none",
    },
    Case {
        name: "relaxed",
        records: &[("a.test", &["v=DMARC1; p=reject"])],
        mail_from: "x@sub.a.test",
        from: "x@a.test",
        word: Word::Pass,
        policy: "reject",
    },
    Case {
        name: "strict",
        records: &[("a.test", &["v=DMARC1; p=reject; aspf=s"])],
        mail_from: "x@sub.a.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "reject",
    },
    Case {
        name: "a suffix is no parent",
        records: &[("a.test", &["v=DMARC1; p=reject"])],
        mail_from: "x@nota.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "reject",
    },
    Case {
        name: "organisational domain",
        records: &[("a.test", &["v=DMARC1; p=quarantine"])],
        mail_from: "x@b.test",
        from: "x@deep.sub.a.test",
        word: Word::Fail,
        policy: "quarantine",
    },
    Case {
        name: "sp=",
        records: &[("a.test", &["v=DMARC1; p=reject; sp=none"])],
        mail_from: "x@b.test",
        from: "x@sub.a.test",
        word: Word::Fail,
        policy: "none",
    },
    Case {
        name: "own record before the parent's",
        records: &[("a.test", &["v=DMARC1; p=reject"]), ("sub.a.test", &["v=DMARC1; p=none"])],
        mail_from: "x@b.test",
        from: "x@sub.a.test",
        word: Word::Fail,
        policy: "none",
    },
    // RFC 9989 has no pct= any more; t=y takes its place and lowers the policy by one.
    Case {
        name: "pct= means nothing",
        records: &[("a.test", &["v=DMARC1; p=reject; pct=0"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "reject",
    },
    Case {
        name: "t=y",
        records: &[("a.test", &["v=DMARC1; p=reject; t=y"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "quarantine",
    },
    Case {
        name: "no p=",
        records: &[("a.test", &["v=DMARC1; aspf=s"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::None,
        policy: "",
    },
    Case {
        name: "no p= with rua=",
        records: &[("a.test", &["v=DMARC1; rua=mailto:r@a.test"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "none",
    },
    Case {
        name: "a fault in fo=",
        records: &[("a.test", &["v=DMARC1; p=reject; fo=all"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "reject",
    },
    Case {
        name: "a fault in adkim= leaves aspf=s",
        records: &[("a.test", &["v=DMARC1; p=reject; adkim=strict; aspf=s"])],
        mail_from: "x@sub.a.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "reject",
    },
    Case {
        name: "a fault in fo= of a record that passes",
        records: &[("a.test", &["v=DMARC1; p=reject; fo="])],
        mail_from: "x@sub.a.test",
        from: "x@a.test",
        word: Word::Pass,
        policy: "reject",
    },
    Case {
        name: "a fault in sp= refuses nothing below",
        records: &[("a.test", &["v=DMARC1; p=reject; sp=rejct"])],
        mail_from: "x@b.test",
        from: "x@sub.a.test",
        word: Word::Fail,
        policy: "none",
    },
    Case {
        name: "a fault in sp= leaves p=",
        records: &[("a.test", &["v=DMARC1; p=reject; sp=rejct"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "reject",
    },
    Case {
        name: "a fault in p=",
        records: &[("a.test", &["v=DMARC1; p=rejct; sp=reject"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::None,
        policy: "",
    },
    Case {
        name: "a fault in one of several records",
        records: &[("a.test", &["v=DMARC1; p=reject; fo=all", "v=DMARC1; p=none"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::None,
        policy: "",
    },
    Case {
        name: "several records",
        records: &[("a.test", &["v=DMARC1; p=reject", "v=DMARC1; p=none"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::None,
        policy: "",
    },
    Case {
        name: "one record and other texts",
        records: &[("a.test", &["hello", "v=DMARC1; p=reject"])],
        mail_from: "x@b.test",
        from: "x@a.test",
        word: Word::Fail,
        policy: "reject",
    },
    Case {
        name: "no record",
        records: &[],
        mail_from: "x@a.test",
        from: "x@a.test",
        word: Word::None,
        policy: "",
    },
    Case {
        name: "A-labels",
        records: &[("xn--bcher-kva.test", &["v=DMARC1; p=reject"])],
        mail_from: "x@xn--bcher-kva.test",
        from: "x@b\u{fc}cher.test",
        word: Word::Pass,
        policy: "reject",
    },
    Case {
        name: "U-labels",
        records: &[("xn--bcher-kva.test", &["v=DMARC1; p=reject"])],
        mail_from: "x@b\u{fc}cher.test",
        from: "x@xn--bcher-kva.test",
        word: Word::Pass,
        policy: "reject",
    },
];

#[tokio::test]
async fn alignment_and_policy_are_those_of_the_table() {
    for case in CASES {
        let world = World::start().await;
        for domain in ["a.test", "b.test", "sub.a.test", "nota.test", "xn--bcher-kva.test"] {
            world.dns.txt(domain, &[&format!("v=spf1 ip4:{CLIENT} -all")]);
        }
        for (domain, texts) in case.records {
            world.dns.txt(&format!("_dmarc.{domain}"), texts);
        }
        let message = format!("From: <{}>\r\nSubject: x\r\n\r\nbody\r\n", case.from);
        let verdicts = world.judge(CLIENT, "h.test", case.mail_from, message.as_bytes()).await.verdicts;
        assert_eq!(verdicts.spf.word, Word::Pass, "{}: {:?}", case.name, verdicts.spf);
        let got = (verdicts.dmarc.word, verdicts.dmarc.policy.as_str());
        assert_eq!(got, (case.word, case.policy), "{}: {:?}", case.name, verdicts.dmarc); // M11
    }
}

#[tokio::test]
async fn nobody_chooses_among_several_authors() {
    let world = World::start().await;
    world.dns.txt("a.test", &[&format!("v=spf1 ip4:{CLIENT} -all")]);
    world.dns.txt("_dmarc.a.test", &["v=DMARC1; p=reject"]);
    world.dns.txt("_dmarc.bank.test", &["v=DMARC1; p=reject"]);
    for (header, word, reason) in [
        ("From: <x@a.test>, <ceo@bank.test>\r\n", Word::None, "several addresses in From"),
        ("From: <x@a.test>, <y@a.test>\r\n", Word::None, "several addresses in From"),
        ("From: <ceo@bank.test>\r\nFrom: <x@a.test>\r\n", Word::PermError, "several From fields"),
        ("Subject: none\r\n", Word::None, "no From field"),
        ("From: nobody\r\n", Word::None, "no address in From"),
        ("From: undisclosed:;\r\n", Word::None, "no address in From"),
    ] {
        let message = format!("{header}To: b@our.example\r\n\r\nbody\r\n");
        let verdicts = world.judge(CLIENT, "h.test", "x@a.test", message.as_bytes()).await.verdicts;
        let dmarc = &verdicts.dmarc;
        assert_eq!((dmarc.word, dmarc.domain.as_str(), dmarc.policy.as_str()), (word, "", ""), "{header}"); // M7
        assert!(dmarc.reason == reason || header.contains("nobody"), "{header}: {dmarc:?}");
    }
    for malformed in [
        "From: <x@a.test>\r\nno field at all\r\nSubject: y\r\n\r\nbody\r\n",
        "no field at all\r\nFrom: <ceo@bank.test>\r\n\r\nbody\r\n",
    ] {
        let verdicts = world.judge(CLIENT, "h.test", "x@a.test", malformed.as_bytes()).await.verdicts;
        let said = (verdicts.dmarc.word, verdicts.dmarc.reason.as_str());
        assert_eq!(said, (Word::PermError, "header is malformed"), "{malformed}");
        assert_eq!(verdicts.spf.word, Word::Pass);
    }
}
