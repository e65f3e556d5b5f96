use std::mem::offset_of;

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Balancer, Config, FragmentLimits, KERNEL_ENTRIES},
    model::TableSize,
    shm::RegionError,
};

fn state() -> State {
    let text = "
        [balancer]
        name = 'lb201'
        address = ['192.168.1.201', 'fd00:0:0:1::201']
        interfaces = ['eth1', 'eth2']
        queues = '3-5'
        steering = 'every-packet'
        gre_in = true
        allow_own_addresses = true
        kernel_entries = 777
        rule_priority = 9000
        blackhole = ['10.0.0.0/24', '1000::/112']
        pmtu_floor = 1000
        offload = false
        busy_poll_us = 200
        [tracer]
        receivers = ['192.168.2.0/24', 'fd00:0:0:2::/64']
        per_second = 7
        [[service]]
        name = 'web'
        vips = ['10.0.0.0/28', '1000::/128']
        protocols = ['tcp', 'sctp']
        ports = ['80', '8000-8010']
        table_size = 97
        backend = [ { name = 's1', address = '192.168.1.1', weight = 7 }, { name = 's2', address = 'fd00::2', active = false },
                    { name = 's3', address = '192.168.1.3', encap = 'gue' }, { name = 's4', encap = 'mark' } ]
        [[service]]
        name = 'any'
        vips = ['10.0.0.0/24']
        hash = 'source'
        steering = 'kernel'
        table_size = 13
        backend = [ { name = 'x', address = '192.168.1.1', encap = 'direct' }, { name = 'y', address = 'fd00::3', encap = 'ipip' } ]
        [[service]]
        name = 'empty'
        vips = ['10.0.1.0/24']
        [[service]]
        name = 'outer'
        vips = ['10.0.2.0/24']
        pmtu = 'fragment-outer'
        table_size = 13
        backend = [ { name = 's1', address = '192.168.1.1' } ]
        [fragments]
        ttl_ms = 50
        entries = 100
        entries_per_source = 3
        held_packets = 77
        held_bytes = 70000
        held_bytes_per_source = 60000
        [[tier.balancer]]
        name = 'lb201'
        address = ['192.168.1.201', 'fd00:0:0:1::201']
        [[tier.balancer]]
        name = 'lb202'
        address = ['192.168.1.202', 'fd00:0:0:1::202']
        active = false
        [[tier.balancer]]
        name = 'lb203'
        address = 'fd00:0:0:1::203'
    ";
    State::new(&Config::parse("test", text).unwrap()).unwrap()
}

/// Records, and the tables with their places.
#[derive(Debug, PartialEq)]
struct Encoded {
    records: Vec<u8>,
    tables: Vec<(usize, Table)>,
}

/// With tables one behind the other from 1000 on.
fn encoded(state: &State, generation: Generation) -> Encoded {
    let (mut tables, mut next) = (Vec::new(), 1000);
    let records = encode(state, generation, |table| {
        let at = next;
        next += table_bytes(table.len());
        tables.push((at, table.clone()));
        at
    });
    Encoded { records, tables }
}

/// The generation and the state, with its tables.
fn decoded(encoded: &Encoded) -> Result<(Generation, State), RegionError> {
    let (generation, mut state, places) = decode(&encoded.records)?;
    for (service, place) in state.services.iter_mut().zip(places) {
        let Some(place) = place else { continue };
        let found = encoded.tables.iter().find(|(at, _)| *at == place.bytes().start);
        let (_, table) = found.ok_or(RegionError::Corrupt("where a table is"))?;
        service.table = place.table(table.as_bytes())?;
        assert_eq!(service.table.as_bytes(), table.as_bytes());
    }
    Ok((generation, state))
}

#[test]
fn a_state_comes_back_as_it_went() {
    for state in [
        state(),
        State::unconfigured(TableSize::DEFAULT, 10, 5).unwrap(),
        State::empty(Balancer::unconfigured()),
    ] {
        let content = encoded(&state, Generation(7));
        assert_eq!(content.records.len() % 8, 0);
        let (generation, back) = decoded(&content).unwrap();
        assert_eq!((generation, &back), (Generation(7), &state));
        assert_eq!(encoded(&back, Generation(7)), content);
    }
}

#[test]
fn a_table_that_many_services_have_is_there_once() {
    let mut state = state();
    let web = state.services[0].clone();
    state.services.extend([web.clone(), web]);
    let content = encoded(&state, Generation(1));
    let sizes: Vec<_> = content.tables.iter().map(|(at, table)| (*at, table.len())).collect();
    assert_eq!(sizes, [(1000, 97), (1200, 13), (1232, 13)]);
    assert_eq!(decoded(&content).unwrap().1, state);
}

#[test]
fn a_table_that_is_another_or_names_nobody_is_refused() {
    let content = encoded(&state(), Generation(1));
    let (_, state, places) = decode(&content.records).unwrap();
    assert_eq!(state, self::state());
    assert!(state.services.iter().all(|service| service.table.is_empty() || !service.table.is_read()));
    let place = places[0].unwrap();
    assert_eq!((places[2], place.bytes().len()), (None, 200));
    let table = &content.tables[0].1;
    let with = |index: usize, rank: u16| {
        let mut entries = table.to_vec();
        entries[index] = rank;
        Table::new(entries)
    };
    let refused = |place: TablePlace, table: &Table| place.table(table.as_bytes()).unwrap_err().to_string();
    assert_eq!(refused(place, &with(3, table[3] ^ 1)), "it is corrupt: a table's checksum");
    assert!(place.table(&table.as_bytes()[..190]).is_err());
    // Its checksum is right, and there are three backends in use.
    let mut other = self::state();
    other.services[0].table = with(3, 3);
    let content = encoded(&other, Generation(1));
    assert_eq!(decoded(&content).unwrap_err().to_string(), "it is corrupt: a table entry");
}

