//! One world in which all is well, and what each thing that goes wrong in it is called.

use std::collections::BTreeMap;

use super::*;
use crate::mail::outbound::route::addresses::Looked;
use crate::mail::outbound::route::answer::{Answer, Exchange, Found};
use crate::mail::outbound::route::dane::RawTlsa;
use crate::mail::outbound::route::mta_sts;
use crate::records::answers::{Caa, Greeting, Reply};
use crate::records::{Dkim, DkimKey, StsMode, wanted};

const ED: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
const OTHER: &str = "v=DKIM1; k=ed25519; p=O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=";

fn site() -> Site {
    let key = DkimKey { algorithm: "ed25519".into(), selector: "s".into(), record: ED.into() };
    Site {
        hostname: "mx.our.example".into(),
        domains: vec!["our.example".into()],
        addresses: vec!["9.9.9.25".parse().unwrap()],
        addresses_given: true,
        dkim: Some(Dkim { domain: "our.example".into(), keys: vec![key] }),
        tls: true,
        sts: Some(StsMode::Enforce),
        issuer: Some("ca.example".into()),
        certificate_names: vec!["mx.our.example".into(), "mta-sts.our.example".into()],
        certificate_key: Some([7; 32]),
        dane: true,
        dnsbl_zones: vec!["bl.example".into()],
        ..Site::default()
    }
}

fn extent() -> Extent {
    Extent { egress: vec!["mx.far.example:25".into()], egress_domains: Vec::new() }
}

fn found<T>(records: Vec<T>) -> Answer<T> {
    if records.is_empty() {
        return Answer::NoRecords;
    }
    Answer::Found(Found { records, secure: true, owner: String::new() })
}

/// What the DNS says; names that are not in it do not exist.
struct World(BTreeMap<Question, Reply>);

impl World {
    fn good() -> Self {
        let mut world = Self(BTreeMap::new());
        world.mx(&[(10, "mx.our.example")]);
        world.host("mx.our.example", &["9.9.9.25"]);
        world.txt("our.example", &["v=spf1 mx -all", "some-verification=1"]);
        world.txt("mx.our.example", &["v=spf1 a -all"]);
        world.txt("s._domainkey.our.example", &[ED]);
        world.txt("_dmarc.our.example", &["v=DMARC1; p=quarantine; rua=mailto:postmaster@our.example"]);
        world.txt("_mta-sts.our.example", &[&wanted::sts_record(&site())]);
        world.txt("_smtp._tls.our.example", &["v=TLSRPTv1; rua=mailto:postmaster@our.example"]);
        world.policy(&wanted::sts_policy(&site()).unwrap());
        world.ptr(&["mx.our.example"]);
        world.tlsa(&[(3, 1, 1, [7; 32].to_vec())]);
        world.caa("our.example", &[("issue", "ca.example; accounturi=https://ca.example/1")]);
        world.greeting(Greeting::Said("220 mx.far.example ESMTP".into()));
        world.0.insert(Question::Validates, Reply::Validates(true));
        world
    }

    fn mx(&mut self, hosts: &[(u16, &str)]) {
        let mx =
            |(preference, host): &(u16, &str)| Exchange { preference: *preference, host: (*host).into() };
        let answer = found(hosts.iter().map(mx).collect());
        self.0.insert(Question::Mx("our.example".into()), Reply::Mx(answer));
    }

    fn host(&mut self, name: &str, addresses: &[&str]) {
        self.owned(name, name, addresses);
    }

    fn owned(&mut self, name: &str, owner: &str, addresses: &[&str]) {
        let all: Vec<core::net::IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(core::net::IpAddr::is_ipv4);
        let answer = |records: Vec<_>| match found(records) {
            Answer::Found(found) => Answer::Found(Found { owner: owner.into(), ..found }),
            none @ (Answer::NoRecords | Answer::NxDomain | Answer::Temporary(_)) => none,
        };
        let looked = Looked { host: name.into(), preference: 0, v4: answer(v4), v6: answer(v6) };
        self.0.insert(Question::Host(name.into()), Reply::Host(looked));
    }

    fn txt(&mut self, name: &str, texts: &[&str]) {
        let answer = found(texts.iter().map(|text| text.as_bytes().to_vec()).collect());
        self.0.insert(Question::Txt(name.into()), Reply::Txt(answer));
    }

