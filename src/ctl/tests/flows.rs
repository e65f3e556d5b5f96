//! `flows`, and what `show`, `stats` and `which` say of flows.

use super::*;
use crate::{
    balance::pins::{Flow, Held, OffTable},
    model::ids::Mark,
    packet::{Packet, Ports},
    shm::stats::{self as words, Pins},
    sys::nft::NftError,
};

/// As the kernel would have it: two flows of the service "all".
pub(super) fn off_table() -> Result<OffTable, NftError> {
    let flow = |client: &str, vip: &str| {
        let ports = Ports { src: 40_000, dst: 80 };
        let packet = Packet::synthetic(6, client.parse().unwrap(), vip.parse().unwrap(), ports);
        Flow::of(&packet.unwrap()).unwrap()
    };
    let held = |mark, closing| Held { mark: Mark(mark), closing, left_seconds: 61 };
    Ok([(flow("50.0.0.1", "10.0.0.1"), held(1, false)), (flow("2000::1", "1000::1"), held(9, true))]
        .into_iter()
        .collect())
}

#[test]
fn off_table_flows_are_listed_with_their_backends() {
    let lb = Lb::new("flows");
    lb.with(FILE, "apply -");
    let active = lb.json("flows --off-table --json");
    assert_eq!(active.as_array().unwrap().len(), 1, "the table names s1 as well: {active}");
    assert_eq!(lb.run("deactivate s1 --service all").status, Status::Done);
    let text = lb.done("flows --off-table");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[1].contains("tcp       50.0.0.1:40000") && lines[1].contains("s1        1 min 1 s"),
        "{text}"
    );
    assert!(lines[2].contains("[2000::1]:40000") && lines[2].ends_with("closing"), "{text}");
    let json = lb.json("flows --off-table --json");
    assert_eq!((&json[0]["service"], &json[0]["backend"]), (&"all".into(), &"s1".into()));
    assert_eq!((&json[0]["left_seconds"], &json[1]["backend"]), (&61.into(), &Value::Null));
    lb.refused("flows", Status::Usage, "--off-table");
}

#[test]
fn flows_of_another_namespace_are_reported() {
    let mut lb = Lb::new("elsewhere");
    lb.off_table = || Ok(OffTable::default());
    lb.with(FILE, "apply -");
    assert_eq!(lb.run("flows --off-table").err, "");
    let mut region = lb.daemon(1);
    Pins { off_table: 2, no_room: 0, protected: 7, not_protected: 0, promoted: 0 }
        .write(&mut region)
        .unwrap();
    let listing = lb.run("flows --off-table");
    assert_eq!(listing.status, Status::Done);
    let says = ["has found 2 off-table flows", "ip netns exec"];
    assert!(says.iter().all(|says| listing.err.contains(says)), "{listing:?}");
}

#[test]
fn whether_long_flows_are_promoted_is_shown() {
    let lb = Lb::new("offload");
    let shows = |file: &str, flowtable: Option<bool>, text: &str, json: &str| {
        lb.with(file, "apply -");
        if let Some(flowtable) = flowtable {
            words::write_flowtable(&mut lb.daemon(1), flowtable).unwrap();
        }
        let shown = lb.done("show");
        assert!(shown.contains(&format!("\noffload   {text}")), "{shown}");
        assert_eq!(lb.json("show --json")["offload"], json);
    };
    let with = |line: &str| FILE.replacen("[balancer]\n", &format!("[balancer]\n{line}\n"), 1);
    shows(FILE, None, "on: ", "on");
    shows(FILE, Some(true), "on: ", "on");
    shows(FILE, Some(false), "NOT IN THIS KERNEL: ", "not_in_kernel");
    assert!(lb.run("check").out.contains("note: offload is not in this kernel, wanted a flowtable: "));
    shows(&with("offload = false"), Some(false), "off, by the setting\n", "off");
    assert!(!lb.run("check").out.contains("note: offload"));
    shows(&with("steering = \"every-packet\""), Some(false), "none: every packet", "every_packet");
}

#[test]
fn what_lbd_found_of_flows_is_shown() {
    let lb = Lb::new("pins");
    lb.with(FILE, "apply -");
    let question = "which tcp 50.0.0.1 40000 10.0.0.1 80";
    assert!(lb.done("show").contains("flows     0 off-table; 0 protected in connection tracking\n"));
    assert!(!lb.done(question).contains("off-table"), "the kernel is asked where there is any");
    let mut region = lb.daemon(1);
    Pins { off_table: 2, no_room: 0, protected: 7, not_protected: 0, promoted: 5 }
        .write(&mut region)
        .unwrap();
    for command in ["show", "stats"] {
        let text = lb.done(command);
        assert!(
            text.contains(" 2 off-table; 7 protected in connection tracking, 5 of them promoted\n"),
            "{text}"
        );
        assert!(!text.contains("NEARLY FULL"), "{text}");
        assert_eq!(lb.json(&format!("{command} --json"))["flows"]["off_table"], 2);
    }
    let text = lb.done(question);
    assert!(text.contains("this flow is off-table: what there is of it goes on to s1 (mark 0x1)"), "{text}");
    assert_eq!(lb.json(&format!("{question} --json"))["off_table"]["backend"], "s1");

    Pins { off_table: 2, no_room: 3, protected: 7, not_protected: 4, promoted: 0 }
        .write(&mut region)
        .unwrap();
    words::set_nearly_full(&mut region, true).unwrap();
    fs::create_dir_all(lb.proc.path().join("sys/net/netfilter")).unwrap();
    for (name, value) in [("nf_conntrack_count", "1400\n"), ("nf_conntrack_max", "1500\n")] {
        fs::write(lb.proc.path().join("sys/net/netfilter").join(name), value).unwrap();
    }
    for command in ["show", "stats"] {
        let text = lb.done(command);
        for part in
            ["3 had NO ROOM", "4 more NOT", "NEARLY FULL", "nf_conntrack_max", "1 to 4 entries a bucket"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(lb.json(&format!("{command} --json"))["flows"]["nearly_full"], true);
    }
    assert!(lb.done("stats").contains("conntrack  1400 of at most 1500 entries; NEARLY FULL"));
}
