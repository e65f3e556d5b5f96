//! Connection tracking as the tests have it.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    balance::flow_table::{FlowMark, FlowTable},
    model::ids::{Mark, MarkMask},
    packet::{Addresses, Packet},
};

/// A flow's addresses, protocol, and ports if it has any.
type Flow = (Addresses, u8, Option<(u16, u16)>);

fn flow_of(packet: &Packet) -> Flow {
    (packet.addresses, packet.protocol, packet.l4.ports().map(|ports| (ports.src, ports.dst)))
}

/// What it knows, and what it was asked.
#[derive(Default)]
pub(crate) struct Known {
    flows: HashMap<Flow, FlowMark>,
    pub(crate) asked: Vec<Packet>,
    /// Whether every request fails.
    pub(crate) broken: bool,
    /// Whether there is no room for a new entry.
    pub(crate) full: bool,
}

impl Known {
    pub(crate) fn get(&self, packet: &Packet) -> Option<FlowMark> {
        self.flows.get(&flow_of(packet)).copied()
    }

    pub(crate) fn set(&mut self, packet: &Packet, pin: FlowMark) {
        self.flows.insert(flow_of(packet), pin);
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, seconds: u32) {
        self.flows.retain(|_, pin| {
            pin.left_seconds = pin.left_seconds.map(|left| left.saturating_sub(seconds));
            pin.left_seconds != Some(0)
        });
    }
}

/// A connection to it. All clones are to the same one.
#[derive(Clone, Default)]
pub(crate) struct FakePins(Arc<Mutex<Known>>);

impl FakePins {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }
}

impl FlowTable for FakePins {
    fn lookup(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>> {
        let mut known = self.known();
        known.asked.push(*packet);
        if known.broken { Err(io::ErrorKind::Unsupported.into()) } else { Ok(known.get(packet)) }
    }

    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()> {
        let mut known = self.known();
        let before = known.get(packet);
        if known.broken || (known.full && before.is_none()) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let theirs = before.map_or(0, |pin| pin.mark.0 & !mask.bits());
        known.set(packet, FlowMark { mark: Mark(theirs | mark.0), left_seconds: Some(seconds) });
        Ok(())
    }
}