    fn ptr(&mut self, names: &[&str]) {
        let answer = found(names.iter().map(|name| (*name).to_owned()).collect());
        self.0.insert(Question::Ptr("9.9.9.25".parse().unwrap()), Reply::Ptr(answer));
    }

    fn tlsa(&mut self, records: &[(u8, u8, u8, Vec<u8>)]) {
        let raw = |(usage, selector, matching, data): &(u8, u8, u8, Vec<u8>)| RawTlsa {
            usage: *usage,
            selector: *selector,
            matching: *matching,
            data: data.clone(),
        };
        let answer = found(records.iter().map(raw).collect());
        self.0.insert(Question::Tlsa("_25._tcp.mx.our.example".into()), Reply::Tlsa(answer));
    }

    fn caa(&mut self, name: &str, records: &[(&str, &str)]) {
        let caa = |(tag, value): &(&str, &str)| Caa { tag: (*tag).into(), value: (*value).into() };
        self.0.insert(Question::Caa(name.into()), Reply::Caa(found(records.iter().map(caa).collect())));
    }

    fn policy(&mut self, text: &str) {
        let policy = mta_sts::parse(text.as_bytes()).map_err(|error| error.to_string());
        self.0.insert(Question::Policy("our.example".into()), Reply::Policy(policy));
    }

    fn greeting(&mut self, greeting: Greeting) {
        self.0.insert(Question::Greeting("mx.far.example:25".into()), Reply::Greeting(greeting));
    }

    fn silent(&mut self, question: Question) {
        let why = || "timed out".to_owned();
        let reply = match &question {
            Question::Mx(_) => Reply::Mx(Answer::Temporary(why())),
            Question::Host(name) => Reply::Host(Looked {
                host: name.clone(),
                preference: 0,
                v4: Answer::Temporary(why()),
                v6: Answer::Temporary(why()),
            }),
            Question::Txt(_) => Reply::Txt(Answer::Temporary(why())),
            Question::Ptr(_) => Reply::Ptr(Answer::Temporary(why())),
            Question::Tlsa(_) => Reply::Tlsa(Answer::Temporary(why())),
            Question::Caa(_) => Reply::Caa(Answer::Temporary(why())),
            Question::Policy(_) => Reply::Policy(Err(why())),
            Question::Greeting(_) => Reply::Greeting(Greeting::Silent),
            Question::Validates => Reply::Validates(false),
        };
        self.0.insert(question, reply);
    }

    /// Asks and judges until nothing is open.
    fn judge(&self, site: &Site, extent: &Extent) -> Vec<Verdict> {
        let mut answers = Answers::default();
        for _ in 0..30 {
            let judged = judge(site, extent, &answers);
            if judged.open.is_empty() {
                return judged.verdicts;
            }
            for question in judged.open {
                let nothing = || match &question {
                    Question::Mx(_) => Reply::Mx(Answer::NxDomain),
                    Question::Host(name) => Reply::Host(Looked {
                        host: name.clone(),
                        preference: 0,
                        v4: Answer::NxDomain,
                        v6: Answer::NxDomain,
                    }),
                    Question::Txt(_) => Reply::Txt(Answer::NxDomain),
                    Question::Ptr(_) => Reply::Ptr(Answer::NxDomain),
                    Question::Tlsa(_) => Reply::Tlsa(Answer::NxDomain),
                    Question::Caa(_) => Reply::Caa(Answer::NxDomain),
                    Question::Policy(_) => Reply::Policy(Err("there is no such host".into())),
                    Question::Greeting(_) => Reply::Greeting(Greeting::Unresolved("there is none".into())),
                    Question::Validates => Reply::Validates(false),
                };
                let reply = self.0.get(&question).cloned().unwrap_or_else(nothing);
                answers.add(question, reply);
            }
        }
        panic!("the questions never end");
    }
}

