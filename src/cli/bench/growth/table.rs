//! What is printed of the steps: their figures, each step's ratio to the smallest one, JSON, plots.

use std::path::Path;

use serde_json::{Value, json};

use super::super::figures::Outcome;
use super::super::plot::{self, Axis, Line, Scale};
use super::super::{Side, report};
use super::{Args, Part, Step};
use crate::cli::screen::{self, Paint};
use crate::cli::{Exit, Global};

/// Figures with their headers: what one message costs, and what the whole costs.
const MESSAGE: [(&str, &str); 6] = [
    ("messages_per_second", "MSG/S"),
    ("cpu_seconds_per_1000", "CPU S/1000"),
    ("bytes_written_per_message", "WRITTEN/MSG"),
    ("dot_p50_ms", "DOT P50 MS"),
    ("dot_p99_ms", "DOT P99 MS"),
    ("peak_memory_bytes", "PEAK MEMORY"),
];
const WHOLE: [(&str, &str); 9] = [
    ("start_seconds", "START S"),
    ("start_after_kill_seconds", "AFTER KILL"),
    ("start_without_index_seconds", "WITHOUT INDEX"),
    ("memory_after_start_bytes", "MEMORY"),
    ("ls_ms", "LS MS"),
    ("newest_ms", "NEWEST MS"),
    ("show_ms", "SHOW MS"),
    ("disk_bytes_per_item", "DISK/ITEM"),
    ("fill_per_second", "FILL/S"),
];

/// Plots: name, unit of the vertical axis, its scale, and its lines.
const PLOTS: [(&str, &str, Scale, &[&str]); 6] = [
    ("rate", "messages a second", Scale::Linear, &["messages_per_second"]),
    ("cpu", "CPU seconds for 1000 messages", Scale::Linear, &["cpu_seconds_per_1000"]),
    ("dot", "milliseconds from dot to 250", Scale::Linear, &["dot_p50_ms", "dot_p99_ms"]),
    (
        "start",
        "seconds until it serves",
        Scale::Log,
        &["start_seconds", "start_after_kill_seconds", "start_without_index_seconds"],
    ),
    ("memory", "bytes", Scale::Linear, &["memory_after_start_bytes", "peak_memory_bytes"]),
    (
        "questions",
        "milliseconds for an operator's question",
        Scale::Linear,
        &["ls_ms", "newest_ms", "show_ms"],
    ),
];

/// All rounds of one step of one side.
struct Row<'a> {
    side: Side,
    stored: u64,
    lanes: u32,
    outcomes: Vec<&'a Outcome>,
}

impl Row<'_> {
    fn middle(&self, figure: &str) -> Option<f64> {
        report::middle(self.outcomes.iter().copied(), figure)
    }

    /// What grows.
    fn size(&self, part: Part) -> f64 {
        match part {
            Part::Stored => super::super::count(self.stored),
            Part::Lanes => f64::from(self.lanes),
        }
    }
}

fn rows(steps: &[Step], part: Part) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for step in steps.iter().filter(|step| step.part == part) {
        let same = |row: &&mut Row<'_>| {
            row.side == step.side && row.stored == step.stored && row.lanes == step.lanes
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.outcomes.push(&step.outcome),
            None => rows.push(Row {
                side: step.side,
                stored: step.stored,
                lanes: step.lanes,
                outcomes: vec![&step.outcome],
            }),
        }
    }
    rows
}

/// Each row by the smallest of its side; the smallest has none.
fn ratio(rows: &[Row<'_>], row: &Row<'_>, figure: &str) -> Option<f64> {
    let smallest = rows.iter().find(|other| other.side == row.side)?;
    if std::ptr::eq(smallest, row) {
        return None;
    }
    let rounds = row.outcomes.iter().zip(&smallest.outcomes);
    let of_round = |(row, smallest): (&&Outcome, &&Outcome)| {
        Some(row.get(figure)? / smallest.get(figure)?).filter(|ratio| ratio.is_finite())
    };
    let ratios: Vec<f64> = rounds.filter_map(of_round).collect();
    (!ratios.is_empty()).then(|| report::median(&ratios))
}

pub(super) fn finish(global: &Global, args: &Args, steps: &[Step]) -> anyhow::Result<Exit> {
    let words = format!(
        "growth: {} messages of {} bytes by SMTP, {} sessions, when so many are stored already",
        args.messages, args.size, args.sessions
    );
    if global.json {
        lines(args, steps)?;
    } else {
        let paint = Paint::new(global.color.on_stdout());
        let mut text = report::head(&args.common, &words);
        for part in [Part::Stored, Part::Lanes] {
            text.push_str(&tables(paint, &rows(steps, part)));
        }
        screen::print(&text)?;
    }
    if let Some(directory) = &args.common.plots {
        std::fs::create_dir_all(directory)?;
        for part in [Part::Stored, Part::Lanes] {
            draw(directory, &words, part, &rows(steps, part))?;
        }
    }
    Ok(if steps.is_empty() { Exit::Failed } else { Exit::Done })
}

fn tables(paint: Paint, rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    let table = |columns: &[(&str, &str)], cell: &dyn Fn(&Row<'_>, &str) -> String| {
        let mut header = vec!["SIDE", "STORED", "LANES"];
        header.extend(columns.iter().map(|(_, header)| *header));
        let right: Vec<bool> = (0..header.len()).map(|n| n > 0).collect();
        let cells = |row: &Row<'_>| {
            let mut cells = vec![row.side.word().to_owned(), row.stored.to_string(), row.lanes.to_string()];
            cells.extend(columns.iter().map(|(figure, _)| cell(row, figure)));
            cells
        };
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        screen::table(paint, &header, &right, &cells)
    };
    let value = |row: &Row<'_>, figure: &str| report::cell(row.outcomes.iter().copied(), figure);
    let by_smallest = |row: &Row<'_>, figure: &str| {
        ratio(rows, row, figure).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
    };
    for columns in [&MESSAGE[..], &WHOLE[..]] {
        text.push_str(&table(columns, &value));
        text.push('\n');
        if rows.len() > 1 {
            text.push_str("against the smallest:\n");
            text.push_str(&table(columns, &by_smallest));
            text.push('\n');
        }
    }
    text
}

