//! Reads which targets were not reached by a packet, as ICMP errors say: the sets `undelivered4` and `undelivered6`, which
//! packets alone change.

use std::{net::IpAddr, time::Duration};

use super::{
    NftError,
    elements::value,
    messages::{NFTA_SET_ELEM_EXPIRATION, NFTA_SET_ELEM_KEY},
    reader::{Reader, opened},
};
use crate::{plan::ruleset::UNDELIVERED, sys::netlink::attribute};

/// Reads the sets, by a connection that stays open.
#[derive(Default)]
pub struct UndeliveredSets(Option<Reader>);

impl UndeliveredSets {
    /// Returns the addresses of the targets, each with how long ago its last error was. A missing set counts as empty.
    ///
    /// # Errors
    /// When a set cannot be read.
    pub fn read(&mut self) -> Result<Vec<(IpAddr, Duration)>, NftError> {
        let mut all = Vec::new();
        for set in ["undelivered4", "undelivered6"] {
            let read = opened(&mut self.0).and_then(|reader| {
                reader.look(|reader| {
                    let mut of_set = Vec::new();
                    reader.dump(set, |element| of_set.extend(undelivered(element)))?;
                    Ok(of_set)
                })
            });
            // After an error the connection is useless.
            let read = read.inspect_err(|_| self.0 = None);
            all.extend(read.map_err(|error| NftError::Set { what: format!("set {set}"), error })?);
        }
        Ok(all)
    }
}

/// Reads an element; `None` for one that the ruleset cannot have added.
fn undelivered(element: &[u8]) -> Option<(IpAddr, Duration)> {
    let key = value(element, NFTA_SET_ELEM_KEY)?;
    let four = key.try_into().map(|key: [u8; 4]| IpAddr::from(key));
    let address = four.or_else(|_| key.try_into().map(|key: [u8; 16]| IpAddr::from(key))).ok()?;
    let left_ms = u64::from_be_bytes(*attribute(element, NFTA_SET_ELEM_EXPIRATION)?.first_chunk()?);
    Some((address, UNDELIVERED.saturating_sub(Duration::from_millis(left_ms))))
}