/// The verdict on one record after a change of the good world: `NAME TYPE`, status, a piece of the advice.
fn expect(site: &Site, change: impl FnOnce(&mut World), record: &str, status: Status, advice: &str) {
    let mut world = World::good();
    change(&mut world);
    let verdicts = world.judge(site, &extent());
    let (name, kind) = record.split_once(' ').unwrap();
    let verdict = verdicts.iter().find(|v| v.name == name && v.kind == kind);
    let verdict = verdict.unwrap_or_else(|| panic!("no {record} in {verdicts:#?}"));
    assert_eq!(verdict.status, status, "{verdict:?}");
    assert!(verdict.advice.contains(advice), "{advice} is not in {verdict:?}");
    assert_eq!(verdict.advice.is_empty(), status == Status::Ok, "{verdict:?}");
}

type Row<'a> = (&'a str, Box<dyn FnOnce(&mut World)>, Status, &'a str);

fn table(rows: Vec<Row<'_>>) {
    for (record, change, status, advice) in rows {
        expect(&site(), change, record, status, advice);
    }
}

fn row<'a>(
    record: &'a str,
    change: impl FnOnce(&mut World) + 'static,
    status: Status,
    advice: &'a str,
) -> Row<'a> {
    (record, Box::new(change), status, advice)
}

use Status::{Info, Missing, Ok as Fine, Risky, Unknown, Wrong};

