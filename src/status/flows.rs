//! The flows that are pinned: in connection tracking, and off-table in the maps of their own.
//!
//! A kernel may track a million flows. So they are looked at one by one as the kernel lists them: they are
//! counted, or those with the most packets are kept (`--limit`). Where backends are named the kernel
//! lists the flows with their marks only; which service a flow belongs to is decided here.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet},
    net::IpAddr,
};

use serde::Serialize;

use super::{Sources, StatusError, lbd::PinsView, view::BackendView, words::duration};
use crate::{
    balance::{
        Forwarding,
        pins::{Flow, Held, OffTable, Phase, Promotion},
    },
    lookup::classifier::Conflict,
    model::{
        Protocol, Steering,
        ids::{Generation, Mark, TargetId},
    },
    packet::Packet,
    state::{Service, State},
    sys::{
        conntrack::{self, Marked, Seen},
        region::Region,
    },
};

/// A connection whose client has closed it counts as live as long as this has not passed since the client's last
/// packet, in seconds: while the backend still sends, the client acknowledges.
pub const CLOSING_QUIET_SECONDS: u32 = 10;

/// A flow that is pinned.
#[derive(Debug, Serialize)]
pub struct FlowView {
    /// The name of its protocol, or its number.
    pub protocol: String,
    /// The client.
    pub source: String,
    /// The client's port; null where there are no ports.
    pub source_port: Option<u16>,
    /// The VIP.
    pub destination: String,
    /// The port at the VIP; null where there are no ports.
    pub destination_port: Option<u16>,
    /// The service of the backend; null if no service claims the flow, or the claiming service does not have
    /// that backend.
    pub service: Option<String>,
    /// The backend; null as the service is.
    pub backend: Option<String>,
    /// The mark that it keeps.
    pub mark: u32,
    /// The number of the target.
    pub number: Option<u32>,
    /// Whether it is in the maps of off-table flows, and not in connection tracking.
    pub off_table: bool,
    /// Whether it is in the flowtable.
    pub promoted: bool,
    /// Whether a FIN or RST was seen from the client, which may have been forged.
    pub closing: bool,
    /// How long ago it began; null where the host does not record that, and for off-table flows.
    pub age_seconds: Option<u64>,
    /// Its packets from the client; null where the host does not count, and for off-table flows.
    pub packets: Option<u64>,
    /// The bytes of these.
    pub bytes: Option<u64>,
    /// How long the flow stays if no more packets arrive; null for promoted flows.
    pub left_seconds: Option<u32>,
}

impl FlowView {
    /// Returns what is known of a flow that a map holds.
    #[must_use]
    pub fn new(state: &State, forwarding: &Forwarding, flow: Flow, held: Held) -> Self {
        Self::of(state, forwarding, &Row::held(flow, held), 0)
    }

    fn of(state: &State, forwarding: &Forwarding, row: &Row, unix_seconds: u64) -> Self {
        let Row { protocol, addresses: (source, destination), ports, mark, .. } = *row;
        let target = state.balancer.mark_mask.target(mark);
        let (service, backend) = row.of(state, forwarding).unzip();
        let name = Protocol::ALL.into_iter().find(|named| named.number() == protocol);
        Self {
            protocol: name.map_or_else(|| protocol_name(protocol), |name| name.name().to_owned()),
            source: source.to_string(),
            source_port: ports.map(|(source, _)| source),
            destination: destination.to_string(),
            destination_port: ports.map(|(_, destination)| destination),
            service,
            backend,
            mark: mark.0,
            number: target.map(|target| target.number()),
            off_table: row.off_table,
            promoted: row.promoted,
            closing: row.closing,
            age_seconds: row.began.map(|began| unix_seconds.saturating_sub(began)),
            packets: row.packets,
            bytes: row.bytes,
            left_seconds: (!row.promoted).then_some(row.left_seconds),
        }
    }

