//! `tracer send`, with balancers that are only values.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use super::*;
use crate::{
    balance::{Forwarding, counters::Counters, flow_table::FlowMark, tracer::answer},
    config::Config,
    model::ids::Mark,
    packet::{Packet, Ports, Probe},
    state::State,
    tests::pins::FakePins,
};

/// A network in which every probe reaches all balancers.
#[derive(Default)]
pub(super) struct FakeProber {
    balancers: Vec<(Forwarding, FakePins)>,
    now: Duration,
    sent: Vec<(Duration, Probe)>,
    waiting: VecDeque<Vec<u8>>,
    /// What sending reports.
    refuses: Option<io::ErrorKind>,
}

impl FakeProber {
    fn with(names: &[&str]) -> Self {
        let balancer = |name: &&str| {
            let text = format!(
                "{}\n[tracer]\nreceivers = ['50.0.0.0/16', 'fd00::/64']",
                FILE.replace("lb201", name)
            );
            let state = State::new(&Config::parse("tracer", &text).unwrap()).unwrap();
            (Forwarding::new(&state, Generation(7)).unwrap(), FakePins::default())
        };
        Self { balancers: names.iter().map(balancer).collect(), ..Self::default() }
    }
}

impl Prober for FakeProber {
    fn now(&mut self) -> Duration {
        self.now
    }

    fn nonce(&mut self) -> io::Result<u64> {
        Ok(self.sent.len() as u64)
    }

    fn address_towards(&mut self, destination: IpAddr) -> io::Result<IpAddr> {
        Ok(if destination.is_ipv4() { [50, 0, 0, 221].into() } else { "fd00::221".parse().unwrap() })
    }

    fn listen(&mut self, address: IpAddr) -> io::Result<SocketAddr> {
        if address.is_loopback() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(SocketAddr::new(address, 5000))
    }

    fn send(&mut self, destination: IpAddr, packet: &[u8]) -> io::Result<()> {
        if let Some(kind) = self.refuses {
            return Err(kind.into());
        }
        let probe = Probe::parse(packet).unwrap().unwrap();
        assert_eq!(probe.addresses.destination(), destination);
        for (forwarding, pins) in &mut self.balancers {
            let Some((receiver, report)) = answer(&mut Counters::default(), forwarding, pins, Ok(probe))
            else {
                continue;
            };
            assert_eq!(receiver, probe.receiver);
            let report = serde_json::to_string(&report).unwrap();
            self.waiting.push_back(report.clone().into_bytes());
            // What any host may send there.
            self.waiting.push_back(b"{}".to_vec());
            let nonce = format!("{:016x}", probe.nonce);
            self.waiting.push_back(report.replace(&nonce, "00000000deadbeef").into_bytes());
        }
        self.sent.push((self.now, probe));
        Ok(())
    }

    fn receive(&mut self, wait: Duration) -> io::Result<Option<Vec<u8>>> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.now += wait;
        }
        Ok(next)
    }
}

#[test]
fn one_header_is_traced_through_two_balancers() {
    let (lb, mut prober) = (Lb::new("trace"), FakeProber::with(&["lb201", "lb202"]));
    lb.with(FILE, "apply -");
    let which = lb.json("which tcp 50.0.0.1 4000 10.0.0.0 80 --json");
    let backend = which["backend"].as_str().unwrap();
    let other = if backend == "s1" { 2 } else { 1 };
    // A connection in place at the second one.
    let ports = Ports { src: 4000, dst: 80 };
    let packet = Packet::synthetic(6, [50, 0, 0, 1].into(), [10, 0, 0, 0].into(), ports).unwrap();
    prober.balancers[1].1.known().set(&packet, FlowMark { mark: Mark(other), left_seconds: Some(90) });
    // There is no region here, and none is needed.
    let ended = Lb::new("none").with_prober(&mut prober, "", "tracer send tcp 50.0.0.1 4000 10.0.0.0 80");
    assert_eq!((ended.status, ended.err.as_str()), (Status::Done, ""));
    let lines: Vec<&str> = ended.out.lines().collect();
    let table = format!("a new connection goes to {backend}, as the table says");
    assert_eq!(lines[0], format!("lb201  web  {backend}  {table}; none is in place here"));
    let pinned = format!("; the one in place is pinned to s{other} for another 1 min 30 s");
    assert_eq!(lines[4], format!("lb202  web  {backend}  {table}{pinned}"));
    // The reasons are those of `which`.
    for (line, reason) in [(1, 1), (2, 2), (5, 1), (6, 2)] {
        assert_eq!(lines[line].trim(), which["reason"][reason].as_str().unwrap());
    }
    assert!(lines[3].contains("with TTL 64, and generation 7 is in force there"), "{}", lines[3]);
    assert_eq!(lines.len(), 8);
}