fn lines(args: &Args, steps: &[Step]) -> anyhow::Result<()> {
    screen::line(&json!({
        "bench": "growth",
        "load": {
            "messages": args.messages, "size": args.size, "sessions": args.sessions, "stored": args.stored,
            "lanes": args.lanes, "lanes_sweep": args.lanes_sweep, "lanes_sweep_stored": args.lanes_sweep_stored,
        },
        "machine": report::machine(&args.common.root()),
    }))?;
    for step in steps {
        let mut object = step.outcome.json();
        for (key, value) in [
            ("bench", json!("growth")),
            ("grows", json!(word(step.part))),
            ("side", json!(step.side.word())),
            ("round", json!(step.round)),
            ("stored", json!(step.stored)),
            ("lanes", json!(step.lanes)),
        ] {
            object.insert(key.to_owned(), value);
        }
        screen::line(&Value::Object(object))?;
    }
    for part in [Part::Stored, Part::Lanes] {
        let rows = rows(steps, part);
        for row in &rows {
            for (figure, _) in MESSAGE.iter().chain(&WHOLE) {
                if let Some(ratio) = ratio(&rows, row, figure) {
                    screen::line(&json!({
                        "bench": "growth", "grows": word(part), "side": row.side.word(), "stored": row.stored,
                        "lanes": row.lanes, "figure": figure, "ratio_to_smallest": ratio,
                    }))?;
                }
            }
        }
    }
    Ok(())
}

fn word(part: Part) -> &'static str {
    match part {
        Part::Stored => "stored",
        Part::Lanes => "lanes",
    }
}

fn draw(directory: &Path, words: &str, part: Part, rows: &[Row<'_>]) -> anyhow::Result<()> {
    let title = match part {
        Part::Stored => "items stored already",
        Part::Lanes => "lanes that the items lie in",
    };
    for (name, unit, scale, figures) in PLOTS {
        let mut lines: Vec<Line> = Vec::new();
        for figure in figures {
            let header =
                MESSAGE.iter().chain(&WHOLE).find(|(name, _)| name == figure).map(|(_, header)| *header);
            for row in rows {
                let Some(value) = row.middle(figure) else { continue };
                let line = format!("{} {}", row.side.word(), header.unwrap_or(figure).to_lowercase());
                let point = (row.size(part), value);
                match lines.iter_mut().find(|(name, _)| *name == line) {
                    Some((_, points)) => points.push(point),
                    None => lines.push((line, vec![point])),
                }
            }
        }
        let file = directory.join(format!("growth-{}-{name}.svg", word(part)));
        let (x, y) = (Axis { title, scale: Scale::Log }, Axis { title: unit, scale });
        plot::draw(&file, words, x, y, &lines)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::figures::Unit;
    use super::*;

    fn step(side: Side, stored: u64, rate: f64) -> Step {
        let mut outcome = Outcome::default();
        outcome.figure("messages_per_second", Unit::PerSecond, rate);
        Step { part: Part::Stored, side, round: 1, stored, lanes: 1, outcome }
    }

    #[test]
    fn each_step_is_compared_with_the_smallest_of_its_side() {
        let steps = [
            step(Side::Waystation, 10, 100.0),
            step(Side::Waystation, 1000, 90.0),
            step(Side::Baseline, 10, 50.0),
            step(Side::Baseline, 1000, 10.0),
            // Another round, in which everything was slower.
            step(Side::Waystation, 10, 50.0),
            step(Side::Waystation, 1000, 35.0),
        ];
        let rows = rows(&steps, Part::Stored);
        let ratios: Vec<_> = rows.iter().map(|row| ratio(&rows, row, "messages_per_second")).collect();
        assert_eq!(ratios, [None, Some(0.8), None, Some(0.2)]);
        let text = tables(Paint::new(false), &rows);
        assert!(text.contains("62 (35..90)") && text.contains("0.20"), "{text}");
        assert!(super::rows(&steps, Part::Lanes).is_empty());
    }
}
