//! PURE: the last hour as small pictures, drawn here and not by a script.
//!
//! Each has a sentence that says the same, for whoever does not see it, and a text on every minute.

use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::words;

/// Columns of a picture: one for each minute.
const COLUMNS: usize = 60;
/// Size of a picture in its own units; the page stretches it.
const WIDTH: usize = 600;
const HEIGHT: usize = 96;
/// Most steps that are read of one series.
const STEPS_MAX: usize = 100_000;

/// How steps become a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    /// Of what is counted.
    Sum,
    /// Of what is measured.
    Max,
}

/// The history of the relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct History<'a> {
    value: &'a Value,
    step_seconds: usize,
    until_ms: Option<u64>,
}

/// One series, by the minute, oldest first; `None` for a minute of which nothing is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series<'a> {
    pub(super) name: &'a str,
    /// Class of its colour.
    pub(super) tone: &'static str,
    pub(super) minutes: Vec<Option<f64>>,
}

impl<'a> History<'a> {
    /// `value` – `history` of the overview.
    pub(super) fn new(value: &'a Value) -> Self {
        let step_seconds = value["step_seconds"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(10);
        let until_ms = value["until"].as_str().and_then(words::millis);
        Self { value, step_seconds: step_seconds.clamp(1, 60), until_ms }
    }

    /// A series of it.
    pub(super) fn series(&self, key: &str, name: &'a str, tone: &'static str, fold: Fold) -> Series<'a> {
        let none = Vec::new();
        let all = self.value["series"][key].as_array().unwrap_or(&none);
        let steps: Vec<Option<f64>> = all.iter().rev().take(STEPS_MAX).map(Value::as_f64).collect();
        let per_minute = (60 / self.step_seconds).max(1);
        let mut minutes: Vec<Option<f64>> = steps
            .chunks(per_minute)
            .take(COLUMNS)
            .map(|steps| {
                let known = steps.iter().flatten().copied();
                known.reduce(|a, b| match fold {
                    Fold::Sum => a + b,
                    Fold::Max => a.max(b),
                })
            })
            .collect();
        minutes.resize(COLUMNS, None);
        minutes.reverse();
        Series { name, tone, minutes }
    }

    /// `14:05` of a column.
    fn minute(&self, column: usize) -> String {
        let Some(until) = self.until_ms else { return format!("{} minutes ago", COLUMNS - column) };
        let at = until.saturating_sub((COLUMNS - column) as u64 * 60_000) / 60_000;
        format!("{:02}:{:02}", at / 60 % 24, at % 60)
    }
}

impl Series<'_> {
    /// All of it together.
    pub(super) fn sum(&self) -> u64 {
        whole(self.minutes.iter().flatten().sum())
    }
}

/// Columns of counted things on top of each other.
pub(super) fn columns(id: &str, title: &str, history: &History<'_>, series: &[Series<'_>]) -> Markup {
    let totals: Vec<f64> =
        (0..COLUMNS).map(|column| series.iter().filter_map(|one| one.minutes[column]).sum()).collect();
    let most = totals.iter().copied().fold(0.0, f64::max);
    let sums: Vec<_> = series.iter().map(|one| (one, one.sum())).collect();
    let said: Vec<_> = sums.iter().map(|(one, sum)| format!("{} {}", words::count(*sum), one.name)).collect();
    let peak = totals.iter().position(|total| most > 0.0 && *total >= most);
    let summary = match peak {
        Some(column) => format!(
            "Last hour: {}. Most in one minute: {} at {}.",
            said.join(", "),
            whole(most),
            history.minute(column)
        ),
        None => format!("Last hour: {}.", said.join(", ")),
    };
    let width = WIDTH / COLUMNS;
    let mut picture = String::new();
    for (column, total) in totals.iter().enumerate() {
        let (x, mut y) = (column * width, HEIGHT as f64);
        for one in series {
            let value = one.minutes[column].unwrap_or(0.0);
            if value <= 0.0 || most <= 0.0 {
                continue;
            }
            // A single message of a busy hour is still to be seen.
            let height = (value / most * (HEIGHT as f64 - 4.0)).max(1.5);
            y -= height;
            picture.push_str(&format!(
                r#"<rect class="{}" x="{}" y="{y:.1}" width="{}" height="{height:.1}"/>"#,
                one.tone,
                x + 1,
                width - 2
            ));
        }
        let known = series.iter().any(|one| one.minutes[column].is_some());
        if *total > 0.0 {
            let parts: Vec<_> = series
                .iter()
                .map(|one| format!("{} {}", whole(one.minutes[column].unwrap_or(0.0)), one.name))
                .collect();
            picture.push_str(&hover(x, width, &format!("{}: {}", history.minute(column), parts.join(", "))));
        } else if known {
            picture.push_str(&hover(x, width, &format!("{}: none", history.minute(column))));
        }
    }
    let headline = html! {
        @for (one, sum) in &sums {
            span.key { span.swatch.(one.tone) aria-hidden="true" {} b { (words::count(*sum)) } " " (one.name) }
        }
    };
    figure(id, title, &headline, &summary, &picture, &scale(most, whole_text))
}

