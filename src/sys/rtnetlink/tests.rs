//! Against the kernel that runs. Run as root: `cargo test sys::rtnetlink -- --ignored`.

use std::{cell::RefCell, rc::Rc};

use super::*;
use crate::{
    plan::tunnel::{Ends, Tunnel, Wrap},
    sys::{
        interface_index,
        namespace::{in_namespace, shell},
    },
};

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_device_by_which_the_tier_sends_is_told_before_it_is_up() {
    in_namespace(|| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let telling = Rc::clone(&told);
        let mut routing = Routing::open_telling(move |index| {
            shell("! ip -o link show sr-1 | grep -q '[<,]UP[,>]'");
            telling.borrow_mut().push(index);
        })
        .unwrap();
        // From the tier, to a backend, from routers.
        for (name, inbound) in [("sr-1", true), ("sr-2", false), ("sr-in4", true)] {
            let name = name.to_owned();
            shell(&format!("ip tuntap add dev {name} mode tun"));
            let ends = Ends::V4 {
                local: "192.168.1.201".parse().unwrap(),
                remote: "192.168.1.202".parse().unwrap(),
            };
            let tunnel = Tunnel { wrap: Wrap::Gre, ends, fragment_outer: false };
            let device = Device { name, tunnel, alias: format!("{ALIAS_PREFIX} test"), inbound };
            routing.apply(&[Op::Ready(device)]).unwrap();
        }
        assert_eq!(*told.borrow(), [interface_index("sr-1").unwrap()]);
    });
}
