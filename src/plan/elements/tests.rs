use super::*;

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
    elements.claim(&claim(vip, (6, 6), (80, 90)));
    elements.claim(&claim(vip, (17, 17), (0, 65535)));
    elements.claim(&claim(vip, (0, 255), (0, 65535)));
    elements.claim(&claim(AddressRange::V6(1, 1), (6, 6), (80, 80)));
    assert_eq!(names(elements.of(SetName::ClaimedPort4)), ["10.0.0.0-10.0.0.127 . 6 . 80-90"]);
    assert_eq!(names(elements.of(SetName::ClaimedProtocol4)), ["10.0.0.0-10.0.0.127 . 17"]);
    assert_eq!(names(elements.of(SetName::ClaimedAddress4)), ["10.0.0.0-10.0.0.127"]);
    assert_eq!(names(elements.of(SetName::ClaimedPort6)), ["::1 . 6 . 80"]);
    assert_eq!(elements.len(), 4);
    elements.lead(&claim(vip, (6, 6), (80, 90)), "c");
    elements.lead(&claim(vip, (1, 1), (0, 65535)), "c");
    elements.lead(&claim(AddressRange::V6(1, 1), (0, 255), (0, 65535)), "c");
    let kernel = [SetName::KernelPort4, SetName::KernelProtocol4, SetName::KernelAddress6];
    let led = kernel.map(|set| names(elements.of(set)).concat());
    let expected =
        ["10.0.0.0-10.0.0.127 . 6 . 80-90 : goto c", "10.0.0.0-10.0.0.127 . 1 : goto c", "::1 : goto c"];
    assert_eq!(led, expected);
}

#[test]
fn the_device_of_fragments_is_no_targets() {
    assert_eq!(routing::target_of_device(FRAGMENTS_DEVICE), None);
    assert!(crate::config::InterfaceName::new(FRAGMENTS_DEVICE).is_some());
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
