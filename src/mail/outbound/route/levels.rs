//! What was seen of the TLS of domains and hosts: the best level of each domain, on disk, and the hosts where
//! STARTTLS broke lately, in memory (S2, S12; the idea is chasquid's domain info).
//!
//! Promises: at most [`DOMAINS_MAX`] domains and [`HOSTS_MAX`] hosts, the longest unseen go first; a level is forgotten
//! [`KEPT_DAYS`] days after it was last seen, so that a domain that gave TLS up is not cut off for ever.
//!
//! The file is a log of lines `day level domain`, appended without a sync: what a power cut takes is learned again by
//! the next delivery. It is written anew when it has grown to several times its content, and then synced before it
//! takes the place of the old one. A file that cannot be written costs the memory across restarts, never mail: that is
//! a warning.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use spool::ids::WallMs;

use crate::mail::address::DOMAIN_BYTES_MAX;
use crate::mail::outbound::values::TlsLevel;

/// Most domains remembered.
pub const DOMAINS_MAX: usize = 100_000;
/// Most hosts whose STARTTLS is remembered as broken.
pub const HOSTS_MAX: usize = 10_000;
/// Days after which a level that was not seen again is forgotten.
pub const KEPT_DAYS: u64 = 90;
/// How long STARTTLS counts as broken.
pub const BROKEN_FOR: Duration = Duration::from_secs(4 * 3600);
/// What the file is called inside the data directory.
pub const FILE_NAME: &str = "outbound-tls-levels.log";
/// First line of the file: name and format version.
const HEADER: &str = "waystation-tls-levels-v1";
/// A level seen again is written down only after so many days.
const REFRESH_DAYS: u64 = 7;
/// Lines per domain before the file is written anew.
const LINES_PER_DOMAIN: usize = 4;
/// Lines below which the file is left alone.
const LINES_MIN: usize = 1000;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// What is remembered; share it behind an `Arc`.
#[derive(Debug)]
pub struct Levels {
    path: PathBuf,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    domains: HashMap<String, Seen>,
    broken: HashMap<String, Instant>,
    file: Option<File>,
    lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    level: TlsLevel,
    day: u64,
}

impl Levels {
    /// Opens the memory in `dir`, which must exist; begins an empty one when there is none or it cannot be read.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let path = dir.join(FILE_NAME);
        let mut memory = Memory::default();
        if let Err(error) = memory.load(&path) {
            warn(&path, &error);
        }
        Self { path, memory: Mutex::new(memory) }
    }

    /// Best level seen at the domain, [`TlsLevel::None`] when nothing better is known.
    #[must_use]
    pub fn of(&self, domain: &str, now: WallMs) -> TlsLevel {
        let memory = self.memory();
        memory
            .domains
            .get(domain)
            .filter(|seen| !seen.is_over(day(now)))
            .map_or(TlsLevel::None, |seen| seen.level)
    }

    /// A connection to the domain reached `level`; raises what is remembered, never lowers it.
    pub fn raise(&self, domain: &str, level: TlsLevel, now: WallMs) {
        if level == TlsLevel::None || domain.len() > DOMAIN_BYTES_MAX {
            return;
        }
        let today = day(now);
        let mut memory = self.memory();
        let known = memory.domains.get(domain).copied().filter(|seen| !seen.is_over(today));
        let best = known.map_or(level, |seen| seen.level.max(level));
        if known.is_some_and(|seen| seen.level == best && today < seen.day.saturating_add(REFRESH_DAYS)) {
            return;
        }
        memory.insert(domain, Seen { level: best, day: today });
        if let Err(error) = memory.write(&self.path, domain) {
            warn(&self.path, &error);
        }
    }

    /// Whether STARTTLS broke at the host lately.
    #[must_use]
    pub fn is_broken(&self, host: &str, now: Instant) -> bool {
        self.memory().broken.get(host).is_some_and(|at| now.saturating_duration_since(*at) < BROKEN_FOR)
    }

    /// STARTTLS broke at the host.
    pub fn broke(&self, host: &str, now: Instant) {
        let mut memory = self.memory();
        if memory.broken.len() >= HOSTS_MAX {
            memory.broken.retain(|_, at| now.saturating_duration_since(*at) < BROKEN_FOR);
        }
        if memory.broken.len() >= HOSTS_MAX
            && let Some(oldest) =
                memory.broken.iter().min_by_key(|(_, at)| **at).map(|(host, _)| host.clone())
        {
            memory.broken.remove(&oldest);
        }
        memory.broken.insert(host.to_owned(), now);
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // Each change is one insertion or removal: a panic elsewhere cannot leave it half done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn is_over(self, today: u64) -> bool {
        today > self.day.saturating_add(KEPT_DAYS)
    }
}

