//! `lbtop`: the terminal, its keys, and the time between two looks. All else is in the library.

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Parser as _;
use lbtop::{
    Arguments,
    history::History,
    read::Reader,
    screen,
    selection::{Asked, Selection},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::{
    DefaultTerminal, Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyEventKind},
};
use signal_hook::consts::{SIGHUP, SIGTERM};
use synrail::{
    status::{Sources, StatusError},
    sys::{clock, output},
};

/// How long a key waits at most for its effect.
const KEY_WAIT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    output::prepare();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(complaint) => return output::usage("lbtop", &complaint),
    };
    let mut reader = Reader::new(arguments.shm.clone(), Sources::of_host());
    let failed = |error: &dyn std::fmt::Display| {
        output::complain("lbtop", error);
        ExitCode::FAILURE
    };
    if arguments.once {
        return match once(&mut reader, &arguments) {
            Ok(screen) => output::answer("lbtop", screen),
            Err(error) => failed(&error),
        };
    }
    if !has_terminal() {
        return failed(&"this is no terminal; --once prints one screen");
    }
    // If there is no region, this says so before the screen is taken.
    let mut history = History::default();
    match reader.read() {
        Ok(snapshot) => history.add(snapshot),
        Err(error) => return failed(&error),
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&ended)) {
            return failed(&error);
        }
    }
    // Also puts the terminal back after a panic.
    let mut terminal = ratatui::init();
    let shown = run(&mut terminal, &mut reader, (history, &arguments), &ended);
    // A terminal that has gone needs nothing, and what is dropped would panic at it.
    let _ = terminal.show_cursor();
    let _ = ratatui::try_restore();
    std::mem::forget(terminal);
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

#[expect(clippy::disallowed_methods, reason = "the screen is no answer that a reader may close")]
fn has_terminal() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Waits for a key, a signal, or so long. Reports whether the terminal is still there: what reads keys would wait for one
/// that has gone for ever.
fn wait_for_key(wait: Duration) -> bool {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    let waited = poll(&mut watched, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO));
    waited.is_err() || !watched[0].revents().is_some_and(|events| events.intersects(gone))
}

fn run(
    terminal: &mut DefaultTerminal,
    reader: &mut Reader,
    (mut history, arguments): (History, &Arguments),
    ended: &AtomicBool,
) -> io::Result<()> {
    let mut selection = Selection { filter: arguments.filter.clone(), ..Selection::default() };
    let (mut due, mut error) = (clock::now() + arguments.interval, None);
    while !ended.load(Ordering::Relaxed) {
        if clock::now() >= due && !selection.paused {
            error = reader.read().map(|snapshot| history.add(snapshot)).err().map(|error| error.to_string());
            due = clock::now() + arguments.interval;
        }
        terminal.draw(|frame| screen::draw(frame, &history, &mut selection, error.as_deref()))?;
        let wait = due.saturating_duration_since(clock::now()).min(KEY_WAIT);
        if !wait_for_key(if selection.paused { KEY_WAIT } else { wait }) {
            break;
        }
        if event::poll(Duration::ZERO)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && selection.key(key) == Asked::End
        {
            break;
        }
    }
    Ok(())
}

/// Returns one screen, without blanks at the ends of lines.
fn once(reader: &mut Reader, arguments: &Arguments) -> Result<String, StatusError> {
    let mut history = History::default();
    history.add(reader.read()?);
    let _ = clock::wait_for(arguments.interval, arguments.interval, || None::<()>);
    history.add(reader.read()?);
    let mut selection = Selection { filter: arguments.filter.clone(), ..Selection::default() };
    let Ok(mut terminal) = Terminal::new(TestBackend::new(arguments.width, arguments.height));
    let Ok(_) = terminal.draw(|frame| screen::draw(frame, &history, &mut selection, None));
    let screen = terminal.backend().buffer();
    let cells = screen.content().chunks(usize::from(arguments.width.max(1)));
    let lines = cells.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
    let lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
    Ok(lines.join("\n"))
}
