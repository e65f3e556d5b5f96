use super::*;
use crate::{
    config::{Timeouts, TracerSettings},
    ids::{MarkMask, QueueNum},
    plan::elements::{SetName, Way},
};

fn balancer() -> Balancer {
    Balancer { queues: QueueRange::new(0, 3).unwrap(), ..Balancer::unconfigured() }
}

fn structure(queue_by: QueueBy) -> Structure {
    Structure::new(&balancer(), queue_by).unwrap()
}

#[test]
fn the_template_and_its_parameters_fit() {
    let text = structure(QueueBy::Nft).text;
    assert!(!text.contains("{{"));
    assert!(text.contains("\t\tqueue flags bypass,fanout to 0-3\n"));
    assert!(text.contains("\t\tqueue flags bypass to 10\n"));
    assert!(text.contains("meta mark set ct mark map @kept_targets counter name restored accept\n"));
    assert!(text.contains("ct mark & 0x0000ffff == @targets goto seen_again\n"));
    assert!(text.contains("\t\tct mark & 0x40000000 != 0 ct mark set ct mark | 0x80000000\n"));
    assert!(text.contains("\t\tct mark set meta mark & 0x3fffffff goto lifetime\n"));
    assert!(text.contains("ct timeout tcp4_300_240 {"));
    assert!(text.contains("policy = { syn_sent : 60, established : 300, unack : 300, retrans : 300, "));
    assert!(text.contains("policy = { unreplied : 30, replied : 120 }"));
    assert!(
        text.contains("\t\tlimit rate over 100/second burst 100 packets counter name probe_limited drop\n")
    );
    let magic = "0x73796e7261696c2d612d70726f626521";
    // The length is asked for first: that is what other packets cost.
    let four = format!("\t\tip length 128 @nh,896,128 {magic} {PROBE4}");
    let six = format!("\t\tip6 length 108 @nh,1056,128 {magic} {PROBE6}");
    for probe in [four, six] {
        assert!(text.contains(&format!("{probe} jump ask_probe\n")), "{probe}");
        assert!(text.contains(&format!("{probe} jump drop_probe\n")), "{probe}");
    }
    assert!(fill("\ntable {{a}}", &[("b", String::new())]).is_err());
    assert!(fill("\ntable {{a}}", &[]).is_err());
}

#[test]
fn the_template_has_every_set_and_explains_every_parameter() {
    for set in SetName::ALL {
        let is_map = matches!(set, SetName::Ways | SetName::SteerWays | SetName::KeptTargets);
        let kind = if is_map || set.name().starts_with("kernel_") { "map" } else { "set" };
        assert!(TEMPLATE.contains(&format!("{kind} {} {{", set.name())), "{set:?}");
    }
    let (head, body) = TEMPLATE.split_once("\ntable ").unwrap();
    for part in body.split("{{").skip(1) {
        let parameter = part.split("}}").next().unwrap();
        assert!(head.contains(&format!("{{{{{parameter}}}}}")), "{parameter}");
    }
}

#[test]
fn every_chain_that_is_named_is_there_and_the_other_way_round() {
    let structure = structure(QueueBy::Nft);
    for chain in structure.chains.iter().filter(|chain| chain.base.is_none()) {
        let name = chain.name.as_str();
        let named = ["goto", "jump"].iter().any(|verb| {
            structure.text.lines().any(|line| line.trim().ends_with(&format!("{verb} {}", chain.name)))
        });
        let named = named
            || structure.native.iter().any(|native| {
                matches!(native.rule, NativeRule::Goto(chain) | NativeRule::AskReopened(_, chain) if chain == name)
            })
            || [Way::Tracked, Way::OffTable].iter().any(|way| way.chains().contains(&name))
            // Services' own chains go there.
            || name == "by_kernel";
        assert_eq!(named, chain.name != structure.name, "{}", chain.name);
    }
    for line in structure.text.lines().map(str::trim) {
        if let Some((_, name)) = line.rsplit_once("goto ").or_else(|| line.rsplit_once("jump ")) {
            assert!(structure.chains.iter().any(|chain| chain.name == name), "{line}");
        }
    }
}

