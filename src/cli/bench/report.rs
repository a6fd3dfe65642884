//! What is printed of a measurement: a table of medians with their spread, ratios round by round, JSON, plots.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::figures::{Latency, Outcome, Unit};
use super::plot::{self, Axis, Line, Scale};
use super::{Common, Side};
use crate::cli::screen::{self, Paint};
use crate::cli::{Exit, Global};
use crate::clock;

/// What was measured, for the reader.
pub(super) struct Subject {
    /// The verb.
    pub(super) bench: &'static str,
    /// One line: what was done.
    pub(super) words: String,
    /// The same for programs.
    pub(super) load: Map<String, Value>,
    /// Figures of the table, in order, with their headers.
    pub(super) columns: &'static [(&'static str, &'static str)],
}

/// One turn of one side.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) side: Side,
    pub(super) round: u8,
    pub(super) outcome: Outcome,
}

/// Prints and plots; nothing measured is a failure.
pub(super) fn finish(
    global: &Global,
    common: &Common,
    subject: &Subject,
    turns: &[Turn],
) -> anyhow::Result<Exit> {
    if global.json {
        screen::line(
            &json!({ "bench": subject.bench, "load": subject.load, "machine": machine(&common.root()) }),
        )?;
        for turn in turns {
            let mut object = turn.outcome.json();
            object.insert("bench".to_owned(), json!(subject.bench));
            object.insert("side".to_owned(), json!(turn.side.word()));
            object.insert("round".to_owned(), json!(turn.round));
            screen::line(&Value::Object(object))?;
        }
        for ratio in ratios(turns, subject) {
            screen::line(&json!({
                "bench": subject.bench, "side": Side::Waystation.word(), "against": ratio.against.word(),
                "figure": ratio.figure, "ratio": ratio.median, "least": ratio.least, "most": ratio.most,
            }))?;
        }
    } else {
        screen::print(&text(Paint::new(global.color.on_stdout()), common, subject, turns))?;
    }
    if let Some(directory) = &common.plots {
        std::fs::create_dir_all(directory)?;
        draw(directory, subject, turns)?;
    }
    Ok(if turns.is_empty() { Exit::Failed } else { Exit::Done })
}

/// Said above every table of such a build.
const UNOPTIMIZED: &str = "This is a build without optimisation: its numbers are worth nothing.\n";

/// The machine, the disk and the moment.
pub(super) fn machine(directory: &Path) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    json!({
        "cpu": after(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "memory": after(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "file_system": file_system(directory, &read("/proc/self/mounts")),
        "date": today(),
        "version": env!("CARGO_PKG_VERSION"),
        "optimized": !cfg!(debug_assertions),
    })
}

fn today() -> Option<String> {
    let seconds = i64::try_from(clock::wall().0 / 1000).ok()?;
    Some(time::OffsetDateTime::from_unix_timestamp(seconds).ok()?.date().to_string())
}

/// Type of the file system that a directory is on: the mount with the longest path above it.
fn file_system(directory: &Path, mounts: &str) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(point, _)| directory.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}

/// Sides in the order of their first turn.
fn sides(turns: &[Turn]) -> Vec<Side> {
    let mut sides = Vec::new();
    for turn in turns {
        if !sides.contains(&turn.side) {
            sides.push(turn.side);
        }
    }
    sides
}

/// What one side gave, turn by turn.
fn of_side(turns: &[Turn], side: Side) -> impl Iterator<Item = &Outcome> {
    turns.iter().filter(move |turn| turn.side == side).map(|turn| &turn.outcome)
}

/// All values of a figure, with its unit.
fn values<'a>(outcomes: impl Iterator<Item = &'a Outcome>, name: &str) -> Option<(Unit, Vec<f64>)> {
    let mut found =
        outcomes.flat_map(|outcome| outcome.figures.iter()).filter(|figure| figure.name == name).peekable();
    let unit = found.peek()?.unit;
    Some((unit, found.map(|figure| figure.value).collect()))
}

/// The one in the middle; of two the mean.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Median of a figure.
pub(super) fn middle<'a>(outcomes: impl Iterator<Item = &'a Outcome>, name: &str) -> Option<f64> {
    values(outcomes, name).map(|(_, values)| median(&values))
}

/// What was done, and on what.
pub(super) fn head(common: &Common, words: &str) -> String {
    let machine = machine(&common.root());
    let word = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
    let unoptimized = if cfg!(debug_assertions) { UNOPTIMIZED } else { "" };
    format!(
        "{words}\n{} cores ({}), {}, Linux {}; {}, version {}\n{unoptimized}\n",
        machine["cores"],
        word("cpu"),
        word("file_system"),
        word("kernel"),
        word("date"),
        word("version"),
    )
}

fn text(paint: Paint, common: &Common, subject: &Subject, turns: &[Turn]) -> String {
    let mut text = head(common, &subject.words);
    let shown: Vec<_> = subject
        .columns
        .iter()
        .filter(|(name, _)| turns.iter().any(|turn| turn.outcome.get(name).is_some()))
        .collect();
    let mut header = vec!["SIDE"];
    header.extend(shown.iter().map(|(_, header)| *header));
    let right: Vec<bool> = (0..header.len()).map(|n| n > 0).collect();
    let rows: Vec<Vec<String>> = sides(turns)
        .into_iter()
        .map(|side| {
            let cells = shown.iter().map(|(name, _)| cell(of_side(turns, side), name));
            std::iter::once(side.word().to_owned()).chain(cells).collect()
        })
        .collect();
    text.push_str(&screen::table(paint, &header, &right, &rows));
    let ratios = ratios(turns, subject);
    if !ratios.is_empty() {
        text.push_str(
            "\nwaystation against       figure                      ratio  (least to most, round by round)\n",
        );
    }
    for ratio in ratios {
        text.push_str(&format!(
            "  {:<22} {:<26} {:>6.2}  ({:.2} to {:.2})\n",
            ratio.against.word(),
            ratio.figure,
            ratio.median,
            ratio.least,
            ratio.most
        ));
    }
    text
}

