//! What the process costs, under the names that Prometheus' own clients use, read when somebody asks.
//!
//! Failure policy: what `/proc` does not say is left out, never guessed.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use spool::ids::WallMs;

/// Ticks per second in `/proc/PID/stat`; the kernel's interface has had this value on all our targets for ever.
const TICKS: f64 = 100.0;
/// Milliseconds of one.
const TICK_MS: u64 = 10;

/// Reads `/proc/self` at every scrape.
#[derive(Debug)]
pub(super) struct Process {
    /// When it began.
    started: Option<WallMs>,
}

impl Process {
    /// This process. Its beginning is read once: a clock that is set later moves what `/proc` says of it.
    pub(super) fn new() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self { started: started(&read("/proc/self/stat"), &read("/proc/stat")) }
    }
}

/// When a process began: the 22nd field of its `stat`, in ticks since the machine did (proc(5)). A hand-over is another
/// program in the same process, and no restart.
fn started(stat: &str, machine: &str) -> Option<WallMs> {
    let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(22 - 3)?.parse().ok()?;
    let boot_seconds: u64 =
        machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(WallMs(boot_seconds.saturating_mul(1000).saturating_add(ticks.saturating_mul(TICK_MS))))
}

/// What `/proc/self` says.
#[derive(Debug, Default, PartialEq)]
struct Facts {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<i64>,
    virtual_bytes: Option<i64>,
    threads: Option<i64>,
    open_fds: Option<i64>,
    max_fds: Option<i64>,
}

impl Facts {
    fn now() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        Self {
            // The directory that we read is open meanwhile.
            open_fds: open.and_then(|n| i64::try_from(n.saturating_sub(1)).ok()),
            ..Self::from_text(&read("stat"), &read("status"), &read("limits"))
        }
    }

    fn from_text(stat: &str, status: &str, limits: &str) -> Self {
        // The second field is the program's name in parentheses and may hold anything; user and system time are the 14th
        // and the 15th (proc(5)).
        let ticks = |n: usize| -> Option<f64> {
            stat.rsplit_once(") ")?.1.split(' ').nth(n - 3)?.parse::<u32>().ok().map(f64::from)
        };
        let line = |name: &str| -> Option<i64> {
            let rest = status.lines().find_map(|l| l.strip_prefix(name))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let kib = |name: &str| line(name).map(|n| n.saturating_mul(1024));
        let soft = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| (user + system) / TICKS),
            resident_bytes: kib("VmRSS:"),
            virtual_bytes: kib("VmSize:"),
            threads: line("Threads:"),
            open_fds: None,
            max_fds: soft.and_then(|l| l.split_whitespace().next()?.parse().ok()),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let facts = Facts::now();
        if let Some(seconds) = facts.cpu_seconds {
            let help = "Processor time used by this process.";
            let at =
                encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
            ConstCounter::new(seconds).encode(at)?;
        }
        if let Some(WallMs(started)) = self.started {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit 53 bits")]
            let started = started as f64 / 1000.0;
            let help = "When this process started, seconds since 1970.";
            let unit = Some(&Unit::Seconds);
            let at = encoder.encode_descriptor("process_start_time", help, unit, MetricType::Gauge)?;
            ConstGauge::new(started).encode(at)?;
        }
        for (name, help, unit, value) in [
            (
                "process_resident_memory",
                "Memory held by this process.",
                Some(&Unit::Bytes),
                facts.resident_bytes,
            ),
            (
                "process_virtual_memory",
                "Address space of this process.",
                Some(&Unit::Bytes),
                facts.virtual_bytes,
            ),
            ("process_threads", "Threads of this process.", None, facts.threads),
            ("process_open_fds", "File descriptors that are open now.", None, facts.open_fds),
            ("process_max_fds", "File descriptors that may be open.", None, facts.max_fds),
        ] {
            if let Some(value) = value {
                let at = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
                ConstGauge::new(value).encode(at)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let stat = "7 (way) (station 1) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1 2";
        let status = "Name:\twaystation\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t9\n";
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024  4096  files\n";
        let facts = Facts::from_text(stat, status, limits);
        let expected = Facts {
            cpu_seconds: Some(3.0),
            resident_bytes: Some(1_048_576),
            virtual_bytes: Some(2_097_152),
            threads: Some(9),
            open_fds: None,
            max_fds: Some(1024),
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn a_process_began_so_long_after_its_machine() {
        let stat = "7 (way) (station 1) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1 2";
        let machine = "cpu  1 2 3\nctxt 9\nbtime 1700000000\nprocesses 4\n";
        assert_eq!(started(stat, machine), Some(WallMs(1_700_000_123_450)));
        assert_eq!(started(stat, "ctxt 9\n"), None);
        assert_eq!(started("7 (x) S 1", machine), None);
        let (ours, now) = (Process::new().started.expect("Linux says it"), crate::clock::wall());
        assert!(ours <= now.plus(1000) && now.since(ours) < 86_400_000, "{ours:?} {now:?}");
        assert_eq!(Process::new().started, Some(ours));
    }

    #[test]
    fn what_is_not_said_is_left_out() {
        assert_eq!(Facts::from_text("", "VmRSS: many kB", "Max open files unlimited"), Facts::default());
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let facts = Facts::now();
        assert!(
            facts.resident_bytes.is_some_and(|n| n > 0) && facts.open_fds.is_some_and(|n| n > 2),
            "{facts:?}"
        );
    }
}
