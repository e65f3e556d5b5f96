//! What other programs change of our table is found, named and mended.

use super::{
    kernel_tables::{FILE, made_of},
    *,
};
use crate::{
    plan::{ruleset::NativeRule, ruleset::Structure},
    sys::{
        empty_namespace::in_empty_namespace,
        netlink::Writer,
        nft::messages::{NFT_MSG_NEWSET, NFT_MSG_NEWTABLE},
    },
};

fn nft_text(text: &str) {
    nft("a test", &["-f", "-"], Some(text)).unwrap();
}

/// The table as nft prints it, without what was counted, and without elements of sets with names.
fn printed() -> String {
    nft("a listing", &["-s", "-t", "list", "table", "inet", TABLE], None).unwrap()
}

fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = listing.lines().map(str::trim).collect();
    lines.sort_unstable();
    lines
}

#[test]
#[ignore = "needs root and nf_tables"]
fn what_is_in_force_is_what_nft_makes_of_the_text() {
    in_namespace(|| {
        let mut ruleset = made_of(FILE).ruleset;
        ruleset.elements = Elements::default();
        apply(&ruleset).unwrap();
        nft_text(&format!("delete chain inet {TABLE} {}\n", ruleset.structure.name));
        let compiled = in_empty_namespace(|| {
            let tables = ruleset.tables.iter().map(|table| table.text.as_str());
            nft_text(&(ruleset.structure.text.clone() + &tables.collect::<String>()));
            native::fill(&transaction::open(0).unwrap(), &ruleset.structure.native).unwrap();
            printed()
        });
        assert_eq!(printed(), compiled.unwrap());
    });
}

/// The handle of this rule of a chain, counted from 1.
fn handle(chain: &str, rule: usize) -> String {
    let listing = nft("a listing", &["-a", "list", "chain", "inet", TABLE, chain], None).unwrap();
    let line =
        listing.lines().filter(|line| line.starts_with("\t\t") && line.contains("# handle")).nth(rule - 1);
    line.unwrap().rsplit_once("handle ").unwrap().1.to_owned()
}

/// What is done by hand, as nft takes it, and how the description of it begins. `HANDLE` stands for that of rule 2 of chain
/// steer, `FIRST` for that of rule 1 of chain error6.
const BY_HAND: [(&str, &str); 31] = [
    ("add table inet synrail { flags dormant; }", "the table is dormant"),
    (
        "add chain inet synrail leaving { type filter hook forward priority mangle; policy drop; }",
        "chain leaving has policy drop",
    ),
    ("replace rule inet synrail steer handle HANDLE drop", "chain steer: rule 2 differs"),
    (
        "replace rule inet synrail steer handle HANDLE ct state untracked jump claimed4",
        "chain steer: rule 2 differs",
    ),
    ("delete rule inet synrail steer handle HANDLE", "chain steer has "),
    ("insert rule inet synrail steer drop", "chain steer has "),
    ("add rule inet synrail pinned drop", "chain pinned has "),
    (
        "flush chain inet synrail queue_flow; add rule inet synrail queue_flow accept",
        "chain queue_flow: rule 1 differs",
    ),
    ("flush chain inet synrail store6; add rule inet synrail store6 accept", "chain store6: rule 1 differs"),
    (
        "flush chain inet synrail unsteered; add rule inet synrail unsteered counter name unclaimed drop",
        "chain unsteered: rule 1 differs",
    ),
    (
        "replace rule inet synrail error6 handle FIRST @th,112,8 { 0, 43, 44, 51, 60, 135, 139 } goto unsteered",
        "chain error6: rule 1 differs",
    ),
    (
        "add chain inet synrail evil { type filter hook prerouting priority -500; policy drop; }",
        "chain evil is not wanted",
    ),
    ("add chain inet synrail idle; add rule inet synrail idle drop", "chain idle is not wanted"),
    ("flush chain inet synrail staying; delete chain inet synrail staying", "chain staying is missing"),
    (
        "flush chain inet synrail outer; delete chain inet synrail outer; \
         add chain inet synrail outer { type filter hook output priority 5; }",
        "chain outer has another type, hook or priority",
    ),
    ("add set inet synrail spare { type ipv4_addr; }", "set spare is not wanted"),
    ("add counter inet synrail noise", "object noise is not wanted"),
    (
        "flush table inet synrail; delete set inet synrail pinning4; \
         add set inet synrail pinning4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; size 5; flags dynamic,timeout; timeout 1s; }",
        "set pinning4 is declared otherwise",
    ),
    (
        "flush table inet synrail; delete set inet synrail pinning4; \
         add set inet synrail pinning4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; size 65536; flags dynamic,timeout; timeout 9s; }",
        "set pinning4 is declared otherwise",
    ),
    (
        "flush table inet synrail; delete set inet synrail local4; add set inet synrail local4 { type ipv4_addr; flags interval; }",
        "set local4 is declared otherwise",
    ),
    (
        "flush table inet synrail; delete set inet synrail vip6; add set inet synrail vip6 { type ipv4_addr; }",
        "set vip6 is declared otherwise",
    ),
    ("flush table inet synrail; delete set inet synrail tunnels", "set tunnels is missing"),
    ("flush table inet synrail; delete counter inet synrail restored", "object restored is missing"),
    (
        "flush table inet synrail; delete ct timeout inet synrail udp4_30_120; \
         add ct timeout inet synrail udp4_30_120 { protocol udp; l3proto ip; policy = { unreplied : 1, replied : 120 }; }",
        "object udp4_30_120 is declared otherwise",
    ),
    ("flush set inet synrail vip4", "set vip4 has other elements"),
    ("add element inet synrail vip6 { 2001:db8:9::/64 }", "set vip6 has other elements"),
    ("add element inet synrail targets { 0x00001234 }", "set targets has other elements"),
    (
        "delete element inet synrail kernel_port4 { 192.0.2.1 . 6 . 80-90 }; \
         add element inet synrail kernel_port4 { 192.0.2.1 . 6 . 80-90 : drop }",
        "set kernel_port4 has other elements",
    ),
    (
        "delete element inet synrail kernel_port4 { 192.0.2.1 . 6 . 80-90 }; \
         add element inet synrail kernel_port4 { 192.0.2.1 . 6 . 80-90 : goto unsteered }",
        "set kernel_port4 has other elements",
    ),
    ("delete table inet synrail", "there is no table"),
    ("add rule inet synrail STAMP drop", "chain STAMP has 1 rules, not 0"),
];

