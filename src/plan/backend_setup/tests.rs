use super::*;
use crate::{model::Pmtu, tests::fixture};

fn state() -> State {
    fixture::balancer("interfaces = 'eth1'\nqueues = '0'")
        .service("web", "10.0.0.0/32 1000::/112", "protocols = 'tcp'\nports = '80'")
        .backends(&[("s1", "192.168.1.1")])
        .backend("s2", "address = 'fd00:0:0:1::2'\nencap = 'gue'")
        .service("api", "10.0.0.0/32", "protocols = 'tcp'\nports = '443'")
        .backend("s1", "address = '192.168.1.1'\nencap = 'ipip'")
        .backend("s3", "address = '192.168.1.3'\nencap = 'direct'")
        .state()
}

#[test]
fn a_gre_backend_is_set_up_with_tunnel_vips_and_segment_sizes() {
    let script = commands(&state(), "web", "s1").unwrap();
    for line in [
        "modprobe -qa ip_gre 2>/dev/null || :",
        "ip link show lb-gre-c0a80101 >/dev/null 2>&1 || ip link add lb-gre-c0a80101 type gre local 192.168.1.1 remote any",
        "ip link set lb-gre-c0a80101 up",
        "echo 0 > /proc/sys/net/ipv4/conf/lb-gre-c0a80101/rp_filter",
        "ip addr replace 10.0.0.0/32 dev lo",
        "ip -6 route replace local 1000::/112 dev lo proto 201",
        "ip -4 route replace $route",
        "ip -6 route replace $route",
        "ip -4 rule del pref 9876 from 10.0.0.0/32 2>/dev/null; ip -4 rule add pref 9876 from 10.0.0.0/32 table 30024 \
         protocol 201",
    ] {
        assert!(script.lines().any(|have| have.trim() == line), "{line}\n is missing in\n{script}");
    }
    // In front of the next hops, of which there may be several.
    assert!(script.contains("s/^default/default table 30024 proto 201 advmss 1436/"));
    assert!(script.contains("s/^default/default table 30024 proto 201 advmss 1416/"));
    assert!(!script.contains("fou"));
}

#[test]
fn a_backend_that_stands_in_for_others_answers_for_their_vips() {
    let state = fixture::balancer("")
        .service("web", "10.0.0.0 1000::/112", "protocols = 'tcp'\nports = 80\nno_backend = 'service:spare'")
        .service("api", "10.0.0.0 10.0.0.9", "protocols = 'tcp'\nports = 443\nno_backend = 'service:spare'")
        .service("spare", "10.0.0.7", "protocols = 'tcp'")
        .backends(&[("s1", "192.168.1.1")])
        .state();
    let script = commands(&state, "spare", "s1").unwrap();
    for service in ["web", "api"] {
        assert!(
            script.contains(&format!("# It stands in for the backends of service {service} (no_backend)"))
        );
    }
    for vip in ["10.0.0.7/32", "10.0.0.0/32", "10.0.0.9/32"] {
        let line = format!("ip addr replace {vip} dev lo");
        assert_eq!(script.lines().filter(|have| *have == line).count(), 1, "{script}");
        assert!(script.contains(&format!("rule add pref 9876 from {vip} table")), "{script}");
    }
    assert!(script.contains("ip -6 route replace local 1000::/112 dev lo"), "{script}");
}

#[test]
fn the_setup_of_a_backend_that_gets_fragments_warns_and_clamps_segments_all_the_same() {
    let mut state = state();
    let before = commands(&state, "web", "s1").unwrap();
    assert!(!before.contains("fragments"));
    state.services[0].pmtu = Pmtu::FragmentOuter;
    let script = commands(&state, "web", "s1").unwrap();
    let added: String = script.lines().filter(|line| !before.contains(line)).collect();
    assert!(added.starts_with("# Large packets come in fragments"), "{added}");
    assert!(script.contains("advmss 1436"));
    // GUE over IPv6, and GRE's neighbour by ipip: nothing of theirs is in fragments.
    assert!(!commands(&state, "web", "s2").unwrap().contains("fragments"));
    assert!(!commands(&state, "api", "s1").unwrap().contains("fragments"));
}

#[test]
fn gue_over_ipv6_opens_its_port_and_direct_needs_no_tunnel() {
    let script = commands(&state(), "web", "s2").unwrap();
    assert!(script.contains("|| ip -6 fou add port 6080 gue\n"));
    assert!(script.contains("type ip6tnl local fd00:0:0:1::2 remote any mode any encaplimit none\n"));
    let script = commands(&state(), "api", "s3").unwrap();
    assert!(script.contains("arp_ignore") && script.contains("dev lo"));
    assert!(!script.contains("link") && !script.contains("rule") && !script.contains("advmss"));
}

#[test]
fn names_fit_into_the_kernel_and_differ_by_address() {
    for (wrap, address) in [(Wrap::Gre, "255.255.255.255"), (Wrap::Gue, "fd00::1"), (Wrap::Gre, "::")] {
        assert_eq!(device(wrap, address.parse().unwrap()).len(), 15);
    }
    assert_ne!(device(Wrap::Gre, "fd00::1".parse().unwrap()), device(Wrap::Gre, "fd00::2".parse().unwrap()));
}

#[test]
fn an_unknown_backend_is_named() {
    let error = |service, backend| commands(&state(), service, backend).unwrap_err().to_string();
    assert_eq!(error("wob", "s1"), "there is no service \"wob\"");
    assert_eq!(error("web", "s9"), "service \"web\" has no backend \"s9\"");
    let mut state = state();
    state.targets[0] = Some(Path::MarkOnly);
    assert_eq!(commands(&state, "web", "s1"), Err(SetupError::MarkOnly("s1".to_owned())));
}
