//! PURE: in which format `/metrics` answers, by `Accept` (RFC 9110 section 12.5.1).
//!
//! Who asks for nothing, or for anything, gets the classic text: everything that scrapes can read it, and a browser shows
//! it. OpenMetrics and JSON are for those who name them.

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    /// The text format of Prometheus, version 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The same numbers as one object.
    Json,
}

/// Most entries of an `Accept` that are looked at.
const ENTRIES_MAX: usize = 32;
/// Weights are counted in thousandths.
const WHOLE: u16 = 1000;

impl Exposition {
    /// The one that is wanted most; of those wanted alike the one that is named first.
    pub(super) fn wanted(accept: &str) -> Self {
        let mut best = (Self::Classic, 0);
        for entry in accept.split(',').take(ENTRIES_MAX) {
            let mut parts = entry.split(';').map(str::trim);
            let kind = parts.next().unwrap_or("").to_ascii_lowercase();
            let format = match kind.as_str() {
                "application/openmetrics-text" => Self::OpenMetrics,
                "application/json" => Self::Json,
                "text/plain" | "text/*" | "*/*" => Self::Classic,
                _ => continue,
            };
            let weight = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then(|| thousandths(value.trim()))
            });
            let weight = weight.unwrap_or(WHOLE);
            if weight > best.1 {
                best = (format, weight);
            }
        }
        best.0
    }

    /// Its media type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

/// `0.75` as 750; what is no weight weighs nothing.
fn thousandths(text: &str) -> u16 {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit());
    match whole {
        "1" => WHOLE,
        "0" if digits(rest) => format!("{rest:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_openmetrics_and_who_is_older_the_classic_text() {
        let v2_42 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Exposition::wanted(v2_42), Exposition::OpenMetrics);
        let v3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                  application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                  text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(Exposition::wanted(v3), Exposition::OpenMetrics);
        assert_eq!(Exposition::wanted("text/plain; version=0.0.4"), Exposition::Classic);
        let protobuf_first = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.6,\
                              text/plain;version=0.0.4;q=0.3";
        assert_eq!(Exposition::wanted(protobuf_first), Exposition::Classic);
    }

    #[test]
    fn nothing_anything_and_browsers_get_the_classic_text() {
        for accept in
            ["", "*/*", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "image/png"]
        {
            assert_eq!(Exposition::wanted(accept), Exposition::Classic, "{accept}");
        }
    }

    #[test]
    fn json_is_for_who_names_it_first_or_most() {
        assert_eq!(Exposition::wanted("application/json"), Exposition::Json);
        assert_eq!(Exposition::wanted("Application/JSON, */*"), Exposition::Json);
        assert_eq!(Exposition::wanted("text/plain;q=0.2, application/json; Q=0.9"), Exposition::Json);
        assert_eq!(Exposition::wanted("text/plain, application/json"), Exposition::Classic);
        assert_eq!(Exposition::wanted("application/json;q=0, */*;q=0.1"), Exposition::Classic);
    }

    #[test]
    fn weights_that_are_none_weigh_nothing() {
        for (text, weight) in [("1", 1000), ("1.000", 1000), ("0", 0), ("0.5", 500), ("0.075", 75), ("0.", 0)]
        {
            assert_eq!(thousandths(text), weight, "{text}");
        }
        for text in ["", "2", "-1", "0.1234", "0.x", "nan"] {
            assert_eq!(thousandths(text), 0, "{text}");
        }
    }
}
