use super::*;
use crate::tests::fixture;

fn v4(first: &str, last: &str) -> AddressRange {
    let bits = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap());
    AddressRange::V4(bits(first), bits(last))
}

fn claim(addresses: AddressRange, protocols: (u8, u8), ports: (u16, u16)) -> Claim {
    Claim { addresses, protocols, ports: PortRange { first: ports.0, last: ports.1 }, service: 0 }
}

fn names(elements: &BTreeSet<Element>) -> Vec<String> {
    elements.iter().map(Element::to_string).collect()
}

#[test]
fn a_claim_goes_where_packets_without_ports_can_match_it() {
    let mut elements = Elements::default();
    let vip = v4("10.0.0.0", "10.0.0.127");
    let mut claimed = |boxed: &Claim| elements.lead(SetName::CLAIMED, boxed, BY_LBD);
    claimed(&claim(vip, (6, 6), (80, 90)));
    claimed(&claim(vip, (17, 17), (0, 65535)));
    claimed(&claim(vip, (0, 255), (0, 65535)));
    claimed(&claim(AddressRange::V6(1, 1), (6, 6), (80, 80)));
    assert_eq!(names(elements.of(SetName::ClaimedPort4)), ["10.0.0.0-10.0.0.127 . 6 . 80-90 : goto by_lbd"]);
    assert_eq!(names(elements.of(SetName::ClaimedProtocol4)), ["10.0.0.0-10.0.0.127 . 17 : goto by_lbd"]);
    assert_eq!(names(elements.of(SetName::ClaimedAddress4)), ["10.0.0.0-10.0.0.127 : goto by_lbd"]);
    assert_eq!(names(elements.of(SetName::ClaimedPort6)), ["::1 . 6 . 80 : goto by_lbd"]);
    assert_eq!(elements.len(), 4);
    let mut led = |boxed: &Claim| elements.lead(SetName::KERNEL, boxed, "c");
    led(&claim(vip, (6, 6), (80, 90)));
    led(&claim(vip, (1, 1), (0, 65535)));
    led(&claim(AddressRange::V6(1, 1), (0, 255), (0, 65535)));
    let kernel = [SetName::KernelPort4, SetName::KernelProtocol4, SetName::KernelAddress6];
    let led = kernel.map(|set| names(elements.of(set)).concat());
    let expected =
        ["10.0.0.0-10.0.0.127 . 6 . 80-90 : goto c", "10.0.0.0-10.0.0.127 . 1 : goto c", "::1 : goto c"];
    assert_eq!(led, expected);
}

/// The elements for two services, of which the second has one address of the first's prefix; and their chains.
fn nested(kernel_entries: u32, [net, host]: [&str; 2]) -> (Elements, Vec<String>) {
    let state = fixture::balancer(&format!("kernel_entries = {kernel_entries}"))
        .service("net", "10.0.0.0/24", &format!("steering = '{net}'\ntable_size = 97"))
        .backends(&[("a", "192.168.1.1")])
        .service("host", "10.0.0.5", &format!("protocols = 'tcp'\nsteering = '{host}'\ntable_size = 101"))
        .backends(&[("b", "192.168.1.2")])
        .state();
    let tables = super::super::kernel_tables::desired(&state).unwrap();
    let classifier = Classifier::new(&state.services.iter().map(|s| s.scope()).collect::<Vec<_>>()).unwrap();
    let elements = Elements::desired(&state, &Claims::of(&classifier), &tables);
    (elements, tables.into_iter().map(|table| table.chain).collect())
}

#[test]
fn claims_lead_to_what_decides() {
    let decided = |kernel_entries, steering| {
        let (elements, chains) = nested(kernel_entries, steering);
        let claims = names(elements.of(SetName::ClaimedProtocol4));
        let host: Vec<_> = claims.into_iter().filter(|claim| claim.starts_with("10.0.0.5 . 6 : ")).collect();
        (host, names(elements.of(SetName::ClaimedEcho4)), chains)
    };
    let to = |chain: &str| vec![format!("10.0.0.5 . 6 : goto {chain}")];
    let ping_to = |chain: &str| vec![format!("10.0.0.5 : goto {chain}")];
    let (host, pings, _) = decided(200, ["syn-only", "syn-only"]);
    assert_eq!((host, pings), (to(BY_LBD), vec![]));
    let (host, pings, chains) = decided(200, ["syn-only", "kernel"]);
    assert_eq!((host, pings), (to(&chains[1]), ping_to(&chains[1])));
    // The kernel decides about the rest of ICMP.
    let (host, pings, _) = decided(200, ["kernel", "syn-only"]);
    assert_eq!((host, pings), (to(BY_LBD), ping_to(BY_LBD)));
    let (host, pings, chains) = decided(200, ["kernel", "kernel"]);
    assert_eq!((host, pings), (to(&chains[1]), ping_to(&chains[1])));
    // The kernel has no room.
    let (host, pings, _) = decided(0, ["kernel", "kernel"]);
    assert_eq!((host, pings), (to(BY_LBD), vec![]));
}

