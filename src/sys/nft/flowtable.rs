//! The devices of the flowtable. nft makes the flowtable in a network namespace that has no devices. So
//! devices are added here, and deleted when they are no longer desired. The kernel itself removes a device
//! that disappears.

use std::collections::BTreeSet;

use super::{
    NftError,
    messages::{
        NFT_MSG_DELFLOWTABLE, NFT_MSG_NEWFLOWTABLE, NFTA_DEVICE_NAME, NFTA_FLOWTABLE_HOOK,
        NFTA_FLOWTABLE_HOOK_DEVS, NFTA_FLOWTABLE_NAME, names,
    },
    reader::Reader,
    transaction::Transaction,
};
use crate::sys::interface_index;

/// The flowtable's name in the ruleset.
pub(super) const NAME: &str = "promoted";

/// Existing devices with their indexes: a device that was created anew has another index.
pub(super) type Present = Vec<(String, u32)>;

/// Returns those of the desired devices that exist.
pub(super) fn present(desired: Option<&BTreeSet<String>>) -> Present {
    let desired = desired.into_iter().flatten();
    desired.filter_map(|name| Some((name.clone(), interface_index(name)?))).collect()
}

/// Returns how the flowtable's devices differ: the devices to add, and those to delete. Returns nothing if
/// there is no flowtable, which is reported elsewhere.
pub(super) fn difference(present: &Present) -> Result<(Vec<String>, Vec<String>), NftError> {
    let read = Reader::open().and_then(|mut reader| reader.look(Reader::flowtables));
    let is = read.map_err(|error| NftError::Table { what: "flowtables", error })?;
    let Some(flowtable) = is.get(NAME) else { return Ok((Vec::new(), Vec::new())) };
    let is_desired = |device: &String| present.iter().any(|(name, _)| name == device);
    let add = present.iter().map(|(name, _)| name).filter(|name| !flowtable.devices.contains(*name));
    let delete = flowtable.devices.iter().filter(|device| !is_desired(device));
    Ok((add.cloned().collect(), delete.cloned().collect()))
}

/// Sets the flowtable's devices to those that are desired and exist. If the kernel refuses one, the others
/// are still set.
pub(super) fn set_devices(present: &Present) -> Result<(), NftError> {
    let (add, delete) = difference(present)?;
    let delete = delete.iter().map(|device| (NFT_MSG_DELFLOWTABLE, device));
    let add = add.iter().map(|device| (NFT_MSG_NEWFLOWTABLE, device));
    let mut result = Ok(());
    for (kind, device) in delete.chain(add) {
        let mut transaction = Transaction::new();
        let what = format!("device {device} of flowtable {NAME}");
        transaction.add(kind, 0, what, |message| {
            names(message, NFTA_FLOWTABLE_NAME, NAME);
            message.nested(NFTA_FLOWTABLE_HOOK, |hook| {
                hook.nested(NFTA_FLOWTABLE_HOOK_DEVS, |list| list.text(NFTA_DEVICE_NAME, device));
            });
        });
        result = result.and(transaction.commit());
    }
    result
}
