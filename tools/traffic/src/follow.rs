//! Follows a file to which others append lines.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What is read at once; what is longer comes with the next looks.
const READ_BYTES: u64 = 64 * 1024;
/// The longest line.
const LINE_BYTES_MAX: usize = 200;

/// A file, and how far it has been read. It need not exist yet.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    read: u64,
    partial: Vec<u8>,
}

impl Follower {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: 0, partial: Vec::new() }
    }

    /// The lines that were completed since the last look; empty ones do not count.
    pub(crate) fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.take(READ_BYTES).read_to_end(&mut self.partial)? as u64;
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            self.partial.truncate(LINE_BYTES_MAX);
            return Ok(Vec::new());
        };
        let complete: Vec<u8> = self.partial.drain(..=end).collect();
        let text = |line: &[u8]| {
            let line = &line[..line.len().min(LINE_BYTES_MAX)];
            String::from_utf8_lossy(line).trim().to_owned()
        };
        Ok(complete.split(|byte| *byte == b'\n').map(text).filter(|line| !line.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn each_line_comes_once_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let mut follower = Follower::new(&path);
        assert_eq!(follower.lines().unwrap(), [""; 0]);
        let mut file = File::create(&path).unwrap();
        for (written, lines) in [
            ("one\ntw", &["one"][..]),
            ("", &[]),
            ("o\n\nthree \n", &["two", "three"]),
            ("\u{fc}", &[]),
            ("\n", &["\u{fc}"]),
        ] {
            file.write_all(written.as_bytes()).unwrap();
            assert_eq!(follower.lines().unwrap(), lines, "{written:?}");
        }
        file.write_all(&[b'x'; 300]).unwrap();
        file.write_all(b"\n").unwrap();
        assert_eq!(follower.lines().unwrap()[0].len(), LINE_BYTES_MAX);
    }
}