#[test]
fn in_a_good_world_everything_is_fine() {
    let verdicts = World::good().judge(&site(), &extent());
    let bad: Vec<_> = verdicts.iter().filter(|verdict| verdict.status != Fine).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(is_fine(&verdicts));
    let kinds: std::collections::BTreeSet<_> = verdicts.iter().map(|verdict| verdict.kind).collect();
    let all = ["A", "CAA", "DNSBL", "DNSSEC", "HTTPS", "MX", "PTR", "SMTP", "TLSA", "TXT"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn every_wanted_record_is_what_the_judgement_wants() {
    let site = site();
    let verdicts = World::good().judge(&site, &extent());
    for record in wanted::records(&site) {
        if record.kind == wanted::Kind::Cname {
            continue; // judged by fetching the policy from there
        }
        let wants = |v: &&Verdict| {
            v.want == record.value && (v.name == record.name || record.kind == wanted::Kind::Caa)
        };
        assert!(verdicts.iter().any(|v| wants(&v)), "nobody wants {record:?}");
    }
}

#[test]
fn addresses_and_mx_lead_here_or_it_is_said() {
    let a = "mx.our.example A";
    let mx = "our.example MX";
    table(vec![
        row(a, |w| w.host("mx.our.example", &[]), Missing, "has no address"),
        row(a, |w| w.host("mx.our.example", &["9.9.9.9"]), Wrong, "leads to 9.9.9.9, and not to 9.9.9.25"),
        row(a, |w| w.host("mx.our.example", &["9.9.9.25", "9.9.9.9"]), Wrong, "also leads to 9.9.9.9"),
        row(a, |w| w.host("mx.our.example", &["10.0.0.1"]), Wrong, "nobody outside can reach"),
        row(a, |w| w.silent(Question::Host("mx.our.example".into())), Unknown, "timed out"),
        row(mx, |w| w.mx(&[]), Missing, "publish the MX"),
        row(
            mx,
            |w| {
                w.mx(&[]);
                w.host("our.example", &["9.9.9.25"])
            },
            Risky,
            "publish an MX",
        ),
        row(mx, |w| w.mx(&[(0, "")]), Wrong, "null MX"),
        row(mx, |w| w.mx(&[(10, "9.9.9.25")]), Wrong, "must name a host"),
        row(
            mx,
            |w| {
                w.mx(&[(10, "alias.example")]);
                w.owned("alias.example", "mx.our.example", &["9.9.9.25"])
            },
            Wrong,
            "alias (CNAME)",
        ),
        row(
            mx,
            |w| {
                w.mx(&[(10, "mx.else.example")]);
                w.host("mx.else.example", &["9.9.9.9"])
            },
            Wrong,
            "goes to mx.else.example, and not",
        ),
        row(
            mx,
            |w| {
                w.mx(&[(10, "mx.our.example"), (20, "b.example")]);
                w.host("b.example", &["9.9.9.9"])
            },
            Risky,
            "goes to b.example, too",
        ),
        row(
            mx,
            |w| {
                w.mx(&[(10, "b.example"), (20, "mx.our.example")]);
                w.host("b.example", &["9.9.9.9"])
            },
            Risky,
            "b.example",
        ),
        row(
            mx,
            |w| {
                w.mx(&[(10, "other.our.example")]);
                w.host("other.our.example", &["9.9.9.25"])
            },
            Fine,
            "",
        ),
        row(
            mx,
            |w| w.mx(&[(10, "mx.our.example"), (20, "gone.example")]),
            Wrong,
            "gone.example has no address",
        ),
        row(mx, |w| w.silent(Question::Mx("our.example".into())), Unknown, "timed out"),
    ]);
}

#[test]
fn what_is_not_known_of_this_machine_is_not_held_against_it() {
    let unknown = Site { addresses: Vec::new(), addresses_given: false, ..site() };
    expect(&unknown, |_| (), "mx.our.example A", Unknown, "--address");
    expect(&unknown, |_| (), "our.example TXT", Fine, ""); // by the address that was found
    let inside = Site {
        addresses: vec!["9.9.9.7".parse().unwrap()],
        addresses_given: false,
        local: vec!["9.9.9.25".parse().unwrap()],
        ..site()
    };
    expect(&inside, |_| (), "mx.our.example A", Risky, "publish A for it");
    let dual =
        Site { addresses: vec!["9.9.9.25".parse().unwrap(), "2620:fe::25".parse().unwrap()], ..site() };
    expect(&dual, |_| (), "mx.our.example A", Fine, "");
    expect(&dual, |_| (), "mx.our.example AAAA", Risky, "publish AAAA");
    // A name that leads elsewhere in one family loses the mail of everybody who prefers that one.
    let stray = |w: &mut World| w.host("mx.our.example", &["9.9.9.25", "2620:fe::9"]);
    expect(&site(), stray, "mx.our.example AAAA", Wrong, "leads to 2620:fe::9");
    let nowhere =
        Site { hostname: "localhost".into(), domains: vec!["mail.localhost".into()], ..Site::default() };
    let verdicts = World::good().judge(&nowhere, &extent());
    assert!(matches!(verdicts.as_slice(), [only] if only.status == Info), "{verdicts:?}");
}

#[test]
fn spf_is_one_record_that_allows_us_within_ten_questions() {
    let spf = "our.example TXT";
    let many: Vec<String> = (0..11).map(|n| format!("a:h{n}.our.example")).collect();
    let many = format!("v=spf1 {} mx -all", many.join(" "));
    let ten = [(10_u16, "mx.our.example"); 10];
    let eleven = [(10_u16, "mx.our.example"); 11];
    table(vec![
        row(spf, |w| w.txt("our.example", &["unrelated"]), Missing, "no SPF record"),
        row(spf, |w| w.txt("our.example", &["v=spf1 mx -all", "v=spf1 -all"]), Wrong, "one SPF record only"),
        row(spf, |w| w.txt("our.example", &["v=spf1 mx +all"]), Wrong, "+all"),
        row(spf, |w| w.txt("our.example", &["v=spf1 all"]), Wrong, "+all"),
        row(spf, |w| w.txt("our.example", &["v=spf1 ip4:9.9.9.9 -all"]), Wrong, "does not allow 9.9.9.25"),
        row(spf, |w| w.txt("our.example", &["v=spf1 ip4:9.9.9.9 ~all"]), Wrong, "does not allow"),
        row(spf, |w| w.txt("our.example", &["v=spf1 ip4:9.9.9.9 ?all"]), Risky, "says nothing about"),
        row(spf, move |w| w.txt("our.example", &[&many]), Wrong, "costs 12 look-ups"),
        row(
            spf,
            |w| w.txt("our.example", &["v=spf1 mx a:x.example a:y.example exists:z.example -all"]),
            Risky,
            "3 of its look-ups find nothing",
        ),
        row(spf, |w| w.txt("our.example", &["v=spf1 mx a:x.example a:y.example -all"]), Fine, ""),
        row(spf, move |w| w.mx(&eleven), Wrong, "our.example has more than 10 mail exchangers"),
        row(spf, move |w| w.mx(&ten), Fine, ""),
        row(spf, |w| w.txt("our.example", &["v=spf1 mx include:none.example -all"]), Fine, ""),
        row(
            spf,
            |w| w.txt("our.example", &["v=spf1 include:none.example mx -all"]),
            Wrong,
            "none.example has no SPF",
        ),
        row(spf, |w| w.txt("our.example", &["v=spf1 mx nonsense -all"]), Wrong, "syntax error"),
        row(
            spf,
            |w| {
                w.txt("our.example", &["v=spf1 include:d.example -all"]);
                w.silent(Question::Txt("d.example".into()))
            },
            Unknown,
            "d.example",
        ),
        row(spf, |w| w.silent(Question::Txt("our.example".into())), Unknown, "timed out"),
        row("mx.our.example TXT", |w| w.txt("mx.our.example", &[]), Risky, "no SPF record"),
    ]);
    let through = Site { smarthost: Some("smtp.isp.example:587".into()), ..site() };
    expect(
        &through,
        |w| w.txt("our.example", &["v=spf1 include:none2.example ip4:9.9.9.9 -all"]),
        spf,
        Wrong,
        "none2",
    );
    expect(&through, |w| w.txt("our.example", &["v=spf1 ip4:9.9.9.9 -all"]), spf, Fine, "");
}

#[test]
fn dkim_is_the_key_that_signs() {
    let key = "s._domainkey.our.example TXT";
    table(vec![
        row(key, |w| w.txt("s._domainkey.our.example", &[]), Missing, "not published"),
        row(key, |w| w.txt("s._domainkey.our.example", &[OTHER]), Wrong, "another key"),
        row(key, |w| w.txt("s._domainkey.our.example", &["v=DKIM1; k=ed25519; p="]), Wrong, "revokes"),
        row(key, |w| w.txt("s._domainkey.our.example", &[ED, OTHER]), Wrong, "several keys"),
        row(key, |w| w.txt("s._domainkey.our.example", &[&ED.replace("k=", "t=y; k=")]), Risky, "t=y"),
        row(key, |w| w.txt("s._domainkey.our.example", &["nonsense"]), Wrong, "malformed"),
        row(
            key,
            |w| w.txt("s._domainkey.our.example", &[&ED.replace("; ", ";").replace("p=11", "p=1 1")]),
            Fine,
            "",
        ),
        row(key, |w| w.silent(Question::Txt("s._domainkey.our.example".into())), Unknown, "timed out"),
    ]);
    let unsigned = Site { dkim: None, ..site() };
    expect(&unsigned, |_| (), "*._domainkey.our.example TXT", Risky, "not signed");
    let other = Site { dkim: Some(Dkim { domain: "else.example".into(), keys: Vec::new() }), ..site() };
    expect(&other, |_| (), "*._domainkey.our.example TXT", Risky, "dkim.domain is else.example");
    let unread = Site { dkim: Some(Dkim { domain: "our.example".into(), keys: Vec::new() }), ..site() };
    expect(&unread, |_| (), "*._domainkey.our.example TXT", Unknown, "cannot be read");
}

#[test]
fn dmarc_is_one_policy_and_reports_go_to_whoever_takes_them() {
    let dmarc = "_dmarc.our.example TXT";
    let far = "v=DMARC1; p=reject; rua=mailto:a@reports.other.test!10m";
    let report = "our.example._report._dmarc.reports.other.test TXT";
    table(vec![
        row(dmarc, |w| w.txt("_dmarc.our.example", &[]), Missing, "no DMARC policy"),
        row(dmarc, |w| w.txt("_dmarc.our.example", &["v=DMARC1; p=none"]), Info, "only watches"),
        row(dmarc, |w| w.txt("_dmarc.our.example", &["v=DMARC1; p=reject"]), Fine, ""),
        row(dmarc, |w| w.txt("_dmarc.our.example", &["v=DMARC1; p=always"]), Wrong, "no policy"),
        row(dmarc, |w| w.txt("_dmarc.our.example", &["v=DMARC1"]), Wrong, "no `p=`"),
        row(dmarc, |w| w.txt("_dmarc.our.example", &["v=DMARC1; p=none; p=reject"]), Wrong, "cannot read"),
        row(
            dmarc,
            |w| w.txt("_dmarc.our.example", &["v=DMARC1; p=none", "v=DMARC1; p=reject"]),
            Wrong,
            "one DMARC",
        ),
        row(dmarc, |w| w.silent(Question::Txt("_dmarc.our.example".into())), Unknown, "timed out"),
        row(report, move |w| w.txt("_dmarc.our.example", &[far]), Info, "gets none"),
        row(
            report,
            move |w| {
                w.txt("_dmarc.our.example", &[far]);
                w.txt("our.example._report._dmarc.reports.other.test", &["v=DMARC1"])
            },
            Fine,
            "",
        ),
    ]);
    let below = Site { domains: vec!["deep.mail.our.example".into()], ..site() };
    expect(&below, |_| (), dmarc, Fine, "");
    let sp = |w: &mut World| w.txt("_dmarc.our.example", &["v=DMARC1; p=reject; sp=none"]);
    expect(&below, sp, dmarc, Info, "only watches");
}

#[test]
fn names_of_addresses_lead_back_and_are_ours() {
    let ptr = "25.9.9.9.in-addr.arpa PTR";
    let named = |name: &'static str| {
        move |w: &mut World| {
            w.ptr(&[name]);
            w.host(name, &["9.9.9.25"])
        }
    };
    table(vec![
        row(ptr, |w| w.ptr(&[]), Missing, "ask your provider"),
        row(ptr, |w| w.ptr(&["elsewhere.example"]), Wrong, "does not lead back"),
        row(
            ptr,
            |w| {
                w.ptr(&["else.example"]);
                w.silent(Question::Host("else.example".into()))
            },
            Unknown,
            "timed out",
        ),
        row(ptr, named("other.example"), Risky, "set it to mx.our.example"),
        row(ptr, named("25-9-9-9.isp.example"), Risky, "customer line"),
        row(ptr, named("ip-9-9-9-25.isp.example"), Risky, "customer line"),
        row(ptr, named("h.dynamic.isp.example"), Risky, "customer line"),
        row(ptr, named("x09090919.isp.example"), Risky, "customer line"),
        row(
            ptr,
            |w| {
                w.ptr(&["mx.our.example", "b.example"]);
                w.host("b.example", &["9.9.9.25"])
            },
            Info,
            "one name is enough",
        ),
        row(ptr, |w| w.silent(Question::Ptr("9.9.9.25".parse().unwrap())), Unknown, "timed out"),
    ]);
}

#[test]
fn block_lists_are_heard_and_refusals_to_answer_are_no_listing() {
    let list = "25.9.9.9.bl.example DNSBL";
    table(vec![
        row(
            list,
            |w| {
                w.host("25.9.9.9.bl.example", &["127.0.0.2"]);
                w.txt("25.9.9.9.bl.example", &["see https://bl.example/1"])
            },
            Wrong,
            "see https://bl.example/1",
        ),
        row(list, |w| w.host("25.9.9.9.bl.example", &["127.255.255.254"]), Unknown, "does not answer"),
        row(list, |w| w.silent(Question::Host("25.9.9.9.bl.example".into())), Unknown, "timed out"),
    ]);
    let private = Site { addresses: vec!["10.0.0.1".parse().unwrap()], ..site() };
    let verdicts = World::good().judge(&private, &extent());
    assert!(verdicts.iter().all(|verdict| verdict.kind != "DNSBL"));
}

#[test]
fn through_a_smarthost_nobody_minds_how_our_address_looks() {
    let through = Site { smarthost: Some("smtp.isp.example:587".into()), ..site() };
    let (ptr, list) = ("25.9.9.9.in-addr.arpa PTR", "25.9.9.9.bl.example DNSBL");
    expect(&through, |_| (), ptr, Fine, "");
    expect(&through, |w| w.ptr(&[]), ptr, Info, "delivery.smarthost: 9.9.9.25 has no name");
    expect(&through, |w| w.ptr(&["elsewhere.example"]), ptr, Info, "does not lead back");
    expect(&through, |w| w.silent(Question::Ptr("9.9.9.25".parse().unwrap())), ptr, Info, "timed out");
    expect(&through, |w| w.host("25.9.9.9.bl.example", &["127.0.0.2"]), list, Info, "block list");
    // What leads mail here matters all the same.
    expect(&through, |w| w.host("mx.our.example", &[]), "mx.our.example A", Missing, "has no address");
}

#[test]
fn a_policy_whose_host_the_certificate_lacks_says_where_to_add_it() {
    let policy = "https://mta-sts.our.example/.well-known/mta-sts.txt HTTPS";
    let silent = |w: &mut World| w.silent(Question::Policy("our.example".into()));
    for sts in [StsMode::Testing, StsMode::Enforce] {
        let narrow = Site { sts: Some(sts), certificate_names: vec!["mx.our.example".into()], ..site() };
        expect(&narrow, silent, policy, Wrong, "mta-sts.our.example is not in tls.acme.names");
    }
    // With files nobody knows from here what else is in the certificate, or who answers in front.
    let files = Site { certificate_names: Vec::new(), ..site() };
    expect(&files, silent, policy, Wrong, "cannot be fetched: timed out");
    // A policy that somebody else answers is none of our certificate's business.
    let narrow = Site { certificate_names: vec!["mx.our.example".into()], ..site() };
    expect(&narrow, |_| (), policy, Fine, "");
}

#[test]
fn policies_of_tls_agree_with_what_is_there() {
    let record = "_mta-sts.our.example TXT";
    let policy = "https://mta-sts.our.example/.well-known/mta-sts.txt HTTPS";
    let rpt = "_smtp._tls.our.example TXT";
    let with =
        |mode: &str, mx: &str, age: u64| format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {age}\n");
    let at = move |mode: &'static str, mx: &'static str, age: u64| {
        move |w: &mut World| w.policy(&with(mode, mx, age))
    };
    table(vec![
        row(record, |w| w.txt("_mta-sts.our.example", &[]), Missing, "mta_sts"),
        row(record, |w| w.txt("_mta-sts.our.example", &["v=STSv1; id="]), Wrong, "must be one record"),
        row(
            record,
            |w| w.txt("_mta-sts.our.example", &["v=STSv1; id=1", "v=STSv1; id=2"]),
            Wrong,
            "one record",
        ),
        row(record, |w| w.silent(Question::Txt("_mta-sts.our.example".into())), Unknown, "timed out"),
        row(
            record,
            |w| w.txt("_mta-sts.our.example", &["v=STSv1; id=1"]),
            Risky,
            "keep the policy of before",
        ),
        // An id of our own making says nothing about a policy that is not ours.
        row(record, at("enforce", "*.our.example", 604_800), Fine, ""),
        row(
            record,
            move |w| {
                w.txt("_mta-sts.our.example", &["v=STSv1; id=1"]);
                w.policy(&with("enforce", "*.our.example", 604_800))
            },
            Fine,
            "",
        ),
        row(
            policy,
            |w| w.silent(Question::Policy("our.example".into())),
            Wrong,
            "cannot be fetched: timed out",
        ),
        row(policy, at("enforce", "mx.else.example", 604_800), Wrong, "does not name mx.our.example"),
        row(policy, at("testing", "mx.else.example", 604_800), Risky, "does not name mx.our.example"),
        row(policy, at("enforce", "*.our.example", 604_800), Fine, ""),
        row(policy, at("enforce", "mx.our.example", 60), Risky, "forgotten"),
        row(policy, at("testing", "mx.our.example", 86_400), Risky, "not the one this relay serves"),
        row(
            policy,
            |w| {
                w.mx(&[(10, "mx.our.example"), (20, "b.example")]);
                w.host("b.example", &["9.9.9.9"])
            },
            Wrong,
            "MX b.example",
        ),
        row(rpt, |w| w.txt("_smtp._tls.our.example", &[]), Missing, "publish it"),
        row(rpt, |w| w.txt("_smtp._tls.our.example", &["v=TLSRPTv1; rua=nobody"]), Wrong, "names nobody"),
        row(
            rpt,
            |w| {
                w.txt("_smtp._tls.our.example", &["v=TLSRPTv1; rua=mailto:a@b", "v=TLSRPTv1; rua=mailto:a@b"])
            },
            Wrong,
            "one record only",
        ),
    ]);
    let testing = Site { sts: Some(StsMode::Testing), ..site() };
    expect(&testing, at("testing", "mx.our.example", 86_400), policy, Info, "protects");
    let none = Site { sts: None, tls: false, ..site() };
    expect(&none, |_| (), policy, Wrong, "offers none");
    let silent = |w: &mut World| {
        w.txt("_mta-sts.our.example", &[]);
        w.txt("_smtp._tls.our.example", &[])
    };
    let mut world = World::good();
    silent(&mut world);
    let verdicts = world.judge(&none, &extent());
    assert!(
        verdicts.iter().all(|v| !v.name.contains("_mta-sts") && !v.name.contains("_smtp._tls")),
        "nobody asked"
    );
}

#[test]
fn tlsa_and_caa_are_of_the_certificate() {
    let tlsa = "_25._tcp.mx.our.example TLSA";
    let caa = "our.example CAA";
    table(vec![
        row(tlsa, |w| w.tlsa(&[]), Missing, "DNSSEC"),
        row(tlsa, |w| w.tlsa(&[(3, 1, 1, vec![8; 32])]), Wrong, "not of the key"),
        row(tlsa, |w| w.tlsa(&[(3, 1, 1, vec![8; 32]), (3, 1, 1, vec![7; 32])]), Fine, ""),
        row(tlsa, |w| w.tlsa(&[(2, 0, 1, vec![8; 32])]), Unknown, "prefer them"),
        row(tlsa, |w| w.silent(Question::Tlsa("_25._tcp.mx.our.example".into())), Unknown, "timed out"),
        row(caa, |w| w.caa("our.example", &[("issue", "other.example")]), Wrong, "may not issue"),
        row(caa, |w| w.caa("our.example", &[("issue", ";")]), Wrong, "may not issue"),
        row(caa, |w| w.caa("our.example", &[("iodef", "mailto:a@b")]), Fine, ""),
        row(
            "mx.our.example CAA",
            |w| w.caa("mx.our.example", &[("issue", "other.example")]),
            Wrong,
            "mx.our.example",
        ),
        row("our.example DNSSEC", |w| w.silent(Question::Validates), Info, "cannot be seen"),
    ]);
    let plain = Site { tls: false, sts: None, certificate_key: None, ..site() };
    expect(&plain, |_| (), tlsa, Wrong, "offers none");
    let unread = Site { certificate_key: None, ..site() };
    expect(&unread, |_| (), tlsa, Unknown, "cannot be read");
}

#[test]
fn one_open_door_is_enough_and_a_shut_one_is_the_providers() {
    let out = "mx.far.example:25 SMTP";
    table(vec![
        row(out, |w| w.greeting(Greeting::Silent), Wrong, "your provider probably blocks port 25"),
        row(out, |w| w.greeting(Greeting::Failed("refused".into())), Wrong, "refused; your provider"),
        row(out, |w| w.greeting(Greeting::Unresolved("none".into())), Unknown, "not known"),
        row(out, |w| w.greeting(Greeting::Said("554 go away".into())), Risky, "does not want to talk"),
    ]);
    let mut world = World::good();
    world.0.insert(Question::Greeting("b.example:25".into()), Reply::Greeting(Greeting::Silent));
    let both =
        Extent { egress: vec!["b.example:25".into(), "mx.far.example:25".into()], ..Extent::default() };
    let verdicts = world.judge(&site(), &both);
    let of: Vec<_> = verdicts.iter().filter(|v| v.kind == "SMTP").map(|v| v.status).collect();
    assert_eq!(of, [Info, Fine]);
    let by_domain = Extent { egress: Vec::new(), egress_domains: vec!["our.example".into()] };
    let verdicts = world.judge(&site(), &by_domain);
    assert!(verdicts.iter().any(|v| v.name == "mx.our.example:25" && v.status == Unknown), "{verdicts:?}");
    assert!(world.judge(&site(), &Extent::default()).iter().all(|v| v.kind != "SMTP"));
}

#[test]
fn a_dead_name_server_makes_nothing_wrong() {
    let mut world = World::good();
    for question in world.0.keys().cloned().collect::<Vec<_>>() {
        if !matches!(question, Question::Greeting(_) | Question::Policy(_)) {
            world.silent(question);
        }
    }
    for name in ["mx.our.example", "our.example", "25.9.9.9.bl.example"] {
        world.silent(Question::Host(name.into()));
    }
    world.silent(Question::Caa("mx.our.example".into()));
    world.silent(Question::Caa("mta-sts.our.example".into()));
    let verdicts = world.judge(&site(), &Extent::default());
    let bad: Vec<_> = verdicts.iter().filter(|v| !matches!(v.status, Unknown | Info)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}
