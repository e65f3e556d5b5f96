//! What the worker of fragments is told about our devices.
//!
//! By the device that a fragment came in by, the worker knows that it was at another balancer or here before, and sends it
//! nowhere else. The ruleset lets fragments in by the names of devices; so a new device's index is told before it is set
//! up, and that of a tunnel that leaves the tier is forgotten after the ruleset and the table of owners have changed.

use crate::{
    sys::interface_index,
    worker::{Links, Shared},
};

/// By this device come held fragments.
pub(super) fn set_tun(shared: &Shared, tun: u32) {
    change(shared, |links| links.tun = tun);
}

/// By these devices come fragments from the tier, as by those that are known.
pub(super) fn add_tier(shared: &Shared, devices: &[u32]) {
    change(shared, |links| {
        links.tier.extend(devices);
        links.tier.sort_unstable();
        links.tier.dedup();
    });
}

/// By these devices come fragments from the tier, and by no others.
pub(super) fn set_tier(shared: &Shared, devices: &[u32]) {
    change(shared, |links| links.tier = devices.to_vec());
}

/// The devices of these names that there are. One that was made anew has another index.
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
