//! One run in a picture. Above, how many connections were open and how many had been lost; below, how many were new in each
//! second; through both, the events, with every second phase between them shaded.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, EVENT, FONT, LOST, NEW, OPEN, TEXT};
use crate::history::{Event, Sample};
use crate::reported::Reported;

/// The name, and what was lost.
const NAME_HEIGHT: u32 = 24;
/// Of what is below the name, the upper chart.
const UPPER_PERCENT: u32 = 64;
const LEFT_WIDTH: u32 = 56;
const RIGHT_MARGIN: u32 = 16;
/// Above the highest line, for the names of events.
const HEADROOM: f64 = 1.3;
/// Width of a letter of an event's name, about.
const LETTER_WIDTH: f64 = 5.5;
/// Bars of the lower chart, at most.
const BARS_MAX: f64 = 120.0;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A run, and what stands above it.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) name: Option<String>,
    pub(super) report: Reported,
}

/// How far the axes reach, the same for all panels.
#[derive(Debug)]
pub(super) struct Scales {
    seconds: f64,
    connections: f64,
    new: f64,
    /// The least time that an event's name has until the next, for each of its letters.
    seconds_by_letter: f64,
}

/// So many were opened in a second, over some time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bar {
    from: f64,
    until: f64,
    new: f64,
}

impl Scales {
    pub(super) fn of(panels: &[Panel]) -> Self {
        let most = |value: fn(&Reported) -> f64| panels.iter().map(|p| value(&p.report)).fold(0.0, f64::max);
        let seconds = most(|report| report.samples.last().map_or(0.0, |last| last.seconds)).max(0.001);
        let connections = most(|report| {
            report.samples.iter().map(|sample| sample.open.max(sample.lost)).max().unwrap_or(0) as f64
        });
        // While all are being opened there are so many that nothing could be seen of the rest.
        let settled = panels.iter().flat_map(|panel| {
            let ready = panel.report.ready_at.unwrap_or(0.0);
            bars(&panel.report, seconds).into_iter().filter(move |bar| bar.from > ready).map(|bar| bar.new)
        });
        let settled = settled.fold(0.0, f64::max);
        let new = if settled > 0.0 { settled } else { connections };
        let room = panels.iter().map(|panel| seconds_by_letter(&panel.report.events, seconds));
        Self {
            seconds,
            connections: connections.max(1.0) * HEADROOM,
            new: new.max(1.0) * 1.1,
            seconds_by_letter: room.fold(f64::INFINITY, f64::min),
        }
    }

    /// Whether in all panels the names of events can stand side by side.
    fn names_across(&self, area: &Area<'_>) -> bool {
        let width = f64::from(area.dim_in_pixel().0) - f64::from(LEFT_WIDTH + RIGHT_MARGIN);
        self.seconds_by_letter * width / self.seconds >= LETTER_WIDTH
    }
}

impl Panel {
    pub(super) fn draw(&self, area: &Area<'_>, scales: &Scales) -> anyhow::Result<()> {
        let (name, charts) = area.split_vertically(if self.name.is_some() { NAME_HEIGHT } else { 0 });
        self.draw_name(&name)?;
        let (upper, lower) = charts.split_vertically(charts.dim_in_pixel().1 * UPPER_PERCENT / 100);
        self.draw_connections(&upper, scales)?;
        self.draw_new(&lower, scales)
    }

    fn draw_name(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let bold = (FONT, 15).into_font().style(FontStyle::Bold).color(&TEXT);
        area.draw(&Text::new(name.clone(), (i32::try_from(LEFT_WIDTH)?, 7), bold))?;
        let lost = self.report.lost;
        let colour = if lost > 0 { LOST } else { NEW };
        let right = (FONT, 14).into_font().color(&colour).pos(Pos::new(HPos::Right, VPos::Top));
        let edge = i32::try_from(area.dim_in_pixel().0 - RIGHT_MARGIN)?;
        area.draw(&Text::new(format!("{lost} lost"), (edge, 8), right))?;
        Ok(())
    }

