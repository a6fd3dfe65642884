//! PURE: from what was measured to a finding with advice.

pub(crate) mod disk;
pub(crate) mod net;

use serde_json::Value;

use super::super::screen;
use super::finding::Finding;
use crate::records::desk::counts;
use crate::records::judge::{Status, Verdict, is_fine};

/// Fewest open files that are enough for a small relay: connections, segments and some more.
const OPEN_FILES_SMALL: u64 = 1024;
/// Enough for thousands of gateways.
const OPEN_FILES_GOOD: u64 = 8192;
/// 2025-01-01: no clock that is right says less, milliseconds.
const EARLIEST_MS: u64 = 1_735_689_600_000;
/// How far ahead of the clock a file may seem, milliseconds.
const FILES_AHEAD_MS: u64 = 120_000;
/// Difference between two clocks that logs and signatures notice, milliseconds.
const SKEW_SEEN_MS: u64 = 5_000;
/// Difference that makes challenges expire, milliseconds.
const SKEW_HARMS_MS: u64 = 60_000;
/// Names of worst records that are shown.
const NAMES_SHOWN: usize = 3;

/// The hard limit of open files; `None`: there is none.
pub(crate) fn open_files(hard: Option<u64>) -> Finding {
    let advice = "raise LimitNOFILE= in the unit, or `ulimit -Hn`: every gateway and every sender takes one";
    match hard {
        None => Finding::good("open files", "no limit"),
        Some(n) if n >= OPEN_FILES_GOOD => Finding::good("open files", format!("limit {n}")),
        Some(n) if n >= OPEN_FILES_SMALL => Finding::warn("open files", format!("limit {n}"), advice),
        Some(n) => Finding::bad("open files", format!("limit {n}"), advice),
    }
}

/// The clock, against the newest file and what the system says about its time service.
pub(crate) fn clock(
    now_ms: u64,
    newest_file_ms: Option<u64>,
    synchronised: Option<bool>,
    now: &str,
) -> Finding {
    let set = "set it, and let a time service keep it (systemd-timesyncd, chrony): certificates, retries and signatures lean on it";
    if now_ms < EARLIEST_MS {
        return Finding::bad("clock", format!("says {now}"), set);
    }
    let ahead = newest_file_ms.map_or(0, |file| file.saturating_sub(now_ms));
    if ahead > FILES_AHEAD_MS {
        let found = format!("says {now}, and files here are {} newer", screen::age(ahead / 1000));
        return Finding::warn("clock", found, set);
    }
    match synchronised {
        Some(true) => Finding::good("clock", format!("{now}, synchronised")),
        Some(false) => Finding::warn("clock", format!("{now}, not synchronised"), set),
        None => Finding::good("clock", format!("{now}; whether it is synchronised is not known here")),
    }
}

/// Our clock against another's.
pub(crate) fn skew(ours_ms: u64, theirs_ms: u64) -> Finding {
    let apart = ours_ms.abs_diff(theirs_ms);
    let found = format!("{} apart from the relay's", screen::age(apart / 1000));
    let advice = "let a time service keep both clocks: what one signs may look expired to the other";
    // A second is all that an HTTP date can tell.
    if apart <= SKEW_SEEN_MS {
        Finding::good("clocks", "in step with the relay")
    } else if apart <= SKEW_HARMS_MS {
        Finding::warn("clocks", found, advice)
    } else {
        Finding::bad("clocks", found, advice)
    }
}

/// The keys the relay announces, against those pinned here; `strangers`: announced, and following from no pinned one.
pub(crate) fn relay_keys(pinned: usize, announced: usize, strangers: &[String]) -> Finding {
    match (pinned, announced, strangers) {
        (0, 0, _) => Finding::open("relay key", "the relay signs nothing"),
        (0, _, _) => Finding::warn(
            "relay key",
            "none is pinned, so nothing the relay signs is verified",
            "compare fingerprints with `waystation keys attestation --show` on the relay, then pin its key in [[relay_keys]]",
        ),
        (_, 0, _) => Finding::bad(
            "relay key",
            "the relay signs nothing, and a key of it is pinned here",
            "is it another relay, or is attestation.enabled false there?",
        ),
        (_, _, []) => Finding::good("relay key", "the pinned one"),
        (_, _, [stranger, ..]) => Finding::bad(
            "relay key",
            format!("the relay shows {stranger}, which does not follow from the pinned one"),
            "compare with `waystation keys attestation --show` on the relay: either it has got a new key, or somebody is in between",
        ),
    }
}