/// A service that takes every protocol has two ports, and a third, at another service's VIP.
#[test]
fn claims_of_a_service_that_rejects_its_new_flows_lead_there_and_are_known() {
    let state = |active: bool, no_backend: &str| {
        fixture::balancer("kernel_entries = 200")
            .service(
                "web",
                "10.0.0.1 1000::1",
                &format!(
                    "protocols = 'tcp'\nports = ['80', '90-99']\ntable_size = 97\nno_backend = '{no_backend}'"
                ),
            )
            .backend("a", &format!("address = '192.168.1.1'\nactive = {active}"))
            .service(
                "any",
                "10.0.0.0/24",
                &format!("table_size = 97\nsteering = 'kernel'\nno_backend = '{no_backend}'"),
            )
            .backend("a", &format!("address = '192.168.1.1'\nactive = {active}"))
            .service("spare", "10.0.1.0", "table_size = 97\nprotocols = 'tcp'\nno_backend = 'reject'")
            .backends(&[("b", "192.168.1.2")])
            .state()
    };
    let led = |state: &State| {
        let tables = super::super::kernel_tables::desired(state).unwrap();
        let scopes: Vec<_> = state.services.iter().map(|service| service.scope()).collect();
        let claims = Claims::of(&Classifier::new(&scopes).unwrap());
        let elements = Elements::desired(state, &claims, &tables);
        let to = |chain: &str| {
            let leads = |element: &&Element| matches!(element, Element::Goto(_, to) if to == chain);
            let sets = SetName::ALL.iter().map(|set| (set, elements.of(*set).iter().filter(leads).count()));
            sets.filter(|(_, leads)| *leads > 0).map(|(set, leads)| (set.name(), leads)).collect::<Vec<_>>()
        };
        let rejected: Vec<_> = [SetName::Rejected4, SetName::Rejected6]
            .into_iter()
            .flat_map(|set| names(elements.of(set)))
            .collect();
        (to(REJECT), rejected)
    };
    for not_rejected in [state(true, "reject"), state(false, "drop"), state(false, "service:spare")] {
        assert_eq!(led(&not_rejected), (vec![], vec![]));
    }
    let (leads, rejected) = led(&state(false, "reject"));
    // Neither lbd nor a table is needed, so both kinds of maps lead there.
    let web = [("claimed_port4", 5), ("claimed_port6", 2)];
    assert_eq!(
        leads.iter().filter(|(set, _)| set.starts_with("claimed_port")).copied().collect::<Vec<_>>(),
        web
    );
    let kernel: Vec<_> =
        leads.iter().filter_map(|(set, n)| Some((set.strip_prefix("kernel_")?, *n))).collect();
    let claimed: Vec<_> =
        leads.iter().filter_map(|(set, n)| Some((set.strip_prefix("claimed_")?, *n))).collect();
    assert_eq!(kernel, claimed);
    assert_eq!(
        rejected.iter().filter(|element| element.starts_with("1000::1 . 6 . ")).count(),
        2,
        "{rejected:?}"
    );
    assert!(rejected.contains(&"10.0.0.2-10.0.0.255 . 0-255 . 0-65535".to_owned()), "{rejected:?}");
}

#[test]
fn pings_lead_to_their_own_services_table_or_nowhere() {
    let led = |kernel_entries| {
        let (elements, chains) = nested(kernel_entries, ["syn-only", "syn-only"]);
        (names(elements.of(SetName::KernelEcho4)), chains)
    };
    let (echoes, chains) = led(200);
    assert_eq!(echoes, [format!("10.0.0.5 : goto {}", chains[1])]);
    // The more general one alone has a table: it must not answer for the other.
    assert_eq!(led(100).0, ["10.0.0.5 : goto unsteered"]);
    assert!(led(0).0.is_empty());
}

#[test]
fn the_device_of_fragments_is_no_targets() {
    assert_eq!(routing::target_of_device(FRAGMENTS_DEVICE), None);
    assert!(crate::model::InterfaceName::new(FRAGMENTS_DEVICE).is_some());
}

