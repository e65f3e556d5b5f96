//! The program beside a region.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test, which starts programs")]

use std::process::{Command, Output, Stdio};

use lbtop::read::Reader;
use synrail::{
    config::Config,
    model::{Admin, Override},
    state::State,
    status::Sources,
    sys::region::{AccessError, Region, RegionName},
};

const FILE: &str = "
balancer = { name = 'lb1', address = '192.168.1.201', interfaces = ['lo'] }
service = [ { name = 'web', vips = '10.0.0.1', protocols = 'tcp', ports = 80, table_size = 97,
    backend = [ { name = 's1', address = '192.168.1.1' }, { name = 's2', address = '192.168.1.2' } ] } ]";

struct RegionOfTest(RegionName);

impl Drop for RegionOfTest {
    fn drop(&mut self) {
        let _ = Region::remove(&self.0);
    }
}

fn region(what: &str) -> (RegionOfTest, State) {
    let name: RegionName = format!("lbtop-test-{what}-{}", std::process::id()).parse().unwrap();
    let state = State::new(&Config::parse("test", FILE).unwrap()).unwrap();
    Region::create(&name, &state).unwrap();
    (RegionOfTest(name), state)
}

fn lbtop(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbtop"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn one_screen_is_printed_without_a_terminal() {
    let (region, _) = region("once");
    let name = region.0.to_string();
    let ended = lbtop(&["--shm", &name, "--once", "--interval", "0.2", "--width", "100", "--height", "20"]);
    let text = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{text}");
    assert_eq!(text.lines().count(), 20, "{text}");
    for said in [name.as_str(), "NO LBD RUNS", "web", "s1", "gre 192.168.1.2"] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
}

#[test]
fn what_cannot_be_shown_is_said() {
    let (region, _) = region("errors");
    let complaint = |arguments: &[&str]| {
        let ended = lbtop(arguments);
        assert!(ended.stdout.is_empty() && !ended.status.success());
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    let (status, said) = complaint(&["--shm", "lbtop-test-nothing", "--once"]);
    assert!(status == Some(1) && said.contains("lbtop-test-nothing"), "{said}");
    let (status, said) = complaint(&["--shm", &region.0.to_string()]);
    assert!(status == Some(1) && said.contains("--once"), "{said}");
    assert_eq!(complaint(&["--interval", "0"]).0, Some(2));
}

#[test]
fn a_change_and_a_region_made_anew_are_followed() {
    let (region, state) = region("follow");
    let mut reader = Reader::new(region.0.clone(), Sources::of_host());
    assert_eq!(reader.read().unwrap().services[0].active(), 2);
    let drained =
        state.set_admin(None, &["s2".to_owned()], &Override::unattributed(Admin::Draining)).unwrap();
    let change = |_: &State| Ok::<_, AccessError>((Some(drained.clone()), ()));
    Region::open(&region.0).unwrap().update(change).unwrap();
    let seen = reader.read().unwrap();
    assert_eq!((seen.generation, seen.services[0].active()), (2, 1));
    assert_eq!(seen.services[0].backends[1].admin, Admin::Draining);
    Region::remove(&region.0).unwrap();
    assert!(reader.read().is_err());
    Region::create(&region.0, &state).unwrap();
    let seen = reader.read().unwrap();
    assert_eq!((seen.generation, seen.services[0].active()), (1, 2));
}
