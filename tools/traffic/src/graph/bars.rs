//! `traffic bars`: measurements side by side. Each row has a scale of its own, from 0 on; a bar is a median, and the line
//! through its end goes from the least to the most that was measured.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;

use super::{Area, EVENT, FONT, NEW, OPEN, TEXT};
use crate::cli::BarsArgs;

const WIDTH: i32 = 960;
const MARGIN: i32 = 16;
const HEAD_HEIGHT: i32 = 62;
const ROW_HEIGHT: i32 = 40;
const BAR_HEIGHT: i32 = 22;
/// Where bars begin, behind the names; and where the longest ends, before the numbers.
const BARS: (i32, i32) = (210, 720);

/// What `tools/bench/compare --json` prints, as far as it is drawn.
#[derive(Debug, Deserialize)]
struct Comparison {
    title: String,
    subtitle: String,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    title: String,
    unit: String,
    results: Vec<Measured>,
}

#[derive(Debug, Deserialize)]
struct Measured {
    contender: String,
    median: f64,
    min: f64,
    max: f64,
    /// To the base of its row, where that was measured.
    ratio: Option<f64>,
}

pub(crate) fn run(args: &BarsArgs) -> anyhow::Result<ExitCode> {
    let reading = || format!("reading {}", args.file.display());
    let text = fs::read_to_string(&args.file).with_context(reading)?;
    let comparison: Comparison = serde_json::from_str(&text).with_context(reading)?;
    ensure!(!comparison.rows.is_empty(), "{} has no rows", args.file.display());
    let svg = draw(&comparison).context("drawing")?;
    fs::write(&args.out, svg).with_context(|| format!("writing {}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn draw(comparison: &Comparison) -> anyhow::Result<String> {
    let bars: usize = comparison.rows.iter().map(|row| row.results.len()).sum();
    let height = HEAD_HEIGHT
        + ROW_HEIGHT * i32::try_from(comparison.rows.len())?
        + BAR_HEIGHT * i32::try_from(bars)?
        + MARGIN;
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let bold = (FONT, 19).into_font().style(FontStyle::Bold).color(&TEXT);
        area.draw(&Text::new(comparison.title.clone(), (MARGIN, 14), bold))?;
        let plain = (FONT, 13).into_font().color(&EVENT);
        area.draw(&Text::new(comparison.subtitle.clone(), (MARGIN, 40), plain))?;
        let mut y = HEAD_HEIGHT;
        for row in &comparison.rows {
            y = draw_row(&area, row, y)?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// Returns where the next one begins.
fn draw_row(area: &Area<'_>, row: &Row, top: i32) -> anyhow::Result<i32> {
    let bold = (FONT, 15).into_font().style(FontStyle::Bold).color(&TEXT);
    area.draw(&Text::new(format!("{} [{}]", row.title, row.unit), (MARGIN, top + 14), bold))?;
    let most =
        row.results.iter().map(|result| result.max.max(result.median)).fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| {
        let room = f64::from(BARS.1 - BARS.0);
        // A share of the room, so no more than that.
        #[expect(clippy::cast_possible_truncation, reason = "it lies between BARS.0 and BARS.1")]
        let width = (value / most * room).round().clamp(0.0, room) as i32;
        BARS.0 + width
    };
    let mut y = top + ROW_HEIGHT;
    for result in &row.results {
        let middle = y + BAR_HEIGHT / 2 - 2;
        let colour = if result.contender == "synrail" { NEW } else { OPEN };
        let end = at(result.median);
        area.draw(&Rectangle::new([(BARS.0, y), (end, y + BAR_HEIGHT - 5)], colour.mix(0.75).filled()))?;
        area.draw(&PathElement::new(
            [(at(result.min), middle), (at(result.max), middle)],
            TEXT.stroke_width(1),
        ))?;
        let text = |at: HPos| (FONT, 14).into_font().color(&TEXT).pos(Pos::new(at, VPos::Center));
        area.draw(&Text::new(result.contender.clone(), (BARS.0 - 8, middle), text(HPos::Right)))?;
        let numbers = match result.ratio {
            Some(ratio) => format!("{}   x {ratio:.2}", three_digits(result.median)),
            None => three_digits(result.median),
        };
        area.draw(&Text::new(numbers, (BARS.1 + 12, middle), text(HPos::Left)))?;
        y += BAR_HEIGHT;
    }
    Ok(y)
}

fn three_digits(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_one_measured_has_a_bar_on_the_scale_of_its_row() {
        let measured = |contender: &str, median, ratio| Measured {
            contender: contender.to_owned(),
            median,
            min: median * 0.9,
            max: median,
            ratio,
        };
        let row = |unit: &str, results| Row { title: "a row".to_owned(), unit: unit.to_owned(), results };
        let svg = draw(&Comparison {
            title: "side by side".to_owned(),
            subtitle: "a machine".to_owned(),
            rows: vec![
                row("ns", vec![measured("mark", 200.0, Some(1.0)), measured("synrail", 400.0, Some(2.0))]),
                row("ms", vec![measured("synrail", 1.25, None)]),
            ],
        });
        let svg = svg.unwrap();
        for text in ["side by side", "a machine", "a row [ns]", "a row [ms]", "mark", "400   x 2.00", "1.25"]
        {
            assert!(svg.contains(&format!("{text}\n")), "{text}: {svg}");
        }
        for (width, times) in [(510, 2), (255, 1)] {
            assert_eq!(svg.matches(&format!("width=\"{width}\"")).count(), times, "{width}: {svg}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.0, 1.254, 12.34, 99.96, 345.6].map(three_digits);
        assert_eq!(written, ["0.00", "1.25", "12.3", "100.0", "346"]);
    }
}
