//! Reads and writes the maps whose keys are flows: `off_table` and `off_closing` (`balance/pins.rs`), and
//! `pending`, which is only read and weeded.
//!
//! Packets change these maps as well: they renew elements and move them from one map to the other, and
//! elements that are not renewed expire. So an element that was just read may be gone. A transaction that
//! deletes a missing element fails as a whole; then the map is read again, and the rest is retried. A read
//! may also miss an element that is being moved; the next audit finds it.
//!
//! | map                        | key, each field padded to 4 bytes                             |
//! |----------------------------|---------------------------------------------------------------|
//! | `off_table`, `off_closing` | source . destination . protocol . source port . dest. port    |
//! | `pending`                  | source . source port . destination . destination port         |

use std::{collections::HashSet, io, net::IpAddr};

use super::{
    NftError,
    elements::value,
    messages::{
        NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NFTA_DATA_VALUE, NFTA_SET_ELEM_DATA,
        NFTA_SET_ELEM_EXPIRATION, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_TIMEOUT,
    },
    reader::{Reader, is_missing},
    transaction::Transaction,
};
use crate::{
    balance::pins::{Flow, Held, OffTable},
    model::ids::{Mark, MarkMask},
    packet::{Addresses, Ports, TCP},
    sys::netlink::{Writer, attribute},
};

/// How many elements are changed in one transaction: few enough that it holds up others only briefly.
const PER_TRANSACTION: usize = 1000;
/// How often the elements to delete are looked up again.
const TRIES: usize = 4;

/// A map for one family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Map {
    kind: Kind,
    six: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OffTable,
    OffClosing,
    Pending,
}

/// Returns the contents of the off-table maps.
///
/// # Errors
/// Returns an error if a map cannot be read. A missing map counts as empty.
pub fn off_table() -> Result<OffTable, NftError> {
    let mut all = OffTable::default();
    // A flow in both maps is just being moved, because its client has sent a packet. Read last, `off_table`
    // wins.
    for kind in [Kind::OffClosing, Kind::OffTable] {
        for map in kind.both() {
            for (flow, mark, left_seconds) in map.read()? {
                all.insert(flow, Held { mark, closing: kind == Kind::OffClosing, left_seconds });
            }
        }
    }
    Ok(all)
}

/// Returns the SYNs that were answered and not yet confirmed, with their marks. Elements that still wait for
/// an answer have no target in their mark, and are left out.
///
/// # Errors
/// As [`off_table`].
pub fn pending(mask: MarkMask) -> Result<Vec<(Flow, Mark)>, NftError> {
    let mut all = Vec::new();
    for map in Kind::Pending.both() {
        let answered = map.read()?.into_iter().filter(|(_, mark, _)| mask.target(*mark).is_some());
        all.extend(answered.map(|(flow, mark, _)| (flow, mark)));
    }
    Ok(all)
}

/// Puts flows into their maps, each with the time that it has left. Flows that are `known` to be there get a
/// new time and mark.
///
/// # Errors
/// Returns the first error of the kernel. If a map has no room for all flows of a transaction, none of these
/// is added.
pub fn put_off_table(flows: &[(Flow, Held)], known: &OffTable) -> Result<(), NftError> {
    for kind in [Kind::OffTable, Kind::OffClosing] {
        for map in kind.both() {
            let put: Vec<(Flow, Held)> = flows.iter().filter(|of| map.is_for(of)).copied().collect();
            for put in put.chunks(PER_TRANSACTION) {
                let there = |(flow, held): &&(Flow, Held)| {
                    known.get(flow).is_some_and(|known| known.closing == held.closing)
                };
                let renew: Vec<Flow> = put.iter().filter(there).map(|(flow, _)| *flow).collect();
                map.change(renew, put)?;
            }
        }
    }
    Ok(())
}