    /// Describes the flow in words.
    #[must_use]
    pub fn reason(&self) -> String {
        let backend = self.backend.as_deref().unwrap_or("a backend of another service");
        let left = duration(self.left_seconds.unwrap_or(0).into());
        format!(
            "this flow is off-table: what there is of it goes on to {backend} (mark {:#x}), for {left} after its last packet",
            self.mark
        )
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}

/// A pinned flow, in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    protocol: u8,
    addresses: (IpAddr, IpAddr),
    ports: Option<(u16, u16)>,
    mark: Mark,
    off_table: bool,
    promoted: bool,
    closing: bool,
    began: Option<u64>,
    packets: Option<u64>,
    bytes: Option<u64>,
    left_seconds: u32,
    packet: Option<Packet>,
}

impl Row {
    fn held(flow: Flow, held: Held) -> Self {
        let Flow { addresses, protocol, ports } = flow;
        Self {
            protocol,
            addresses: (addresses.source(), addresses.destination()),
            ports: Some((ports.src, ports.dst)),
            mark: held.mark,
            off_table: true,
            promoted: false,
            closing: held.closing,
            began: None,
            packets: None,
            bytes: None,
            left_seconds: held.left_seconds,
            packet: flow.packet(),
        }
    }

    /// `None` for a flow that synrail has not pinned.
    fn tracked(forwarding: &Forwarding, seen: &Seen) -> Option<Self> {
        let tracked = forwarding.as_of_client(&seen.tracked);
        let packet = tracked.packet;
        let (mask, destination) = (forwarding.mark_mask(), packet.addresses.destination());
        if tracked.mark.0 & mask.target_bits() == 0 || !forwarding.classifier().has_vip(destination) {
            return None;
        }
        Some(Self {
            protocol: packet.protocol,
            addresses: (packet.addresses.source(), destination),
            ports: packet.l4.ports().map(|ports| (ports.src, ports.dst)),
            mark: tracked.mark,
            off_table: false,
            promoted: tracked.promotion == Promotion::Now,
            closing: tracked.phase == Some(Phase::Closing),
            began: seen.began_unix_seconds,
            packets: seen.packets,
            bytes: seen.bytes,
            left_seconds: tracked.left_seconds,
            packet: Some(packet),
        })
    }

    /// Returns the indexes of the service that claims the flow, and of its backend there.
    fn place(&self, state: &State, forwarding: &Forwarding) -> Option<(usize, usize)> {
        let target = state.balancer.mark_mask.target(self.mark)?;
        let service = forwarding.classifier().service_of(self.packet.as_ref()?)?;
        let index = |other: &Service| state.services.iter().position(|known| known.name == other.name);
        let stand_in = state.stand_in(state.services.get(service)?).and_then(index);
        [Some(service), stand_in].into_iter().flatten().find_map(|service| {
            let backends = &state.services[service].backends;
            Some((service, backends.iter().position(|backend| backend.target == target)?))
        })
    }

    /// Returns the names of these.
    fn of(&self, state: &State, forwarding: &Forwarding) -> Option<(String, String)> {
        let (service, backend) = self.place(state, forwarding)?;
        let service = &state.services[service];
        Some((service.name.to_string(), service.backends[backend].name.to_string()))
    }

    /// The order of a list: most packets first.
    fn rank(&self) -> Rank {
        let (source, destination) = self.addresses;
        let (sport, dport) = self.ports.unwrap_or_default();
        (Reverse(self.packets), self.protocol, destination, dport, source, sport)
    }

    /// Whether the client is not done with it.
    fn is_live(&self, closing_seconds: u32) -> bool {
        !self.closing || closing_seconds.saturating_sub(self.left_seconds) < CLOSING_QUIET_SECONDS
    }
}

type Rank = (Reverse<Option<u64>>, u8, IpAddr, u16, IpAddr, u16);

/// Which flows are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Of this service alone.
    pub service: Option<&'a str>,
    /// Of these backends alone; none means of all, also of what is no backend any more.
    pub backends: &'a [String],
    /// Those alone that stay on a backend that the table does not name for them.
    pub off_table: bool,
}

