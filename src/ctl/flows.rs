//! `flows --off-table`: lists the flows that stay on their backend although their service's table now names
//! another one.

use serde::Serialize;

use super::{
    Env, Status,
    daemon::PinsView,
    error::CtlError,
    text::{Table, duration},
};
use crate::{
    balance::{
        Forwarding,
        pins::{Flow, Held, OffTable},
    },
    model::{Protocol, Steering, ids::MarkMask},
    state::State,
    sys::region::{Region, RegionName},
};

/// A flow in the maps; what `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct FlowView {
    protocol: String,
    source: String,
    source_port: u16,
    destination: String,
    destination_port: u16,
    /// The service of the backend; null if no service claims the flow, or the claiming service does not have
    /// that backend.
    service: Option<String>,
    backend: Option<String>,
    mark: u32,
    /// The number of the target.
    number: Option<u32>,
    /// Whether a FIN or RST was seen from the client, which may have been forged.
    closing: bool,
    /// How long the flow stays if no more packets arrive.
    left_seconds: u32,
}

impl FlowView {
    pub(super) fn new(state: &State, forwarding: &Forwarding, flow: Flow, held: Held) -> Self {
        let Flow { addresses, protocol, ports } = flow;
        let target = mask(state).target(held.mark);
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
    pub(super) fn reason(&self) -> String {
        let backend = self.backend.as_deref().unwrap_or("a backend of another service");
        let left = duration(self.left_seconds.into());
        format!(
            "this flow is off-table: what there is of it goes on to {backend} (mark {:#x}), for {left} after its last packet",
            self.mark
        )
    }

    fn row(&self) -> [String; 6] {
        let end = |address: &str, port| {
            if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
        };
        let closing = if self.closing { "closing" } else { "" };
        [
            self.protocol.clone(),
            end(&self.source, self.source_port),
            end(&self.destination, self.destination_port),
            self.backend.clone().unwrap_or_else(|| format!("mark {:#x}", self.mark)),
            duration(self.left_seconds.into()),
            closing.to_owned(),
        ]
    }
}

fn mask(state: &State) -> MarkMask {
    state.balancer.mark_mask
}

/// `lbctl flows --off-table`.
pub(super) fn off_table(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let mut region = Region::open(name)?;
    let (generation, state) = region.state()?;
    let forwarding = Forwarding::new(&state, generation)?;
    let held = (env.off_table)()?;
    let found = PinsView::read(&mut region)?.off_table;
    if held.is_empty() && found > 0 {
        env.warn(&format!(
            "lbd has found {found} off-table flows, and there are none here: if lbd runs in another network \
             namespace, run this there (ip netns exec NAME lbctl ...)"
        ))?;
    }
    // The maps also keep flows that the table names again, and invalid flows until the next audit.
    let off_table = held.iter().filter(|(flow, held)| !forwarding.is_on_table(*flow, held.mark));
    let mut flows: Vec<(Flow, Held)> = off_table.collect();
    flows.sort_by_key(|(Flow { addresses, protocol, ports }, _)| {
        (*protocol, addresses.destination(), ports.dst, addresses.source(), ports.src)
    });
    let views: Vec<FlowView> =
        flows.into_iter().map(|(flow, held)| FlowView::new(&state, &forwarding, flow, held)).collect();
    if json {
        return env.json(&views);
    }
    let mut table = Table::new(&["PROTOCOL", "CLIENT", "VIP", "BACKEND", ">LEFT", ""]);
    for view in &views {
        table.row(view.row());
    }
    env.text(&table.render(""))
}

/// Reads the maps if the region says that they contain anything; returns nothing if they cannot be read.
pub(super) fn known(env: &Env<'_>, state: &State, pins: &PinsView) -> OffTable {
    if pins.off_table == 0 || state.balancer.steering == Steering::EveryPacket {
        return OffTable::default();
    }
    (env.off_table)().unwrap_or_default()
}