/// Sets a new time for flows, if they are in the map that `closing` says. Returns the flows that have it now.
/// A flow that has ended or moved stays as it is. If flows keep ending during all attempts, the other flows
/// of their transaction also stay as they are.
///
/// # Errors
/// Returns the first other error of the kernel.
pub fn change_time(flows: &[(Flow, Held)]) -> Result<Vec<(Flow, Held)>, NftError> {
    let mut changed = Vec::new();
    for map in [Kind::OffTable, Kind::OffClosing].into_iter().flat_map(Kind::both) {
        let here: Vec<(Flow, Held)> = flows.iter().filter(|of| map.is_for(of)).copied().collect();
        for some in here.chunks(PER_TRANSACTION) {
            changed.extend(map.change_time(some)?);
        }
    }
    Ok(changed)
}

/// Deletes flows from the off-table maps. Each is looked for in the map where it was when the maps were
/// `read`. Both maps are read again only if it is no longer there.
///
/// # Errors
/// Returns the first error of the kernel.
pub fn delete_off_table(flows: &[Flow], read: &OffTable) -> Result<(), NftError> {
    for kind in [Kind::OffTable, Kind::OffClosing] {
        for map in kind.both() {
            let closing = |flow: &Flow| read.get(flow).is_some_and(|held| held.closing);
            let here = |flow: &&Flow| is_six(flow) == map.six && closing(flow) == (kind == Kind::OffClosing);
            let here: Vec<Flow> = flows.iter().filter(here).copied().collect();
            for flows in here.chunks(PER_TRANSACTION) {
                match map.transact(flows, &[]) {
                    Err(NftError::Netlink { error, .. }) if is_missing(&error) => {
                        for kind in [Kind::OffTable, Kind::OffClosing] {
                            let map = Map { kind, ..map };
                            map.change(map.present(flows)?, &[])?;
                        }
                    }
                    deleted => deleted?,
                }
            }
        }
    }
    Ok(())
}

/// Deletes flows from `pending`.
///
/// # Errors
/// Returns the first error of the kernel.
pub fn delete_pending(flows: &[Flow]) -> Result<(), NftError> {
    for map in Kind::Pending.both() {
        let here: Vec<Flow> = flows.iter().filter(|flow| is_six(flow) == map.six).copied().collect();
        for flows in here.chunks(PER_TRANSACTION) {
            map.change(flows.to_vec(), &[])?;
        }
    }
    Ok(())
}

/// Returns the names of the off-table maps.
pub(super) fn off_table_maps() -> impl Iterator<Item = &'static str> {
    [Kind::OffTable, Kind::OffClosing].into_iter().flat_map(Kind::both).map(Map::name)
}

impl Kind {
    fn both(self) -> [Map; 2] {
        [false, true].map(|six| Map { kind: self, six })
    }
}

