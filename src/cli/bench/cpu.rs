//! CPU time of processes, from `/proc`.

use std::fs;
use std::time::Duration;

/// Length of a tick in `/proc/PID/stat`: USER_HZ is 100 on every Linux there is.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process with all its threads, and of its children that ended and were waited for.
pub(super) fn of_process(pid: u32) -> Duration {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Duration::ZERO };
    fields(&stat).map_or(Duration::ZERO, |(_, ticks)| TICK * ticks)
}

/// The same of a process and of all that descend from it.
pub(super) fn of_tree(root: u32) -> Duration {
    let mut parents = Vec::new();
    let Ok(entries) = fs::read_dir("/proc") else { return Duration::ZERO };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ends meanwhile is counted by its parent.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((parent, ticks)) = fields(&stat) {
            parents.push((pid, parent, ticks));
        }
    }
    let (mut family, mut ticks) = (vec![root], 0);
    let mut at = 0;
    while let Some(&pid) = family.get(at) {
        at += 1;
        ticks += parents.iter().filter(|(of, ..)| *of == pid).map(|(.., ticks)| ticks).sum::<u32>();
        family.extend(parents.iter().filter(|(_, parent, _)| *parent == pid).map(|(pid, ..)| *pid));
    }
    TICK * ticks
}

/// Parent and ticks (user, system, and both of children) of one `stat` line (proc(5)).
fn fields(stat: &str) -> Option<(u32, u32)> {
    // The command's name is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u32>().ok()).sum::<Option<u32>>()?;
    Some((fields.get(1)?.parse().ok()?, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let line = "7 (a ) b) S 5 7 7 0 -1 4194304 100 0 0 0 11 22 3 4 20 0 1 0 1 1 1";
        assert_eq!(fields(line), Some((5, 40)));
        assert_eq!(fields("7 (x"), None);
    }
}