#[test]
fn a_batch_is_sent_evenly_and_answered_in_order() {
    let (lb, mut prober) = (Lb::new("trace-batch"), FakeProber::with(&["lb201"]));
    lb.with(FILE, "apply -");
    let mut flows = String::from("# flows\n\n");
    for port in 1..=30 {
        flows += &format!("udp 50.0.0.9 {port} 10.0.0.0 8001\ntcp 2000::9 {port} 1000:: 80\n");
    }
    let ended =
        lb.with_prober(&mut prober, &flows, "tracer send --batch - --json --per-second 20 --wait 500");
    assert_eq!(ended.status, Status::Done, "{ended:?}");
    let which = lb.with(&flows, "which --batch -").out;
    assert_eq!(ended.out.lines().count(), 60);
    for (traced, which) in ended.out.lines().zip(which.lines()) {
        let (traced, which): (Value, Value) =
            (serde_json::from_str(traced).unwrap(), serde_json::from_str(which).unwrap());
        let [report] = &traced["reports"].as_array().unwrap()[..] else { panic!("{traced}") };
        assert_eq!((&report["backend"], &report["by"]), (&which["backend"], &"table".into()));
        for key in ["hash", "index", "table_size", "rank", "mark"] {
            assert_eq!(report["table"][key], which[key], "{key}");
        }
    }
    let times: Vec<Duration> = prober.sent.iter().map(|(at, _)| *at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_millis(50)), "{times:?}");
    assert_eq!(prober.now, *times.last().unwrap() + Duration::from_millis(500));
    let receivers: Vec<String> =
        prober.sent[..2].iter().map(|(_, probe)| probe.receiver.to_string()).collect();
    assert_eq!(receivers, ["50.0.0.221:5000", "[fd00::221]:5000"]);
    let progress: Vec<&str> = ended.err.lines().collect();
    assert_eq!(progress[0], "lbctl: 20 of 60 probes sent, 20 answered");
    assert_eq!(progress[2], "lbctl: 60 probes sent, 60 answered, 60 reports");
    // The same for a person: a line each, with the header.
    let ended = lb.with_prober(&mut prober, &flows, "tracer send --batch -");
    assert_eq!(ended.out.lines().count(), 60);
    assert!(ended.out.starts_with("udp 50.0.0.9 1 10.0.0.0 8001  lb201  web  s"), "{}", ended.out);
}

#[test]
fn reports_name_what_is_dropped_or_pinned() {
    let (lb, mut prober) = (Lb::new("trace-dropped"), FakeProber::with(&["lb201"]));
    let says = |prober: &mut FakeProber, flow: &str, sentence: &str| {
        let ended = lb.with_prober(prober, "", &format!("tracer send {flow}"));
        assert_eq!(ended.status, Status::Done, "{ended:?}");
        assert_eq!(ended.out.lines().next(), Some(sentence));
    };
    let unclaimed = "no service claims 1000:: tcp port 81";
    says(
        &mut prober,
        "tcp 2000::1 1 1000:: 81",
        &format!("lb201  -  -  a new connection is dropped: {unclaimed}; none is in place here"),
    );
    let ports = Ports { src: 1, dst: 81 };
    let packet = Packet::synthetic(17, "2000::1".parse().unwrap(), "1000::".parse().unwrap(), ports).unwrap();
    let pins = prober.balancers[0].1.clone();
    pins.known().set(&packet, FlowMark { mark: Mark(0xf_0001), left_seconds: None });
    says(
        &mut prober,
        "udp 2000::1 1 1000:: 81",
        "lb201  -  s1  a new flow is dropped: no service claims 1000:: udp port 81; \
         the one in place is pinned to s1, and this packet follows it",
    );
    pins.known().broken = true;
    says(
        &mut prober,
        "udp 2000::1 1 1000:: 81",
        "lb201  -  -  a new flow is dropped: no service claims 1000:: udp port 81; connection tracking could not be asked",
    );
}

#[test]
fn missing_reports_are_explained() {
    let (lb, mut prober) = (Lb::new("trace-silence"), FakeProber::default());
    let ended =
        lb.with_prober(&mut prober, "", "tracer send tcp 50.0.0.1 4000 10.0.0.0 80 --receiver 50.0.0.3");
    assert_eq!((ended.status, ended.out.as_str()), (Status::Failed, ""));
    for hint in [
        "lbctl: no balancer has reported about tcp 50.0.0.1 4000 10.0.0.0 80\n",
        "is 10.0.0.0 a VIP",
        "does lbd run there?",
        "does [tracer] receivers there contain 50.0.0.3?",
        "probe_limited",
    ] {
        assert!(ended.err.contains(hint), "{hint}: {}", ended.err);
    }
    // Refused, as by default.
    let mut prober = FakeProber::with(&["lb201"]);
    let flows = "tcp 50.0.0.1 4000 10.0.0.0 80\ntcp 2000::1 4000 1000:: 80\n";
    let ended = lb.with_prober(&mut prober, flows, "tracer send --batch - --receiver 192.0.2.1 --json");
    assert_eq!((ended.status, ended.out.matches("\"reports\":[]").count()), (Status::Failed, 2));
    assert!(ended.err.contains("about 2 of 2 headers, the first: tcp 50.0.0.1"), "{}", ended.err);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let lb = Lb::new("trace-refused");
    lb.refused("tracer send icmp 50.0.0.1 - 10.0.0.0 -", Status::Usage, "a probe is tcp, udp or sctp");
    lb.refused("tracer send tcp 50.0.0.1 1 1000:: 80", Status::Usage, "not of one address family");
    lb.refused("tracer send --per-second 0 tcp 50.0.0.1 1 10.0.0.0 80", Status::Usage, "1..=10000");
    lb.refused(
        "tracer send tcp 50.0.0.1 1 10.0.0.0 80 --receiver ::1",
        Status::Failed,
        "an address of this host only",
    );
    let mut prober = FakeProber { refuses: Some(io::ErrorKind::PermissionDenied), ..FakeProber::default() };
    let ended = lb.with_prober(&mut prober, "", "tracer send tcp 50.0.0.1 1 10.0.0.0 80");
    assert_eq!(ended.status, Status::Failed);
    assert!(
        ended.err.contains("sending a probe to 10.0.0.0") && ended.err.contains("CAP_NET_RAW"),
        "{}",
        ended.err
    );
}
