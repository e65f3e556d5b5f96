use super::*;
use crate::{
    config::{Timeouts, TracerSettings},
    ids::{MarkMask, QueueNum},
    plan::elements::SetName,
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
    assert!(text.contains("\t\tqueue flags bypass to 20199\n"));
    assert!(
        text.contains("ct mark & 0x0000ffff == @targets meta mark set ct mark counter name restored accept")
    );
    assert!(text.contains("ct timeout tcp4_7440_30 {"));
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
        let kind = if set.name().starts_with("kernel_") { "map" } else { "set" };
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
    let chains = chains_of_text(&structure.text);
    assert!(["steer", "store6", "too_big6"].iter().all(|name| chains.contains(&(*name).to_owned())));
    for chain in &chains {
        let named = ["goto", "jump"]
            .iter()
            .any(|verb| structure.text.lines().any(|line| line.trim().ends_with(&format!("{verb} {chain}"))));
        // Packets come to base chains by themselves, and to this one from services' own.
        let is_base = structure.text.contains(&format!("chain {chain} {{\n\t\ttype filter hook "));
        assert!(named != is_base || chain == "by_kernel", "{chain}");
    }
    for line in structure.text.lines().map(str::trim) {
        if let Some((_, name)) = line.rsplit_once("goto ").or_else(|| line.rsplit_once("jump ")) {
            assert!(chains.iter().any(|chain| chain == name), "{line}");
        }
    }
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
    assert!(rules(&every_packet, "before_conntrack").ends_with(&last.map(str::to_owned)));
    for chain in ["before_conntrack", "steer4", "steer6", "steered4", "steered6", "leaving", "staying"] {
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
    assert_eq!(chains_of_text(&every_packet.text), chains_of_text(&syn_only.text));
}

#[test]
fn one_queue_has_no_fanout() {
    let one = Structure::new(&Balancer::unconfigured(), QueueBy::Nft).unwrap();
    assert!(one.text.contains("\t\tqueue flags bypass to 20200\n"));
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
