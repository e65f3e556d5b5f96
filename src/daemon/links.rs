//! What the worker of fragments knows about our devices.
//!
//! The device that a fragment came in by shows the worker that the fragment has been at another balancer, or here, and must
//! not be sent to another one. The ruleset lets fragments in by the names of devices. So the worker learns the index of a
//! new device before the device is set up, and forgets a tunnel that leaves the tier after the ruleset and the table of owners
//! have changed.

use crate::{
    sys::interface_index,
    worker::{Links, Shared},
};

/// Sets the device by which held fragments come.
pub(super) fn set_tun(shared: &Shared, tun: u32) {
    change(shared, |links| links.tun = tun);
}

/// Adds devices by which fragments come from the tier.
pub(super) fn add_tier(shared: &Shared, devices: &[u32]) {
    change(shared, |links| {
        links.tier.extend(devices);
        links.tier.sort_unstable();
        links.tier.dedup();
    });
}

/// Sets the devices by which fragments come from the tier.
pub(super) fn set_tier(shared: &Shared, devices: &[u32]) {
    change(shared, |links| links.tier = devices.to_vec());
}

/// Returns the indexes of those of these devices that exist. A device that was made anew has another index.
pub(super) fn indexes(names: &[String]) -> Vec<u32> {
    names.iter().filter_map(|name| interface_index(name)).collect()
}

fn change(shared: &Shared, change: impl Fn(&mut Links)) {
    shared.links.rcu(|links| {
        let mut links = Links::clone(links);
        change(&mut links);
        links
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{balance::Forwarding, config::Balancer, model::ids::Generation, state::State};

    #[test]
    fn a_tunnel_counts_from_before_a_change_until_after_it() {
        let state = State::empty(Balancer::unconfigured());
        let shared = Shared::new(Forwarding::new(&state, Generation(1)).unwrap());
        let tier = || shared.links.load().tier.clone();
        set_tun(&shared, 9);
        set_tier(&shared, &[5, 3]);
        add_tier(&shared, &[4, 5]);
        assert_eq!(tier(), [3, 4, 5], "the old and the new");
        set_tier(&shared, &[4, 5]);
        assert_eq!(tier(), [4, 5], "the new");
        assert_eq!(shared.links.load().tun, 9);
    }

    #[test]
    fn only_devices_that_are_there_count() {
        let lo = interface_index("lo").unwrap();
        assert_eq!(indexes(&["sr-none".to_owned(), "lo".to_owned()]), [lo]);
    }
}
