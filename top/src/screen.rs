//! Draws the screen. PURE: a history and what is chosen in, cells out.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Row, Table, TableState},
};
use synrail::model::{Admin, Health};

use crate::{
    history::{History, sum},
    selection::Selection,
    snapshot::{Backend, Fact, Service, Snapshot},
};

const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const TITLE: Style = Style::new().add_modifier(Modifier::BOLD);
/// How wide the bars of a backend are.
const BARS: usize = 20;
/// How many reasons of drops are shown.
const DROPS_MAX: usize = 5;

/// Draws all of it. `error` is why nothing newer could be read.
pub fn draw(frame: &mut Frame<'_>, history: &History, selection: &mut Selection, error: Option<&str>) {
    let Some(snapshot) = &history.last else {
        frame.render_widget(Paragraph::new(error.unwrap_or("reading ...")), frame.area());
        return;
    };
    let chosen = selection.settle(snapshot);
    let services = selection.services(snapshot);
    let drops = snapshot.drops.len().min(DROPS_MAX);
    // A title and the names of columns; a third of the screen at most.
    let rows = lines(services.len()).saturating_add(2).min(frame.area().height / 3).max(3);
    let areas = Layout::vertical([
        Constraint::Length(if error.is_some() { 4 } else { 3 }),
        Constraint::Length(rows),
        Constraint::Min(4),
        Constraint::Length(lines(drops) + 1),
        Constraint::Length(1),
    ]);
    let [head, above, below, dropped, keys] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(summary(history, snapshot, error)), head);
    draw_services(frame, above, history, &services, selection);
    draw_backends(frame, below, history, chosen, selection);
    frame.render_widget(Paragraph::new(reasons(history, snapshot)), dropped);
    frame.render_widget(Paragraph::new(footer(selection)), keys);
}

fn lines(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn fact(fact: &Fact) -> Span<'_> {
    Span::styled(&*fact.text, if fact.good { GOOD } else { BAD })
}

fn summary<'a>(history: &'a History, snapshot: &'a Snapshot, error: Option<&'a str>) -> Vec<Line<'a>> {
    let mut first = vec![
        Span::styled(format!("synrail {}", snapshot.region), TITLE),
        Span::raw(format!("  generation {}  ", snapshot.generation)),
        fact(&snapshot.lbd),
    ];
    if let Some(agent) = &snapshot.agent {
        first.extend([Span::raw("  "), fact(agent)]);
    }
    let conntrack = snapshot.conntrack.map_or_else(
        || "connection tracking cannot be read".to_owned(),
        |(entries, max)| format!("connection tracking {entries} of {max}"),
    );
    let flows = format!("{conntrack}   off-table {}   promoted {}", snapshot.off_table, snapshot.promoted);
    let rates = Line::from(vec![
        Span::raw(format!("new flows {:>9}/s ", rate(history.steered.now()))),
        Span::styled(history.steered.bars(BARS), GOOD),
        Span::raw(format!("   dropped {:>9}/s ", rate(history.dropped.now()))),
        Span::styled(history.dropped.bars(BARS), BAD),
    ]);
    let mut all = vec![Line::from(first), Line::from(flows), rates];
    all.extend(error.map(|error| Line::styled(error, BAD)));
    all
}

/// In at most five characters.
fn rate(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.0}k", rate / 1e3),
        rate if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

fn count(flows: Option<u64>) -> String {
    flows.map_or_else(|| "-".to_owned(), |flows| flows.to_string())
}

fn chosen_style(is_here: bool) -> Style {
    if is_here {
        Style::new().add_modifier(Modifier::REVERSED)
    } else {
        Style::new().add_modifier(Modifier::UNDERLINED)
    }
}