/// A line of something measured, with `now` as it is.
pub(super) fn line(
    id: &str,
    title: &str,
    history: &History<'_>,
    series: &Series<'_>,
    now: Option<f64>,
    say: fn(f64) -> String,
) -> Markup {
    let most = series.minutes.iter().flatten().copied().fold(0.0, f64::max);
    let width = WIDTH / COLUMNS;
    let at = |column: usize, value: f64| {
        let share = if most > 0.0 { value / most } else { 0.0 };
        (column * width + width / 2, HEIGHT as f64 - 1.5 - share * (HEIGHT as f64 - 6.0))
    };
    let mut picture = String::new();
    let mut run: Vec<(usize, f64)> = Vec::new();
    for (column, value) in series.minutes.iter().enumerate() {
        match value {
            Some(value) => run.push(at(column, *value)),
            None => picture.push_str(&stroke(&std::mem::take(&mut run), series.tone)),
        }
    }
    picture.push_str(&stroke(&run, series.tone));
    for (column, value) in series.minutes.iter().enumerate() {
        if let Some(value) = value {
            picture.push_str(&hover(
                column * width,
                width,
                &format!("{}: {}", history.minute(column), say(*value)),
            ));
        }
    }
    let headline = html! { span.key { b { (now.map_or_else(|| "–".to_owned(), say)) } " now" } };
    let summary = match series.minutes.iter().any(Option::is_some) {
        true => format!("Last hour: at most {}.", say(most)),
        false => "Last hour: nothing to tell.".to_owned(),
    };
    figure(id, title, &headline, &summary, &picture, &scale(most, say))
}

fn figure(id: &str, title: &str, headline: &Markup, summary: &str, picture: &str, scale: &str) -> Markup {
    let label = format!("{id}-title");
    html! {
        figure.chart #(id) aria-labelledby=(label) {
            figcaption { h3 #(label) { (title) } p.keys { (headline) } }
            div.plot {
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(summary) { (PreEscaped(picture)) }
                span.scale aria-hidden="true" { (scale) }
            }
            p.axis aria-hidden="true" { span { "1h ago" } span { "now" } }
        }
    }
}

fn stroke(run: &[(usize, f64)], tone: &str) -> String {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return String::new() };
    let points: Vec<_> = run.iter().map(|(x, y)| format!("{x} {y:.1}")).collect();
    let path = points.join("L");
    format!(
        r#"<path class="{tone} area" d="M{} {HEIGHT}L{path}L{} {HEIGHT}Z"/><path class="{tone} stroke" d="M{path}"/>"#,
        first.0, last.0
    )
}

/// A column that tells its text; `text` is ours and has nothing to escape.
fn hover(x: usize, width: usize, text: &str) -> String {
    let text = html! { (text) }.into_string();
    format!(
        r#"<rect class="hover" x="{x}" y="0" width="{width}" height="{HEIGHT}"><title>{text}</title></rect>"#
    )
}

fn scale(most: f64, say: fn(f64) -> String) -> String {
    if most > 0.0 { say(most) } else { String::new() }
}

/// A count that was summed as a fraction.
pub(super) fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are small and not negative"
    )]
    let whole = value.max(0.0).round() as u64;
    whole
}

/// The same as text.
pub(super) fn whole_text(value: f64) -> String {
    words::count(whole(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_become_minutes_and_unknown_ones_stay_unknown() {
        let mut steps = vec![Value::Null; 342];
        steps.extend((0..18).map(|_| json!(2)));
        let value = json!({ "step_seconds": 10, "length": 360, "until": "2026-01-02T03:04:00.000Z",
                            "series": { "accepted": steps, "ready": [1, 5, 3] } });
        let history = History::new(&value);
        let sum = history.series("accepted", "accepted", "a", Fold::Sum);
        assert_eq!(sum.minutes.len(), COLUMNS);
        assert_eq!(sum.minutes[56..], [None, Some(12.0), Some(12.0), Some(12.0)]);
        assert_eq!(sum.sum(), 36);
        assert_eq!(history.series("ready", "ready", "a", Fold::Max).minutes[59], Some(5.0));
        assert_eq!(history.series("none", "none", "a", Fold::Max).minutes, vec![None; COLUMNS]);
        assert_eq!((history.minute(59).as_str(), history.minute(0).as_str()), ("03:03", "02:04"));
    }

    #[test]
    fn pictures_say_in_words_what_they_show() {
        let value = json!({ "step_seconds": 60, "until": "2026-01-02T03:04:00.000Z",
                            "series": { "accepted": [4, 0, 1], "refused": [0, 0, 2], "ready": [7] } });
        let history = History::new(&value);
        let series = [
            history.series("accepted", "accepted", "good", Fold::Sum),
            history.series("refused", "refused", "bad", Fold::Sum),
        ];
        let picture = columns("in", "Mail in", &history, &series).into_string();
        assert!(
            picture.contains("Last hour: 5 accepted, 2 refused. Most in one minute: 4 at 03:01."),
            "{picture}"
        );
        assert!(picture.contains("<title>03:03: 1 accepted, 2 refused</title>"), "{picture}");
        assert_eq!(picture.matches("<rect class=\"bad\"").count(), 1);
        let ready = history.series("ready", "ready", "wait", Fold::Max);
        let picture = line("ready", "Waiting", &history, &ready, Some(7.0), whole_text).into_string();
        assert!(picture.contains("at most 7."), "{picture}");
        let empty = json!({});
        let history = History::new(&empty);
        let none = [history.series("accepted", "accepted", "good", Fold::Sum)];
        assert!(columns("in", "Mail in", &history, &none).into_string().contains("Last hour: 0 accepted."));
    }
}
