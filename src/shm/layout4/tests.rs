//! The fixture is a region that lbctl of commit fafdeaa made. `fixture.toml` says how, `fixture.json` is what
//! `lbctl show --json` of that commit printed about it.

use std::io;

use serde_json::{Value, json};

use super::*;
use crate::{lookup::maglev, model::ids::MarkMask};

const FIXTURE: &[u8] = include_bytes!("fixture.bin");
/// The generation of the fixture is even.
const SLOT_AT: usize = SLOTS_AT[0];

/// A region that cannot be written.
struct Bytes(Vec<u8>);

impl Bytes {
    /// Returns the region: the fixture, with the statistics where they were left out.
    fn fixture() -> Self {
        let (header, slots) = FIXTURE.split_at(STATS.0 as usize);
        Self([header, &vec![0; STATS_END as usize - header.len()], slots].concat())
    }

    /// Returns the bytes of the live state.
    fn state(&mut self) -> Range<usize> {
        record::<Slot>(self, SLOT_AT).unwrap().bytes().unwrap()
    }

    /// Makes all checksums right again.
    fn seal(&mut self) {
        let at = self.state();
        let mut slot: Slot = record(self, SLOT_AT).unwrap();
        slot.content_checksum = XxHash3_64::oneshot(&self.0[at]);
        slot.checksum = checksum(&slot);
        self.0[SLOT_AT..][..size_of::<Slot>()].copy_from_slice(slot.as_bytes());
    }
}

