//! PURE: the ways in and out: addresses, MX, PTR, block lists, port 25.

use core::net::IpAddr;

use super::super::answers::{Greeting, Inquiry, addresses};
use super::super::{ADDRESSES_MAX, Site, wanted};
use super::{Extent, Status, Verdict};
use crate::mail::blocklist;
use crate::mail::outbound::route::addresses::is_public;
use crate::mail::outbound::route::answer::Answer;

/// Most exchangers of one domain that are looked at.
const EXCHANGERS_MAX: usize = 10;
/// Words in names of addresses that providers hand out by the thousand.
const GENERIC_WORDS: [&str; 10] =
    ["dynamic", "dyn", "dhcp", "dialup", "dial", "pool", "dsl", "cable", "broadband", "static"];

/// The host's addresses; pushes their verdicts and returns the addresses that are ours.
pub(super) fn host(site: &Site, ask: &mut Inquiry<'_>, verdicts: &mut Vec<Verdict>) -> Vec<IpAddr> {
    let looked = ask.host(&site.hostname);
    let (mut found, _) = addresses(&looked);
    for (kind, answer) in [("A", &looked.v4), ("AAAA", &looked.v6)] {
        verdicts.extend(family(site, kind, answer, &found));
    }
    let mut ours =
        if site.addresses.is_empty() { std::mem::take(&mut found) } else { site.addresses.clone() };
    ours.truncate(ADDRESSES_MAX);
    ours
}

/// The addresses of one family; `all`: those of both. `None` when there is nothing to say.
fn family(site: &Site, kind: &'static str, answer: &Answer<IpAddr>, all: &[IpAddr]) -> Option<Verdict> {
    let here = |address: &&IpAddr| address.is_ipv4() == (kind == "A");
    let found: Vec<IpAddr> = all.iter().filter(here).copied().collect();
    let wanted: Vec<IpAddr> = site.addresses.iter().filter(here).copied().collect();
    let text = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut verdict = Verdict::new(&site.hostname, kind, text(&wanted).join(", "), text(&found));
    // A name without an address of one family is as good as one that has both, when the machine has none either.
    let needed = !wanted.is_empty() || (kind == "A" && all.is_empty());
    if found.is_empty() {
        if !needed {
            return None;
        }
        let leaving = wanted.first().map(ToString::to_string).unwrap_or_default();
        match answer.temporary() {
            Some(why) => verdict.say(Status::Unknown, format!("the DNS does not answer: {why}")),
            None if all.is_empty() => {
                verdict.say(Status::Missing, "the relay's name has no address: publish it");
            }
            None => verdict.say(
                Status::Risky,
                format!(
                    "mail leaves from {leaving}, too: publish {kind} for it, or receivers doubt the name"
                ),
            ),
        }
        return Some(verdict);
    }
    if let Some(hidden) = found.iter().find(|address| !site.allow_private && !is_public(**address)) {
        let advice = format!("{hidden} is an address that nobody outside can reach; publish the public one");
        verdict.say(Status::Wrong, advice);
    }
    let strangers: Vec<_> = found.iter().filter(|address| !site.is_ours(**address)).collect();
    match strangers.as_slice() {
        _ if site.addresses.is_empty() => verdict.say(
            Status::Unknown,
            "whether that is this machine cannot be seen from here: name its public addresses with --address",
        ),
        [] => {}
        [stranger, ..] if strangers.len() < found.len() => {
            let advice = format!(
                "it also leads to {stranger}, which is not this machine: part of the mail goes there"
            );
            verdict.say(Status::Wrong, advice);
        }
        [stranger, ..] => {
            let own = text(&site.addresses).join(" and ");
            let advice = if site.addresses_given {
                format!("it leads to {stranger}, and not to {own}")
            } else {
                format!(
                    "it leads to {stranger}, and this machine has {own}; behind a translating router, name the public address with --address"
                )
            };
            verdict.say(Status::Wrong, advice);
        }
    }
    if let Some(missing) = wanted.iter().find(|address| !found.contains(address)) {
        let advice =
            format!("mail leaves from {missing}, too: publish {kind} for it, or receivers doubt the name");
        verdict.say(Status::Risky, advice);
    }
    Some(verdict)
}

