//! `tier`, and which balancer owns the fragments of a flow.

use super::*;

/// Of the balancer lb201 with two others.
const TIER: &str = r#"
[[tier.balancer]]
name = "lb201"
address = ["192.168.1.201", "fd00:0:0:1::201"]
[[tier.balancer]]
name = "lb202"
address = ["192.168.1.202", "fd00:0:0:1::202"]
[[tier.balancer]]
name = "lb203"
address = "fd00:0:0:1::203"
"#;

#[test]
fn the_tier_is_shown() {
    let lb = Lb::new("tier");
    lb.with(&format!("{FILE}{TIER}active = false\n"), "apply -");
    let tier = lb.json("tier --json");
    assert_eq!((&tier["balancer"], &tier["table_size"]), (&"lb201".into(), &65537.into()));
    let [own, other, inactive] = &tier["members"].as_array().unwrap()[..] else { panic!("{tier}") };
    assert_eq!((&own["here"], &own["target"]), (&true.into(), &Value::Null));
    assert_eq!(own["entries"].as_u64().unwrap() + other["entries"].as_u64().unwrap(), 65537);
    assert_eq!(
        other["target"],
        serde_json::json!({ "number": 3, "mark": 3, "encap": "gre", "address": "192.168.1.202", "device": "sr-3" })
    );
    assert_eq!((&inactive["active"], &inactive["entries"]), (&false.into(), &0.into()));
    let text = lb.done("tier");
    for part in [
        "tier of 3 balancers, 2 active; this is lb201; M 65537\nlbd    none follows this region\n",
        &format!(
            "\ntable  digest {}, hash seed 3405691582: both must be equal on all balancers of the tier\n",
            tier["table_digest"].as_str().unwrap()
        ),
        "  lb201     192.168.1.201 fd00:0:0:1::201  this balancer                      yes     50.0 %  ███",
        "  lb203     fd00:0:0:1::203                gre fd00:0:0:1::203  sr-4     0x4  no       0.0 %\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Targets that only the tier uses are named, and are no backends.
    let show = lb.json("show --json");
    assert_eq!(show["tier"], tier);
    assert_eq!(show["targets"][2]["names"], serde_json::json!(["tier/lb202"]));
    assert_eq!(lb.json("backends --json").as_array().unwrap().len(), 3);
    assert!(lb.done("show").contains("tier      lb201 (this one), lb202, lb203 (not active)\n"));
    assert!(lb.done("stats").contains("\ntier/lb202 "));
}

#[test]
fn all_balancers_of_a_tier_agree_about_owners() {
    let (one, other) = (Lb::new("agree1"), Lb::new("agree2"));
    one.with(&format!("{FILE}{TIER}"), "apply -");
    other.with(&format!("{}{TIER}", FILE.replacen("201", "202", 3)), "apply -");
    let digest = |lb: &Lb| lb.json("tier --json")["table_digest"].clone();
    assert_eq!(digest(&one), digest(&other));
    let questions: String = (1..50).map(|n| format!("udp 50.0.0.{n} 1 10.0.0.0 80\n")).collect();
    let ask = |lb: &Lb| -> Vec<Value> {
        let ended = lb.with(&questions, "which --fragment --batch -");
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (ours, theirs) = (ask(&one), ask(&other));
    let mut owners = BTreeSet::new();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours["owner"], theirs["owner"]);
        assert_eq!(ours["owner_here"], ours["owner"] == "lb201");
        assert_eq!(theirs["owner_here"], theirs["owner"] == "lb202");
        owners.insert(ours["owner"].as_str().unwrap());
    }
    assert_eq!((owners.len(), ours.len()), (3, 49));
    other.done("tier deactivate lb203");
    assert_ne!(digest(&one), digest(&other));
}

#[test]
fn balancers_of_the_tier_are_activated_and_deactivated() {
    let lb = Lb::new("members");
    lb.with(&format!("{FILE}{TIER}"), "apply -");
    let said = lb.done("tier deactivate lb202 lb202 lb203");
    assert_eq!(
        said.lines().take(2).collect::<Vec<_>>(),
        ["tier/lb202: now inactive", "tier/lb203: now inactive"]
    );
    assert_eq!(lb.done("tier deactivate lb202"), "tier/lb202: already inactive\nnothing to change\n");
    let ended = lb.run("tier deactivate lb201 --json");
    let warning = "lbctl: warning: no balancer of the tier is active: every balancer handles the fragments that it gets\n";
    assert_eq!((ended.status, ended.err.as_str()), (Status::Done, warning));
    let outcome: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(outcome["changes"][0]["what"], "tier lb201");
    let text = lb.done("tier");
    assert!(text.contains("none is active: every balancer handles the fragments that it gets\n"), "{text}");
    // Two that own nothing do not agree about it.
    assert!(!text.contains("digest"), "{text}");
    let tier = lb.json("tier --json");
    assert_eq!((&tier["table_digest"], &tier["hash_seed"]), (&Value::Null, &3_405_691_582_u32.into()));
    lb.refused(
        "tier activate lb9",
        Status::Failed,
        "no balancer \"lb9\" in the tier; there are: lb201, lb202, lb203",
    );
    lb.refused("tier activate", Status::Usage, "BALANCER");
    for (verb, names) in [("activate", "s1 lb202"), ("deactivate", "--service all lb202")] {
        let hint = format!("; the tier has a balancer of that name: `lbctl tier {verb} lb202`");
        lb.refused(&format!("{verb} {names}"), Status::Failed, &hint);
    }
    let ended = lb.run("activate lb9");
    assert!(ended.err.ends_with("; there are: s1, s2\n"), "{}", ended.err);
    let _daemon = lb.daemon(1);
    let (show, tier) = (lb.done("show"), lb.done("tier"));
    let follows = "process 42, 2 workers, for 1 min 40 s, generation 1 in force, 3 NOT YET taken over\n";
    assert!(show.contains(&format!("lbd       {follows}")), "{show}");
    assert!(tier.contains(&format!("lbd    {follows}")), "{tier}");
    let ended = lb.run("tier activate lb203");
    assert_eq!(ended.status, Status::Pending);
    assert!(ended.out.starts_with("tier/lb203: now active\n"), "{}", ended.out);
}

