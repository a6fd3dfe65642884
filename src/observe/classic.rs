//! PURE: our own OpenMetrics text turned into the classic text format, version 0.0.4, which everything that scrapes can
//! read.
//!
//! The samples are the same. The differences: a counter's family carries the name of its samples, with `_total`; there is
//! no type `info` and no unit; nothing marks the end.

use std::fmt::Write as _;

/// Turns one exposition into the other.
#[must_use]
pub(super) fn classic_from_text(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("# ") else {
            classic.push_str(line);
            classic.push('\n');
            continue;
        };
        let mut words = rest.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), Some(words)) => help = Some((name, words)),
            (Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                    // Writing into a String cannot fail.
                    let _ = writeln!(classic, "# HELP {name}{suffix} {words}");
                }
                let _ = writeln!(classic, "# TYPE {name}{suffix} {kind}");
            }
            // UNIT and EOF.
            (_, _, _) => {}
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_get_the_name_of_their_samples_and_units_vanish() {
        let open = "# HELP a_bytes Some.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{b=\"# TYPE\"} 1\n\
                    # HELP c Which.\n# TYPE c info\nc_info{v=\"1\"} 1\n\
                    # HELP d_seconds How long.\n# TYPE d_seconds histogram\n# UNIT d_seconds seconds\nd_seconds_sum 0.0\n\
                    # EOF\n";
        let classic = "# HELP a_bytes_total Some.\n# TYPE a_bytes_total counter\na_bytes_total{b=\"# TYPE\"} 1\n\
                       # HELP c_info Which.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n\
                       # HELP d_seconds How long.\n# TYPE d_seconds histogram\nd_seconds_sum 0.0\n";
        assert_eq!(classic_from_text(open), classic);
    }

    #[test]
    fn no_sample_is_lost_or_changed() {
        let text = crate::observe::Metrics::new().text();
        let samples =
            |text: &str| text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        // The process' own numbers move between two looks, so both come from one text.
        assert_eq!(samples(&classic_from_text(&text)), samples(&text));
        assert!(!samples(&text).is_empty());
    }
}