impl Map {
    fn name(self) -> &'static str {
        match (self.kind, self.six) {
            (Kind::OffTable, false) => "off_table4",
            (Kind::OffTable, true) => "off_table6",
            (Kind::OffClosing, false) => "off_closing4",
            (Kind::OffClosing, true) => "off_closing6",
            (Kind::Pending, false) => "pending4",
            (Kind::Pending, true) => "pending6",
        }
    }

    /// Reports whether the flow belongs into this map.
    fn is_for(self, (flow, held): &(Flow, Held)) -> bool {
        is_six(flow) == self.six && held.closing == (self.kind == Kind::OffClosing)
    }

    fn failed(self, error: io::Error) -> NftError {
        NftError::Set { what: format!("map {}", self.name()), error }
    }

    /// Returns the flows of the map, their marks, and how many seconds each has left.
    fn read(self) -> Result<Vec<(Flow, Mark, u32)>, NftError> {
        let all = Reader::open().and_then(|mut reader| {
            reader.look(|reader| {
                let (mut all, mut readable) = (Vec::new(), true);
                reader.dump(self.name(), |element| {
                    let element = self.element(element);
                    readable &= element.is_some();
                    all.extend(element);
                })?;
                if readable { Ok(all) } else { Err(io::ErrorKind::InvalidData.into()) }
            })
        });
        all.map_err(|error| self.failed(error))
    }

    /// Returns those of these flows that the map holds.
    fn present(self, flows: &[Flow]) -> Result<Vec<Flow>, NftError> {
        let there: HashSet<Flow> = self.read()?.into_iter().map(|(flow, ..)| flow).collect();
        Ok(flows.iter().filter(|flow| there.contains(flow)).copied().collect())
    }

    /// Deletes those of `delete` that exist, then adds `put`, in one transaction if not too many end meanwhile.
    fn change(self, mut delete: Vec<Flow>, put: &[(Flow, Held)]) -> Result<(), NftError> {
        for _ in 0..TRIES {
            match self.transact(&delete, put) {
                Err(NftError::Netlink { error, .. }) if is_missing(&error) && !delete.is_empty() => {
                    delete = self.present(&delete)?;
                }
                done => return done,
            }
        }
        self.delete_present(&delete)?;
        self.transact(&[], put)
    }

    /// Deletes those that exist, however many end meanwhile: what is refused is halved.
    fn delete_present(self, flows: &[Flow]) -> Result<(), NftError> {
        match self.transact(flows, &[]) {
            Err(NftError::Netlink { error, .. }) if is_missing(&error) => {
                let (first, second) = flows.split_at(flows.len() / 2);
                if first.is_empty() {
                    return Ok(());
                }
                self.delete_present(first)?;
                self.delete_present(second)
            }
            deleted => deleted,
        }
    }

    fn change_time(self, flows: &[(Flow, Held)]) -> Result<Vec<(Flow, Held)>, NftError> {
        let mut flows = flows.to_vec();
        for _ in 0..TRIES {
            let names: Vec<Flow> = flows.iter().map(|(flow, _)| *flow).collect();
            match self.transact(&names, &flows) {
                Ok(()) => return Ok(flows),
                Err(NftError::Netlink { error, .. }) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
            let there: HashSet<Flow> = self.present(&names)?.into_iter().collect();
            flows.retain(|(flow, _)| there.contains(flow));
            if flows.is_empty() {
                break;
            }
        }
        Ok(Vec::new())
    }

    fn transact(self, delete: &[Flow], put: &[(Flow, Held)]) -> Result<(), NftError> {
        let mut transaction = Transaction::new();
        let what = |verb| format!("map {} {verb} some flows", self.name());
        let (delete, without) = (delete.iter().map(|flow| (flow, None)), what("without"));
        let (put, with) = (put.iter().map(|(flow, held)| (flow, Some(held))), what("with"));
        let write = |to: &mut Writer, element| self.write(to, element);
        transaction.add_elements(NFT_MSG_DELSETELEM, &without, self.name(), None, delete, write);
        transaction.add_elements(NFT_MSG_NEWSETELEM, &with, self.name(), None, put, write);
        transaction.commit()
    }

    /// Writes an element; without its value if the element is only named.
    fn write(self, to: &mut Writer, (flow, held): (&Flow, Option<&Held>)) {
        to.nested(NFTA_SET_ELEM_KEY, |key| key.value(NFTA_DATA_VALUE, &self.key(flow)));
        if let Some(held) = held {
            let mark = held.mark.0.to_ne_bytes();
            to.nested(NFTA_SET_ELEM_DATA, |data| data.value(NFTA_DATA_VALUE, &mark));
            let left_ms = u64::from(held.left_seconds.max(1)) * 1000;
            to.value(NFTA_SET_ELEM_TIMEOUT, &left_ms.to_be_bytes());
        }
    }

    fn key(self, flow: &Flow) -> Vec<u8> {
        let address = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let (src, dst) = (address(flow.addresses.source()), address(flow.addresses.destination()));
        let port = |port: u16| {
            let [high, low] = port.to_be_bytes();
            [high, low, 0, 0]
        };
        let (sport, dport) = (port(flow.ports.src), port(flow.ports.dst));
        match self.kind {
            Kind::Pending => [&src[..], &sport, &dst, &dport].concat(),
            Kind::OffTable | Kind::OffClosing => {
                [&src[..], &dst, &[flow.protocol, 0, 0, 0], &sport, &dport].concat()
            }
        }
    }

    /// Reads an element as the kernel has it; `None` for an element that synrail cannot have added.
    fn element(self, element: &[u8]) -> Option<(Flow, Mark, u32)> {
        let flow = self.flow(value(element, NFTA_SET_ELEM_KEY)?)?;
        let mark = Mark(u32::from_ne_bytes(value(element, NFTA_SET_ELEM_DATA)?.try_into().ok()?));
        let left_ms = attribute(element, NFTA_SET_ELEM_EXPIRATION).and_then(|left| left.first_chunk());
        // An element that was added without a time stays until it is deleted.
        let left_seconds = left_ms
            .map_or(u32::MAX, |left| u32::try_from(u64::from_be_bytes(*left) / 1000).unwrap_or(u32::MAX));
        Some((flow, mark, left_seconds))
    }

    fn flow(self, mut key: &[u8]) -> Option<Flow> {
        let six = self.six;
        let address = |key: &mut &[u8]| {
            if six {
                let (address, rest) = key.split_first_chunk::<16>()?;
                *key = rest;
                Some(IpAddr::from(*address))
            } else {
                let (address, rest) = key.split_first_chunk::<4>()?;
                *key = rest;
                Some(IpAddr::from(*address))
            }
        };
        let word = |key: &mut &[u8]| {
            let (word, rest) = key.split_first_chunk::<4>()?;
            *key = rest;
            Some(*word)
        };
        let port = |key: &mut &[u8]| word(key).map(|[high, low, ..]| u16::from_be_bytes([high, low]));
        let key = &mut key;
        let (src, dst, protocol, sport, dport);
        match self.kind {
            Kind::Pending => {
                (src, sport) = (address(key)?, port(key)?);
                (dst, dport) = (address(key)?, port(key)?);
                protocol = TCP;
            }
            Kind::OffTable | Kind::OffClosing => {
                (src, dst) = (address(key)?, address(key)?);
                [protocol, ..] = word(key)?;
                (sport, dport) = (port(key)?, port(key)?);
            }
        }
        let addresses = Addresses::new(src, dst)?;
        key.is_empty().then_some(Flow { addresses, protocol, ports: Ports { src: sport, dst: dport } })
    }
}