fn draw_services(
    frame: &mut Frame<'_>,
    area: Rect,
    history: &History,
    services: &[&Service],
    selection: &Selection,
) {
    let title = match selection.filter.as_str() {
        "" => format!(" {} services ", services.len()),
        filter => format!(" {} services with \"{filter}\" ", services.len()),
    };
    let row = |service: &&Service| {
        let (active, all) = (service.active(), service.backends.len());
        let new = sum(service.backends.iter().map(|backend| history.of_target(backend.target).now()));
        let style = if service.notice.is_empty() { Style::new() } else { BAD };
        let backends = if active == all { Style::new() } else { Style::new().fg(Color::Yellow) };
        Row::new([
            Span::raw(service.name.clone()),
            Span::styled(format!("{active}/{all}"), backends),
            Span::raw(rate(new)),
            Span::raw(count(service.flows())),
            Span::styled(
                if service.notice.is_empty() { service.claims.clone() } else { service.notice.clone() },
                style,
            ),
        ])
    };
    let widths = [
        Constraint::Max(24),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Min(10),
    ];
    let table = Table::new(services.iter().map(row), widths)
        .header(Row::new(["SERVICE", "ACTIVE", "NEW/s", "FLOWS", "TAKES"]).style(DIM))
        .block(Block::new().borders(Borders::TOP).title(title))
        .row_highlight_style(chosen_style(!selection.in_backends));
    let mut at = TableState::new().with_selected((!services.is_empty()).then_some(selection.service));
    frame.render_stateful_widget(table, area, &mut at);
}

fn draw_backends(
    frame: &mut Frame<'_>,
    area: Rect,
    history: &History,
    service: Option<&Service>,
    selection: &Selection,
) {
    let backends = service.map_or(&[][..], |service| &service.backends);
    let title = service.map_or_else(String::new, |service| {
        format!(" {}: {} backends ", service.name, service.backends.len())
    });
    let row = |backend: &Backend| {
        let (health, style) = match backend.health {
            Some(Health::Up) => ("up", GOOD),
            Some(Health::Down) => ("down", BAD),
            None => ("-", DIM),
        };
        let rates = history.of_target(backend.target);
        let state =
            if backend.admin == Admin::Enabled { Style::new() } else { Style::new().fg(Color::Yellow) };
        Row::new([
            Span::raw(backend.name.clone()),
            Span::styled(backend.admin.name(), state),
            Span::styled(health, style),
            Span::raw(format!("{:>3}.{} %", backend.share_permille / 10, backend.share_permille % 10)),
            Span::raw(rate(rates.now())),
            Span::raw(count(backend.flows)),
            Span::styled(rates.bars(BARS), GOOD),
            Span::raw(if backend.why.is_empty() { backend.path.clone() } else { backend.why.clone() }),
        ])
    };
    let widths = [
        Constraint::Max(20),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(lines(BARS)),
        Constraint::Min(10),
    ];
    let names = ["BACKEND", "STATE", "HEALTH", "SHARE", "NEW/s", "FLOWS", "NEW/s, LAST 20", "WHY, OR WHERE"];
    let table = Table::new(backends.iter().map(row), widths)
        .header(Row::new(names).style(DIM))
        .block(Block::new().borders(Borders::TOP).title(title))
        .row_highlight_style(chosen_style(selection.in_backends));
    let mut at = TableState::new();
    if selection.in_backends && !backends.is_empty() {
        at.select(Some(selection.backend));
    }
    frame.render_stateful_widget(table, area, &mut at);
}

/// The reasons with the most packets now, then since the start.
fn reasons<'a>(history: &History, snapshot: &'a Snapshot) -> Vec<Line<'a>> {
    let mut all: Vec<(f64, u64, &str)> =
        snapshot.drops.iter().map(|(why, total)| (history.of_drop(why), *total, why.as_str())).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    let head = match snapshot.drops.len() {
        0 => Line::styled("nothing was dropped", GOOD),
        reasons if reasons > DROPS_MAX => {
            Line::from(format!("dropped, the first {DROPS_MAX} of {reasons} reasons"))
        }
        _ => Line::from("dropped"),
    };
    let line = |(now, total, why): &(f64, u64, &'a str)| {
        let style = if *now > 0.0 { BAD } else { Style::new() };
        Line::styled(format!("  {why:<28} {:>9}/s {total:>14}", rate(*now)), style)
    };
    [head].into_iter().chain(all.iter().take(DROPS_MAX).map(line)).collect()
}

