use super::*;
use crate::{
    config::{Timeouts, TracerSettings},
    model::ids::{MarkMask, QueueNum},
    plan::{
        elements::{BY_LBD, REJECT, SetName, Way},
        routing::FRAGMENTS_DEVICE,
        template::chains_of_text,
    },
};

fn balancer() -> Balancer {
    Balancer { queues: QueueRange::new(0, 3).unwrap(), ..Balancer::unconfigured() }
}

fn means(queue_by: QueueBy) -> Means {
    Means { queue_by, flowtable: true, reject: true }
}

fn structure(queue_by: QueueBy) -> Structure {
    Structure::new(&balancer(), means(queue_by)).unwrap()
}

#[test]
fn the_template_and_its_parameters_fit() {
    let text = structure(QueueBy::Nft).text;
    assert!(!text.contains("{{"));
    assert!(text.contains("\t\tqueue flags bypass,fanout to 0-3\n"));
    assert!(text.contains("\t\tqueue flags bypass to 20199\n"));
    assert!(text.contains("meta mark set ct mark map @kept_targets counter name restored accept\n"));
    assert!(text.contains("ct mark & 0x0000ffff == @targets goto seen_again\n"));
    assert!(
        text.contains(
            "\t\tct mark & 0x40000000 != 0 ct direction original ct mark set ct mark | 0x80000000\n"
        )
    );
    assert!(text.contains("\t\tct mark set meta mark & 0x3fffffff goto lifetime\n"));
    assert!(text.contains("ct timeout tcp4_300_240 {"));
    assert!(text.contains("policy = { syn_sent : 60, established : 300, unack : 300, retrans : 300, "));
    assert!(text.contains("policy = { unreplied : 30, replied : 120 }"));
    let renewals = format!(
        "\t\tiifname \"{FRAGMENTS_DEVICE}\" ip protocol 253 ip frag-off & 0x3fff == 0 goto renew_lease\n"
    );
    assert!(text.contains(&renewals));
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
}