impl Memory {
    fn insert(&mut self, domain: &str, seen: Seen) {
        if self.domains.len() >= DOMAINS_MAX && !self.domains.contains_key(domain) {
            // A tenth goes at once, so that a full memory is not searched for every newcomer.
            let mut days: Vec<u64> = self.domains.values().map(|seen| seen.day).collect();
            let tenth = DOMAINS_MAX / 10;
            let (_, &mut limit, _) = days.select_nth_unstable(tenth);
            let mut left = tenth;
            self.domains.retain(|_, seen| {
                let goes = left > 0 && seen.day <= limit;
                left -= usize::from(goes);
                !goes
            });
        }
        self.domains.insert(domain.to_owned(), seen);
    }

    fn load(&mut self, path: &Path) -> io::Result<()> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // Bounded by what we write ourselves.
        let lines_max = DOMAINS_MAX * (LINES_PER_DOMAIN + 1);
        let bytes_max = (lines_max * (DOMAIN_BYTES_MAX + 40)) as u64;
        let mut lines = BufReader::new(file.take(bytes_max)).split(b'\n');
        if lines.next().transpose()?.is_none_or(|first| first != HEADER.as_bytes()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a file of TLS levels, or of a later version",
            ));
        }
        for line in lines.take(lines_max) {
            self.lines += 1;
            // A line torn by a power cut is no line.
            if let Some((domain, seen)) = std::str::from_utf8(&line?).ok().and_then(read_line) {
                self.insert(domain, seen);
            }
        }
        Ok(())
    }

    /// Writes down what is known of one domain.
    fn write(&mut self, path: &Path, domain: &str) -> io::Result<()> {
        if self.lines > LINES_MIN.max(self.domains.len() * LINES_PER_DOMAIN) {
            return self.rewrite(path);
        }
        let Some(seen) = self.domains.get(domain) else { return Ok(()) };
        let line = line(domain, *seen);
        let Some(file) = &mut self.file else { return self.rewrite(path) };
        self.lines += 1;
        file.write_all(line.as_bytes())
    }

    /// Puts a file with all that is known in the place of the old one.
    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        let mut text = format!("{HEADER}\n");
        for (domain, seen) in &self.domains {
            text.push_str(&line(domain, *seen));
        }
        let beside = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        self.lines = self.domains.len();
        self.file = Some(file);
        Ok(())
    }
}

fn day(now: WallMs) -> u64 {
    now.0 / DAY_MS
}

fn line(domain: &str, seen: Seen) -> String {
    let level = match seen.level {
        TlsLevel::None => "none",
        TlsLevel::Unverified => "unverified",
        TlsLevel::WebPki => "web_pki",
        TlsLevel::Dane => "dane",
    };
    format!("{} {level} {domain} .\n", seen.day)
}

fn read_line(line: &str) -> Option<(&str, Seen)> {
    let mut words = line.split(' ');
    let day = words.next()?.parse().ok()?;
    let level = match words.next()? {
        "unverified" => TlsLevel::Unverified,
        "web_pki" => TlsLevel::WebPki,
        "dane" => TlsLevel::Dane,
        _ => return None,
    };
    let domain = words.next().filter(|domain| !domain.is_empty() && domain.len() <= DOMAIN_BYTES_MAX)?;
    // The last word shows that the line is whole.
    (words.next() == Some(".") && words.next().is_none()).then_some((domain, Seen { level, day }))
}

