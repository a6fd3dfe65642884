//! Every judgement, with what is measured as a table.

use std::path::Path;

use super::super::super::report::Level;
use super::super::finding::Finding;
use super::disk::{self, Place};
use super::net::{self, Bound, Certificate};
use super::*;

fn is(finding: &Finding, level: Level, words: &str) {
    assert_eq!(finding.level, level, "{finding:?}");
    let all = format!("{} {}", finding.found, finding.advice);
    assert!(all.contains(words), "{words} is not in {finding:?}");
    // Who is told that something is wrong is told what to do; whoever is not, is not.
    assert_eq!(finding.advice.is_empty(), matches!(level, Level::Good | Level::Open), "{finding:?}");
}

#[test]
fn directories_are_their_owners_alone() {
    let good = Place { is_dir: true, mode: 0o40700, owner: 7, me: 7 };
    for (place, level, words) in [
        (None, Level::Open, "not there yet"),
        (Some(good), Level::Good, "mode 0700"),
        (Some(Place { me: 0, ..good }), Level::Good, "owner 7"),
        (Some(Place { me: 8, ..good }), Level::Bad, "the account that the service runs as"),
        (Some(Place { mode: 0o40750, ..good }), Level::Bad, "chmod 700 /x"),
        (Some(Place { mode: 0o40500, ..good }), Level::Bad, "cannot use it"),
        (Some(Place { is_dir: false, ..good }), Level::Bad, "no directory"),
    ] {
        is(&disk::directory("data", Path::new("/x"), place), level, words);
    }
    let lock = disk::stranger(Path::new("/x"), 7, Path::new("/x/spool/LOCK"), 0);
    is(&lock, Level::Bad, "/x/spool/LOCK belongs to account 0, not 7");
    is(&lock, Level::Bad, "chown -R -h 7 /x");
}

#[test]
fn a_path_lies_on_the_deepest_mount_that_is_not_hidden() {
    let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:1 / /var rw shared:1 - xfs /dev/sdb rw\n\
                  3 2 0:2 / /var/lib/way\\040station rw - tmpfs tmpfs rw\n4 2 0:3 / /var rw - btrfs /dev/sdc rw\n";
    let kind = |path: &str| disk::mount_of(mounts, Path::new(path)).map(|(_, kind)| kind);
    assert_eq!(kind("/etc").as_deref(), Some("ext4"));
    assert_eq!(kind("/var/x").as_deref(), Some("btrfs"));
    assert_eq!(kind("/variable").as_deref(), Some("ext4"));
    assert_eq!(kind("/var/lib/way station/spool").as_deref(), Some("tmpfs"));
}

#[test]
fn file_systems_that_lose_mail_are_named() {
    for (kind, level) in [
        ("ext4", Level::Good),
        ("xfs", Level::Good),
        ("zfs", Level::Good),
        ("tmpfs", Level::Warn),
        ("overlay", Level::Warn),
        ("nfs4", Level::Warn),
        ("9p", Level::Warn),
        ("fuse.anything", Level::Warn),
    ] {
        assert_eq!(disk::file_system(kind).level, level, "{kind}");
    }
}

#[test]
fn space_and_inodes_are_held_against_the_floor() {
    const GIB: u64 = 1 << 30;
    for (free, inodes, level, words) in [
        (10 * GIB, Some((900, 1000)), Level::Good, "10.0 GiB"),
        (10 * GIB, Some((0, 0)), Level::Good, "10.0 GiB"), // btrfs counts none
        (10 * GIB, Some((0, 1000)), Level::Bad, "no inode"),
        (10 * GIB, Some((10, 1000)), Level::Warn, "10 of 1000 inodes"),
        (GIB / 2, None, Level::Bad, "below the floor"),
        (GIB + 1, None, Level::Warn, "near the floor"),
    ] {
        is(&disk::space(free, GIB, inodes), level, words);
    }
}

#[test]
fn a_disk_that_is_too_fast_may_lie_and_one_that_is_too_slow_holds_up_mail() {
    let of = |us: u64| vec![us; 50];
    is(&disk::sync(&of(1500), Some("ext4")), Level::Good, "p50 1.5 ms, p99 1.5 ms over 50 writes");
    is(&disk::sync(&of(49), Some("ext4")), Level::Warn, "no disk is that fast");
    is(&disk::sync(&of(49), Some("tmpfs")), Level::Open, "in memory");
    is(&disk::sync(&of(1_500_000), None), Level::Warn, "p50 1.5 s");
    is(&disk::sync(&[], None), Level::Open, "not measured");
    let mut mixed: Vec<u64> = (1..=100).map(|n| n * 100).collect();
    mixed.reverse();
    assert_eq!(disk::percentiles(&mixed), Some((5100, 10_000)));
    assert_eq!(disk::percentiles(&[7]), Some((7, 7)));
}

