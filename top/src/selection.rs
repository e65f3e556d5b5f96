//! What keys do: what is chosen, filtered and shown. PURE.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::snapshot::{Service, Snapshot};

/// How long a filter may be.
const FILTER_CHARS_MAX: usize = 64;
/// How far a page goes.
const PAGE: usize = 10;

/// What is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Index among the services that pass the filter.
    pub service: usize,
    /// Index of a backend of that service.
    pub backend: usize,
    /// Whether keys move among the backends.
    pub in_backends: bool,
    /// What names must contain.
    pub filter: String,
    /// Whether keys write the filter.
    pub editing: bool,
    /// Whether the screen stands still.
    pub paused: bool,
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Go on.
    Nothing,
    /// End.
    End,
}

impl Selection {
    /// Returns the services that pass the filter.
    #[must_use]
    pub fn services<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Service> {
        let has = |name: &str| name.contains(self.filter.as_str());
        let passes = |service: &&Service| {
            has(&service.name) || service.backends.iter().any(|backend| has(&backend.name))
        };
        snapshot.services.iter().filter(passes).collect()
    }

    /// Keeps what is chosen among what there is. Returns the chosen service.
    pub fn settle<'a>(&mut self, snapshot: &'a Snapshot) -> Option<&'a Service> {
        let services = self.services(snapshot);
        self.service = self.service.min(services.len().saturating_sub(1));
        let service = services.get(self.service).copied();
        self.backend =
            self.backend.min(service.map_or(0, |service| service.backends.len().saturating_sub(1)));
        service
    }

    /// Takes a key.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys do nothing")]
    pub fn key(&mut self, key: KeyEvent) -> Asked {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Asked::End;
        }
        if self.editing {
            self.edit(key.code);
            return Asked::Nothing;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Asked::End,
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Tab | KeyCode::BackTab => self.in_backends = !self.in_backends,
            KeyCode::Up | KeyCode::Char('k') => self.to(|at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.to(|at| at + 1),
            KeyCode::PageUp => self.to(|at| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.to(|at| at + PAGE),
            KeyCode::Home => self.to(|_| 0),
            KeyCode::End => self.to(|_| usize::MAX / 2),
            _ => {}
        }
        Asked::Nothing
    }

    fn to(&mut self, next: impl FnOnce(usize) -> usize) {
        if self.in_backends {
            self.backend = next(self.backend);
        } else {
            (self.service, self.backend) = (next(self.service), 0);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys do nothing")]
    fn edit(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.editing = false,
            KeyCode::Esc => (self.editing, self.filter) = (false, String::new()),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.push(letter);
            }
            _ => {}
        }
        (self.service, self.backend) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::tests::snapshot;

    fn press(selection: &mut Selection, keys: &[KeyCode]) -> Asked {
        let mut asked = Asked::Nothing;
        for key in keys {
            asked = selection.key(KeyEvent::from(*key));
        }
        asked
    }

    fn write(selection: &mut Selection, text: &str) {
        let keys: Vec<KeyCode> = text.chars().map(KeyCode::Char).collect();
        press(selection, &keys);
    }

    #[test]
    fn keys_move_among_what_there_is() {
        let (snapshot, mut selection) = (snapshot(), Selection::default());
        let chosen =
            |selection: &mut Selection| selection.settle(&snapshot).map(|service| service.name.clone());
        assert_eq!(chosen(&mut selection).as_deref(), Some("web"));
        press(&mut selection, &[KeyCode::Up]);
        assert_eq!(chosen(&mut selection).as_deref(), Some("web"));
        press(&mut selection, &[KeyCode::Down]);
        assert_eq!(chosen(&mut selection).as_deref(), Some("dns"));
        press(&mut selection, &[KeyCode::End]);
        assert_eq!(chosen(&mut selection).as_deref(), Some("dns"));
        press(&mut selection, &[KeyCode::Home, KeyCode::Tab, KeyCode::PageDown]);
        assert_eq!(chosen(&mut selection).as_deref(), Some("web"));
        assert_eq!(selection.backend, 2, "of three");
        assert_eq!(press(&mut selection, &[KeyCode::Char(' ')]), Asked::Nothing);
        assert!(selection.paused);
        assert_eq!(press(&mut selection, &[KeyCode::Char('q')]), Asked::End);
        assert_eq!(Selection::default().settle(&Snapshot::default()), None);
    }

    #[test]
    fn a_filter_finds_services_and_backends() {
        let (snapshot, mut selection) = (snapshot(), Selection::default());
        let names = |selection: &Selection| -> Vec<String> {
            selection.services(&snapshot).iter().map(|service| service.name.clone()).collect()
        };
        write(&mut selection, "/ns9");
        assert_eq!(names(&selection), ["dns"], "the name of a backend; q and others are letters");
        press(&mut selection, &[KeyCode::Backspace, KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!((selection.filter.as_str(), selection.editing), ("n", false));
        write(&mut selection, "/");
        press(&mut selection, &[KeyCode::Esc]);
        assert_eq!((names(&selection).len(), selection.filter.as_str()), (2, ""));
        write(&mut selection, &format!("/{}", "x".repeat(1000)));
        assert_eq!((names(&selection).len(), selection.filter.len()), (0, FILTER_CHARS_MAX));
        let end = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(selection.key(end), Asked::End, "also amid a filter");
    }
}