/// What is needed to tell which flows are asked for.
struct Sieve {
    state: State,
    forwarding: Forwarding,
    /// Indexes of services and backends; `None` for all.
    meant: Option<BTreeSet<(usize, usize)>>,
    off_table: bool,
}

impl Sieve {
    fn open(region: &mut Region, asked: Asked<'_>) -> Result<Self, StatusError> {
        let (generation, state) = region.state()?;
        Self::new(generation, state, asked)
    }

    fn new(generation: Generation, state: State, asked: Asked<'_>) -> Result<Self, StatusError> {
        let forwarding = Forwarding::new(&state, generation)?;
        let meant = if asked.backends.is_empty() && asked.service.is_none() {
            None
        } else if asked.backends.is_empty() {
            // A service that is not known is an error here, too.
            state.find_backends(asked.service, &[])?;
            let services = state.services.iter().enumerate();
            let named = services.filter(|(_, service)| Some(service.name.as_str()) == asked.service);
            Some(
                named.flat_map(|(at, of)| (0..of.backends.len()).map(move |backend| (at, backend))).collect(),
            )
        } else {
            Some(state.find_backends(asked.service, asked.backends)?.into_iter().collect())
        };
        Ok(Self { state, forwarding, meant, off_table: asked.off_table })
    }

    /// Passes every flow that is asked for to `each`. Returns whether the maps have any flow.
    ///
    /// lbd puts a flow into a map, then deletes its entry of connection tracking. So the maps are read last: no flow
    /// is missed on its way. A flow that is in both places is passed once. One that comes into a map meanwhile was
    /// off-table before, so it is enough to remember those.
    fn pass(&self, sources: &Sources, mut each: impl FnMut(Row)) -> Result<bool, StatusError> {
        let marks = if self.off_table { Vec::new() } else { self.marks() };
        let target = |mark| self.forwarding.mark_mask().target(mark);
        let mut on_their_way = HashSet::new();
        if !marks.is_empty() {
            let before = (sources.off_table)()?;
            for marked in marks {
                (sources.tracked)(marked, &mut |seen| {
                    let Some(row) = Row::tracked(&self.forwarding, seen) else { return Ok(()) };
                    let flow = row.packet.as_ref().and_then(Flow::of);
                    let held = flow.and_then(|flow| before.get(&flow));
                    if held.is_some_and(|held| target(held.mark) == target(row.mark)) {
                        return Ok(());
                    }
                    if let Some(flow) = flow.filter(|flow| !self.forwarding.is_on_table(*flow, row.mark)) {
                        on_their_way.insert((flow, target(row.mark)));
                    }
                    self.offer(row, &mut each);
                    Ok(())
                })?;
            }
        }
        let held = (sources.off_table)()?;
        // The maps also keep flows that the table names again, and invalid flows until the next audit.
        for (flow, of) in held.iter() {
            let was_passed = on_their_way.contains(&(flow, target(of.mark)));
            if !(was_passed || self.off_table && self.forwarding.is_on_table(flow, of.mark)) {
                self.offer(Row::held(flow, of), &mut each);
            }
        }
        Ok(!held.is_empty())
    }

    /// Backends of several services may share a target.
    fn marks(&self) -> Vec<Option<Marked>> {
        let Some(meant) = &self.meant else { return vec![None] };
        let target = |(service, backend): &(usize, usize)| -> Option<TargetId> {
            Some(self.state.services.get(*service)?.backends.get(*backend)?.target)
        };
        let targets: BTreeSet<TargetId> = meant.iter().filter_map(target).collect();
        // One walk through all flows costs less than many.
        const WALKS_MAX: usize = 8;
        if targets.len() > WALKS_MAX {
            return vec![None];
        }
        let mask = self.state.balancer.mark_mask;
        let marked = |target| Some(Marked { value: mask.mark(target).0, mask: mask.target_bits() });
        targets.into_iter().map(marked).collect()
    }