#[test]
fn clocks_that_lie_are_seen() {
    let now = 1_800_000_000_000;
    is(&clock(now, None, Some(true), "T"), Level::Good, "synchronised");
    is(&clock(now, Some(now + 1000), None, "T"), Level::Good, "not known");
    is(&clock(now, None, Some(false), "T"), Level::Warn, "not synchronised");
    is(&clock(now, Some(now + 3_600_000), Some(true), "T"), Level::Warn, "1h 0m newer");
    is(&clock(0, None, Some(true), "T"), Level::Bad, "set it");
    is(&skew(now, now + 1000), Level::Good, "in step");
    is(&skew(now, now - 30_000), Level::Warn, "30s apart");
    is(&skew(now, now + 600_000), Level::Bad, "10m 0s apart");
}

#[test]
fn limits_versions_and_pauses_are_told() {
    is(&open_files(None), Level::Good, "no limit");
    is(&open_files(Some(1_048_576)), Level::Good, "1048576");
    is(&open_files(Some(4096)), Level::Warn, "LimitNOFILE");
    is(&open_files(Some(256)), Level::Bad, "LimitNOFILE");
    is(&version("1.0.0", "1.0.0"), Level::Good, "1.0.0");
    is(&version("1.0.1", "1.0.0"), Level::Warn, "restart the relay");
    is(&relay_keys(1, 1, &[]), Level::Good, "pinned");
    is(&relay_keys(1, 2, &["k2 SHA256:x".to_owned()]), Level::Bad, "k2 SHA256:x");
    is(&relay_keys(1, 0, &[]), Level::Bad, "another relay");
    is(&relay_keys(0, 1, &[]), Level::Warn, "pin its key");
    is(&relay_keys(0, 0, &[]), Level::Open, "signs nothing");
    is(&deliveries(None), Level::Good, "running");
    is(&deliveries(Some("paused by an operator: x")), Level::Warn, "paused by an operator: x");
    is(&deliveries(Some("maintenance")), Level::Warn, "paused: maintenance");
    is(&readiness(&[], 3, Some(75)), Level::Good, "3 waiting, the oldest for 1m 15s");
    is(&readiness(&[], 0, None), Level::Good, "nothing waits");
    let outgoing = serde_json::json!({ "items": { "ready": 5 }, "submissions": { "ready": 5 } });
    is(&readiness(&[], waiting(&outgoing), Some(75)), Level::Good, "nothing waits");
    let both = serde_json::json!({ "items": { "ready": 5 }, "submissions": { "ready": 3 } });
    assert_eq!((waiting(&both), waiting(&serde_json::json!({}))), (2, 0));
    is(&readiness(&["disk is full".to_owned()], 0, None), Level::Bad, "disk is full");
    is(&damage(0, 0), Level::Good, "no damage");
    is(&damage(1, 0), Level::Bad, "spool verify");
    is(&stopped(false, 0), Level::Good, "orderly");
    is(&stopped(true, 0), Level::Warn, "killed");
    is(&stopped(false, 17), Level::Warn, "17 bytes");
}

#[test]
fn the_kernels_table_is_read_and_names_who_is_in_the_way() {
    let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               \x20  0: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 4711 1 0\n\
               \x20  1: 0100007F:0019 0100007F:9999 01 00000000:00000000 00:00000000 00000000   105        0 4712 1 0\n";
    let tcp6 = "  sl  local_address\n   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 99 1\n";
    let found = net::listening(tcp);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].address, found[0].uid, found[0].inode),
        ("127.0.0.1:25".parse().unwrap(), 105, 4711)
    );
    assert_eq!(net::listening(tcp6)[0].address, "[::1]:8080".parse().unwrap());
    assert!(net::listening("nonsense\nmore nonsense\n").is_empty());
    let way = |a: &str, b: &str| net::is_in_the_way(a.parse().unwrap(), b.parse().unwrap());
    assert!(way("127.0.0.1:25", "0.0.0.0:25") && way("[::]:25", "127.0.0.1:25"));
    assert!(!way("127.0.0.1:25", "127.0.0.1:26") && !way("127.0.0.1:25", "127.0.0.2:25"));
}

#[test]
fn ports_are_ours_or_free() {
    let at = "127.0.0.1:25".parse().unwrap();
    let taken = |holders: &[(&str, u32)], uid| Bound::Taken {
        holders: holders
            .iter()
            .map(|(name, pid)| net::Holder { name: (*name).to_owned(), pid: *pid })
            .collect(),
        uid,
    };
    let relay = |pid| Some(net::Running { what: "relay", pid });
    let (none, silent, twelve) = (None, relay(None), relay(Some(12)));
    for (bound, relay, level, words) in [
        (Bound::Free, none, Level::Good, "is free"),
        (Bound::Free, twelve, Level::Bad, "nobody listens"),
        (taken(&[("waystation", 12)], Some(0)), twelve, Level::Good, "running relay"),
        (taken(&[("systemd", 1), ("waystation", 12)], Some(0)), twelve, Level::Good, "running relay"),
        (taken(&[("relay-2.1", 12)], Some(0)), twelve, Level::Good, "running relay"),
        (taken(&[("relay-2.1", 12)], Some(0)), silent, Level::Bad, "taken by relay-2.1 (12)"),
        (taken(&[("waystation", 4012)], Some(0)), twelve, Level::Good, "running relay"),
        (taken(&[], Some(105)), twelve, Level::Good, "running relay"),
        (taken(&[("master", 9)], Some(0)), twelve, Level::Bad, "taken by master (9)"),
        (taken(&[("master", 9)], Some(0)), none, Level::Bad, "taken by master (9)"),
        (taken(&[], Some(105)), none, Level::Bad, "account 105"),
        (taken(&[], None), none, Level::Bad, "another program"),
        (Bound::Forbidden, none, Level::Warn, "CAP_NET_BIND_SERVICE"),
        (Bound::Forbidden, twelve, Level::Good, "cannot be seen"),
        (Bound::Impossible("no such address".to_owned()), none, Level::Bad, "ip address"),
    ] {
        is(&net::port("SMTP", at, &bound, relay), level, words);
    }
}

