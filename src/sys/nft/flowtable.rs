//! The devices of the flowtable. nft makes the flowtable in a network namespace that has no devices, so they are added
//! here, and deleted when they are not wanted any more. The kernel itself takes out one that goes.

use std::collections::BTreeSet;

use super::{
    NftError,
    messages::{
        NFT_MSG_DELFLOWTABLE, NFT_MSG_NEWFLOWTABLE, NFTA_DEVICE_NAME, NFTA_FLOWTABLE_HOOK,
        NFTA_FLOWTABLE_HOOK_DEVS, NFTA_FLOWTABLE_NAME, NFTA_FLOWTABLE_TABLE,
    },
    reader::Reader,
    transaction::Transaction,
};
use crate::{plan::elements::TABLE, sys::interface_index};

/// The flowtable's name in the ruleset.
const NAME: &str = "promoted";

/// Devices that exist, with their indexes: one that was made anew has another one.
pub(super) type Present = Vec<(String, u32)>;

/// Those that exist.
pub(super) fn present(wanted: Option<&BTreeSet<String>>) -> Present {
    let wanted = wanted.into_iter().flatten();
    wanted.filter_map(|name| Some((name.clone(), interface_index(name)?))).collect()
}

/// What of the flowtable's devices is not as wanted: those to be added, and those to be deleted. Nothing where there is no
/// flowtable, which is told elsewhere.
pub(super) fn difference(present: &Present) -> Result<(Vec<String>, Vec<String>), NftError> {
    let read = Reader::open().and_then(|mut reader| reader.look(Reader::flowtables));
    let is = read.map_err(|error| NftError::Table { what: "flowtables", error })?;
    let Some(flowtable) = is.get(NAME) else { return Ok((Vec::new(), Vec::new())) };
    let is_wanted = |device: &String| present.iter().any(|(name, _)| name == device);
    let add = present.iter().map(|(name, _)| name).filter(|name| !flowtable.devices.contains(*name));
    let delete = flowtable.devices.iter().filter(|device| !is_wanted(device));
    Ok((add.cloned().collect(), delete.cloned().collect()))
}

/// Makes the flowtable's devices those that are wanted and exist. One that the kernel refuses keeps out no other.
pub(super) fn set_devices(present: &Present) -> Result<(), NftError> {
    let (add, delete) = difference(present)?;
    let delete = delete.iter().map(|device| (NFT_MSG_DELFLOWTABLE, device));
    let add = add.iter().map(|device| (NFT_MSG_NEWFLOWTABLE, device));
    let mut result = Ok(());
    for (kind, device) in delete.chain(add) {
        let mut transaction = Transaction::new();
        let what = format!("device {device} of flowtable {NAME}");
        transaction.add(kind, 0, what, |message| {
            message.text(NFTA_FLOWTABLE_TABLE, TABLE);
            message.text(NFTA_FLOWTABLE_NAME, NAME);
            message.nested(NFTA_FLOWTABLE_HOOK, |hook| {
                hook.nested(NFTA_FLOWTABLE_HOOK_DEVS, |list| list.text(NFTA_DEVICE_NAME, device));
            });
        });
        result = result.and(transaction.commit());
    }
    result
}