impl Memory for Bytes {
    fn size(&mut self) -> io::Result<usize> {
        Ok(self.0.len())
    }
    fn load(&mut self, offset: usize) -> io::Result<u64> {
        let word = self.0.get(offset..).and_then(|rest| rest.first_chunk());
        Ok(u64::from_ne_bytes(*word.ok_or(io::ErrorKind::UnexpectedEof)?))
    }
    fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        assert!(offset.is_multiple_of(8) && len.is_multiple_of(8), "{offset} {len}");
        let bytes = self.0.get(offset..offset + len).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(bytes.to_vec())
    }
    fn store(&mut self, _: usize, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn write(&mut self, _: usize, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn grow(&mut self, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What lbctl of then printed about the fixture.
fn fixture_json() -> Value {
    serde_json::from_slice(include_bytes!("fixture.json")).unwrap()
}

/// The fields `names` of each object in a list.
fn pick(list: &Value, names: &[&str]) -> Vec<Value> {
    let one = |object: &Value| names.iter().map(|name| object[*name].clone()).collect();
    list.as_array().unwrap().iter().map(one).collect()
}

/// A target as lbctl of then showed it: its number, mark, encapsulation and address.
fn target(mask: MarkMask, target: TargetId, path: Path) -> Value {
    let (encap, address) = match path {
        Path::Via(encap, address) => (Some(encap.name()), Some(address)),
        Path::MarkOnly => (None, None),
    };
    json!([target.number(), mask.mark(target).0, encap, address])
}

const TARGET: [&str; 4] = ["number", "mark", "encap", "address"];

#[test]
fn the_configuration_is_that_of_the_file() {
    let file = include_str!("fixture.toml");
    assert_eq!(read(&mut Bytes::fixture()).unwrap().config, Config::parse("fixture.toml", file).unwrap());
}

#[test]
fn the_rest_is_what_was_shown() {
    let (former, said) = (read(&mut Bytes::fixture()).unwrap(), fixture_json());
    let mask = former.config.balancer.mark_mask;
    assert_eq!(json!(former.generation.0), said["region"]["generation"]);
    let numbers: Vec<_> = former.numbers.iter().map(|(number, path)| target(mask, *number, *path)).collect();
    assert_eq!(numbers, pick(&said["targets"], &TARGET));
    // Number 4 is free, and the search for the next one begins behind number 12.
    assert_eq!((former.numbers.len(), former.cursor), (11, 12));
    let services = former.config.services.iter().zip(&former.backend_targets);
    for ((service, targets), said) in services.zip(said["services"].as_array().unwrap()) {
        assert_eq!(targets.len(), service.backends.len());
        let found: Vec<_> = service
            .backends
            .iter()
            .zip(targets)
            .map(|(backend, number)| {
                assert_eq!(former.numbers[number], backend.path);
                let inactive = (service.name.clone(), backend.name.clone());
                json!([backend.name, !former.inactive_backends.contains(&inactive), number.number()])
            })
            .collect();
        assert_eq!(found, pick(&said["backends"], &["name", "active", "number"]));
    }
    assert_eq!(former.inactive_backends.len(), 3);
    let members = former.config.tier.iter().zip(&former.member_targets);
    let members: Vec<_> = members
        .map(|(member, number)| {
            let target = number.map(|number| target(mask, number, former.numbers[&number]));
            json!([member.name, !former.inactive_members.contains(&member.name), target])
        })
        .collect();
    let said = pick(&said["tier"]["members"], &["name", "active", "target"]).into_iter().map(|mut member| {
        if !member[2].is_null() {
            member[2] = pick(&json!([member[2]]), &TARGET).remove(0);
        }
        member
    });
    assert_eq!(members, said.collect::<Vec<_>>());
    assert_eq!(former.inactive_members.len(), 1);
}

#[test]
fn tables_are_the_same_when_they_are_made_again() {
    let (former, said) = (read(&mut Bytes::fixture()).unwrap(), fixture_json());
    for (service, said) in former.config.services.iter().zip(said["services"].as_array().unwrap()) {
        let active = service.backends.iter().filter(|backend| {
            !former.inactive_backends.contains(&(service.name.clone(), backend.name.clone()))
        });
        let active = active.map(|backend| (backend.name.as_str(), backend.weight));
        let table = maglev::build(former.config.balancer.hash_seed, service.table_size, active);
        assert_eq!(json!(table.to_vec()), said["table"], "{}", service.name);
    }
}

#[test]
fn a_state_made_of_it_has_the_same_marks_and_tables_and_what_was_out_is_out() {
    let (former, said) = (read(&mut Bytes::fixture()).unwrap(), fixture_json());
    let since = Timestamp::from_second(1000).unwrap();
    let state = former.state(since).unwrap();
    state.check().unwrap();
    assert_eq!(state.targets_used().collect::<BTreeMap<_, _>>(), former.numbers);
    assert_eq!((state.target_cursor, &state.balancer), (former.cursor, &former.config.balancer));
    for (service, said) in state.services.iter().zip(said["services"].as_array().unwrap()) {
        assert_eq!(json!(service.table.to_vec()), said["table"], "{}", service.name);
        let backends: Vec<_> =
            service.backends.iter().map(|b| json!([b.name, b.enabled(), b.target])).collect();
        assert_eq!(backends, pick(&said["backends"], &["name", "active", "number"]));
    }
    let members: Vec<_> = state.tier.iter().map(|member| json!([member.name, member.active()])).collect();
    assert_eq!(members, pick(&said["tier"]["members"], &["name", "active"]));
    assert_eq!(state.overrides().len(), 4);
    let out = state.services.iter().flat_map(|s| &s.backends).find(|backend| !backend.enabled()).unwrap();
    assert_eq!(
        out.admission.in_force().unwrap().to_string(),
        "draining by unknown since 1970-01-01T00:16:40Z: by the region of the version before"
    );
    // The file of then changes nothing but what has another default today.
    let changes = state.plan(&former.config).unwrap().changes;
    assert_eq!(changes, []);
}

#[test]
fn a_changed_byte_is_an_error() {
    let mut memory = Bytes::fixture();
    let descriptions = (0..size_of::<Header>()).chain(GENERATION_AT..GENERATION_AT + 8);
    let descriptions = descriptions.chain(SLOT_AT..SLOT_AT + size_of::<Slot>());
    for at in descriptions.chain(memory.state()) {
        for bits in [1, 0x80] {
            memory.0[at] ^= bits;
            assert!(read(&mut memory).is_err(), "byte {at}");
            memory.0[at] ^= bits;
        }
    }
    read(&mut memory).unwrap();
}

#[test]
fn a_changed_byte_with_right_checksums_is_an_error_or_another_value() {
    let mut memory = Bytes::fixture();
    let (mut errors, mut values) = (0, 0);
    for at in memory.state() {
        let before = memory.0[at];
        for byte in [0, 0xff, before ^ 1] {
            memory.0[at] = byte;
            memory.seal();
            let Ok(former) = read(&mut memory) else {
                errors += 1;
                continue;
            };
            values += 1;
            assert_eq!(former.member_targets.len(), former.config.tier.len());
            assert_eq!(former.backend_targets.len(), former.config.services.len());
            for (service, targets) in former.config.services.iter().zip(&former.backend_targets) {
                let paths: Vec<_> = service.backends.iter().map(|backend| backend.path).collect();
                assert_eq!(paths, targets.iter().map(|target| former.numbers[target]).collect::<Vec<_>>());
            }
        }
        memory.0[at] = before;
    }
    assert!(errors > 500 && values > 500, "{errors} {values}");
}

#[test]
fn a_short_region_is_an_error() {
    let mut memory = Bytes::fixture();
    for len in (0..memory.state().end).step_by(64).rev() {
        memory.0.truncate(len);
        assert!(matches!(read(&mut memory), Err(RegionError::Truncated { .. })), "{len}");
    }
}