    fn draw_connections(&self, area: &Area<'_>, scales: &Scales) -> anyhow::Result<()> {
        let report = &self.report;
        let mut chart = axes(area, scales, scales.connections, "connections", false)?;
        events(&mut chart, &report.events, scales, scales.connections)?;
        let held = |sample: &&Sample| report.held_until.is_none_or(|until| sample.seconds <= until);
        let samples = || report.samples.iter().filter(held);
        let lost = steps(samples().map(|sample| (sample.seconds, sample.lost)));
        let mut below = lost.clone();
        below.extend([(lost.last().map_or(0.0, |last| last.0), 0.0), (0.0, 0.0)]);
        chart.draw_series([Polygon::new(below, LOST.mix(0.15))])?;
        chart.draw_series(LineSeries::new(lost, LOST.stroke_width(2)))?;
        let open = steps(samples().map(|sample| (sample.seconds, sample.open)));
        chart.draw_series(LineSeries::new(open, OPEN.stroke_width(2)))?;
        names(&mut chart, &report.events, scales.connections, scales.names_across(area))
    }

    fn draw_new(&self, area: &Area<'_>, scales: &Scales) -> anyhow::Result<()> {
        let mut chart = axes(area, scales, scales.new, "new / s", true)?;
        events(&mut chart, &self.report.events, scales, scales.new)?;
        let bars = bars(&self.report, scales.seconds);
        chart.draw_series(bars.into_iter().filter(|bar| bar.new > 0.0).map(|bar| {
            Rectangle::new([(bar.from, 0.0), (bar.until, bar.new.min(scales.new))], NEW.filled())
        }))?;
        Ok(())
    }
}

/// The corners of a line that keeps its height from one point to the next.
fn steps(points: impl Iterator<Item = (f64, u64)>) -> Vec<(f64, f64)> {
    let mut corners: Vec<(f64, f64)> = Vec::new();
    let mut end = None;
    for (seconds, value) in points {
        let value = value as f64;
        match corners.last() {
            Some(&(_, before)) if before == value => {}
            Some(&(_, before)) => corners.extend([(seconds, before), (seconds, value)]),
            None => corners.push((seconds, value)),
        }
        end = Some((seconds, value));
    }
    corners.extend(end);
    corners
}

/// Of a second each, or longer where samples are, or where there would be too many.
fn bars(report: &Reported, seconds: f64) -> Vec<Bar> {
    let width = (seconds / BARS_MAX).max(report.sample_ms as f64 / 1e3).ceil().max(1.0);
    let mut bars = Vec::new();
    let (mut from, mut opened) = (0.0, 0);
    let end = report.samples.last().map_or(0.0, |last| last.seconds);
    while from < end {
        let until = from + width;
        let by_then = report.samples.iter().rfind(|sample| sample.seconds <= until);
        let by_then = by_then.map_or(0, |sample| sample.opened);
        bars.push(Bar { from, until, new: (by_then - opened) as f64 / width });
        (from, opened) = (until, by_then);
    }
    bars
}

