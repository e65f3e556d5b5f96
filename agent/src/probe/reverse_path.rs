//! Whether this host drops the answers of checks through tunnels. They come from a VIP, and the way back to a VIP is
//! lbd's blackhole route, or for IPv4 the one that satisfies a loose filter (`synrail::plan::routing`). A strict filter drops
//! them. IPv6 has no such filter.

use std::{cell::RefCell, fs, path::Path, rc::Rc, time::Duration};

use synrail::sys::clock;

use super::Target;

/// The settings of each device.
const SETTINGS: &str = "/proc/sys/net/ipv4/conf";
/// How long what was read counts.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// When the settings were read, and what they may be the reason for.
type Reading = (Duration, Option<String>);

/// The last reading.
#[derive(Clone, Debug, Default)]
pub(super) struct ReversePath(Rc<RefCell<Option<Reading>>>);

impl ReversePath {
    /// Says that a filter may be why there was no answer.
    pub(super) fn drops(&self, target: &Target) -> Option<String> {
        if target.mark.is_none() || target.to.is_ipv6() {
            return None;
        }
        let now = clock::monotonic();
        let mut last = self.0.borrow_mut();
        if last.as_ref().is_none_or(|(at, _)| now.saturating_sub(*at) >= KEPT_FOR) {
            *last = Some((now, filter(Path::new(SETTINGS))));
        }
        last.as_ref().and_then(|(_, found)| found.clone())
    }
}

/// `rp_filter` of a strict filter. 2 is a loose one.
const STRICT: u8 = 1;

/// Returns what is said about the first device with a strict filter. The larger of its own setting and that of all counts.
fn filter(settings: &Path) -> Option<String> {
    let read = |device: &str| -> Option<u8> {
        fs::read_to_string(settings.join(device).join("rp_filter")).ok()?.trim().parse().ok()
    };
    let of_all = read("all").unwrap_or(0);
    let mut devices: Vec<String> = fs::read_dir(settings)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !["all", "default", "lo"].contains(&name.as_str()) && !name.starts_with("sr-"))
        .collect();
    devices.sort();
    devices.into_iter().find_map(|device| {
        let filter = read(&device)?.max(of_all);
        (filter == STRICT)
            .then(|| format!("rp_filter is 1 on {device}, and may drop its answers: set it to 2"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_both_settings_counts() {
        let directory = tempfile::tempdir().unwrap();
        let set = |device: &str, value: u8| {
            let at = directory.path().join(device);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("rp_filter"), format!("{value}\n")).unwrap();
        };
        for (device, value) in [("all", 0), ("default", 2), ("lo", 1), ("sr-1", 1), ("eth1", 0)] {
            set(device, value);
        }
        assert_eq!(filter(directory.path()), None);
        set("eth2", 2);
        assert_eq!(filter(directory.path()), None);
        set("all", 1);
        assert!(filter(directory.path()).unwrap().starts_with("rp_filter is 1 on eth1, "));
        set("all", 2);
        assert_eq!(filter(directory.path()), None);
    }
}
