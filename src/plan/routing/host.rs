//! What should be, on this host: what depends on the kernel's other devices, routes and rules. PURE.

use super::{Desired, Device, RoutingNow};
use crate::plan::tunnel::IPV6_MTU_BYTES_MIN;

impl Desired {
    /// The same, as this host needs it.
    #[must_use]
    pub(super) fn on(&self, now: &RoutingNow) -> Self {
        let mut wanted = self.clone();
        for device in wanted.devices.values_mut() {
            device.fit(now);
        }
        wanted
    }
}

impl Device {
    /// Its MTU follows that of the network below. Where that is not known now, the device only keeps IPv6.
    fn fit(&mut self, now: &RoutingNow) {
        let underlay = now.underlay_mtu_bytes.get(&self.tunnel.ends).copied();
        (self.tunnel, self.mtu_bytes) = self.tunnel.over(underlay);
        if self.mtu_bytes.is_none()
            && let Some(seen) = now.devices.get(&self.name)
        {
            // As it was, so that a route that is away for a moment changes nothing.
            let small = seen
                .tunnel
                .filter(|tunnel| tunnel.ends == self.tunnel.ends && tunnel.wrap == self.tunnel.wrap);
            let kept =
                small.is_some_and(|tunnel| tunnel.fragment_outer && seen.mtu_bytes == IPV6_MTU_BYTES_MIN);
            self.tunnel.fragment_outer |= kept;
            self.mtu_bytes = (seen.mtu_bytes < IPV6_MTU_BYTES_MIN).then_some(IPV6_MTU_BYTES_MIN);
        }
    }
}
