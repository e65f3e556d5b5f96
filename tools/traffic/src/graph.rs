//! `traffic graph`: runs as a picture, a panel for each, all to the same scales (panel.rs). `traffic bars`: measurements
//! side by side (bars.rs).

pub(crate) mod bars;
mod panel;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;

use self::panel::{Panel, Scales};
use crate::cli::GraphArgs;
use crate::reported::Reported;

const FONT: &str = "sans-serif";
const TEXT: RGBColor = RGBColor(0x26, 0x2b, 0x33);
const OPEN: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const LOST: RGBColor = RGBColor(0xc8, 0x2f, 0x2f);
const NEW: RGBColor = RGBColor(0x2f, 0x8f, 0x46);
const EVENT: RGBColor = RGBColor(0x5b, 0x64, 0x70);

/// The title and the legend.
const HEAD_HEIGHT: u32 = 66;
/// One report alone.
const ALONE: (u32, u32) = (960, 480);
/// One of several, two in a row.
const ONE_OF_MANY: (u32, u32) = (480, 222);
const FOOT_HEIGHT: u32 = 8;
/// Width of a letter of the legend, about.
const LETTER_WIDTH: i32 = 7;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) fn run(args: &GraphArgs) -> anyhow::Result<ExitCode> {
    let (names, files) = (args.names.len(), args.files.len());
    ensure!(names <= files, "{names} names, and only {files} reports");
    let mut panels = Vec::new();
    for (number, file) in args.files.iter().enumerate() {
        let report = Reported::read(file)?;
        ensure!(report.samples.len() >= 2, "{} has no samples: `traffic hold` has", file.display());
        let name = match args.names.get(number) {
            Some(name) => Some(name.clone()),
            None => (files > 1).then(|| stem(file)),
        };
        panels.push(Panel { name, report });
    }
    let svg = draw(&panels, args.title.as_deref()).context("drawing")?;
    fs::write(&args.out, svg).with_context(|| format!("writing {}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

fn draw(panels: &[Panel], title: Option<&str>) -> anyhow::Result<String> {
    let (columns, (width, height)) = if panels.len() == 1 { (1, ALONE) } else { (2, ONE_OF_MANY) };
    let rows = u32::try_from(panels.len().div_ceil(columns)).context("too many reports")?;
    let mut svg = String::new();
    {
        let size = (width * u32::try_from(columns)?, HEAD_HEIGHT + rows * height + FOOT_HEIGHT);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (top, below) = root.split_vertically(HEAD_HEIGHT);
        let counted = match panels {
            [one] => one.report.summary(),
            _ => String::new(),
        };
        head(&top, title.unwrap_or(&counted))?;
        let scales = Scales::of(panels);
        let (grid, _) = below.split_vertically(rows * height);
        for (panel, area) in panels.iter().zip(grid.split_evenly((usize::try_from(rows)?, columns))) {
            panel.draw(&area, &scales)?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// The title, and the legend of all panels.
fn head(area: &Area<'_>, title: &str) -> anyhow::Result<()> {
    let bold = (FONT, 19).into_font().style(FontStyle::Bold).color(&TEXT);
    area.draw(&Text::new(title.to_owned(), (14, 14), bold))?;
    let mut x = 16;
    for (name, colour) in [("connections open", OPEN), ("lost, in all", LOST), ("new in a second", NEW)] {
        area.draw(&PathElement::new([(x, 53), (x + 20, 53)], colour.stroke_width(3)))?;
        area.draw(&Text::new(name, (x + 27, 47), (FONT, 13).into_font().color(&TEXT)))?;
        x += 60 + LETTER_WIDTH * i32::try_from(name.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reported::tests::report;

    fn panel(name: Option<&str>) -> Panel {
        Panel { name: name.map(str::to_owned), report: report() }
    }

    #[test]
    fn the_picture_of_one_run_has_its_lines_and_events() {
        let svg = draw(&[panel(None)], None).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        for text in ["124 opened, 24 lost, 0 failed", "s1 &lt;deactivated&gt;", "connections open", "4.0 s"] {
            assert!(svg.contains(&format!("{text}\n")), "{text}: {svg}");
        }
        for colour in ["#1F5FA8", "#C82F2F", "#2F8F46"] {
            assert!(svg.matches(colour).count() >= 2, "a series and its legend: {colour}");
        }
    }

    #[test]
    fn several_runs_have_a_panel_each() {
        let svg =
            draw(&[panel(Some("one")), panel(Some("two")), panel(Some("three"))], Some("2 of 10")).unwrap();
        assert!(svg.contains(r#"viewBox="0 0 960 518""#), "{svg}");
        for (text, times) in [("one\n", 1), ("two\n", 1), ("three\n", 1), ("24 lost\n", 3), ("2 of 10\n", 1)]
        {
            assert_eq!(svg.matches(text).count(), times, "{text}");
        }
    }
}
