//! Any bytes as a probe of the tracer, damaged or not: read as it was built, or refused for a reason; answered once, and
//! only to whom it may be; never a panic.

#![no_main]

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use libfuzzer_sys::fuzz_target;
use synrail::{
    balance::{
        Forwarding,
        counters::{Counter, Counters},
        flow_table::{FlowMark, FlowTable},
        tracer::{RECEIVER_PORT_MIN, Trace, answer},
    },
    model::{
        Protocol, TableSize,
        ids::{Generation, Mark, MarkMask},
    },
    packet::{Addresses, Packet, Ports, Probe},
    state::State,
};

/// Two services that take every packet there is; reports may go to half of all addresses.
static FORWARDING: LazyLock<Forwarding> = LazyLock::new(|| {
    let mut state = State::unconfigured(TableSize::at_most(100).unwrap(), 10, 5).unwrap();
    state.balancer.tracer.receivers = ["0.0.0.0/1", "::/1"].map(|prefix| prefix.parse().unwrap()).to_vec();
    Forwarding::new(&state, Generation(1)).unwrap()
});

/// Flows are pinned by their source port.
struct ByPort;

impl FlowTable for ByPort {
    fn lookup(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>> {
        let port = packet.l4.ports().map_or(0, |ports| ports.src);
        match port & 3 {
            0 => Err(io::ErrorKind::Unsupported.into()),
            1 => Ok(None),
            _ => Ok(Some(FlowMark { mark: Mark(port.into()), left_seconds: Some(1) })),
        }
    }

    fn pin(&mut self, _: &Packet, _: Mark, _: MarkMask, _: u32) -> io::Result<()> {
        panic!("a probe pins nothing");
    }
}

/// Takes the next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*bytes)
}

fn built(rest: &mut &[u8]) -> Option<Probe> {
    let [choice, ttl] = take(rest)?;
    let address = |rest: &mut &[u8], six: bool| -> Option<IpAddr> {
        Some(if six {
            IpAddr::from(Ipv6Addr::from(take::<16>(rest)?))
        } else {
            IpAddr::from(take::<4>(rest)?)
        })
    };
    let six = choice & 1 != 0;
    let port = |rest: &mut &[u8]| Some(u16::from_be_bytes(take(rest)?));
    Some(Probe {
        addresses: Addresses::new(address(rest, six)?, address(rest, six)?)?,
        protocol: Protocol::ALL[usize::from(choice >> 1) % 3],
        ports: Ports { src: port(rest)?, dst: port(rest)? },
        receiver: SocketAddr::new(address(rest, choice & 8 != 0)?.to_canonical(), port(rest)?.max(1)),
        nonce: u64::from_be_bytes(take(rest)?),
        ttl,
    })
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(probe)) = Probe::parse(bytes) {
        assert_eq!(Probe::parse(&probe.bytes()), Ok(Some(probe)));
    }
    let mut rest = bytes;
    let Some(probe) = built(&mut rest) else { return };
    let mut packet = probe.bytes();
    assert_eq!(Probe::parse(&packet), Ok(Some(probe)));
    for change in rest.as_chunks::<2>().0 {
        let at = usize::from(change[0]) % packet.len();
        packet[at] ^= change[1];
    }
    let Some(read) = Probe::parse(&packet).transpose() else { return };
    let mut counters = Counters::default();
    let told = answer(&mut counters, &FORWARDING, &mut ByPort, read);
    let [malformed, refused, errors] =
        [Counter::ProbesMalformed, Counter::ProbesRefused, Counter::ConntrackError].map(|c| counters.get(c));
    assert_eq!([counters.get(Counter::Packets), counters.get(Counter::Probes)], [1, 1]);
    assert_eq!(malformed + refused + u64::from(told.is_some()), 1);
    if let Some((receiver, trace)) = told {
        let first = match receiver.ip() {
            IpAddr::V4(address) => address.octets()[0],
            IpAddr::V6(address) => address.octets()[0],
        };
        assert!(first < 0x80 && receiver.port() >= RECEIVER_PORT_MIN);
        assert_eq!(errors, u64::from(!trace.conntrack));
        let report = serde_json::to_vec(&trace).unwrap();
        assert!(report.len() <= Trace::BYTES_MAX);
        assert_eq!(serde_json::from_slice::<Trace>(&report).unwrap(), trace);
    }
});
