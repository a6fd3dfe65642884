//! Plots of what was measured, as SVG files.
//!
//! Lines over one horizontal axis: latencies over quantiles, counts over time, costs over sizes.
//! Failure policy: a plot that cannot be written is an error that names the file; the measurement was printed before.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

/// Width and height, pixels.
const SIZE: (u32, u32) = (760, 420);
/// Letters of a title that fit across; more of them are smaller.
const TITLE_CHARS: usize = 90;
/// Colours that are told apart by most eyes (Okabe and Ito), ours first.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(160, 140, 30),
];

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Log,
}

/// One axis: what it shows and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) title: &'static str,
    pub(super) scale: Scale,
}

/// A line with its name.
pub(super) type Line = (String, Vec<(f64, f64)>);

/// Draws `lines`; nothing is drawn when there is no point at all.
pub(super) fn draw(file: &Path, title: &str, x: Axis, y: Axis, lines: &[Line]) -> anyhow::Result<()> {
    let all = || lines.iter().flat_map(|(_, points)| points.iter());
    if all().next().is_none() {
        return Ok(());
    }
    let range = |axis: Axis, pick: fn(&(f64, f64)) -> f64| {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in all().map(pick).filter(|value| axis.scale == Scale::Linear || *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        match axis.scale {
            Scale::Linear => (low.min(0.0), if high > low.min(0.0) { high * 1.05 } else { low + 1.0 }),
            Scale::Log => (low * 0.8, high.max(low * 1.1) * 1.2),
        }
    };
    let (across, up) = (range(x, |point| point.0), range(y, |point| point.1));
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let drawn = (|| -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&area);
        let long = title.chars().count().max(TITLE_CHARS);
        builder.caption(title, ("sans-serif", 17.0 * TITLE_CHARS as f64 / long as f64)).margin(12);
        builder.x_label_area_size(42).y_label_area_size(66);
        macro_rules! chart {
            ($x:expr, $y:expr) => {{
                let mut chart = builder.build_cartesian_2d($x, $y)?;
                let mut mesh = chart.configure_mesh();
                mesh.x_desc(x.title).y_desc(y.title).light_line_style(WHITE.mix(0.0));
                mesh.x_label_formatter(&label).y_label_formatter(&label);
                mesh.draw()?;
                for (n, (name, points)) in lines.iter().enumerate() {
                    let color = COLORS[n % COLORS.len()];
                    let style = color.stroke_width(2);
                    chart.draw_series(LineSeries::new(points.iter().copied(), style))?.label(name).legend(
                        move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(3)),
                    );
                }
                let mut labels = chart.configure_series_labels();
                labels.position(SeriesLabelPosition::LowerRight).background_style(WHITE.mix(0.85));
                labels.border_style(BLACK.mix(0.2)).draw()?;
            }};
        }
        let (plain_x, plain_y) = (across.0..across.1, up.0..up.1);
        match (x.scale, y.scale) {
            (Scale::Linear, Scale::Linear) => chart!(plain_x, plain_y),
            (Scale::Log, Scale::Linear) => chart!(plain_x.log_scale(), plain_y),
            (Scale::Linear, Scale::Log) => chart!(plain_x, plain_y.log_scale()),
            (Scale::Log, Scale::Log) => chart!(plain_x.log_scale(), plain_y.log_scale()),
        }
        area.present()?;
        Ok(())
    })();
    drawn.map_err(|error| anyhow!("{}: {error}", file.display()))
}

/// A short label: `10k`, `2M`, `0.25`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the type that the library asks for")]
fn label(value: &f64) -> String {
    let (scaled, suffix) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e3 => (value / 1e3, "k"),
        _ => (*value, ""),
    };
    let text = format!("{scaled:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let texts = [0.0, 0.25, 12.0, 1500.0, 10_000_000.0].map(|value| label(&value));
        assert_eq!(texts, ["0", "0.25", "12", "1.5k", "10M"]);
    }

    #[test]
    fn a_plot_is_an_svg_with_every_line_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("plot.svg");
        let axis = |title, scale| Axis { title, scale };
        let lines = vec![
            ("one".to_owned(), vec![(1.0, 1.0), (10.0, 3.0)]),
            ("two".to_owned(), vec![(1.0, 0.5), (100.0, 200.0)]),
        ];
        for (x, y) in [(Scale::Linear, Scale::Log), (Scale::Log, Scale::Linear), (Scale::Log, Scale::Log)] {
            draw(&file, "a title", axis("sizes", x), axis("cost", y), &lines).expect("drawn");
            let text = std::fs::read_to_string(&file).expect("a file");
            assert!(text.starts_with("<svg") && text.contains("a title") && text.contains("two"), "{text}");
            assert!(text.matches("<polyline").count() >= 2, "{text}");
        }
    }
}