/// MX of a domain.
pub(super) fn exchangers(site: &Site, domain: &str, ours: &[IpAddr], ask: &mut Inquiry<'_>) -> Verdict {
    let want = format!("10 {}", site.hostname);
    let name = |host: &str| if host.is_empty() { "." } else { host }.to_owned();
    let records = match ask.mx(domain) {
        Answer::Found(found) => found.records,
        Answer::Temporary(why) => {
            return Verdict::new(domain, "MX", want, Vec::new())
                .with(Status::Unknown, format!("the DNS does not answer: {why}"));
        }
        Answer::NxDomain => {
            return Verdict::new(domain, "MX", want, Vec::new())
                .with(Status::Missing, "the domain does not exist in the DNS");
        }
        Answer::NoRecords => return implicit(site, domain, want, ours, ask),
    };
    let found = records.iter().map(|mx| format!("{} {}", mx.preference, name(&mx.host))).collect();
    let mut verdict = Verdict::new(domain, "MX", want, found);
    if records.iter().any(|mx| mx.host.is_empty()) {
        let advice = "the null MX says that the domain takes no mail at all: remove it (RFC 7505)";
        return verdict.with(Status::Wrong, advice);
    }
    let (mut to_us, mut elsewhere, mut best) = (false, None, true);
    let least = records.iter().map(|mx| mx.preference).min();
    for mx in records.iter().take(EXCHANGERS_MAX) {
        let host = &mx.host;
        if host.parse::<IpAddr>().is_ok() {
            verdict.say(Status::Wrong, format!("{host} is an address; an MX must name a host"));
            continue;
        }
        let looked = ask.host(host);
        let (addresses, why) = addresses(&looked);
        if looked.alias().is_some() {
            let advice =
                format!("{host} is an alias (CNAME), which an MX may not name (RFC 2181 section 10.3)");
            verdict.say(Status::Wrong, advice);
        }
        if addresses.is_empty() {
            match why {
                Some(why) => {
                    verdict.say(Status::Unknown, format!("the DNS does not answer for {host}: {why}"))
                }
                None => verdict.say(Status::Wrong, format!("{host} has no address")),
            }
        }
        let is_us = *host == site.hostname || addresses.iter().any(|a| ours.contains(a) || site.is_ours(*a));
        to_us |= is_us;
        if is_us {
            best &= Some(mx.preference) == least;
        } else if !addresses.is_empty() {
            elsewhere = elsewhere.or(Some(host));
        }
    }
    match elsewhere {
        Some(host) if !to_us => {
            verdict.say(Status::Wrong, format!("mail goes to {host}, and not to this relay"));
        }
        Some(host) => verdict.say(
            Status::Risky,
            format!("mail goes to {host}, too: what it takes does not come here by itself"),
        ),
        None => {}
    }
    if to_us && !best {
        verdict.say(
            Status::Risky,
            "this relay is not the first choice: others with a lower number come before it",
        );
    }
    verdict
}

/// Without MX senders take the domain's own address (RFC 5321 section 5.1).
fn implicit(site: &Site, domain: &str, want: String, ours: &[IpAddr], ask: &mut Inquiry<'_>) -> Verdict {
    let (found, _) = addresses(&ask.host(domain));
    let leads_here = !found.is_empty() && found.iter().all(|a| ours.contains(a) || site.is_ours(*a));
    let verdict = Verdict::new(domain, "MX", want, Vec::new());
    if leads_here {
        verdict.with(
            Status::Risky,
            "mail comes only because the domain's own address is this machine: publish an MX",
        )
    } else {
        verdict.with(Status::Missing, "senders do not find this relay: publish the MX")
    }
}

/// PTR of one of our addresses.
pub(super) fn pointer(site: &Site, address: IpAddr, ask: &mut Inquiry<'_>) -> Verdict {
    let name = wanted::reverse_name(address);
    let want = site.hostname.clone();
    let verdict = |found: Vec<String>| Verdict::new(name.clone(), "PTR", want.clone(), found);
    let names = match ask.ptr(address) {
        Answer::Found(found) => found.records,
        Answer::Temporary(why) => {
            return verdict(Vec::new()).with(Status::Unknown, format!("the DNS does not answer: {why}"));
        }
        Answer::NoRecords | Answer::NxDomain => {
            let advice = format!(
                "{address} has no name, and many receivers refuse such mail: ask your provider to set the reverse DNS to {}",
                site.hostname
            );
            return verdict(Vec::new()).with(Status::Missing, advice);
        }
    };
    let mut verdict = verdict(names.clone());
    let mut confirmed = false;
    let mut doubt = None;
    for name in names.iter().take(EXCHANGERS_MAX) {
        let (addresses, why) = addresses(&ask.host(name));
        if addresses.contains(&address) {
            confirmed = true;
        } else {
            doubt = doubt.or(Some((name.clone(), why)));
        }
    }
    if !confirmed {
        match doubt {
            Some((name, Some(why))) => {
                verdict.say(Status::Unknown, format!("the DNS does not answer for {name}: {why}"));
            }
            Some((name, None)) => verdict.say(
                Status::Wrong,
                format!("{name} does not lead back to {address}, and receivers refuse such mail: set the reverse DNS to {}", site.hostname),
            ),
            None => {}
        }
    } else if !names.contains(&site.hostname) {
        let generic = names.iter().find(|name| is_generic(name, address));
        let advice = match generic {
            Some(name) => format!(
                "{name} looks like an address of a customer line: set the reverse DNS to {}",
                site.hostname
            ),
            None => format!("set it to {}, the name this relay greets with", site.hostname),
        };
        verdict.say(Status::Risky, advice);
    } else if is_generic(&site.hostname, address) {
        let advice =
            "the name looks like an address of a customer line, and some receivers refuse mail from such";
        verdict.say(Status::Risky, advice);
    } else if names.len() > 1 {
        verdict.say(Status::Info, "one name is enough, and some receivers look at the first only");
    }
    verdict
}

