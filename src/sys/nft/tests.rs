//! Against the kernel that runs, each in a network namespace of its own. Run as root:
//! `cargo test sys::nft -- --ignored`.

mod agreement;
mod batches;
mod counted;
mod errors;
mod flows;
mod kernel_tables;
mod lease;
mod mended;
mod no_backend;
mod off_table;
mod others;
mod packets;
mod pins;
mod price;
mod replaced;
mod steering;

use super::*;
use crate::{
    config::{Balancer, Timeouts},
    lookup::classifier::{AddressRange, Claim},
    model::{Encap, InterfaceName, Path, PortRange, QueueRange, ids::MarkMask},
    plan::elements::{Claims, SetName},
    state::State,
    sys::namespace::in_namespace,
};

fn state() -> State {
    let balancer = Balancer {
        interfaces: vec![InterfaceName::new("eth1").unwrap()],
        address: crate::model::OuterAddresses {
            v4: Some("192.168.1.201".parse().unwrap()),
            v6: Some("fd00:0:0:1::201".parse().unwrap()),
        },
        queues: QueueRange::new(0, 1).unwrap(),
        ..Balancer::unconfigured()
    };
    let remotes = ["192.168.1.1", "fd00:0:0:1::1"].map(|ip| Path::Via(Encap::Gre, ip.parse().unwrap()));
    let targets = remotes.into_iter().map(Some).collect();
    State { targets, ..State::empty(balancer) }
}

fn claims(last: u32) -> Claims {
    let ports = PortRange { first: 80, last: 90 };
    let tcp = |addresses| Claim { addresses, protocols: (6, 6), ports, service: 0 };
    let any = |addresses| Claim { addresses, protocols: (0, 255), ports: PortRange::ALL, service: 0 };
    let sctp = |addresses| Claim { addresses, protocols: (132, 132), ports: PortRange::ALL, service: 0 };
    let v4 = |first: u32| AddressRange::V4(0x0a00_0000 + first, 0x0a00_0000 + last);
    let v6 = |first: u128| AddressRange::V6((0x1000 << 112) + first, (0x1000 << 112) + u128::from(last));
    let all = vec![
        tcp(v4(2)),
        tcp(v6(2)),
        sctp(v4(2)),
        sctp(v6(2)),
        any(AddressRange::V4(1, 5)),
        any(AddressRange::V6(1, 5)),
    ];
    Claims { all, echoes: vec![] }
}

fn ruleset(state: &State, last: u32) -> Ruleset {
    Ruleset::new(state, &claims(last), means().unwrap()).unwrap()
}

/// Services have no tables here, or theirs are not looked at.
fn apply(ruleset: &Ruleset) -> Result<Applied, NftError> {
    super::apply(ruleset, &mut Tables::default())
}

/// The table with all its handles, without what its counters have counted.
fn listing() -> String {
    nft("a listing", &["-a", "-s", "list", "table", "inet", TABLE], None).unwrap()
}

#[test]
#[ignore = "needs root and nf_tables"]
fn nft_reads_the_ruleset_where_no_names_of_protocols_are() {
    in_namespace(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &ruleset(&state(), 50).structure.text).unwrap();
        let hidden = "test ! -e /etc/protocols || mount --bind /dev/null /etc/protocols";
        crate::sys::namespace::shell(&format!(
            "unshare -m sh -ec '{hidden}; nft -c -f {}'",
            file.path().display()
        ));
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_second_application_touches_nothing() {
    in_namespace(|| {
        let ruleset = ruleset(&state(), 127);
        assert!(!in_force(&ruleset).unwrap());
        let elements_added = ruleset.elements.len();
        let created = Applied { structure: StructureApplied::Created, elements_added, elements_deleted: 0 };
        assert_eq!(apply(&ruleset).unwrap(), created);
        assert_eq!(ruleset.elements.len(), 31);
        let before = listing();
        let kept = Applied { structure: StructureApplied::Kept, elements_added: 0, elements_deleted: 0 };
        assert_eq!(apply(&ruleset).unwrap(), kept);
        assert_eq!(listing(), before);
        assert!(in_force(&ruleset).unwrap());
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn other_claims_change_elements_alone() {
    in_namespace(|| {
        apply(&ruleset(&state(), 127)).unwrap();
        let rules = |listing: String| -> Vec<String> {
            listing.lines().filter(|line| line.contains("# handle")).map(str::to_owned).collect()
        };
        let before = rules(listing());
        // Each of the four new ranges overlaps the one that it replaces.
        let other = ruleset(&state(), 200);
        let changed = Applied { structure: StructureApplied::Kept, elements_added: 4, elements_deleted: 4 };
        assert_eq!(apply(&other).unwrap(), changed);
        assert!(in_force(&other).unwrap());
        assert_eq!(rules(listing()), before);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn other_settings_refill_the_chains() {
    in_namespace(|| {
        apply(&ruleset(&state(), 127)).unwrap();
        let mut other = state();
        other.balancer.timeouts = Timeouts { tcp_established_seconds: 7500, ..Timeouts::default() };
        other.balancer.queues = QueueRange::new(4, 4).unwrap();
        let other = ruleset(&other, 127);
        assert_eq!(apply(&other).unwrap().structure, StructureApplied::Refilled);
        assert!(in_force(&other).unwrap());
        let listing = listing();
        assert_eq!(listing.matches("chain structure_").count(), 1);
        assert_eq!(listing.matches("hook prerouting").count(), 5);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn every_mask_and_queue_range_is_taken() {
    in_namespace(|| {
        for mask in [0x1fff, 0xffff_0000, u32::MAX] {
            let mut state = state();
            state.balancer.mark_mask = MarkMask::new(mask).unwrap();
            state.balancer.queues = QueueRange::new(65_472, 65_535).unwrap();
            let ruleset = ruleset(&state, 127);
            apply(&ruleset).unwrap();
            assert!(in_force(&ruleset).unwrap(), "{mask:#x}");
        }
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_rule_that_another_program_removed_comes_back() {
    in_namespace(|| {
        let ruleset = ruleset(&state(), 127);
        apply(&ruleset).unwrap();
        for chain in [
            "store6",
            "ask_reopened",
            "claimed4",
            "queue_flow",
            "queue_fragment",
            "too_big6",
            "between_ends4",
            "unreachable6",
        ] {
            nft("a flush", &["flush", "chain", "inet", TABLE, chain], None).unwrap();
            assert!(!in_force(&ruleset).unwrap(), "{chain}");
            assert_eq!(apply(&ruleset).unwrap().structure, StructureApplied::Refilled, "{chain}");
            assert!(in_force(&ruleset).unwrap(), "{chain}");
        }
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn cleanup_leaves_nothing() {
    in_namespace(|| {
        assert!(!cleanup().unwrap());
        assert_eq!(counters().unwrap(), []);
        apply(&ruleset(&state(), 127)).unwrap();
        assert_eq!(counters().unwrap().len(), 29);
        assert!(cleanup().unwrap());
        assert_eq!(nft("a listing", &["list", "ruleset"], None).unwrap(), "");
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_refusal_shows_the_line() {
    in_namespace(|| {
        let error =
            nft("a test", &["-f", "-"], Some("table inet t { }\nnonsense\n")).unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains(":2:"), "{error}");
    });
}