/// nft looks for other names of protocols in /etc/protocols, which a host need not have.
#[test]
fn protocols_are_numbers_or_words_of_nft_itself() {
    let words = ["tcp", "udp", "sctp", "icmp", "icmpv6"];
    let [ruleset, table] =
        [structure(QueueBy::Nft).text.as_str(), include_str!("../../../nft/kernel_table.nft")].map(|text| {
            text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
        });
    let mut compared = 0;
    for text in [&ruleset, &table] {
        for field in ["meta l4proto ", "ip protocol ", "ip6 nexthdr "] {
            for (at, _) in text.match_indices(field) {
                let rest = text[at + field.len()..].trim_start_matches("!= ");
                let values = match rest.strip_prefix('{').and_then(|set| set.split_once('}')) {
                    Some((values, _)) => values,
                    None => rest.split_whitespace().next().unwrap(),
                };
                // Part of a key, as in `ip daddr . meta l4proto . th dport`.
                if [".", "vmap", "mod", "map"].contains(&values) {
                    continue;
                }
                for value in values.split(',').map(str::trim) {
                    assert!(value.parse::<u8>().is_ok() || words.contains(&value), "{field}{value}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn the_template_has_every_set_and_explains_every_parameter() {
    for set in SetName::ALL {
        let is_map = matches!(set, SetName::Ways | SetName::SteerWays | SetName::KeptTargets)
            || ["claimed_", "kernel_", "next_"].iter().any(|prefix| set.name().starts_with(prefix));
        let kind = if is_map { "map" } else { "set" };
        assert!(TEMPLATE.contains(&format!("{kind} {} {{", set.name())), "{set:?}");
    }
    let (head, body) = TEMPLATE.split_once("\ntable ").unwrap();
    for part in body.split("{{").skip(1) {
        let parameter = part.split("}}").next().unwrap();
        assert!(head.contains(&format!("{{{{{parameter}}}}}")), "{parameter}");
    }
}

#[test]
fn the_maps_of_off_table_flows_have_the_size_that_the_audit_assumes() {
    for map in ["off_table4", "off_closing4", "off_table6", "off_closing6"] {
        let (_, declared) = TEMPLATE.split_once(&format!("map {map} {{")).unwrap();
        let size = format!("\t\tsize {}\n", crate::balance::pins::OFF_TABLE_FLOWS_MAX);
        assert!(declared.split_once('}').unwrap().0.contains(&size), "{map}");
    }
}

#[test]
fn every_chain_that_is_named_is_there_and_the_other_way_round() {
    let structure = structure(QueueBy::Nft);
    let chains = chains_of_text(&structure.text);
    assert!(["steer", "store6", "too_big6"].iter().all(|name| chains.contains(&(*name).to_owned())));
    for chain in &chains {
        let chain = chain.as_str();
        let named = ["goto", "jump"]
            .iter()
            .any(|verb| structure.text.lines().any(|line| line.trim().ends_with(&format!("{verb} {chain}"))));
        let named = named
            || structure.native.iter().any(|native| {
                matches!(native.rule, NativeRule::Goto(name) | NativeRule::AskReopened(_, name) | NativeRule::QuotedOff(_, _, name) if chain == name)
            })
            || [Way::Tracked, Way::OffTable].iter().any(|way| {
                [way.before_conntrack(false), way.before_conntrack(true), way.steer()].contains(&chain)
            });
        // Packets come to base chains by themselves; to the first two of these elements lead, to the third services' own chains, to the
        // others rules that go by netlink.
        let is_base = structure.text.contains(&format!("chain {chain} {{\n\t\ttype filter hook "));
        let named_elsewhere =
            [BY_LBD, REJECT, "by_kernel", "tunnel_error4", "tunnel_error6"].contains(&chain);
        assert!(named != is_base || named_elsewhere, "{chain}");
    }
    for line in structure.text.lines().map(str::trim) {
        if let Some((_, name)) = line.rsplit_once("goto ").or_else(|| line.rsplit_once("jump ")) {
            assert!(chains.iter().any(|chain| chain == name), "{line}");
        }
    }
}

#[test]
fn with_every_packet_nothing_is_tracked_and_nothing_remembered() {
    let of = |steering| Structure::new(&Balancer { steering, ..balancer() }, means(QueueBy::Nft)).unwrap();
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
    assert_eq!(chains_of_text(&every_packet.text), chains_of_text(&syn_only.text));
}

#[test]
fn flows_are_promoted_only_where_it_is_wanted_and_can_be() {
    let of = |steering, offload, flowtable| {
        let state = State::empty(Balancer { steering, offload, ..balancer() });
        Ruleset::new(&state, &Claims::default(), Means { flowtable, ..means(QueueBy::Nft) }).unwrap()
    };
    let has = |ruleset: &Ruleset, what: &str| {
        ruleset.structure.text.lines().any(|line| line.trim().starts_with(what))
    };
    let lines =
        ["flowtable promoted {", "numgen random mod 128 0 goto sample", "limit rate 1000/second burst 1000"];
    let on = of(Steering::SynOnly, true, true);
    assert!(lines.iter().all(|line| has(&on, line)), "{}", on.structure.text);
    assert_eq!(on.promoted, Some(BTreeSet::new()));
    for (steering, offload, flowtable) in [
        (Steering::SynOnly, false, true),
        (Steering::SynOnly, true, false),
        (Steering::EveryPacket, true, true),
    ] {
        let off = of(steering, offload, flowtable);
        assert!(!lines.iter().any(|line| has(&off, line)), "{}", off.structure.text);
        assert_eq!(off.promoted, None);
        assert_eq!(chains_of_text(&off.structure.text), chains_of_text(&on.structure.text));
    }
}

#[test]
fn one_queue_has_no_fanout() {
    let one = Structure::new(&Balancer::unconfigured(), means(QueueBy::Nft)).unwrap();
    assert!(one.text.contains("\t\tqueue flags bypass to 20200\n"));
}

#[test]
fn different_structures_have_different_names() {
    let other_timeouts = Timeouts { udp_seconds: 60, ..Timeouts::default() };
    let steering = Steering::EveryPacket;
    let balancers = [
        balancer(),
        Balancer::unconfigured(),
        Balancer { mark_mask: MarkMask::new(0xffff_0000).unwrap(), ..balancer() },
        Balancer { timeouts: other_timeouts, ..balancer() },
        Balancer { fragment_queue: QueueNum(11), ..balancer() },
        Balancer { steering, ..balancer() },
        Balancer { pmtu_floor: 1000, ..balancer() },
        Balancer { offload: false, ..balancer() },
        Balancer { tracer: TracerSettings { per_second: 7, ..TracerSettings::default() }, ..balancer() },
    ];
    let mut names: Vec<String> = balancers
        .iter()
        .flat_map(|balancer| [QueueBy::Nft, QueueBy::Xtables].map(|by| Structure::new(balancer, means(by))))
        .map(|structure| structure.unwrap().name)
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 18);
    assert_eq!(structure(QueueBy::Nft).name, structure(QueueBy::Nft).name);
}