fn is_six(flow: &Flow) -> bool {
    matches!(flow.addresses, Addresses::V6 { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::{Packet, UDP},
        plan::elements::TABLE,
        sys::{clock::wait_for, namespace::in_namespace, nft::nft},
    };
    use std::time::Duration;

    const ALL: [Map; 6] = {
        const fn of(kind: Kind) -> [Map; 2] {
            [Map { kind, six: false }, Map { kind, six: true }]
        }
        let ([a, b], [c, d], [e, f]) = (of(Kind::OffTable), of(Kind::OffClosing), of(Kind::Pending));
        [a, b, c, d, e, f]
    };

    fn flow(protocol: u8, six: bool, sport: u16) -> Flow {
        let (client, vip) = if six { ("2000::1", "1000::2") } else { ("50.0.0.1", "10.0.0.2") };
        let ports = Ports { src: sport, dst: 80 };
        Flow::of(&Packet::synthetic(protocol, client.parse().unwrap(), vip.parse().unwrap(), ports).unwrap())
            .unwrap()
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = Map { kind: Kind::OffTable, six: false }.key(&flow(UDP, false, 0x0102));
        assert_eq!(key, [50, 0, 0, 1, 10, 0, 0, 2, 17, 0, 0, 0, 1, 2, 0, 0, 0, 80, 0, 0]);
        let key = Map { kind: Kind::Pending, six: false }.key(&flow(TCP, false, 0x0102));
        assert_eq!(key, [50, 0, 0, 1, 1, 2, 0, 0, 10, 0, 0, 2, 0, 80, 0, 0]);
        for map in ALL {
            let flow = flow(TCP, map.six, 40000);
            let key = map.key(&flow);
            assert_eq!(map.flow(&key), Some(flow));
            for cut in 0..key.len() {
                assert_eq!(map.flow(&key[..cut]), None);
            }
            assert_eq!(map.flow(&[&key[..], &[0; 4]].concat()), None);
        }
    }

    fn tables(size: u32) {
        let four = "ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service";
        let six = four.replace("ipv4", "ipv6");
        let map = |name, key| {
            format!("map {name} {{ type {key} : mark; flags dynamic,timeout; timeout 100s; size {size}; }}\n")
        };
        let maps = [
            map("off_table4", four),
            map("off_table6", &six),
            map("off_closing4", four),
            map("off_closing6", &six),
        ];
        let pending = "ipv4_addr . inet_service . ipv4_addr . inet_service";
        let pending = [map("pending4", pending), map("pending6", &pending.replace("ipv4", "ipv6"))];
        let text = format!("table inet {TABLE} {{\n{}{}}}\n", maps.concat(), pending.concat());
        nft("a test", &["-f", "-"], Some(&text)).unwrap();
    }

    fn held(mark: u32, closing: bool, left_seconds: u32) -> Held {
        Held { mark: Mark(mark), closing, left_seconds }
    }

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn what_has_ended_meanwhile_keeps_nothing_from_being_deleted() {
        in_namespace(|| {
            let map = Map { kind: Kind::OffTable, six: false };
            let held = Held { mark: Mark(1), closing: false, left_seconds: 100 };
            let all: Vec<Flow> = (1..=200).map(|port| flow(UDP, false, port)).collect();
            let there: Vec<(Flow, Held)> = all.iter().step_by(3).map(|flow| (*flow, held)).collect();
            // Another program has deleted the table.
            map.change(all.clone(), &[]).unwrap();
            assert!(map.change(all.clone(), &there).is_err());
            tables(65536);
            map.change(all.clone(), &there).unwrap();
            assert_eq!(map.read().unwrap().len(), there.len());
            map.delete_present(&all).unwrap();
            assert_eq!(map.read().unwrap().len(), 0);
        });
    }

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn the_kernel_keeps_flows_for_the_time_that_they_have_left() {
        in_namespace(|| {
            // Missing maps count as empty.
            assert!(off_table().unwrap().is_empty() && pending(MarkMask::DEFAULT).unwrap().is_empty());
            tables(65536);
            let mut all: Vec<(Flow, Held)> = Vec::new();
            for six in [false, true] {
                all.extend((0..2500).map(|n| (flow(TCP, six, n), held(0x17, n % 2 == 0, 50))));
                all.push((flow(UDP, six, 7), held(0x18, false, 3000)));
                all.push((flow(UDP, six, 8), held(0x18, false, 1)));
            }
            put_off_table(&all, &OffTable::default()).unwrap();
            let read = off_table().unwrap();
            assert!(read.len() >= 2 * 2501);
            for (flow, put) in &all {
                let Some(found) = read.get(flow) else {
                    assert_eq!(put.left_seconds, 1);
                    continue;
                };
                assert_eq!((found.mark, found.closing), (put.mark, put.closing));
                assert!(put.left_seconds - found.left_seconds <= 10, "{found:?} {put:?}");
            }
            // Other programs can read them as well.
            let listed = nft("a test", &["list", "map", "inet", TABLE, "off_table6"], None).unwrap();
            assert!(listed.contains("2000::1 . 1000::2 . udp . 7 . 80"), "{listed}");

            // A known flow gets a new time and mark, also one that has expired meanwhile.
            let expired = || off_table().unwrap().get(&flow(UDP, false, 8)).is_none();
            wait_for(Duration::from_secs(5), Duration::from_millis(50), || expired().then_some(())).unwrap();
            let again = [
                (flow(UDP, false, 7), held(0x19, false, 9000)),
                (flow(UDP, false, 8), held(0x19, false, 9000)),
            ];
            put_off_table(&again, &read).unwrap();
            let read = off_table().unwrap();
            for (flow, _) in again {
                let held = read.get(&flow).unwrap();
                assert!(held.mark == Mark(0x19) && held.left_seconds > 8900, "{held:?}");
            }
            // A missing flow is no error.
            let some: Vec<Flow> =
                all[..2502].iter().map(|(flow, _)| *flow).chain([flow(UDP, false, 9)]).collect();
            // Nor is a flow that was in the other map before, as all of those in `off_closing` here.
            delete_off_table(&some[..1000], &OffTable::default()).unwrap();
            delete_off_table(&some, &read).unwrap();
            let read = off_table().unwrap();
            assert!(read.iter().all(|(flow, _)| is_six(&flow)));
            assert_eq!(read.len(), 2501);
        });
    }

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn a_time_is_changed_of_those_that_are_there() {
        in_namespace(|| {
            // A full map does not matter.
            tables(2500);
            let put: Vec<(Flow, Held)> =
                (0..2500).map(|n| (flow(TCP, false, n), held(5, false, 900))).collect();
            put_off_table(&put, &OffTable::default()).unwrap();
            let short = |n| (flow(TCP, false, n), held(5, false, 50));
            let times = |n| off_table().unwrap().get(&flow(TCP, false, n)).map(|held| held.left_seconds);
            let all: Vec<_> = (0..2500).map(short).collect();
            assert_eq!(change_time(&all[..2499]).unwrap(), all[..2499]);
            assert!(times(0).unwrap() <= 50 && times(2498).unwrap() <= 50 && times(2499).unwrap() > 800);
            // One flow has ended, and one has moved to the other map.
            delete_off_table(&[flow(TCP, false, 0), flow(TCP, false, 1)], &OffTable::default()).unwrap();
            put_off_table(&[(flow(TCP, false, 1), held(5, true, 900))], &OffTable::default()).unwrap();
            let wanted: Vec<_> = [0, 1, 2499].map(short).to_vec();
            assert_eq!(change_time(&wanted).unwrap(), [short(2499)]);
            assert!(times(0).is_none() && times(1).unwrap() > 800 && times(2499).unwrap() <= 50);
            assert_eq!(change_time(&[short(0)]).unwrap(), []);
            assert_eq!(off_table().unwrap().counts(), [[2498, 1], [0, 0]]);
        });
    }

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn a_full_map_is_reported_and_pending_is_weeded() {
        in_namespace(|| {
            tables(10);
            let flows =
                |six| (0..11).map(move |n| (flow(TCP, six, n), held(1, false, 100))).collect::<Vec<_>>();
            put_off_table(&flows(true)[..10], &OffTable::default()).unwrap();
            put_off_table(&flows(false), &OffTable::default()).unwrap_err();
            assert_eq!(off_table().unwrap().len(), 10);

            let text = format!(
                "add element inet {TABLE} pending4 {{ 50.0.0.1 . 1 . 10.0.0.2 . 80 : 5, 50.0.0.1 . 2 . 10.0.0.2 . 80 : 6, \
                 50.0.0.1 . 3 . 10.0.0.2 . 80 : 0x10000 }}\n"
            );
            nft("a test", &["-f", "-"], Some(&text)).unwrap();
            let mut read = pending(MarkMask::DEFAULT).unwrap();
            read.sort_by_key(|(_, mark)| *mark);
            assert_eq!(read, [(flow(TCP, false, 1), Mark(5)), (flow(TCP, false, 2), Mark(6))]);
            delete_pending(&[flow(TCP, false, 1), flow(TCP, true, 1), flow(TCP, false, 3)]).unwrap();
            assert_eq!(pending(MarkMask::DEFAULT).unwrap(), [(flow(TCP, false, 2), Mark(6))]);
        });
    }
}