#[test]
#[ignore = "needs root and nf_tables"]
fn every_change_by_hand_is_named_and_mended() {
    in_namespace(|| {
        let ruleset = made_of(FILE).ruleset;
        let mut tables = Tables::default();
        let mut mend = || {
            let applied = crate::sys::nft::apply(&ruleset, &mut tables).unwrap();
            assert!(tables.apply(&ruleset.tables).is_ok());
            applied.structure
        };
        mend();
        let before = printed();
        for (by_hand, expected) in BY_HAND {
            let (handle, first) = (handle("steer", 2), handle("error6", 1));
            let filled = |text: &str| {
                let text = text.replace("HANDLE", &handle).replace("FIRST", &first);
                text.replace("STAMP", &ruleset.structure.name)
            };
            nft_text(&(filled(by_hand) + "\n"));
            let found = differences(&ruleset).unwrap();
            let expected = filled(expected);
            assert!(
                found.0.iter().any(|found| found.to_string().starts_with(&expected)),
                "{by_hand}: {found}"
            );
            let structure = mend();
            let removed = matches!(structure, StructureApplied::BaseChainsRemoved(_));
            let ours = ["chain evil is", "chain outer has"].iter().any(|start| expected.starts_with(start));
            assert_eq!(removed, ours, "{by_hand}");
            assert!(in_force(&ruleset).unwrap(), "{by_hand}: {}", differences(&ruleset).unwrap());
            assert_eq!(sorted(&printed()), sorted(&before), "{by_hand}");
            assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 0, "{by_hand}");
        }
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn chains_and_maps_of_services_are_compared_as_well() {
    in_namespace(|| {
        let ruleset = made_of(FILE).ruleset;
        let mut tables = Tables::default();
        crate::sys::nft::apply(&ruleset, &mut tables).unwrap();
        let (chain, map) = (&ruleset.tables[0].chain, &ruleset.tables[0].map);
        let flush = format!("flush chain inet {TABLE} {chain}; flush chain inet {TABLE} {chain}_quoted");
        let smaller = format!(
            "{flush}; delete map inet {TABLE} {map}; \
             add map inet {TABLE} {map} {{ typeof numgen inc mod 251 : meta mark; size 9; }}"
        );
        for (by_hand, expected) in [
            (format!("insert rule inet {TABLE} {chain} drop"), format!("chain {chain} has 7 rules, not 6")),
            (smaller, format!("set {map} is declared otherwise")),
        ] {
            nft_text(&(by_hand.clone() + "\n"));
            let found = differences(&ruleset).unwrap();
            assert!(found.0.iter().any(|found| found.to_string() == expected), "{by_hand}: {found}");
            let applied = crate::sys::nft::apply(&ruleset, &mut tables).unwrap();
            assert_eq!(applied.structure, StructureApplied::Kept);
            assert!(in_force(&ruleset).unwrap());
            tables.sample(&ruleset.tables);
            tables.apply(&ruleset.tables).unwrap();
            assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 0);
        }
    });
}

/// Adds an element to a set, of this kind and name, and puts a ruleset in force that declares it otherwise, as another version of
/// synrail or another setting may. What is listed of it then.
fn declared_anew((kind, set): (&str, &str), element: &str, (declared, otherwise): (&str, &str)) -> String {
    let mut ruleset = ruleset(&state(), 127);
    apply(&ruleset).unwrap();
    nft_text(&format!("add element inet {TABLE} {set} {{ {element} }}\n"));
    let text = ruleset.structure.text.replace(declared, otherwise);
    let native = ruleset.structure.native.clone();
    ruleset.structure = Structure { name: "structure_of_a_test".to_owned(), text, native };
    assert_eq!(apply(&ruleset).unwrap().structure, StructureApplied::Refilled);
    assert!(in_force(&ruleset).unwrap());
    nft("a listing", &["list", kind, "inet", TABLE, set], None).unwrap()
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_set_that_is_declared_anew_keeps_its_elements() {
    in_namespace(|| {
        let listing = declared_anew(
            ("map", "pending4"),
            "10.0.0.1 . 1 . 10.0.0.2 . 2 timeout 1h : 0x3",
            ("size 65536", "size 70000"),
        );
        assert!(listing.contains("size 70000") && listing.contains("timeout 1h expires 59m"), "{listing}");
        assert_eq!(printed().matches("chain structure_").count(), 1);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_set_whose_elements_shall_live_shorter_keeps_those_that_it_has() {
    in_namespace(|| {
        let listing = declared_anew(
            ("set", "reopened4"),
            "10.0.0.1 . 10.0.0.2 . 1 . 2 . 0x3",
            ("timeout 64s", "timeout 10s"),
        );
        let left = ["expires 1m", "expires 5"].iter().any(|left| listing.contains(left));
        assert!(listing.contains("timeout 10s\n") && left, "{listing}");
    });
}

/// A set of another program's whose user data nft 1.0.6 cannot read: it aborts with any command.
fn unreadable_for_nft() {
    // As libnftnl writes it: the key is of an expression that is a constant (kind 4).
    const USERDATA: [u8; 22] = [0, 4, 2, 0, 0, 0, 3, 14, 0, 4, 4, 0, 0, 0, 1, 6, 0, 4, 7, 0, 0, 0];
    let mut transaction = Transaction::new();
    transaction
        .add(NFT_MSG_NEWTABLE, NLM_F_CREATE, "a table", |message: &mut Writer| message.text(1, "other"));
    transaction.add(NFT_MSG_NEWSET, NLM_F_CREATE, "a set", |message: &mut Writer| {
        message.text(1, "other");
        message.text(2, "hosts");
        for (attribute, number) in [(4, 7), (5, 4), (10, 1)] {
            message.number(attribute, number);
        }
        message.value(13, &USERDATA);
    });
    transaction.commit().unwrap();
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_foreign_table_that_nft_cannot_read_hinders_nothing() {
    in_namespace(|| {
        unreadable_for_nft();
        let version = nft("a test", &["--version"], None).unwrap();
        let died = nft("a test", &["list", "table", "inet", "other"], None).is_err();
        assert!(died || !version.contains("v1.0.6"), "{version}");
        assert!(means().is_ok());
        let made = made_of(FILE);
        let mut tables = Tables::default();
        assert_eq!(
            crate::sys::nft::apply(&made.ruleset, &mut tables).unwrap().structure,
            StructureApplied::Created
        );
        assert!(in_force(&made.ruleset).unwrap());
        assert!(counters().unwrap().iter().any(|counter| counter.name == "restored"));
        assert_eq!(foreign().unwrap(), Foreign::default());
        // Other elements, and fallback tables that are removed.
        let mut other = made.ruleset.clone();
        (other.elements, other.tables) = (Elements::default(), vec![]);
        assert!(crate::sys::nft::apply(&other, &mut tables).unwrap().elements_deleted > 0);
        tables.apply(&other.tables).unwrap();
        assert!(
            in_force(&other).unwrap()
                && Reader::open().unwrap().names().unwrap().1.iter().all(|map| !map.starts_with("table_"))
        );
        assert!(cleanup().unwrap() && !cleanup().unwrap());
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn nothing_is_compiled_again_that_has_not_changed() {
    in_namespace(|| {
        let ruleset = made_of(FILE).ruleset;
        apply(&ruleset).unwrap();
        // Without the nft command it goes on as well.
        let mut other = ruleset.clone();
        other.elements = Elements::default();
        other.structure.native.retain(|native| !matches!(native.rule, NativeRule::Store6));
        assert!(compiler::is_compiled(&ruleset) && !compiler::is_compiled(&other));
        other.structure.native.clone_from(&ruleset.structure.native);
        assert!(compiler::is_compiled(&other));
        other.structure.text += "\n";
        assert!(!compiler::is_compiled(&other));
    });
}
