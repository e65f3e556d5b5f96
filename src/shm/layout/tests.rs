use proptest::prelude::*;

use super::*;
use crate::config::Config;

fn state() -> State {
    let text = "
        [balancer]
        name = 'lb201'
        address = ['192.168.1.201', 'fd00:0:0:1::201']
        interfaces = ['eth1', 'eth2']
        queues = '3-5'
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
        table_size = 13
        backend = [ { name = 'x', address = '192.168.1.1', encap = 'direct' }, { name = 'y', address = 'fd00::3', encap = 'ipip' } ]
        [[service]]
        name = 'empty'
        vips = ['10.0.1.0/24']
    ";
    State::new(&Config::parse("test", text).unwrap()).unwrap()
}

#[test]
fn a_state_comes_back_as_it_went() {
    for state in [
        state(),
        State::unconfigured(TableSize::DEFAULT, 10, 5).unwrap(),
        State::empty(Balancer::unconfigured()),
    ] {
        let bytes = encode(&state, Generation(7));
        assert_eq!(bytes.len() % 8, 0);
        let (generation, back) = decode(&bytes).unwrap();
        assert_eq!((generation, &back), (Generation(7), &state));
        assert_eq!(encode(&back, Generation(7)), bytes);
    }
}

#[test]
fn any_length_but_the_right_one_is_refused() {
    let bytes = encode(&state(), Generation(1));
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
        let mut bytes = encode(&state(), Generation(1));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((_, state)) = decode(&bytes) {
            let _ = crate::balance::Forwarding::new(&state, Generation(1));
        }
    }

    #[test]
    fn random_bytes_never_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        let _ = decode(&bytes);
    }
}