fn warn(path: &Path, error: &io::Error) {
    tracing::warn!(event = "relay.route.levels.failed", path = %path.display(), %error, "cannot keep TLS levels");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMs = WallMs(20_000 * DAY_MS);

    fn later(days: u64) -> WallMs {
        WallMs(NOW.0 + days * DAY_MS)
    }

    #[test]
    fn levels_rise_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let levels = Levels::open(dir.path());
        levels.raise("a.x", TlsLevel::WebPki, NOW); // S12
        levels.raise("a.x", TlsLevel::Unverified, NOW);
        levels.raise("b.x", TlsLevel::Unverified, NOW);
        levels.raise("c.x", TlsLevel::None, NOW);
        drop(levels);
        let levels = Levels::open(dir.path());
        assert_eq!(levels.of("a.x", NOW), TlsLevel::WebPki);
        assert_eq!(levels.of("b.x", NOW), TlsLevel::Unverified);
        assert_eq!(levels.of("c.x", NOW), TlsLevel::None);
        levels.raise("b.x", TlsLevel::Dane, NOW);
        assert_eq!(Levels::open(dir.path()).of("b.x", NOW), TlsLevel::Dane);
    }

    #[test]
    fn a_level_not_seen_for_long_is_forgotten_and_seeing_it_renews_it() {
        let dir = tempfile::tempdir().unwrap();
        let levels = Levels::open(dir.path());
        levels.raise("a.x", TlsLevel::WebPki, NOW);
        levels.raise("b.x", TlsLevel::WebPki, NOW);
        levels.raise("b.x", TlsLevel::Unverified, later(REFRESH_DAYS));
        drop(levels);
        let levels = Levels::open(dir.path());
        assert_eq!(levels.of("a.x", later(KEPT_DAYS)), TlsLevel::WebPki);
        assert_eq!(levels.of("a.x", later(KEPT_DAYS + 1)), TlsLevel::None);
        assert_eq!(levels.of("b.x", later(KEPT_DAYS + REFRESH_DAYS)), TlsLevel::WebPki);
    }

    #[test]
    fn torn_lines_and_foreign_files_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let day = NOW.0 / DAY_MS;
        std::fs::write(&path, format!("{HEADER}\n{day} dane a.x .\n{day} dane b.example")).unwrap();
        let levels = Levels::open(dir.path());
        assert_eq!(levels.of("a.x", NOW), TlsLevel::Dane);
        assert_eq!(levels.of("b.example", NOW), TlsLevel::None);
        // What follows the torn line is not glued to it.
        levels.raise("c.x", TlsLevel::Dane, NOW);
        assert_eq!(Levels::open(dir.path()).of("c.x", NOW), TlsLevel::Dane);
        std::fs::write(&path, b"something else\xff\n").unwrap();
        assert_eq!(Levels::open(dir.path()).of("a.x", NOW), TlsLevel::None);
    }

    #[test]
    fn the_memory_is_bounded_and_the_longest_unseen_go_first() {
        let mut memory = Memory::default();
        for n in 0..=DOMAINS_MAX {
            memory.insert(&format!("d{n}.x"), Seen { level: TlsLevel::Dane, day: n as u64 });
        }
        assert!(memory.domains.len() <= DOMAINS_MAX);
        assert!(!memory.domains.contains_key("d0.x"));
        assert!(memory.domains.contains_key(&format!("d{}.x", DOMAINS_MAX / 2)));
        assert!(memory.domains.contains_key(&format!("d{DOMAINS_MAX}.x")));
    }

    #[test]
    fn a_file_that_grew_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let levels = Levels::open(dir.path());
        for turn in 0..2 * LINES_MIN as u64 {
            levels.raise("a.x", TlsLevel::Dane, later(turn * REFRESH_DAYS));
        }
        let bytes = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len();
        assert!(bytes < 30 * 1100, "{bytes}");
        let last = later((2 * LINES_MIN as u64 - 1) * REFRESH_DAYS);
        assert_eq!(Levels::open(dir.path()).of("a.x", last), TlsLevel::Dane);
    }

    #[test]
    fn broken_starttls_is_remembered_for_hours() {
        let dir = tempfile::tempdir().unwrap();
        let levels = Levels::open(dir.path());
        let now = crate::clock::monotonic();
        levels.broke("mx.x", now); // S2
        assert!(levels.is_broken("mx.x", now + BROKEN_FOR / 2));
        assert!(!levels.is_broken("mx.x", now + BROKEN_FOR));
        assert!(!levels.is_broken("other.x", now));
    }
}