/// Whether a name was made of the address, or says what kind of line it is.
fn is_generic(name: &str, address: IpAddr) -> bool {
    let name = name.to_ascii_lowercase();
    let labels: Vec<&str> = name.split(['.', '-', '_']).collect();
    if labels.iter().any(|label| GENERIC_WORDS.contains(label)) {
        return true;
    }
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let octets = v4.octets().map(|octet| octet.to_string());
            let has = |order: [usize; 4]| {
                let run: Vec<_> = order.iter().map(|at| octets[*at].as_str()).collect();
                labels.windows(4).any(|window| window == run.as_slice())
            };
            let hex = v4.octets().map(|octet| format!("{octet:02x}")).concat();
            let padded = v4.octets().map(|octet| format!("{octet:03}")).concat();
            has([0, 1, 2, 3]) || has([3, 2, 1, 0]) || name.contains(&hex) || name.contains(&padded)
        }
        IpAddr::V6(v6) => {
            let full = v6.segments().map(|segment| format!("{segment:04x}")).concat();
            name.replace(['.', '-'], "").contains(&full)
        }
    }
}

/// What block lists say about one of our addresses.
pub(super) fn listings(site: &Site, address: IpAddr, ask: &mut Inquiry<'_>) -> Vec<Verdict> {
    if !blocklist::concerns(address) {
        return Vec::new();
    }
    let mut verdicts = Vec::new();
    for zone in &site.dnsbl_zones {
        let name = blocklist::question(address, zone);
        let looked = ask.host(&name);
        let codes = looked.v4.found().map(|found| found.records.clone()).unwrap_or_default();
        let found = codes.iter().map(ToString::to_string).collect();
        let mut verdict = Verdict::new(&name, "DNSBL", "", found);
        let listed = codes.iter().any(|code| match code {
            IpAddr::V4(v4) => blocklist::is_listing(*v4),
            IpAddr::V6(_) => false,
        });
        if listed {
            let text = ask.txt(&name);
            let text = text.found().and_then(|found| found.records.first()).map(|raw| blocklist::text(raw));
            let text =
                text.filter(|text| !text.is_empty()).map(|text| format!(": {text}")).unwrap_or_default();
            let advice = format!(
                "{address} is on the block list {zone}{text}; find out why, then ask to be taken off"
            );
            verdict.say(Status::Wrong, advice);
        } else if !codes.is_empty() {
            let advice = format!("{zone} does not answer questions of this name server");
            verdict.say(Status::Unknown, advice);
        } else if let Some(why) = looked.v4.temporary() {
            verdict.say(Status::Unknown, format!("the DNS does not answer: {why}"));
        }
        verdicts.push(verdict);
    }
    verdicts
}

/// Whether mail can leave: one target that greets is enough.
pub(super) fn egress(extent: &Extent, ask: &mut Inquiry<'_>) -> Vec<Verdict> {
    let mut targets = extent.egress.clone();
    let mut verdicts = Vec::new();
    for domain in &extent.egress_domains {
        match ask.mx(domain) {
            Answer::Found(found) => {
                let best =
                    found.records.iter().filter(|mx| !mx.host.is_empty()).min_by_key(|mx| mx.preference);
                targets.extend(best.map(|mx| format!("{}:25", mx.host)));
            }
            Answer::NoRecords | Answer::NxDomain => {}
            Answer::Temporary(why) => verdicts.push(
                Verdict::new(domain, "SMTP", "", Vec::new())
                    .with(Status::Unknown, format!("its mail server is not known: {why}")),
            ),
        }
    }
    targets.dedup();
    let greetings: Vec<_> = targets.iter().map(|target| (target, ask.greeting(target))).collect();
    let works = greetings.iter().any(|(_, greeting)| matches!(greeting, Greeting::Said(_)));
    for (target, greeting) in greetings {
        let blames = if target.ends_with(":25") {
            "; your provider probably blocks port 25: ask for it, or set delivery.smarthost"
        } else {
            ""
        };
        let none = |text: String, status| {
            let status = if works { Status::Info } else { status };
            Verdict::new(target, "SMTP", "220", Vec::new()).with(status, text)
        };
        verdicts.push(match greeting {
            Greeting::Said(line) if line.starts_with('2') => Verdict::new(target, "SMTP", "220", vec![line]),
            Greeting::Said(line) => Verdict::new(target, "SMTP", "220", vec![line])
                .with(Status::Risky, "it can be reached, and does not want to talk to this machine"),
            Greeting::Silent => none(format!("no answer{blames}"), Status::Wrong),
            Greeting::Failed(why) => none(format!("no connection: {why}{blames}"), Status::Wrong),
            Greeting::Unresolved(why) => none(format!("its address is not known: {why}"), Status::Unknown),
        });
    }
    verdicts
}
