//! What devices have sent, as the kernel counts it.

use std::{collections::BTreeMap, fs, io, path::Path};

/// What a device has sent since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the packets that were sent.
    pub bytes: u64,
    /// Packets that were sent.
    pub packets: u64,
    /// Packets that were not sent: dropped, or errors.
    pub lost: u64,
}

/// Reads what each device of the network namespace of the calling process has sent, by name, from the procfs
/// at `proc`.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn sent(proc: &Path) -> io::Result<BTreeMap<String, Sent>> {
    Ok(fs::read_to_string(proc.join("net/dev"))?.lines().filter_map(parse).collect())
}

/// Reads a line: a name, eight fields of what was received, and eight of what was sent (`net/core/net-procfs.c`).
fn parse(line: &str) -> Option<(String, Sent)> {
    let (name, fields) = line.rsplit_once(':')?;
    let fields: Vec<u64> = fields.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let &[bytes, packets, errors, dropped, ..] = fields.get(8..)? else { return None };
    let lost = errors.saturating_add(dropped);
    Some((name.trim().to_owned(), Sent { bytes, packets, lost }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_its_line() {
        let directory = tempfile::tempdir().unwrap();
        assert!(sent(directory.path()).is_err());
        fs::create_dir_all(directory.path().join("net")).unwrap();
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                    lo:     1       2    3    4    0     0          0         0        5       6    7    8    0     0       0          0\n  \
                    sr-7: 0 0 0 0 0 0 0 0 4200 3 0 1 0 0 0 0\n broken: 1 2\n";
        fs::write(directory.path().join("net/dev"), text).unwrap();
        let expected = [
            ("lo".to_owned(), Sent { bytes: 5, packets: 6, lost: 15 }),
            ("sr-7".to_owned(), Sent { bytes: 4200, packets: 3, lost: 1 }),
        ];
        assert_eq!(sent(directory.path()).unwrap(), expected.into());
        assert!(sent(Path::new("/proc")).unwrap().contains_key("lo"));
    }
}
