use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::*;
use crate::{
    config::{Balancer, Config, FragmentLimits},
    model::{Name, TableSize},
    shm::RegionError,
    state::Service,
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

/// A document, and the tables with their places.
#[derive(Debug, PartialEq)]
struct Encoded {
    document: Vec<u8>,
    tables: Vec<(usize, Table)>,
}

/// With tables one behind the other from 1000 on.
fn encoded(state: &State, generation: Generation) -> Encoded {
    let (mut tables, mut next) = (Vec::new(), 1000);
    let document = encode(state, generation, |table| {
        let at = next;
        next += table_bytes(table.len());
        tables.push((at, table.clone()));
        at
    });
    Encoded { document: document.unwrap(), tables }
}

/// The generation and the state, with its tables.
fn decoded(encoded: &Encoded) -> Result<(Generation, State), RegionError> {
    let (generation, mut state, places) = decode(&encoded.document)?;
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
        assert_eq!(content.document.len() % 8, 0);
        let (generation, back) = decoded(&content).unwrap();
        assert_eq!((generation, &back), (Generation(7), &state));
        assert_eq!(encoded(&back, Generation(7)), content);
    }
}

#[test]
fn a_service_has_the_table_of_the_backends_that_stand_in() {
    let state = crate::tests::fixture::balancer("")
        .service("web", "10.0.0.1", "table_size = 97\nno_backend = 'service:spare'")
        .backend("a", "encap = 'mark'\nactive = false")
        .service("spare", "10.0.0.2", "table_size = 11\nno_backend = 'reject'")
        .backend("b", "encap = 'mark'")
        .backend("c", "encap = 'mark'")
        .state();
    let content = encoded(&state, Generation(7));
    assert_eq!(decoded(&content).unwrap(), (Generation(7), state));
    let sizes: Vec<_> = content.tables.iter().map(|(_, table)| table.len()).collect();
    assert_eq!(sizes, [97, 11]);
}

