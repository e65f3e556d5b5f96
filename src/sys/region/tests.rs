use super::*;
use crate::{model::TableSize, shm::stats::Daemon};

/// A region of this test alone, removed when it ends.
struct Private(RegionName);

impl Private {
    fn new(test: &str) -> Self {
        let name: RegionName = format!("synrail-test-{}-{test}", std::process::id()).parse().unwrap();
        assert!(!name.path().exists());
        Self(name)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.path());
    }
}

fn state(active: usize) -> State {
    State::unconfigured(TableSize::new(97).unwrap(), 10, active).unwrap()
}

fn set_active(region: &mut Region, active: usize) -> Generation {
    region.update(|_| Ok::<_, AccessError>((Some(state(active)), ()))).unwrap().0
}

#[test]
fn names_stay_inside_of_the_directory() {
    for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", &"x".repeat(101)] {
        assert!(bad.parse::<RegionName>().is_err(), "{bad}");
    }
    assert_eq!("lb201".parse::<RegionName>().unwrap().path(), Path::new("/dev/shm/lb201"));
}

#[test]
fn one_process_writes_and_another_reads() {
    let name = Private::new("rw");
    assert!(matches!(Region::open(&name.0), Err(AccessError::Missing(_))));
    let mut writer = Region::create(&name.0, &state(5)).unwrap();
    assert!(matches!(Region::create(&name.0, &state(5)), Err(AccessError::Exists(_))));
    let mut reader = Region::open(&name.0).unwrap();
    assert_eq!(reader.state().unwrap(), (Generation(1), state(5)));
    assert_eq!(set_active(&mut writer, 3), Generation(2));
    assert_eq!(reader.state().unwrap(), (Generation(2), state(3)));
    // It grows under the reader.
    let large = State::unconfigured(TableSize::DEFAULT, 100, 50).unwrap();
    writer.update(|_| Ok::<_, AccessError>((Some(large.clone()), ()))).unwrap();
    assert_eq!(reader.state().unwrap().1, large);
    let mode = if privileges::readers().is_some() { 0o640 } else { 0o600 };
    assert_eq!(fs::metadata(name.0.path()).unwrap().mode() & 0o777, mode);
    let left_over = fs::read_dir(DIRECTORY).unwrap().filter_map(Result::ok);
    assert_eq!(left_over.filter(|e| e.file_name().to_string_lossy().contains("-rw")).count(), 1);
}

#[test]
fn readers_read_and_write_nothing() {
    let name = Private::new("readers");
    let region = Region::create(&name.0, &state(5)).unwrap();
    let group = nix::unistd::getegid();
    region.let_read(group);
    let metadata = fs::metadata(name.0.path()).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o640, group.as_raw()));
    let mut reader = Region::open_to_read(&name.0).unwrap();
    assert_eq!(reader.state().unwrap(), (Generation(1), state(5)));
    assert!(!reader.is_followed().unwrap());
    let mut words = reader.mapping();
    assert_eq!(words.store(8192, 1).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(Daemon::default().write(&mut words).is_err());
    let update = reader.update(|_| Ok::<_, AccessError>((Some(state(1)), ())));
    assert!(update.is_err() && Region::open(&name.0).unwrap().state().unwrap().0 == Generation(1));
}

#[test]
fn a_writer_waits_for_another_and_names_it() {
    let name = Private::new("lock");
    let mut region = Region::create(&name.0, &state(5)).unwrap();
    let other = Region::open(&name.0).unwrap();
    let held = other.lock().unwrap();
    let error = region.update(|_| Ok::<_, AccessError>((Some(state(1)), ()))).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(region.state().unwrap().0, Generation(1));
    drop(held);
    assert_eq!(set_active(&mut region, 1), Generation(2));
}

#[test]
fn one_daemon_follows_a_region() {
    let name = Private::new("follow");
    let mut first = Region::create(&name.0, &state(5)).unwrap();
    let mut second = Region::open(&name.0).unwrap();
    assert!(!second.is_followed().unwrap());
    first.follow().unwrap();
    Daemon { pid: std::process::id().into(), ..Daemon::default() }.write(&mut first).unwrap();
    assert!(second.is_followed().unwrap());
    let error = second.follow().unwrap_err().to_string();
    assert!(error.contains(&format!("another lbd, process {}", std::process::id())), "{error}");
    // Writers do not wait for the lbd that follows the region.
    set_active(&mut second, 4);
    drop(first);
    second.follow().unwrap();
}

#[test]
fn a_region_truncated_under_its_reader_is_an_error_not_a_crash() {
    let name = Private::new("truncate");
    let mut region = Region::create(&name.0, &state(5)).unwrap();
    let mut words = region.mapping();
    let whole = fs::read(name.0.path()).unwrap();
    OpenOptions::new().write(true).open(name.0.path()).unwrap().set_len(100).unwrap();
    assert!(matches!(
        region.state(),
        Err(AccessError::Unusable { error: RegionError::Truncated { .. }, .. })
    ));
    OpenOptions::new().write(true).open(name.0.path()).unwrap().set_len(0).unwrap();
    assert!(words.store(8192, 1).is_err());
    assert!(region.state().is_err());
    assert!(Region::open(&name.0).is_err());
    let empty = region.recover();
    assert!(matches!(empty, Err(AccessError::Unusable { error: RegionError::NotARegion, .. })), "{empty:?}");
    // What was there is put back in place.
    fs::write(name.0.path(), whole).unwrap();
    assert!(region.state().is_err(), "the old mapping stays lost");
    assert!(region.recover().unwrap() && !region.recover().unwrap());
    assert_eq!(region.state().unwrap(), (Generation(1), state(5)));
}

#[test]
fn a_region_made_anew_is_noticed() {
    let name = Private::new("anew");
    let region = Region::create(&name.0, &state(5)).unwrap();
    assert!(region.is_current().unwrap());
    Region::remove(&name.0).unwrap();
    assert!(!region.is_current().unwrap());
    let _other = Region::create(&name.0, &state(5)).unwrap();
    assert!(!region.is_current().unwrap());
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let name = Private::new("mode");
    drop(Region::create(&name.0, &state(5)).unwrap());
    fs::set_permissions(name.0.path(), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(Region::open(&name.0), Err(AccessError::NotOurs { mode: 0o666, .. })));
}