#[test]
fn nested_vips_leave_the_outermost() {
    let nets = ["10.0.0.5/32", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/25", "1000::/112", "1000::1/128"];
    let outer = outermost(nets.iter().map(|net| net.parse().unwrap()));
    let texts: Vec<String> = outer.iter().map(IpNet::to_string).collect();
    assert_eq!(texts, ["10.0.0.0/24", "10.0.1.0/24", "1000::/112"]);
}

#[test]
fn vips_are_found() {
    let mut elements = Elements::default();
    elements.insert(SetName::Vip4, Element::addresses(v4("10.0.0.0", "10.0.0.127")));
    elements.insert(SetName::Vip4, Element::addresses(v4("10.0.1.7", "10.0.1.7")));
    elements.insert(SetName::Vip6, Element::addresses(AddressRange::V6(5, 9)));
    for (address, is) in [
        ("9.255.255.255", false),
        ("10.0.0.0", true),
        ("10.0.0.127", true),
        ("10.0.0.128", false),
        ("10.0.1.7", true),
        ("255.255.255.255", false),
        ("::4", false),
        ("::5", true),
        ("::9", true),
        ("::a", false),
        ("::ffff:10.0.0.0", false),
    ] {
        assert_eq!(elements.has_vip(address.parse().unwrap()), is, "{address}");
    }
    assert!(!Elements::default().has_vip("10.0.0.0".parse().unwrap()));
}

#[test]
fn the_difference_names_only_what_changes() {
    let mut old = Elements::default();
    let mut new = Elements::default();
    for (elements, vips) in [(&mut old, ["10.0.0.1", "10.0.0.2"]), (&mut new, ["10.0.0.2", "10.0.0.3"])] {
        for vip in vips {
            elements.insert(SetName::Vip4, Element::addresses(v4(vip, vip)));
        }
    }
    new.insert(SetName::Interfaces, Element::Interface("eth1".to_owned()));
    let diff = old.diff(&new);
    assert_eq!(diff.sets().collect::<Vec<_>>(), [SetName::Interfaces, SetName::Vip4]);
    assert_eq!((diff.delete.len(), names(diff.delete.of(SetName::Vip4))), (1, vec!["10.0.0.1".to_owned()]));
    assert_eq!((diff.add.len(), names(diff.add.of(SetName::Vip4))), (2, vec!["10.0.0.3".to_owned()]));
    assert_eq!(names(diff.add.of(SetName::Interfaces)), ["\"eth1\""]);
    assert!(diff.refill.is_empty() && new.diff(&new).is_empty());
}

#[test]
fn what_claims_will_lead_to_comes_before_they_are_replaced() {
    let claims = |net: &str, host: &str| nested(200, [net, host]).0;
    let old = claims("syn-only", "syn-only");
    let new = claims("syn-only", "kernel");
    assert!(old.diff(&old).ahead(|_| false).is_empty());
    assert!(Elements::default().diff(&new).ahead(|_| false).is_empty(), "nothing is replaced");
    assert!(new.diff(&Elements::default()).ahead(|_| false).is_empty(), "nothing is to come");

    let diff = old.diff(&new);
    let ahead = diff.ahead(|_| false);
    let next = [SetName::NextClaimedProtocol4];
    assert_eq!(ahead.sets().collect::<Vec<_>>(), next);
    assert_eq!(ahead.add.of(next[0]), diff.add.of(SetName::ClaimedProtocol4));
    assert_eq!((ahead.refill, ahead.delete), (BTreeSet::from(next), Elements::default()));

    // One kind of element gives way to another: both are of one family, and either is looked up.
    let mut old = Elements::default();
    old.insert(SetName::KernelAddress4, Element::Goto(fields("10.0.0.0", "10.0.0.9"), "c".to_owned()));
    let mut new = Elements::default();
    new.insert(SetName::KernelAddress4, Element::Goto(fields("10.0.0.1", "10.0.0.9"), "c".to_owned()));
    new.lead(SetName::KERNEL, &claim(v4("10.0.0.0", "10.0.0.0"), (6, 6), (1, 65535)), "c");
    new.lead(SetName::KERNEL, &claim(AddressRange::V6(1, 1), (6, 6), (1, 65535)), "c");
    let ahead = old.diff(&new).ahead(|_| false);
    assert_eq!(ahead.sets().collect::<Vec<_>>(), [SetName::NextKernelPort4, SetName::NextKernelAddress4]);
    let emptied = ahead.emptied();
    assert_eq!(emptied.refill, ahead.refill);
    assert!(emptied.add.is_empty() && emptied.delete.is_empty());

    // A set that is made anew is filled in the same transaction.
    let filling = ElementsDiff::filling(&new, |set| set == SetName::KernelPort6);
    assert!(filling.ahead(|_| false).is_empty());
    let ahead = filling.ahead(|set| set == SetName::KernelPort6);
    assert_eq!(ahead.sets().collect::<Vec<_>>(), [SetName::NextKernelPort6]);
    assert!(ahead.only(|set| *set == SetName::NextKernelPort4).is_empty());
}

fn fields(first: &str, last: &str) -> Fields {
    Fields { addresses: v4(first, last), protocols: None, ports: None }
}

#[test]
fn flows_are_promoted_only_where_the_flowtable_can_send_them() {
    let by = |encap, address: &str| promotable(Path::Via(encap, address.parse().unwrap()));
    let both = &[SetName::LongTargets4, SetName::LongTargets6][..];
    for address in ["192.168.1.1", "fd00::1"] {
        for encap in [Encap::Gre, Encap::Gue] {
            assert_eq!(by(encap, address), both);
        }
    }
    assert_eq!(by(Encap::Direct, "192.168.1.1"), &[SetName::LongTargets4]);
    assert_eq!(by(Encap::Direct, "fd00::1"), &[SetName::LongTargets6]);
    assert_eq!(promotable(Path::MarkOnly), &[]);
}
