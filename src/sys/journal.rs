//! systemd's journal, if it is behind standard error, as it is in a unit (`JOURNAL_STREAM`, systemd.exec(5)). What is
//! logged has its priority there, and its fields, by which `journalctl` finds it.
//!
//! An entry is one datagram to journald's socket. It is never waited for, and sent to the socket's path, so to a journald
//! that was started again as well. What journald does not take (it is not there, its socket is full, the entry is larger
//! than a datagram) becomes a line on standard error, with the priority before it (sd-daemon(3)). So do all entries of a
//! process that soon ends: journald takes the unit of a datagram from /proc, where its sender may be gone, and that of
//! a line from the stream.
//!
//! The crate tracing-journald waits for room in journald's socket, and its messages lack the fields: `journalctl -u` would show
//! that a backend is down, and not which one.

use std::{
    env,
    fmt::Debug,
    io,
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::PathBuf,
    sync::Arc,
};

use nix::sys::stat::fstat;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FormatFields as _,
        format::{DefaultFields, Writer},
    },
    layer::{Context, Layer},
};

use super::output::Log;

const SOCKET: &str = "/run/systemd/journal/socket";
/// What ends a process.
pub(super) const CRITICAL: u8 = 2;
/// What makes an action fail.
pub(super) const ERROR: u8 = 3;
/// The longest name of a field that journald takes.
const NAME_BYTES_MAX: usize = 64;

/// Reports whether standard error leads to the journal itself, and not to another program or a file.
#[expect(clippy::disallowed_methods, reason = "it is about standard error, and the same for every program")]
pub(super) fn is_behind_stderr() -> bool {
    let stream = env::var("JOURNAL_STREAM");
    stream.is_ok_and(|stream| is(&io::stderr(), &stream))
}

fn is(descriptor: &impl AsFd, stream: &str) -> bool {
    fstat(descriptor).is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}

/// Puts a priority before each line, as journald reads it.
pub(super) fn with_priority(priority: u8, text: &str) -> String {
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

/// journald's socket.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    program: &'static str,
}

impl Journal {
    /// Opens a socket to send from, as this program.
    pub(super) fn new(program: &'static str) -> io::Result<Self> {
        Self::at(SOCKET.into(), program)
    }

    fn at(path: PathBuf, program: &'static str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path, program })
    }

    pub(super) fn send(&self, entry: &Entry) -> io::Result<()> {
        let mut datagram = entry.fields.0.clone();
        add(&mut datagram, "SYSLOG_IDENTIFIER", self.program);
        self.socket.send_to(&datagram, &self.path).map(drop)
    }
}

/// What is logged at once.
pub(super) struct Entry {
    priority: u8,
    /// The message with its fields, as elsewhere.
    text: String,
    fields: Fields,
}

impl Entry {
    fn of(event: &Event<'_>) -> Self {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = DefaultFields::new().format_fields(Writer::new(&mut text), event);
        let priority = match *event.metadata().level() {
            Level::ERROR => ERROR,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut fields = Fields::default();
        add(&mut fields.0, "MESSAGE", &text);
        add(&mut fields.0, "PRIORITY", &priority.to_string());
        event.record(&mut fields);
        Self { priority, text, fields }
    }

    pub(super) fn line(&self) -> String {
        with_priority(self.priority, &self.text)
    }
}

/// Fields as journald's protocol has them.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let name = field.name().to_ascii_uppercase();
        let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = name.len() <= NAME_BYTES_MAX
            && name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.bytes().all(allowed);
        // The message is there already, with its fields.
        if is_name && name != "MESSAGE" {
            add(&mut self.0, &name, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Adds `NAME=VALUE`, or what stands for it if there are several lines.
fn add(fields: &mut Vec<u8>, name: &str, value: &str) {
    fields.extend(name.bytes());
    if value.contains('\n') {
        fields.push(b'\n');
        fields.extend((value.len() as u64).to_le_bytes());
    } else {
        fields.push(b'=');
    }
    fields.extend(value.bytes());
    fields.push(b'\n');
}

/// Where what is logged goes if the journal is behind standard error.
pub(super) struct ToJournal {
    /// `None` for lines alone.
    pub(super) journal: Option<Journal>,
    pub(super) log: Arc<Log>,
}

impl<S: Subscriber> Layer<S> for ToJournal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.log.entry(&Entry::of(event), self.journal.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What plays journald, and what is logged to it.
    fn played(logs: impl FnOnce()) -> (tempfile::TempDir, UnixDatagram) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Some(Journal::at(path, "lbagent").unwrap());
        let layer = ToJournal { journal, log: Arc::default() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), logs);
        journald.set_nonblocking(true).unwrap();
        (directory, journald)
    }

    fn next(journald: &UnixDatagram) -> String {
        let mut datagram = [0; 4096];
        let length = journald.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    }

    #[test]
    fn an_entry_has_its_message_its_priority_and_its_fields() {
        let (_directory, journald) = played(|| {
            let (from, took_ms) = ("up", 1001_u128);
            warn!(backends = "web/s1", from, reason = %"no route", took_ms, "down");
            info!(error = ?Some("two\nlines"), text = "two\nlines", "adopted");
        });
        assert_eq!(
            next(&journald),
            "MESSAGE=down backends=\"web/s1\" from=\"up\" reason=no route took_ms=1001\nPRIORITY=4\n\
             BACKENDS=web/s1\nFROM=up\nREASON=no route\nTOOK_MS=1001\nSYSLOG_IDENTIFIER=lbagent\n"
        );
        let news = next(&journald);
        assert!(news.contains("\nPRIORITY=6\nERROR=Some(\"two\\nlines\")\n"), "{news}");
        assert!(news.contains("\nTEXT\n\x09\0\0\0\0\0\0\0two\nlines\nSYSLOG_IDENTIFIER"), "{news}");
        assert!(journald.recv(&mut [0]).is_err(), "nothing else came");
    }

    #[test]
    fn what_journald_does_not_take_is_an_error_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = Journal::at(path.clone(), "lbd").unwrap();
        let entry = |bytes: usize| {
            let mut fields = Fields::default();
            add(&mut fields.0, "MESSAGE", &"x".repeat(bytes));
            Entry { priority: 4, text: "x\ny".to_owned(), fields }
        };
        assert_eq!(journal.send(&entry(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
        let journald = UnixDatagram::bind(&path).unwrap();
        assert!(journal.send(&entry(16 << 20)).is_err(), "it is too large");
        let full = (0..100_000).find_map(|_| journal.send(&entry(1)).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        // One that is started again.
        drop(journald);
        std::fs::remove_file(&path).unwrap();
        let journald = UnixDatagram::bind(&path).unwrap();
        journal.send(&entry(1)).unwrap();
        assert_eq!(next(&journald), "MESSAGE=x\nSYSLOG_IDENTIFIER=lbd\n");
        assert_eq!(entry(1).line(), "<4>x\n<4>y\n");
    }

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = fstat(&writer).unwrap();
        assert!(is(&writer, &format!("{}:{}", file.st_dev, file.st_ino)));
        for other in
            [format!("{}:{}", file.st_dev, file.st_ino + 1), format!("{}", file.st_ino), String::new()]
        {
            assert!(!is(&writer, &other), "{other}");
        }
    }
}