/// As it was before there was such a key.
#[test]
fn a_service_that_does_not_say_what_it_does_without_a_backend_drops() {
    let content = encoded(&state(), Generation(7));
    let text = String::from_utf8(content.document.clone()).unwrap();
    let before = text.replace(r#""no_backend":"drop","#, "");
    assert_ne!(before, text);
    assert_eq!(decoded(&Encoded { document: before.into_bytes(), ..content }).unwrap().1, state());
}

#[test]
fn a_table_that_many_services_have_is_there_once() {
    let mut state = state();
    let web = state.services[0].clone();
    let named = |name| Service { name: Name::new(name).unwrap(), ..web.clone() };
    state.services.extend([named("again"), named("once-more")]);
    let content = encoded(&state, Generation(1));
    let sizes: Vec<_> = content.tables.iter().map(|(at, table)| (*at, table.len())).collect();
    assert_eq!(sizes, [(1000, 97), (1200, 13), (1232, 13)]);
    assert_eq!(decoded(&content).unwrap().1, state);
}

#[test]
fn a_table_that_is_another_or_names_no_backend_is_refused() {
    let content = encoded(&state(), Generation(1));
    let (_, state, places) = decode(&content.document).unwrap();
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

/// How the document of `state()` is refused when `old` is replaced by `new` in it.
fn refused(old: &str, new: &str) -> String {
    let document = String::from_utf8(encoded(&state(), Generation(1)).document).unwrap();
    assert!(document.contains(old), "{old} in {document}");
    decode(document.replacen(old, new, 1).as_bytes()).unwrap_err().to_string()
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (old, new, says) in [
        (r#"{"name":"lb203""#, r#"{"name":"lb202""#, "the balancers of the tier"),
        (r#"{"name":"lb202""#, r#"{"name":"lb201""#, "a balancer of the tier"),
        (
            r#"{"name":"lb203","address":["fd00:0:0:1::203"],"#,
            r#"{"name":"lb203","address":[],"#,
            "a balancer of the tier",
        ),
        (r#"["fd00:0:0:1::203"]"#, r#"["fd00:0:0:1::204"]"#, "a balancer of the tier"),
        (r#""pmtu":"icmp""#, r#""pmtu":"fragment-outer""#, "a service's pmtu"),
        (r#""vips":["10.0.1.0/24"]"#, r#""vips":[]"#, "a service"),
        (r#""vips":["10.0.1.0/24"]"#, r#""vips":["10.0.1.1/24"]"#, "a prefix"),
        (r#"{"name":"empty""#, r#"{"name":"outer""#, "two services of one name"),
        (r#""target":1,"#, r#""target":99,"#, "a backend's target"),
        (r#""target_cursor":"#, r#""target_cursor":4096,"was":"#, "the next target"),
        (r#""ttl_ms":50"#, r#""ttl_ms":0"#, "the limits of fragments"),
        (r#""entries_per_source":3"#, r#""entries_per_source":101"#, "the limits of fragments"),
        (r#""kernel_entries":"#, r#""kernel_entries":99999999,"was":"#, "kernel_entries"),
        (r#""pmtu_floor":"#, r#""pmtu_floor":551,"was":"#, "pmtu_floor"),
        (r#""fragment_queue":"#, r#""fragment_queue":4,"was":"#, "queue numbers"),
        (r#""tables":["#, r#""tables":[null,"#, "the number of tables"),
        (r#""at":1000"#, r#""at":1001"#, "where a table is"),
    ] {
        assert_eq!(refused(old, new), format!("it is corrupt: {says}"), "{old} -> {new}");
    }
}

#[test]
fn values_that_cannot_be_are_refused_with_their_place() {
    for (old, new, says) in [
        (r#""weight":1"#, r#""weight":101"#, "no weight"),
        (r#""table_size":97"#, r#""table_size":98"#, "no table size"),
        (r#""name":"web""#, r#""name":"a b""#, "no name"),
        (r#""steering":"lbd""#, r#""steering":"both""#, "no decider"),
        (r#""mark_mask":"0x0000ffff""#, r#""mark_mask":"0x0000f0f0""#, "no mark mask"),
        (r#""queues":"3-5""#, r#""queues":"5-3""#, "no range of queues"),
        (r#""gre 192.168.1.1""#, r#""sre 192.168.1.1""#, "no path to a backend"),
        (r#""generation":1,"#, "", "missing field `generation`"),
    ] {
        let error = refused(old, new);
        assert!(error.starts_with(&format!("it is corrupt: its state: {says} at line 1 column ")), "{error}");
    }
}

/// A region outlives a change of lbd and lbctl to another version.
#[test]
fn a_setting_that_is_missing_has_its_default_and_an_unknown_one_is_not_read() {
    let document = String::from_utf8(encoded(&state(), Generation(1)).document).unwrap();
    let mut other = document.clone();
    for (old, new) in [(r#""busy_poll_us":"#, r#""made_up":"#), (r#""ttl_ms":"#, r#""made_up":"#)] {
        assert!(other.contains(old));
        other = other.replacen(old, new, 1);
    }
    let (_, read, _) = decode(other.as_bytes()).unwrap();
    let mut expected = decode(document.as_bytes()).unwrap().1;
    expected.balancer.busy_poll_us = Balancer::unconfigured().busy_poll_us;
    expected.balancer.fragments.ttl_ms = FragmentLimits::default().ttl_ms;
    assert_eq!(read, expected);
}

#[test]
fn any_length_but_the_right_one_is_refused() {
    let bytes = encoded(&state(), Generation(1)).document;
    for len in 0..bytes.len() {
        // Spaces at its end may be missing.
        assert!(decode(&bytes[..len]).is_err() || bytes.len() - len < 8, "{len}");
    }
    let longer = [&bytes[..], b"{}"].concat();
    assert!(decode(&longer).is_err());
}

proptest! {
    /// Behind a checksum only a bug or malice gets here; neither may do harm.
    #[test]
    fn changed_bytes_never_cause_a_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let mut content = encoded(&state(), Generation(1));
        for (at, byte) in changes {
            let at = at.index(content.document.len());
            content.document[at] = byte;
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