#[test]
fn chains_are_counted_in_the_text() {
    let structure = structure(QueueBy::Xtables);
    let chain = |name: &str| structure.chains.iter().find(|chain| chain.name == name).unwrap();
    assert_eq!(chain("before_conntrack").base, Some(("prerouting".to_owned(), -300)));
    assert_eq!(chain("steer").base, Some(("prerouting".to_owned(), -150)));
    assert_eq!(chain("after_queue").base, Some(("prerouting".to_owned(), -149)));
    assert_eq!(chain("outer").base, Some(("output".to_owned(), -300)));
    assert_eq!(chain("fragments").base, Some(("prerouting".to_owned(), -450)));
    assert_eq!(chain("too_big").base, Some(("output".to_owned(), -150)));
    let rules = ["steer", "claimed4", "to_queue", "forget4", "forget6", "store6", "lifetime", "outer"];
    assert_eq!(rules.map(|name| chain(name).rules), [2, 4, 1, 1, 1, 1, 5, 4]);
    assert_eq!(["fragments", "to_fragment_queue", "too_big6"].map(|name| chain(name).rules), [7, 1, 1]);
    assert_eq!(["renew_off_table", "ask_reopened"].map(|name| chain(name).rules), [4, 3]);
    assert_eq!(chain(&structure.name).rules, 0);
}

#[test]
fn with_every_packet_nothing_is_tracked_and_nothing_remembered() {
    let of = |steering| Structure::new(&Balancer { steering, ..balancer() }, QueueBy::Nft).unwrap();
    let (syn_only, every_packet) = (of(Steering::SynOnly), of(Steering::EveryPacket));
    let rules = |structure: &Structure, chain: &str| {
        let from = structure.text.find(&format!("\tchain {chain} {{\n")).unwrap();
        let lines = structure.text[from..].lines().skip(1).take_while(|line| line.trim() != "}");
        lines.map(|line| line.trim().to_owned()).filter(|line| !line.starts_with('#')).collect::<Vec<_>>()
    };
    let last = ["ip daddr @vip4 notrack", "ip6 daddr @vip6 notrack"];
    assert!(rules(&every_packet, "tracked").ends_with(&last.map(str::to_owned)));
    for chain in ["tracked", "steer4", "steer6", "steered4", "steered6", "leaving", "staying"] {
        let remembers = |structure| {
            let rules = rules(structure, chain);
            // What stands behind a rule that always ends the chain does nothing.
            let end = rules.iter().position(|rule| rule == "accept").unwrap_or(rules.len());
            let state = ["@pending", "@pinning", "ct mark", "ct status", "goto pin", "goto remember"];
            rules[..end].iter().any(|rule| state.iter().any(|state| rule.contains(state)))
        };
        assert!(remembers(&syn_only) && !remembers(&every_packet), "{chain}");
    }
    // Which chains there are is the same, so the one becomes the other without a base chain being removed.
    let change = every_packet.change_from(Some(&syn_only.chains));
    assert!(change.text.is_some() && change.removed_base_chains.is_empty());
}

#[test]
fn one_queue_has_no_fanout() {
    let one = Structure::new(&Balancer::unconfigured(), QueueBy::Nft).unwrap();
    assert!(one.text.contains("\t\tqueue flags bypass to 0\n"));
}