/// What `state()` would be if a byte of the first record with this name were another, counted from the name.
fn refused(name: &str, at: usize, byte: u8) -> String {
    let mut bytes = encoded(&state(), Generation(1)).records;
    let record = (0..bytes.len())
        .rfind(|&start| bytes[start..].starts_with(&padded::<{ Name::BYTES_MAX }>(name)))
        .unwrap();
    assert_ne!(bytes[record + at], byte, "a change");
    bytes[record + at] = byte;
    decode(&bytes).unwrap_err().to_string()
}

#[test]
fn a_tier_that_contradicts_itself_is_refused() {
    let (name, target, flags) = (4, offset_of!(TierRecord, target), offset_of!(TierRecord, flags));
    let member = "it is corrupt: a balancer of the tier";
    for (what, who, at, byte, says) in [
        ("two of one name, or unsorted", "lb203", name, b'2', "it is corrupt: the tier"),
        ("another balancer's own", "lb202", flags, HAS_ADDRESS4, member),
        ("this one, with a target", "lb201", flags, ACTIVE | HAS_ADDRESS4 | HAS_TARGET, member),
        ("none that is this one", "lb201", name, b'4', member),
        ("no address", "lb201", flags, ACTIVE, member),
        ("a target that is free", "lb202", target, 200, member),
        ("the target of a backend", "lb202", target, 0, member),
        (
            "a tunnel of the family that it has not",
            "lb203",
            flags,
            ACTIVE | HAS_ADDRESS4 | HAS_TARGET,
            member,
        ),
        ("a flag that means nothing", "lb203", flags, 0x10 | ACTIVE | HAS_ADDRESS6 | HAS_TARGET, member),
    ] {
        assert_eq!(refused(who, at, byte), says, "{what}");
    }
    let pmtu = offset_of!(ServiceRecord, pmtu);
    assert_eq!(refused("outer", pmtu, 2), "it is corrupt: a service's pmtu");
    let decider = offset_of!(ServiceRecord, decider);
    assert_eq!(refused("outer", decider, 2), "it is corrupt: who decides for a service");
    assert_eq!(refused("web", pmtu, 1), "it is corrupt: a service's pmtu", "not all of it is gre over IPv4");
}

#[test]
fn limits_of_fragments_are_those_of_the_file() {
    let with = |limits: FragmentLimits| {
        let mut state = state();
        state.balancer.fragments = limits;
        decoded(&encoded(&state, Generation(1)))
    };
    let good = state().balancer.fragments;
    assert!(with(good).is_ok());
    for bad in [
        FragmentLimits { ttl_ms: 0, ..good },
        FragmentLimits { entries: 1 << 30, ..good },
        FragmentLimits { entries_per_source: good.entries + 1, ..good },
        FragmentLimits { held_packets: 0, ..good },
        FragmentLimits { held_bytes: 65_535, ..good },
        FragmentLimits { held_bytes_per_source: good.held_bytes + 1, ..good },
    ] {
        assert_eq!(with(bad).unwrap_err().to_string(), "it is corrupt: the limits of fragments", "{bad:?}");
    }
}

#[test]
fn the_limit_of_the_kernels_tables_is_that_of_the_file() {
    let mut state = state();
    state.balancer.kernel_entries = *KERNEL_ENTRIES.end() + 1;
    let error = decoded(&encoded(&state, Generation(1))).unwrap_err();
    assert_eq!(error.to_string(), "it is corrupt: the limit of the kernel's tables");
}

#[test]
fn the_least_path_mtu_is_one_that_is_allowed() {
    let with = |floor| {
        let mut state = state();
        state.balancer.pmtu_floor = floor;
        decoded(&encoded(&state, Generation(1))).map(|(_, state)| state.balancer.pmtu_floor)
    };
    assert_eq!((with(552).unwrap(), with(1000).unwrap()), (552, 1000));
    for floor in [0, 551] {
        assert_eq!(with(floor).unwrap_err().to_string(), "it is corrupt: the least path MTU");
    }
}

#[test]
fn any_length_but_the_right_one_is_refused() {
    let bytes = encoded(&state(), Generation(1)).records;
    for len in 0..bytes.len() {
        // Up to 7 bytes of padding may be missing.
        assert!(decode(&bytes[..len]).is_err() || bytes.len() - len < 8, "{len}");
    }
    let longer = [&bytes[..], &[0; 8]].concat();
    assert!(decode(&longer).is_err());
}

proptest! {
    /// Behind a checksum only a bug or malice gets here; neither may do harm.
    #[test]
    fn changed_bytes_never_cause_a_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let mut content = encoded(&state(), Generation(1));
        for (at, byte) in changes {
            let at = at.index(content.records.len());
            content.records[at] = byte;
        }
        if let Ok((generation, state)) = decoded(&content) {
            let _ = crate::balance::Forwarding::new(&state, Generation(1));
            prop_assert_eq!(decoded(&encoded(&state, generation)).unwrap(), (generation, state));
        }
    }

    #[test]
    fn random_bytes_never_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        let _ = decode(&bytes);
    }
}