fn footer(selection: &Selection) -> Line<'_> {
    if selection.editing {
        return Line::from(format!("filter: {}_   Enter ends, Esc clears", selection.filter));
    }
    let still = if selection.paused { "STANDS STILL, space goes on" } else { "space stands still" };
    Line::styled(format!("up down choose   tab backends   / filter   {still}   q ends"), DIM)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn backend(name: &str, target: u32) -> Backend {
        Backend {
            name: name.to_owned(),
            path: format!("gre 192.168.1.{target}"),
            target,
            admin: Admin::Enabled,
            health: Some(Health::Up),
            active: true,
            share_permille: 333,
            flows: Some(12),
            why: String::new(),
        }
    }

    /// web has a backend that is down and one that is drained, dns none that is active.
    pub(crate) fn snapshot() -> Snapshot {
        let down = Backend {
            health: Some(Health::Down),
            active: false,
            share_permille: 0,
            why: "connection refused (since 2026-11-30T05:00:00Z)".to_owned(),
            ..backend("s2", 2)
        };
        let drained = Backend { admin: Admin::Draining, active: false, ..backend("s3", 3) };
        Snapshot {
            region: "synrail".to_owned(),
            generation: 7,
            lbd: Fact { text: "lbd runs (process 77)".to_owned(), good: true },
            agent: Some(Fact { text: "checks run (process 78)".to_owned(), good: true }),
            conntrack: Some((1000, 262_144)),
            targets: [(1, 100), (2, 50), (3, 0)].into_iter().collect(),
            drops: [("drop_no_service".to_owned(), 9), ("unclaimed".to_owned(), 40)].into_iter().collect(),
            services: vec![
                Service {
                    name: "web".to_owned(),
                    claims: "10.0.0.1/32 tcp 80".to_owned(),
                    notice: String::new(),
                    backends: vec![backend("s1", 1), down, drained],
                },
                Service {
                    name: "dns".to_owned(),
                    notice: "NO BACKEND: new flows are dropped".to_owned(),
                    backends: vec![Backend { active: false, flows: None, ..backend("ns9", 9) }],
                    ..Service::default()
                },
            ],
            ..Snapshot::default()
        }
    }

    fn drawn(history: &History, selection: &mut Selection, error: Option<&str>, size: (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, history, selection, error)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn all_that_an_operator_looks_for_is_on_the_screen() {
        let mut history = History::default();
        history.add(snapshot());
        let later = Snapshot {
            at: Duration::from_secs(1),
            targets: [(1, 150), (2, 50), (3, 0)].into_iter().collect(),
            drops: [("drop_no_service".to_owned(), 29), ("unclaimed".to_owned(), 40)].into_iter().collect(),
            ..snapshot()
        };
        history.add(later);
        let mut selection = Selection::default();
        let text = drawn(&history, &mut selection, None, (120, 30));
        for said in [
            "synrail synrail  generation 7  lbd runs (process 77)  checks run (process 78)",
            "connection tracking 1000 of 262144",
            "new flows        50/s",
            "dropped        20/s",
            "2 services",
            "web: 3 backends",
            "connection refused",
            "draining",
            "33.3 %",
            "gre 192.168.1.1",
            "NO BACKEND: new flows are dropped",
            "q ends",
        ] {
            assert!(text.contains(said), "{said:?} is not in\n{text}");
        }
        // What is dropped now comes before what was.
        assert!(text.find("drop_no_service").unwrap() < text.find("unclaimed").unwrap(), "{text}");
        selection.service = 1;
        let text = drawn(&history, &mut selection, Some("there is no region"), (120, 30));
        assert!(text.contains("dns: 1 backends") && text.contains("there is no region"), "{text}");
    }

    #[test]
    fn any_size_is_drawn() {
        let mut history = History::default();
        history.add(snapshot());
        for size in [(1, 1), (40, 12), (40, 3), (500, 200)] {
            drawn(&history, &mut Selection::default(), Some("an error"), size);
            drawn(&History::default(), &mut Selection::default(), None, size);
        }
    }

    #[test]
    fn rates_are_short() {
        for (number, text) in
            [(0.0, "0"), (0.25, "0.2"), (9.5, "9.5"), (999.6, "1000"), (12_345.0, "12k"), (2.5e6, "2.5M")]
        {
            assert_eq!(rate(number), text);
        }
    }
}
