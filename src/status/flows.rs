//! The flows that stay on their backend although their service's table now names another one.

use serde::Serialize;

use super::{Sources, StatusError, lbd::PinsView, words::duration};
use crate::{
    balance::{
        Forwarding,
        pins::{Flow, Held, OffTable},
    },
    model::{Protocol, Steering},
    state::State,
    sys::region::Region,
};

/// A flow in the maps.
#[derive(Debug, Serialize)]
pub struct FlowView {
    /// The name of its protocol, or its number.
    pub protocol: String,
    /// The client.
    pub source: String,
    /// The client's port.
    pub source_port: u16,
    /// The VIP.
    pub destination: String,
    /// The port at the VIP.
    pub destination_port: u16,
    /// The service of the backend; null if no service claims the flow, or the claiming service does not have
    /// that backend.
    pub service: Option<String>,
    /// The backend; null as the service is.
    pub backend: Option<String>,
    /// The mark that it keeps.
    pub mark: u32,
    /// The number of the target.
    pub number: Option<u32>,
    /// Whether a FIN or RST was seen from the client, which may have been forged.
    pub closing: bool,
    /// How long the flow stays if no more packets arrive.
    pub left_seconds: u32,
}

impl FlowView {
    /// Returns what is known of a flow that a map holds.
    #[must_use]
    pub fn new(state: &State, forwarding: &Forwarding, flow: Flow, held: Held) -> Self {
        let Flow { addresses, protocol, ports } = flow;
        let target = state.balancer.mark_mask.target(held.mark);
        let service = flow.packet().and_then(|packet| forwarding.classifier().service_of(&packet));
        let service = service.and_then(|service| state.services.get(service));
        let named = service.zip(target).and_then(|(service, target)| {
            let backend = service.backends.iter().find(|backend| backend.target == target)?;
            Some((service.name.to_string(), backend.name.to_string()))
        });
        let (service, backend) = named.unzip();
        let name = Protocol::ALL.into_iter().find(|named| named.number() == protocol);
        Self {
            protocol: name.map_or_else(|| protocol.to_string(), |name| name.name().to_owned()),
            source: addresses.source().to_string(),
            source_port: ports.src,
            destination: addresses.destination().to_string(),
            destination_port: ports.dst,
            service,
            backend,
            mark: held.mark.0,
            number: target.map(|target| target.number()),
            closing: held.closing,
            left_seconds: held.left_seconds,
        }
    }

    /// Describes the flow in words.
    #[must_use]
    pub fn reason(&self) -> String {
        let backend = self.backend.as_deref().unwrap_or("a backend of another service");
        let left = duration(self.left_seconds.into());
        format!(
            "this flow is off-table: what there is of it goes on to {backend} (mark {:#x}), for {left} after its last packet",
            self.mark
        )
    }
}

/// The off-table flows. In JSON they are an array.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Flows {
    /// The flows, by protocol and VIP.
    pub flows: Vec<FlowView>,
    /// How many flows lbd has found, though the maps of this network namespace are empty: it runs in another
    /// one, if at all. 0 if they are not.
    #[serde(skip)]
    pub elsewhere: u64,
}

impl Flows {
    /// Reads the flows.
    ///
    /// # Errors
    /// When the region or the maps cannot be read.
    pub fn read(region: &mut Region, sources: &Sources) -> Result<Self, StatusError> {
        let (generation, state) = region.state()?;
        let forwarding = Forwarding::new(&state, generation)?;
        let held = (sources.off_table)()?;
        let elsewhere = if held.is_empty() { PinsView::read(region)?.off_table } else { 0 };
        // The maps also keep flows that the table names again, and invalid flows until the next audit.
        let off_table = held.iter().filter(|(flow, held)| !forwarding.is_on_table(*flow, held.mark));
        let mut flows: Vec<(Flow, Held)> = off_table.collect();
        flows.sort_by_key(|(Flow { addresses, protocol, ports }, _)| {
            (*protocol, addresses.destination(), ports.dst, addresses.source(), ports.src)
        });
        let view = |(flow, held)| FlowView::new(&state, &forwarding, flow, held);
        Ok(Self { flows: flows.into_iter().map(view).collect(), elsewhere })
    }
}

/// Reads the maps if the region says that they contain anything; returns nothing if they cannot be read.
pub(super) fn known(sources: &Sources, state: &State, pins: &PinsView) -> OffTable {
    if pins.off_table == 0 || state.balancer.steering == Steering::EveryPacket {
        return OffTable::default();
    }
    (sources.off_table)().unwrap_or_default()
}