/// The running relay's version against this program's.
pub(crate) fn version(ours: &str, theirs: &str) -> Finding {
    if ours == theirs {
        Finding::good("version", ours)
    } else {
        let found = format!("the relay runs {theirs}, this program is {ours}");
        Finding::warn(
            "version",
            found,
            "restart the relay after an upgrade, or use the program it was started from",
        )
    }
}

/// A summary of the DNS check.
pub(crate) fn dns(verdicts: &[Verdict]) -> Finding {
    let counted = counts(verdicts);
    let words: Vec<_> = counted.iter().map(|(status, n)| format!("{n} {}", status.word())).collect();
    let found = words.join(", ");
    let name = |verdict: &Verdict| format!("{} {}", verdict.name, verdict.kind);
    let worst: Vec<_> = verdicts
        .iter()
        .filter(|verdict| verdict.status.is_bad() || (is_fine(verdicts) && verdict.status == Status::Risky))
        .map(name)
        .collect();
    let more = worst.len().saturating_sub(NAMES_SHOWN);
    let mut list = worst.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    let advice = format!("{list}: `waystation dns check` says what to do");
    match (is_fine(verdicts), worst.is_empty()) {
        (false, _) => Finding::bad("DNS", found, advice),
        (true, false) => Finding::warn("DNS", found, advice),
        (true, true) if counted.iter().any(|(status, _)| *status == Status::Unknown) => {
            Finding::warn("DNS", found, "`waystation dns check` says what could not be learned, and why")
        }
        (true, true) => Finding::good("DNS", found),
    }
}

/// How many wait for a gateway, by the relay's overview, whose items are also those that wait to leave.
pub(crate) fn waiting(overview: &Value) -> u64 {
    let ready = |what: &str| overview[what]["ready"].as_u64().unwrap_or_default();
    ready("items").saturating_sub(ready("submissions"))
}

/// What the running relay says of its spool and its readiness.
pub(crate) fn readiness(problems: &[String], ready: u64, oldest_seconds: Option<u64>) -> Finding {
    let waiting = match oldest_seconds.filter(|_| ready > 0) {
        Some(age) => format!("{ready} waiting, the oldest for {}", screen::age(age)),
        None => "nothing waits".to_owned(),
    };
    if problems.is_empty() {
        Finding::good("ready", waiting)
    } else {
        Finding::bad(
            "ready",
            format!("no: {}", problems.join("; ")),
            "senders are told to come back later until this is mended",
        )
    }
}

/// What the running relay itself warns of. That deliveries are paused has a line of its own.
pub(crate) fn warnings(said: &[String]) -> Vec<Finding> {
    let others = said.iter().filter(|text| !text.starts_with("deliveries are paused"));
    others
        .map(|text| Finding::warn("relay warns", text.clone(), "the relay's log says more: `relay.ready`"))
        .collect()
}

/// Damage that the spool knows of.
pub(crate) fn damage(quarantined_items: u64, damaged_records: u64) -> Finding {
    if quarantined_items == 0 && damaged_records == 0 {
        return Finding::good("spool", "no damage known");
    }
    let found = format!("{quarantined_items} quarantined items, {damaged_records} damaged stretches");
    Finding::bad(
        "spool",
        found,
        "`waystation spool verify` lists them; look at the disk (SMART, dmesg) before you trust it again",
    )
}

/// The spool of a relay that is stopped.
pub(crate) fn stopped(socket_left: bool, torn_bytes: u64) -> Finding {
    if socket_left || torn_bytes > 0 {
        let torn = if torn_bytes > 0 {
            format!(", {torn_bytes} bytes of an unfinished write at the end")
        } else {
            String::new()
        };
        let found = format!("it was killed and not stopped{torn}");
        return Finding::warn(
            "last stop",
            found,
            "the next start recovers: nothing that was acknowledged is lost",
        );
    }
    Finding::good("last stop", "orderly")
}

/// Whether deliveries run.
pub(crate) fn deliveries(paused: Option<&str>) -> Finding {
    match paused {
        None => Finding::good("deliveries", "running"),
        Some(reason) => {
            let found = match reason {
                "" => "paused".to_owned(),
                told if told.starts_with("paused") => told.to_owned(),
                told => format!("paused: {told}"),
            };
            Finding::warn("deliveries", found, "`waystation delivery resume` goes on with them")
        }
    }
}

#[cfg(test)]
mod tests;
