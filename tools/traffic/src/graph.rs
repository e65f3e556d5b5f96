//! `traffic graph`: a run as a picture. Above, how many connections were open and how many had been lost; below, how
//! many were new each second; through both, the events.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::cli::GraphArgs;
use crate::history::{Event, Sample};
use crate::reported::Reported;

const SIZE: (u32, u32) = (960, 540);
/// Height of the upper chart, with the title.
const UPPER: u32 = 350;
const FONT: &str = "sans-serif";
const OPEN: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const LOST: RGBColor = RGBColor(0xc0, 0x2c, 0x2c);
const NEW: RGBColor = RGBColor(0x2a, 0x8a, 0x3e);
const EVENT: RGBColor = RGBColor(0x55, 0x55, 0x55);
/// Above the highest line, for the names of events.
const HEADROOM: f64 = 1.25;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

pub(crate) fn run(args: &GraphArgs) -> anyhow::Result<ExitCode> {
    let report = Reported::read(&args.file)?;
    ensure!(report.samples.len() >= 2, "{} has no samples: `traffic hold` has", args.file.display());
    let svg = draw(&report, args.title.as_deref()).context("drawing")?;
    fs::write(&args.out, svg).with_context(|| format!("writing {}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn draw(report: &Reported, title: Option<&str>) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(UPPER);
        let own_title = format!("{} opened, {} lost, {} failed", report.opened, report.lost, report.failed);
        let end = report.samples.last().map_or(0.0, |sample| sample.seconds);
        let mut chart = axes(&upper, Some(title.unwrap_or(&own_title)), end, highest(report), "connections")?;
        let held = |sample: &&Sample| report.held_until.is_none_or(|until| sample.seconds <= until);
        let open = report.samples.iter().filter(held).map(|sample| (sample.seconds, sample.open as f64));
        line(&mut chart, open, OPEN, "open")?;
        let lost = report.samples.iter().map(|sample| (sample.seconds, sample.lost as f64));
        line(&mut chart, lost, LOST, "lost, in all")?;
        events(&mut chart, &report.events, highest(report), true)?;
        legend(&mut chart)?;

        let new = new_each_second(report);
        // While all are being opened there are so many that nothing could be seen of the rest.
        let ready = report.ready_at.unwrap_or(0.0);
        let settled = new.iter().filter(|(seconds, _)| *seconds > ready).map(|(_, count)| *count);
        let most = settled.fold(1.0, f64::max) * HEADROOM;
        let mut chart = axes(&lower, None, end, most, "new a second")?;
        line(
            &mut chart,
            new.iter().map(|&(seconds, count)| (seconds, count.min(most))),
            NEW,
            "new a second",
        )?;
        events(&mut chart, &report.events, most, false)?;
        legend(&mut chart)?;
        root.present()?;
    }
    Ok(svg)
}

fn highest(report: &Reported) -> f64 {
    let most = report.samples.iter().map(|sample| sample.open.max(sample.lost)).max().unwrap_or(0);
    most.max(1) as f64 * HEADROOM
}

/// Steps, as points. What lies closer together than samples do, as at an event, is one step.
fn new_each_second(report: &Reported) -> Vec<(f64, f64)> {
    let least = report.sample_ms as f64 / 2e3;
    let mut points = Vec::new();
    let Some(mut before) = report.samples.first() else { return points };
    for sample in &report.samples {
        let seconds = sample.seconds - before.seconds;
        if seconds > 0.0 && seconds >= least {
            let new = (sample.opened - before.opened) as f64 / seconds;
            points.extend([(before.seconds, new), (sample.seconds, new)]);
            before = sample;
        }
    }
    points
}

fn axes<'a, 'b>(
    area: &Area<'b>,
    title: Option<&str>,
    end: f64,
    most: f64,
    what: &str,
) -> anyhow::Result<Chart<'a, 'b>>
where
    'b: 'a,
{
    let mut builder = ChartBuilder::on(area);
    builder.margin(8).margin_right(20).set_label_area_size(LabelAreaPosition::Left, 64);
    builder.set_label_area_size(LabelAreaPosition::Bottom, 36);
    if let Some(title) = title {
        builder.caption(title, (FONT, 18));
    }
    let mut chart = builder.build_cartesian_2d(0.0..end.max(0.001), 0.0..most)?;
    let whole = |value: &f64| format!("{value:.0}");
    let seconds = |value: &f64| if end < 5.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("seconds")
        .y_desc(what)
        .x_label_formatter(&seconds)
        .y_label_formatter(&whole)
        .label_style((FONT, 12))
        .axis_desc_style((FONT, 13))
        .draw()?;
    Ok(chart)
}

fn line(
    chart: &mut Chart<'_, '_>,
    points: impl Iterator<Item = (f64, f64)>,
    colour: RGBColor,
    name: &str,
) -> anyhow::Result<()> {
    chart
        .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    Ok(())
}

/// A line across for each, and its name along it.
fn events(chart: &mut Chart<'_, '_>, events: &[Event], most: f64, named: bool) -> anyhow::Result<()> {
    let at = |event: &Event| [(event.seconds, 0.0), (event.seconds, most)];
    chart.draw_series(events.iter().map(|event| PathElement::new(at(event), EVENT.stroke_width(1))))?;
    if named {
        let style = TextStyle::from((FONT, 12).into_font().transform(FontTransform::Rotate90))
            .color(&EVENT)
            .pos(Pos::new(HPos::Left, VPos::Bottom));
        chart.draw_series(events.iter().map(|event| {
            EmptyElement::at((event.seconds, most)) + Text::new(event.name.clone(), (3, 2), style.clone())
        }))?;
    }
    Ok(())
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>) -> anyhow::Result<()> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .label_font((FONT, 12))
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reported::tests::report;

    #[test]
    fn the_picture_has_the_lines_and_the_events() {
        let svg = draw(&report(), Some("2 of 10 out")).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        for text in ["2 of 10 out", "s1 &lt;deactivated&gt;", "open", "lost, in all", "new a second"] {
            assert!(svg.contains(&format!("{text}\n")), "{text}: {svg}");
        }
        for colour in ["#1F5FA8", "#C02C2C", "#2A8A3E"] {
            assert_eq!(svg.matches(colour).count(), 2, "a series and its legend: {colour}");
        }
    }

    #[test]
    fn what_is_new_is_a_step_between_samples() {
        let points = new_each_second(&report());
        assert_eq!(points[..2], [(0.0, 200.0), (0.5, 200.0)]);
        let last = &points[points.len() - 4..];
        assert!(last[0].0 == 2.0 && last[1].0 == 3.0 && last[0].1 == 24.0, "{points:?}");
    }
}