/// Median of a figure, with least and most when there are several.
pub(super) fn cell<'a>(outcomes: impl Iterator<Item = &'a Outcome>, name: &str) -> String {
    let Some((unit, values)) = values(outcomes, name) else { return "-".to_owned() };
    let middle = unit.print(median(&values));
    if values.len() < 2 {
        return middle;
    }
    format!("{middle} ({}..{})", unit.print(least(&values)), unit.print(most(&values)))
}

/// Ours by theirs, figure by figure.
struct Ratio {
    against: Side,
    figure: &'static str,
    median: f64,
    least: f64,
    most: f64,
}

fn ratios(turns: &[Turn], subject: &Subject) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for against in sides(turns).into_iter().filter(|side| *side != Side::Waystation) {
        for (figure, _) in subject.columns {
            // Each round's pair was measured within the same minutes.
            let by_round = |side: Side| -> BTreeMap<u8, f64> {
                let of = turns.iter().filter(|turn| turn.side == side);
                of.filter_map(|turn| Some((turn.round, turn.outcome.get(figure)?))).collect()
            };
            let (ours, theirs) = (by_round(Side::Waystation), by_round(against));
            let pairs: Vec<f64> = ours
                .iter()
                .filter_map(|(round, ours)| theirs.get(round).map(|theirs| ours / theirs))
                .filter(|ratio| ratio.is_finite())
                .collect();
            if !pairs.is_empty() {
                let (median, least, most) = (median(&pairs), least(&pairs), most(&pairs));
                ratios.push(Ratio { against, figure, median, least, most });
            }
        }
    }
    ratios
}

/// One plot for each kind of latency, and one for each thing counted over time.
pub(super) fn draw(directory: &Path, subject: &Subject, turns: &[Turn]) -> anyhow::Result<()> {
    let mut latencies: BTreeMap<&str, Vec<(Side, Latency)>> = BTreeMap::new();
    let mut series: BTreeMap<(&'static str, &'static str), Vec<Line>> = BTreeMap::new();
    for turn in turns {
        for latency in &turn.outcome.latencies {
            let of = latencies.entry(latency.name).or_default();
            match of.iter_mut().find(|(side, _)| *side == turn.side) {
                Some((_, sum)) => sum.add(latency),
                None => of.push((turn.side, latency.clone())),
            }
        }
        for one in &turn.outcome.series {
            let name = format!("{} {}", turn.side.word(), turn.round);
            series.entry((one.name, one.unit)).or_default().push((name, one.points.clone()));
        }
    }
    for (name, sides) in latencies {
        let curve = |latency: &Latency| {
            let points = latency.curve().into_iter().filter(|(quantile, _)| *quantile < 1.0);
            points.map(|(quantile, ms)| (1.0 / (1.0 - quantile), ms)).collect()
        };
        let lines: Vec<Line> =
            sides.iter().map(|(side, latency)| (side.word().to_owned(), curve(latency))).collect();
        let x = Axis { title: "one in so many is slower", scale: Scale::Log };
        let y = Axis { title: "milliseconds", scale: Scale::Log };
        let file = directory.join(format!("{}-{name}.svg", subject.bench));
        plot::draw(&file, &format!("{}: {name}", subject.words), x, y, &lines)?;
    }
    for ((name, unit), lines) in series {
        let (x, y) =
            (Axis { title: "seconds", scale: Scale::Linear }, Axis { title: unit, scale: Scale::Linear });
        let file = directory.join(format!("{}-{name}.svg", subject.bench));
        plot::draw(&file, &format!("{}: {name}", subject.words), x, y, &lines)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(side: Side, round: u8, rate: f64) -> Turn {
        let mut outcome = Outcome::default();
        outcome.figure("messages_per_second", Unit::PerSecond, rate);
        Turn { side, round, outcome }
    }

    fn subject() -> Subject {
        Subject {
            bench: "accept",
            words: String::new(),
            load: Map::new(),
            columns: &[("messages_per_second", "MSG/S")],
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let turns = [
            turn(Side::Waystation, 1, 10.0),
            turn(Side::Postfix, 1, 5.0),
            turn(Side::Waystation, 2, 30.0),
            turn(Side::Postfix, 2, 10.0),
            turn(Side::Waystation, 3, 100.0),
        ];
        let ratios = ratios(&turns, &subject());
        assert_eq!(ratios.len(), 1);
        assert_eq!((ratios[0].median, ratios[0].least, ratios[0].most), (2.5, 2.0, 3.0));
        assert_eq!(cell(of_side(&turns, Side::Waystation), "messages_per_second"), "30 (10..100)");
        assert_eq!(cell(of_side(&turns, Side::Exim), "messages_per_second"), "-");
    }

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "/dev/vda / ext4 rw 0 0\nnone / overlay rw 0 0\nnone /nowhere tmpfs rw 0 0\n";
        assert_eq!(file_system(Path::new("/"), mounts).as_deref(), Some("overlay"));
        assert_eq!(file_system(Path::new("/does/not/exist"), mounts), None);
    }
}