    fn offer(&self, row: Row, each: &mut impl FnMut(Row)) {
        let is_meant = |meant: &BTreeSet<(usize, usize)>| {
            row.place(&self.state, &self.forwarding).is_some_and(|place| meant.contains(&place))
        };
        if self.meant.as_ref().is_none_or(is_meant) {
            each(row);
        }
    }
}

/// Flows that are pinned. In JSON they are an array.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Flows {
    /// The flows: those with the most packets first, then by protocol and VIP.
    pub flows: Vec<FlowView>,
    /// How many more there are.
    #[serde(skip)]
    pub left_out: usize,
    /// How many off-table flows lbd has found, though the maps of this network namespace are empty: it runs in
    /// another one, if at all. 0 if they are not.
    #[serde(skip)]
    pub elsewhere: u64,
}

impl Flows {
    /// Reads the flows that are asked for, at most `limit` of them. `unix_seconds` is the present time.
    ///
    /// # Errors
    /// When the region, the maps or connection tracking cannot be read, or a name is not known.
    pub fn read(
        region: &mut Region,
        sources: &Sources,
        asked: Asked<'_>,
        limit: usize,
        unix_seconds: u64,
    ) -> Result<Self, StatusError> {
        let sieve = Sieve::open(region, asked)?;
        let (mut most, mut left_out) = (BinaryHeap::new(), 0);
        let any_held = sieve.pass(sources, |row| {
            most.push(Ranked(row));
            if most.len() > limit {
                most.pop();
                left_out += 1;
            }
        })?;
        let view = |Ranked(row): &Ranked| FlowView::of(&sieve.state, &sieve.forwarding, row, unix_seconds);
        let flows = most.into_sorted_vec().iter().map(view).collect();
        Ok(Self { flows, left_out, elsewhere: elsewhere(region, any_held)? })
    }
}

/// The last of these in the list is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ranked(Row);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.rank().cmp(&other.0.rank())
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How many flows a backend has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowCount {
    /// The service; null for flows whose service does not have their backend, or that none claims.
    pub service: Option<String>,
    /// The backend; null as the service is.
    pub backend: Option<String>,
    /// Its flows.
    pub flows: u64,
    /// Those of them in the maps of off-table flows.
    pub off_table: u64,
    /// Those of them in the flowtable.
    pub promoted: u64,
    /// Those of them whose client has sent a FIN or RST.
    pub closing: u64,
}

/// The numbers of flows. In JSON they are an array.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct FlowCounts {
    /// By service and backend, in the order of the state. Backends without flows are left out.
    pub counts: Vec<FlowCount>,
    /// As [`Flows::elsewhere`].
    #[serde(skip)]
    pub elsewhere: u64,
}

impl FlowCounts {
    /// Counts the flows that are asked for.
    ///
    /// # Errors
    /// As [`Flows::read`].
    pub fn read(region: &mut Region, sources: &Sources, asked: Asked<'_>) -> Result<Self, StatusError> {
        let sieve = Sieve::open(region, asked)?;
        let mut counts: BTreeMap<(usize, usize), FlowCount> = BTreeMap::new();
        let any_held = sieve.pass(sources, |row| {
            let place = row.place(&sieve.state, &sieve.forwarding);
            // What has no place comes last.
            let count = counts.entry(place.unwrap_or((usize::MAX, usize::MAX))).or_insert_with(|| {
                let (service, backend) = row.of(&sieve.state, &sieve.forwarding).unzip();
                FlowCount { service, backend, ..FlowCount::default() }
            });
            count.flows += 1;
            count.off_table += u64::from(row.off_table);
            count.promoted += u64::from(row.promoted);
            count.closing += u64::from(row.closing);
        })?;
        Ok(Self { counts: counts.into_values().collect(), elsewhere: elsewhere(region, any_held)? })
    }
}

/// How many entries connection tracking may have for flows to be counted by the way: that takes some 50 ms.
const BY_THE_WAY_MAX: u64 = 50_000;