#[test]
fn without_a_tier_there_is_nothing_to_change() {
    let lb = Lb::new("notier");
    lb.with(FILE, "apply -");
    let text = lb.done("tier");
    assert!(text.starts_with("no tier: ") && text.ends_with("\nlbd    none follows this region\n"), "{text}");
    let tier = lb.json("tier --json");
    assert_eq!((&tier["members"], &tier["table_digest"]), (&Value::Array(Vec::new()), &Value::Null));
    lb.refused("tier activate lb201", Status::Failed, "there is no tier");
    lb.refused("tier deactivate lb201", Status::Failed, "there is no tier");
    let answer = lb.json("which --fragment udp 50.0.0.1 1 10.0.0.0 80 --json");
    assert_eq!((&answer["owner"], &answer["owner_here"]), (&Value::Null, &true.into()));
    assert!(lb.done("which --fragment udp 50.0.0.1 1 10.0.0.0 80").contains("there is no [tier]"));
    assert_eq!(lb.json("which udp 50.0.0.1 1 10.0.0.0 80 --json").get("owner"), None);
}

#[test]
fn which_names_the_owner_of_fragments_and_the_reason() {
    let lb = Lb::new("owner");
    lb.with(&format!("{FILE}{TIER}"), "apply -");
    lb.done("tier deactivate lb201 lb203");
    let flow = "udp 50.0.0.1 4000 10.0.0.0 80";
    let answer = lb.json(&format!("which --fragment {flow} --json"));
    assert_eq!((&answer["owner"], &answer["owner_here"]), (&"lb202".into(), &false.into()));
    let plain = lb.json(&format!("which {flow} --json"));
    assert_eq!((&answer["backend"], &answer["index"]), (&plain["backend"], &plain["index"]));
    let text = lb.done(&format!("which --fragment {flow}"));
    for part in [
        "\nowner    lb202 (tier: gre 192.168.1.202 through sr-3)\n",
        "fragments: jhash of (50.0.0.1, 10.0.0.0, 17) with seed 3405691582 gives 0x",
        "and that entry of the tier's table is lb202 (rank 0 of 1 active)\n",
        "mark 0x3 is target 3: those that come here are sent to lb202, once\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The protocol of IPv6 fragments does not count.
    assert!(lb.done("which --fragment tcp 2000::1 1 1000:: 80").contains("jhash of (2000::1, 1000::) with"));
    lb.done("tier activate lb201");
    lb.done("tier deactivate lb202");
    assert!(
        lb.done(&format!("which --fragment {flow}")).contains("\nowner    lb201 (tier: this balancer)\n")
    );
    lb.run("tier deactivate lb201");
    let none = lb.run("which --fragment udp 2000::1 1 1000:: 81");
    assert_eq!(none.status, Status::No);
    assert!(
        none.out.contains("\nowner    this balancer\n")
            && none.out.contains("no balancer of the tier is active")
    );
}

#[test]
fn fragments_to_what_is_no_vip_have_no_owner() {
    let lb = Lb::new("novip");
    // With one member active and with none.
    for line in ["tier activate lb202", "tier deactivate lb202"] {
        lb.with(&format!("{FILE}{TIER}"), "apply -");
        lb.run("tier deactivate lb201 lb203");
        lb.run(line);
        let flow = "which --fragment udp 50.0.0.1 1 10.0.1.0 80";
        let ended = lb.run(flow);
        assert_eq!(ended.status, Status::No);
        assert!(!ended.out.contains("owner") && !ended.out.contains("lb202"), "{}", ended.out);
        assert!(
            ended.out.ends_with(" fragments: none is queued where the destination is no VIP\n"),
            "{}",
            ended.out
        );
        let answer: Value = serde_json::from_str(&lb.run(&format!("{flow} --json")).out).unwrap();
        assert_eq!((&answer["owner"], &answer["owner_here"]), (&Value::Null, &false.into()));
        // The address is a VIP, though no service claims this port.
        let ended = lb.run("which --fragment udp 2000::1 1 1000:: 81");
        assert!(ended.out.starts_with("not steered\nowner "), "{}", ended.out);
    }
}
