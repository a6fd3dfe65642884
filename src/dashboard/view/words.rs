//! PURE: times, sizes and names as a person reads them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longest local part that is shown whole where there is little room.
const LOCAL_CHARS_MAX: usize = 40;
/// Characters of a key that tell it apart.
const KEY_CHARS: usize = 10;

/// Milliseconds since 1970 of an RFC 3339 text.
pub(in crate::dashboard) fn millis(at: &str) -> Option<u64> {
    let nanos = OffsetDateTime::parse(at, &Rfc3339).ok()?.unix_timestamp_nanos();
    u64::try_from(nanos / 1_000_000).ok()
}

/// `2026-01-02 03:04:05` of an RFC 3339 text.
pub(in crate::dashboard) fn clock(at: &str) -> String {
    match (at.get(..10), at.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => at.to_owned(),
    }
}

/// `3m ago`, `in 3m`, `now`.
pub(in crate::dashboard) fn relative(at_ms: u64, now_ms: u64) -> String {
    match now_ms.checked_sub(at_ms) {
        Some(past) if past < 1000 => "now".to_owned(),
        Some(past) => format!("{} ago", span(past / 1000)),
        None => format!("in {}", span((at_ms - now_ms).div_ceil(1000))),
    }
}

/// A span in its two largest units: `2h 5m`.
pub(in crate::dashboard) fn span(seconds: u64) -> String {
    let units =
        [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let Some(first) = units.iter().position(|(n, _)| *n > 0) else { return "0s".to_owned() };
    let shown = units[first..].iter().take(2).filter(|(n, _)| *n > 0);
    shown.map(|(n, unit)| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
}

/// `12 B`, `3.4 KiB`, `1.2 GiB`.
pub(in crate::dashboard) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    if unit == "B" || amount >= 100.0 { format!("{amount:.0} {unit}") } else { format!("{amount:.1} {unit}") }
}

/// `12 345`, with a thin blank that does not break.
pub(in crate::dashboard) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Milliseconds as `0.8 ms`, `120 ms`, `1.2 s`.
pub(in crate::dashboard) fn latency(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// A duration in milliseconds in words.
pub(in crate::dashboard) fn span_ms(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => span(ms / 1000),
    }
}

/// The first characters of a key; short names are whole.
pub(in crate::dashboard) fn short_key(name: &str) -> String {
    if name.chars().count() <= KEY_CHARS + 2 {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(KEY_CHARS).collect();
    short.push('…');
    short
}

/// At most so many characters.
pub(in crate::dashboard) fn clip(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A path of an envelope: the null path has a name.
pub(in crate::dashboard) fn address(path: Option<&str>) -> String {
    match path {
        Some("") => "<>".to_owned(),
        Some(path) => clip(path, 120),
        None => "?".to_owned(),
    }
}

/// The same where there is little room: of a key at a domain its first characters.
pub(in crate::dashboard) fn short_address(path: Option<&str>) -> String {
    match path.and_then(|path| path.rsplit_once('@')) {
        Some((local, domain)) if local.chars().count() > LOCAL_CHARS_MAX => {
            format!("{}@{}", short_key(local), clip(domain, 60))
        }
        Some(_) | None => address(path),
    }
}

/// `s` for all numbers but one.
pub(in crate::dashboard) fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_spans_sizes_and_counts_read_well() {
        assert_eq!(millis("1970-01-01T00:00:01.500Z"), Some(1500));
        assert_eq!(millis("yesterday"), None);
        assert_eq!(clock("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05");
        assert_eq!(clock("soon"), "soon");
        assert_eq!((relative(1000, 1500).as_str(), relative(0, 125_000).as_str()), ("now", "2m 5s ago"));
        assert_eq!(relative(61_000, 500), "in 1m 1s");
        assert_eq!((span(0).as_str(), span(3600).as_str(), span(90_061).as_str()), ("0s", "1h", "1d 1h"));
        assert_eq!(
            (size(12).as_str(), size(3500).as_str(), size(200 << 20).as_str()),
            ("12 B", "3.4 KiB", "200 MiB")
        );
        assert_eq!((count(999).as_str(), count(1_234_567).as_str()), ("999", "1\u{202f}234\u{202f}567"));
        assert_eq!(
            (latency(0.84).as_str(), latency(12.3).as_str(), latency(1500.0).as_str()),
            ("0.8 ms", "12 ms", "1.5 s")
        );
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        assert_eq!(
            (span_ms(12).as_str(), span_ms(1_250).as_str(), span_ms(61_000).as_str()),
            ("12 ms", "1.2 s", "1m 1s")
        );
    }

    #[test]
    fn long_texts_keep_their_beginning() {
        assert_eq!(short_key("home"), "home");
        assert_eq!(short_key(&"k".repeat(52)), format!("{}…", "k".repeat(10)));
        assert_eq!(clip("abcdef", 4), "abc…");
        assert_eq!((address(Some("")).as_str(), address(None).as_str()), ("<>", "?"));
        assert_eq!(address(Some(&"ü".repeat(500))).chars().count(), 120);
        assert_eq!(
            short_address(Some(&format!("{}@our.example", "k".repeat(52)))),
            "kkkkkkkkkk…@our.example"
        );
        assert_eq!((short_address(Some("a@b")).as_str(), short_address(Some("")).as_str()), ("a@b", "<>"));
    }
}