fn axes<'a, 'b>(
    area: &Area<'b>,
    scales: &Scales,
    most: f64,
    what: &str,
    seconds_below: bool,
) -> anyhow::Result<Chart<'a, 'b>>
where
    'b: 'a,
{
    let mut builder = ChartBuilder::on(area);
    builder.margin_top(4).margin_right(RIGHT_MARGIN).margin_left(4);
    builder.set_label_area_size(LabelAreaPosition::Left, LEFT_WIDTH - 4);
    builder.set_label_area_size(LabelAreaPosition::Bottom, if seconds_below { 24 } else { 6 });
    let mut chart = builder.build_cartesian_2d(0.0..scales.seconds, 0.0..most)?;
    let tall = area.dim_in_pixel().1;
    let whole = |value: &f64| format!("{value:.0}");
    let seconds = |value: &f64| match seconds_below {
        false => String::new(),
        true if scales.seconds < 5.0 => format!("{value:.1} s"),
        true => format!("{value:.0} s"),
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(BLACK.mix(0.45))
        .y_labels(usize::try_from(tall / 26)?.clamp(2, 8))
        .x_labels(8)
        .y_desc(what)
        .x_label_formatter(&seconds)
        .y_label_formatter(&whole)
        .label_style((FONT, 12).into_font().color(&TEXT))
        .axis_desc_style((FONT, 12).into_font().color(&TEXT))
        .draw()?;
    Ok(chart)
}

/// A line across for each, and every second phase shaded.
fn events(chart: &mut Chart<'_, '_>, events: &[Event], scales: &Scales, most: f64) -> anyhow::Result<()> {
    let shaded = events.chunks(2).map(|pair| {
        let until = pair.get(1).map_or(scales.seconds, |next| next.seconds);
        Rectangle::new([(pair[0].seconds, 0.0), (until, most)], EVENT.mix(0.1).filled())
    });
    chart.draw_series(shaded)?;
    let at = |event: &Event| [(event.seconds, 0.0), (event.seconds, most)];
    chart.draw_series(events.iter().map(|event| PathElement::new(at(event), EVENT.stroke_width(1))))?;
    Ok(())
}

fn seconds_by_letter(events: &[Event], end: f64) -> f64 {
    let ends = events.iter().skip(1).map(|next| next.seconds).chain([end]);
    let room = events.iter().zip(ends).map(|(event, until)| {
        let letters = event.name.chars().count() + 1; // and a little space
        (until - event.seconds) / letters as f64
    });
    room.fold(f64::INFINITY, f64::min)
}

/// At the top of their lines: to the right of them, or along them.
fn names(chart: &mut Chart<'_, '_>, events: &[Event], most: f64, across: bool) -> anyhow::Result<()> {
    let font = (FONT, 12).into_font();
    let (font, from, pos) = if across {
        (font, (5, 4), Pos::new(HPos::Left, VPos::Top))
    } else {
        (font.transform(FontTransform::Rotate90), (3, 2), Pos::new(HPos::Left, VPos::Bottom))
    };
    let style = TextStyle::from(font).color(&EVENT).pos(pos);
    chart.draw_series(events.iter().map(|event| {
        EmptyElement::at((event.seconds, most)) + Text::new(event.name.clone(), from, style.clone())
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reported::tests::report;

    #[test]
    fn what_is_new_is_counted_by_seconds() {
        let new: Vec<f64> = bars(&report(), 4.2).iter().map(|bar| bar.new).collect();
        assert_eq!(new, [100.0, 0.0, 24.0, 0.0, 0.0]);
        let halves: Vec<f64> = bars(&report(), 240.0).iter().map(|bar| bar.new).collect();
        assert_eq!(halves, [50.0, 12.0, 0.0], "240 s in 120 bars of 2 s");
        let seldom = Reported { sample_ms: 2000, ..report() };
        assert_eq!(bars(&seldom, 4.2).len(), 3, "a sample each 2 s");
    }

    #[test]
    fn the_scales_leave_out_the_opening() {
        let panels = [Panel { name: None, report: report() }];
        let scales = Scales::of(&panels);
        assert_eq!((scales.seconds, scales.connections, scales.new), (4.2, 130.0, 24.0 * 1.1));
        assert!((scales.seconds_by_letter - 2.199 / 17.0).abs() < 1e-9, "s1 <deactivated>: {scales:?}");
    }

    #[test]
    fn a_line_has_corners_only_where_it_changes() {
        let line = steps([(0.0, 0), (1.0, 5), (2.0, 5), (3.0, 5), (4.0, 4), (5.0, 4)].into_iter());
        let corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 5.0), (4.0, 5.0), (4.0, 4.0), (5.0, 4.0)];
        assert_eq!(line, corners);
    }

    #[test]
    fn names_of_events_have_the_time_until_the_next_one() {
        let events = |seconds: [f64; 2]| seconds.map(|seconds| Event { seconds, name: "s1 out".to_owned() });
        assert_eq!(seconds_by_letter(&events([10.0, 52.0]), 100.0), 6.0);
        assert_eq!(seconds_by_letter(&events([10.0, 24.0]), 100.0), 2.0);
        assert_eq!(seconds_by_letter(&events([10.0, 93.0]), 100.0), 1.0);
        assert_eq!(seconds_by_letter(&[], 100.0), f64::INFINITY);
    }
}