#[test]
fn what_answers_on_our_ports_is_us() {
    is(&net::greeting(Ok("220 mx.our.example ESMTP"), "mx.our.example"), Level::Good, "220");
    is(&net::greeting(Ok("220 other ESMTP"), "mx.our.example"), Level::Bad, "does not greet as");
    is(&net::greeting(Ok("421 too many"), "mx.our.example"), Level::Warn, "421");
    is(&net::greeting(Err("refused"), "mx.our.example"), Level::Bad, "refused");
    is(&net::http(Ok(200), Ok(400)), Level::Good, "WebSocket");
    is(&net::http(Ok(200), Ok(403)), Level::Good, "wants TLS");
    is(&net::http(Ok(200), Ok(200)), Level::Bad, "/ws answers 200");
    is(&net::http(Ok(200), Err("closed")), Level::Bad, "closed");
    is(&net::http(Ok(404), Ok(400)), Level::Bad, "/health answers 404");
    is(&net::http(Err("refused"), Err("refused")), Level::Bad, "refused");
}

#[test]
fn certificates_are_for_us_and_not_about_to_end() {
    const DAY: u64 = 24 * 3600 * 1000;
    let now = 1_800_000_000_000;
    let good = Certificate {
        names: vec!["mx.our.example".to_owned()],
        lacking: Vec::new(),
        wishes: Vec::new(),
        not_before_ms: now - DAY,
        not_after_ms: now + 60 * DAY,
    };
    let judge = |change: &dyn Fn(&mut Certificate)| {
        let mut one = good.clone();
        change(&mut one);
        net::certificate(&one, now, false)
    };
    is(&judge(&|_| ()), Level::Good, "60 days left, for mx.our.example");
    is(&judge(&|c| c.lacking.push("mx2.our.example".to_owned())), Level::Bad, "not for mx2.our.example");
    is(&judge(&|c| c.wishes.push("mta-sts.our.example".to_owned())), Level::Warn, "MTA-STS");
    is(&judge(&|c| c.not_after_ms = now + 3 * DAY), Level::Warn, "3 days left");
    is(&judge(&|c| c.not_after_ms = now - 2 * DAY), Level::Bad, "ran out 2 days ago");
    is(&judge(&|c| c.not_before_ms = now + DAY), Level::Bad, "clock");
    let soon = Certificate { not_after_ms: now + DAY, ..good };
    is(&net::certificate(&soon, now, true), Level::Warn, "relay.acme");
}

#[test]
fn a_certificate_that_is_not_the_served_one_is_seen() {
    let (old, new) = ("2026-12-01T00:00:00.000Z", "2027-03-01T00:00:00.000Z");
    assert!(net::served(Some(old), Some(old)).is_none());
    assert!(net::served(None, Some(new)).is_none(), "the relay warns of that itself");
    assert!(net::served(Some(old), None).is_none(), "said with the configuration");
    let finding = net::served(Some(old), Some(new)).unwrap();
    is(&finding, Level::Bad, old);
    let said = ["deliveries are paused".to_owned(), "the certificate has run out".to_owned()];
    let found = warnings(&said);
    assert_eq!(found.len(), 1);
    is(&found[0], Level::Warn, "run out");
}

#[test]
fn the_dns_is_summed_up() {
    let verdict = |name: &str, status: Status| Verdict {
        name: name.to_owned(),
        kind: "TXT",
        want: String::new(),
        found: Vec::new(),
        status,
        advice: String::new(),
    };
    let sum = |statuses: &[Status]| {
        let all: Vec<_> = statuses.iter().map(|status| verdict(status.word(), *status)).collect();
        dns(&all)
    };
    is(&sum(&[Status::Ok, Status::Info]), Level::Good, "1 info, 1 ok");
    is(&sum(&[Status::Ok, Status::Unknown]), Level::Warn, "could not be learned");
    is(&sum(&[Status::Ok, Status::Risky]), Level::Warn, "risky TXT");
    is(&sum(&[Status::Wrong, Status::Risky]), Level::Bad, "wrong TXT: `waystation dns check`");
    is(&sum(&[Status::Wrong; 5]), Level::Bad, "and 2 more");
}
