//! Follows a file to which others append lines.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};

/// What is read at once; what is longer comes by the next calls.
const READ_BYTES: u64 = 64 * 1024;
/// What is read of events at once: some of them, with names of 255 bytes at most.
const EVENTS_BYTES: usize = 4096;
/// The longest line.
const LINE_BYTES_MAX: usize = 200;

/// A file, and how far it has been read. It need not exist yet; one that takes its place, or has become shorter since the last
/// look, is read from its start.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    /// Held open, so that no other file can get its inode.
    file: Option<File>,
    read: u64,
    partial: Vec<u8>,
}

impl Follower {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, read: 0, partial: Vec::new() }
    }

    /// The lines that were completed since the last look, or by a part of what was written since; empty ones do not
    /// count. None: nothing is left to read.
    pub(crate) fn lines(&mut self) -> io::Result<Option<Vec<String>>> {
        let now = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            now => now?,
        };
        let inode = |file: &File| file.metadata().map(|of| (of.dev(), of.ino()));
        let same = self.file.as_ref().map(inode).transpose()? == Some(inode(&now)?);
        if !same || now.metadata()?.len() < self.read {
            *self = Self::new(&self.path);
        }
        let file = self.file.get_or_insert(now);
        file.seek(SeekFrom::Start(self.read))?;
        let read = file.take(READ_BYTES).read_to_end(&mut self.partial)?;
        if read == 0 {
            return Ok(None);
        }
        self.read += read as u64;
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            self.partial.truncate(LINE_BYTES_MAX);
            return Ok(Some(Vec::new()));
        };
        let complete: Vec<u8> = self.partial.drain(..=end).collect();
        let text = |line: &[u8]| {
            let line = &line[..line.len().min(LINE_BYTES_MAX)];
            String::from_utf8_lossy(line).trim().to_owned()
        };
        Ok(Some(complete.split(|byte| *byte == b'\n').map(text).filter(|line| !line.is_empty()).collect()))
    }
}

/// Tells when the file of a path is written or comes to be there (inotify(7)). Of changes that another machine makes, on a
/// file system that both have, the kernel tells nothing.
pub(crate) struct Changes {
    events: EventStream<[u8; EVENTS_BYTES]>,
    name: OsString,
}

impl Changes {
    /// Within a runtime. The directory must be there.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let inotify = Inotify::init()?;
        inotify.watches().add(directory, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
        let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
        Ok(Self { events: inotify.into_event_stream([0; EVENTS_BYTES])?, name })
    }

    /// Waits for the next one, unless there was one since the last call.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        while let Some(event) = self.events.next().await {
            // One without a name: there were more than the kernel keeps.
            if event?.name.is_none_or(|name| name == self.name) {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn each_line_comes_once_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let mut follower = Follower::new(&path);
        assert_eq!(follower.lines().unwrap(), None);
        let mut file = File::create(&path).unwrap();
        for (written, lines) in [
            ("one\ntw", &["one"][..]),
            ("o\n\nthree \n", &["two", "three"]),
            ("\u{fc}", &[]),
            ("\n", &["\u{fc}"]),
        ] {
            file.write_all(written.as_bytes()).unwrap();
            assert_eq!(follower.lines().unwrap().unwrap(), lines, "{written:?}");
            assert_eq!(follower.lines().unwrap(), None);
        }
        file.write_all(&[b'x'; 300]).unwrap();
        file.write_all(b"\n").unwrap();
        assert_eq!(follower.lines().unwrap().unwrap()[0].len(), LINE_BYTES_MAX);
    }

    #[test]
    fn a_long_file_is_read_to_its_end_and_a_new_one_from_its_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let mut follower = Follower::new(&path);
        let mut all = || std::iter::from_fn(|| follower.lines().unwrap()).flatten().collect::<Vec<_>>();
        std::fs::write(&path, "\n".repeat(200_000) + "after blank lines\n").unwrap();
        assert_eq!(all(), ["after blank lines"]);
        std::fs::write(&path, "shorter\nunfini").unwrap();
        assert_eq!(all(), ["shorter"]);
        let other = directory.path().join("other");
        std::fs::write(&other, "one that is longer, in its place\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(all(), ["one that is longer, in its place"]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(all(), [""; 0]);
        std::fs::write(&path, "one that is longer still, and comes after it\n").unwrap();
        assert_eq!(all(), ["one that is longer still, and comes after it"]);
    }

    #[tokio::test]
    async fn changes_of_the_file_are_reported_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let mut changes = Changes::of(&path).unwrap();
        let mut told = async || timeout(Duration::from_millis(200), changes.next()).await;
        File::create(directory.path().join("other")).unwrap().write_all(b"x").unwrap();
        assert!(told().await.is_err());
        let mut file = File::create(&path).unwrap();
        assert!(told().await.is_ok());
        file.write_all(b"one\n").unwrap();
        assert!(told().await.is_ok());
        assert!(told().await.is_err());
        assert!(Changes::of(Path::new("/nowhere/events")).is_err());
    }
}