/// Fills in how many flows backends have, if this process may ask, and it takes little time.
///
/// # Errors
/// When services contradict each other.
pub fn tell<'a>(
    backends: impl Iterator<Item = &'a mut BackendView>,
    (generation, state): (Generation, &State),
    sources: &Sources,
) -> Result<(), Conflict> {
    if let Some(counts) = by_backend((generation, state), sources)? {
        for view in backends {
            let name = format!("{}/{}", view.service, view.name);
            view.flows = Some(counts.get(&name).copied().unwrap_or(0));
        }
    }
    Ok(())
}

/// Returns how many flows backends have, by service/backend, without those that have none; `None` if this process
/// may not ask, or it takes long.
///
/// # Errors
/// When services contradict each other.
pub fn by_backend(
    (generation, state): (Generation, &State),
    sources: &Sources,
) -> Result<Option<BTreeMap<String, u64>>, Conflict> {
    let little = conntrack::fill(&sources.proc).is_ok_and(|fill| fill.entries <= BY_THE_WAY_MAX);
    if !little || state.balancer.steering == Steering::EveryPacket || !(sources.may_ask_about_flows)() {
        return Ok(None);
    }
    let sieve = Sieve {
        forwarding: Forwarding::new(state, generation)?,
        state: state.clone(),
        meant: None,
        off_table: false,
    };
    let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    let count = |row: Row| {
        if let Some(place) = row.place(&sieve.state, &sieve.forwarding) {
            *counts.entry(place).or_default() += 1;
        }
    };
    // If the kernel does not answer, that is no reason not to show the rest.
    let passed = sieve.pass(sources, count).is_ok();
    let named = |((service, backend), flows): ((usize, usize), u64)| {
        let service = &state.services[service];
        (format!("{}/{}", service.name, service.backends[backend].name), flows)
    };
    Ok(passed.then(|| counts.into_iter().map(named).collect()))
}

/// How many flows lbd has found in the maps, if none are there.
fn elsewhere(region: &mut Region, any_held: bool) -> Result<u64, StatusError> {
    Ok(if any_held { 0 } else { PinsView::read(region)?.off_table })
}

/// The flows that keep backends busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Flows that go on. A connection that its client has closed is one until its client has been silent for
    /// [`CLOSING_QUIET_SECONDS`]; a UDP flow until its lifetime ends (table `timeouts` of the file).
    pub flows: u64,
    /// Connections whose SYN went to one of the backends in the last seconds, and whose ACK has not come yet.
    pub opening: u64,
    /// Connections whose client has closed them, and has been silent since.
    pub closing: u64,
}

impl Live {
    /// Counts the flows that backends have, those of one service, or of every service with a backend of that name.
    ///
    /// # Errors
    /// As [`Flows::read`].
    pub fn read(
        region: &mut Region,
        sources: &Sources,
        service: Option<&str>,
        backends: &[String],
    ) -> Result<Self, StatusError> {
        let (generation, state) = region.state_with_tables(|_| Vec::new())?;
        let closing_seconds = state.balancer.timeouts.tcp_closing_seconds;
        let sieve = Sieve::new(generation, state, Asked { service, backends, off_table: false })?;
        let mut live = Self::default();
        for (flow, mark) in (sources.pending)(sieve.state.balancer.mark_mask)? {
            let held = Held { mark, closing: false, left_seconds: 0 };
            sieve.offer(Row::held(flow, held), &mut |_| live.opening += 1);
        }
        sieve.pass(sources, |row| {
            if row.is_live(closing_seconds) { live.flows += 1 } else { live.closing += 1 }
        })?;
        Ok(live)
    }

    /// Whether nothing keeps the backends busy.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.flows + self.opening == 0
    }
}

/// Reads the maps if the region says that they contain anything; returns nothing if they cannot be read.
pub(super) fn known(sources: &Sources, state: &State, pins: &PinsView) -> OffTable {
    if pins.off_table == 0 || state.balancer.steering == Steering::EveryPacket {
        return OffTable::default();
    }
    (sources.off_table)().unwrap_or_default()
}