#[test]
fn the_name_tells_structures_apart() {
    let other_timeouts = Timeouts { udp_seconds: 60, ..Timeouts::default() };
    let steering = Steering::EveryPacket;
    let balancers = [
        balancer(),
        Balancer::unconfigured(),
        Balancer { mark_mask: MarkMask::new(0xffff_0000).unwrap(), ..balancer() },
        Balancer { timeouts: other_timeouts, ..balancer() },
        Balancer { fragment_queue: QueueNum(11), ..balancer() },
        Balancer { steering, ..balancer() },
        Balancer { tracer: TracerSettings { per_second: 7, ..TracerSettings::default() }, ..balancer() },
    ];
    let mut names: Vec<String> = balancers
        .iter()
        .flat_map(|balancer| [QueueBy::Nft, QueueBy::Xtables].map(|by| Structure::new(balancer, by)))
        .map(|structure| structure.unwrap().name)
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 14);
    assert_eq!(structure(QueueBy::Nft).name, structure(QueueBy::Nft).name);
}

#[test]
fn what_is_in_place_is_left_alone() {
    let structure = structure(QueueBy::Nft);
    let mut current = structure.chains.clone();
    current.reverse();
    assert_eq!(structure.change_from(Some(&current)).text, None);
    assert_eq!(structure.change_from(None).text, Some(structure.text));
}

#[test]
fn another_structure_is_refilled_in_one_transaction_with_the_base_chains_kept() {
    let (old, new) = (structure(QueueBy::Xtables), structure(QueueBy::Nft));
    let change = new.change_from(Some(&old.chains));
    let text = change.text.unwrap();
    assert_eq!(change.removed_base_chains, [""; 0]);
    assert!(text.contains(&format!("delete chain inet synrail {}\n", old.name)));
    assert_eq!(text.matches("delete chain").count(), 1);
    assert!(text.contains("flush chain inet synrail to_queue\n"));
    assert!(!text.contains("flush chain inet synrail store6\n"), "stays filled until netlink's turn");
    assert!(text.ends_with(&new.text));
    let back = old.change_from(Some(&new.chains)).text.unwrap();
    assert!(!back.contains("flush chain inet synrail to_queue\n"));
}

#[test]
fn a_rule_too_few_and_foreign_chains_are_noticed() {
    let structure = structure(QueueBy::Nft);
    let mut current = structure.chains.clone();
    current[3].rules -= 1;
    assert!(structure.change_from(Some(&current)).text.is_some());
    let mut current = structure.chains.clone();
    let base = Some(("forward".to_owned(), 0));
    current.push(Chain { name: "promote".to_owned(), base, rules: 1 });
    let change = structure.change_from(Some(&current));
    assert_eq!(change.removed_base_chains, ["promote"]);
    assert!(change.text.unwrap().contains("delete chain inet synrail promote\n"));
}

#[test]
fn chains_are_read_from_nft() {
    let json = r#"{"nftables": [{"metainfo": {}}, {"table": {"family": "inet", "name": "synrail"}},
        {"chain": {"family": "inet", "table": "synrail", "name": "steer", "hook": "prerouting", "prio": -150}},
        {"chain": {"family": "inet", "table": "other", "name": "steer"}},
        {"chain": {"family": "inet", "table": "synrail", "name": "ask"}},
        {"rule": {"family": "inet", "table": "synrail", "chain": "ask", "expr": [{"accept": null}]}},
        {"map": {"family": "inet", "table": "synrail", "name": "table_web_5-tuple_97_0123456789abcdef"}},
        {"map": {"family": "inet", "table": "other", "name": "m"}},
        {"rule": {"family": "ip", "table": "synrail", "chain": "ask"}}]}"#;
    let steer = Chain { name: "steer".to_owned(), base: Some(("prerouting".to_owned(), -150)), rules: 0 };
    let ask = Chain { name: "ask".to_owned(), base: None, rules: 1 };
    let maps = vec!["table_web_5-tuple_97_0123456789abcdef".to_owned()];
    assert_eq!(listing_of_json(json), Ok(Some(Listing { chains: vec![steer, ask], maps })));
    let other = r#"{"nftables": [{"table": {"family": "ip", "name": "synrail"}}]}"#;
    assert_eq!(listing_of_json(other), Ok(None));
    assert!(listing_of_json("{}").is_err());
}
