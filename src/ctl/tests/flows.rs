//! `flows`, and what `show`, `stats` and `which` say of flows.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{
    balance::pins::{Flow, Held, OffTable, Phase, Promotion, Tracked},
    model::ids::Mark,
    packet::{Packet, Ports},
    shm::stats::{self as words, Pins},
    status::flows::Live,
    sys::{
        conntrack::{Marked, Seen},
        nft::NftError,
    },
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

/// A connection as connection tracking has it, with this mark.
pub(super) fn seen(mark: u32, vip: &str, port: u16, closing: bool) -> Seen {
    let ports = Ports { src: 40_000, dst: port };
    let packet = Packet::synthetic(6, [50, 0, 0, 2].into(), vip.parse().unwrap(), ports).unwrap();
    let phase = Some(if closing { Phase::Closing } else { Phase::Open });
    let tracked = Tracked {
        packet,
        mark: Mark(mark),
        left_seconds: 200,
        protected: true,
        promotion: Promotion::No,
        phase,
    };
    Seen { tracked, packets: Some(10), bytes: Some(5000), began_unix_seconds: Some(940) }
}

/// Of web: s1 has one flow, and one that is closed, s2 one that is promoted and has no counts; and one of "all".
fn tracked(marked: Option<Marked>, each: &mut dyn FnMut(&Seen) -> io::Result<()>) -> io::Result<()> {
    let mut large = seen(2, "10.0.0.0", 80, false);
    large.tracked.promotion = Promotion::Now;
    (large.packets, large.bytes, large.began_unix_seconds) = (None, None, None);
    let all = [
        seen(1, "10.0.0.0", 80, false),
        Seen { packets: Some(900), ..seen(0x8000_0001, "10.0.0.0", 8001, true) },
        large,
        seen(1, "10.0.0.7", 9, false),
        // Of another program, without a mark, and to another address.
        seen(0x1_0000, "10.0.0.0", 80, false),
        seen(0, "10.0.0.0", 80, false),
        seen(1, "10.9.0.0", 80, false),
    ];
    let meant = |seen: &&Seen| marked.is_none_or(|marked| seen.tracked.mark.0 & marked.mask == marked.value);
    all.iter().filter(meant).try_for_each(each)
}

#[test]
fn flows_are_listed_with_the_most_packets_first() {
    let mut lb = Lb::new("list");
    (lb.tracked, lb.off_table) = (tracked, || Ok(OffTable::default()));
    lb.with(FILE, "apply -");
    let text = lb.done("flows");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(
        lines[1],
        [
            "tcp",
            "50.0.0.2:40000",
            "10.0.0.0:8001",
            "web",
            "s1",
            "closing",
            "1",
            "min",
            "0",
            "s",
            "900",
            "5000",
            "3",
            "min",
            "20",
            "s"
        ]
    );
    assert_eq!(
        lines[4],
        ["tcp", "50.0.0.2:40000", "10.0.0.0:80", "web", "s2", "promoted", "-", "-", "-", "-"]
    );
    // By backend and service, and no more than wanted.
    assert_eq!(lb.json("flows s1 --json").as_array().unwrap().len(), 3);
    let of_all = lb.json("flows s1 --service all --json");
    assert_eq!((of_all.as_array().unwrap().len(), &of_all[0]["destination"]), (1, &"10.0.0.7".into()));
    assert_eq!((&of_all[0]["packets"], &of_all[0]["age_seconds"]), (&10.into(), &60.into()));
    assert_eq!(lb.json("flows --service web --json").as_array().unwrap().len(), 3);
    let some = lb.run("flows --limit 1");
    assert!(some.out.lines().count() == 2 && some.out.contains("10.0.0.0:8001"), "{}", some.out);
    assert!(some.err.contains("3 more flows are left out"), "{}", some.err);
    lb.refused("flows s9", Status::Failed, "no backend \"s9\"");
    lb.refused("flows --service ftp", Status::Failed, "no service \"ftp\"");
    lb.refused("flows --count --limit 1", Status::Usage, "--limit");
    lb.tracked = |_, _| Err(io::Error::from_raw_os_error(libc::EPERM));
    lb.refused("flows", Status::Failed, "CAP_NET_ADMIN");
}

/// lbd puts a flow into its map before it deletes its entry.
#[test]
fn a_flow_on_its_way_into_a_map_is_counted_once_and_not_missed() {
    static READS: AtomicU32 = AtomicU32::new(0);
    fn held(there: bool) -> OffTable {
        let flow = Flow::of(&seen(1, "10.0.0.0", 80, false).tracked.packet).unwrap();
        let held = Held { mark: Mark(1), closing: false, left_seconds: 61 };
        there.then_some((flow, held)).into_iter().collect()
    }
    let lb = Lb::new("way");
    lb.with(FILE, "apply -");
    lb.done("drain --service web s1");
    let mut region = Region::open(&lb.name).unwrap();
    let mut sources = Sources::of_host();
    sources.pending = |_| Ok(Vec::new());
    let mut live =
        |sources: &Sources| Live::read(&mut region, sources, Some("web"), &["s1".to_owned()]).unwrap();
    // In both places.
    sources.off_table = || Ok(held(true));
    sources.tracked = |_, each| each(&seen(1, "10.0.0.0", 80, false));
    assert_eq!(live(&sources).flows, 1);
    // It has left connection tracking while that was read.
    sources.off_table = || Ok(held(READS.fetch_add(1, Ordering::Relaxed) > 0));
    sources.tracked = |_, _| Ok(());
    assert_eq!(live(&sources).flows, 1);
    // It has come into the map while that was read.
    READS.store(0, Ordering::Relaxed);
    sources.tracked = |_, each| each(&seen(1, "10.0.0.0", 80, false));
    assert_eq!(live(&sources).flows, 1);
}

#[test]
fn flows_are_counted_by_backend() {
    let mut lb = Lb::new("count");
    lb.tracked = tracked;
    lb.with(FILE, "apply -");
    let counts = lb.json("flows --count --json");
    let row = |n: usize| {
        let names = ["service", "backend"].map(|name| counts[n][name].as_str().unwrap_or("-").to_owned());
        let numbers =
            ["flows", "off_table", "promoted", "closing"].map(|name| counts[n][name].as_u64().unwrap());
        (names.join("/"), numbers)
    };
    // The maps have one of all/s1, and one of no backend.
    assert_eq!(row(0), ("web/s1".to_owned(), [2, 0, 0, 1]));
    assert_eq!(row(1), ("web/s2".to_owned(), [1, 0, 1, 0]));
    assert_eq!(row(2), ("all/s1".to_owned(), [2, 1, 0, 0]));
    assert_eq!(row(3), ("-/-".to_owned(), [1, 1, 0, 1]));
    assert!(lb.done("flows s2 --count").contains("web      s2           1          0         1        0\n"));
}

#[test]
fn backends_are_listed_with_their_flows_where_that_is_cheap() {
    let mut lb = Lb::new("column");
    (lb.tracked, lb.off_table) = (tracked, || Ok(OffTable::default()));
    lb.with(FILE, "apply -");
    assert!(!lb.done("backends").contains("FLOWS"), "there is no connection tracking");
    let entries = |count: &str| {
        let directory = lb.proc.path().join("sys/net/netfilter");
        fs::create_dir_all(&directory).unwrap();
        for (name, value) in [("nf_conntrack_count", count), ("nf_conntrack_max", "262144")] {
            fs::write(directory.join(name), value).unwrap();
        }
    };
    entries("1400");
    for command in ["backends", "show"] {
        let text = lb.done(command);
        let row = text.lines().find(|line| line.contains("s1") && line.contains("enabled")).unwrap();
        let mut words = row.split_whitespace().skip_while(|word| *word != "enabled");
        assert_eq!((words.nth(2), text.contains("HEALTH  FLOWS")), (Some("2"), true), "{text}");
    }
    let flows = |lb: &Lb| -> Vec<Value> {
        lb.json("backends --json").as_array().unwrap().iter().map(|view| view["flows"].clone()).collect()
    };
    assert_eq!(flows(&lb), [2, 1, 1]);
    entries("50001");
    assert_eq!(flows(&lb), [Value::Null, Value::Null, Value::Null]);
    entries("1400");
    lb.may_ask_about_flows = || false;
    assert_eq!(flows(&lb), [Value::Null, Value::Null, Value::Null]);
}

#[test]
fn a_closed_connection_is_live_until_its_client_is_silent() {
    let mut lb = Lb::new("live");
    lb.tracked = |_, each| {
        for left in [240, 231, 230, 5] {
            let mut seen = seen(1, "10.0.0.0", 80, true);
            seen.tracked.left_seconds = left;
            each(&seen)?;
        }
        Ok(())
    };
    lb.off_table = || Ok(OffTable::default());
    lb.with(FILE, "apply -");
    let mut region = Region::open(&lb.name).unwrap();
    let mut sources = Sources::of_host();
    (sources.tracked, sources.off_table) = (lb.tracked, lb.off_table);
    sources.pending = |_| {
        let of = |vip: [u8; 4], mark| {
            let ports = Ports { src: 1, dst: 80 };
            let packet = Packet::synthetic(6, [50, 0, 0, 3].into(), vip.into(), ports).unwrap();
            (Flow::of(&packet).unwrap(), Mark(mark))
        };
        Ok(vec![of([10, 0, 0, 0], 1), of([10, 0, 0, 0], 2), of([10, 0, 0, 5], 1)])
    };
    let live = Live::read(&mut region, &sources, Some("web"), &["s1".to_owned()]).unwrap();
    assert_eq!(live, Live { flows: 2, opening: 1, closing: 2 });
    assert!(!live.is_none() && Live { closing: 2, ..Live::default() }.is_none());
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
        lines[1].starts_with("tcp       50.0.0.1:40000")
            && lines[1].contains("s1")
            && lines[1].ends_with("1 min 1 s"),
        "{text}"
    );
    assert!(lines[2].contains("[2000::1]:40000") && lines[2].contains("closing,off-table"), "{text}");
    let json = lb.json("flows --off-table --json");
    assert_eq!((&json[0]["service"], &json[0]["backend"]), (&"all".into(), &"s1".into()));
    assert_eq!((&json[0]["left_seconds"], &json[1]["backend"]), (&61.into(), &Value::Null));
}

#[test]
fn flows_of_another_namespace_are_reported() {
    let mut lb = Lb::new("elsewhere");
    lb.off_table = || Ok(OffTable::default());
    lb.with(FILE, "apply -");
    assert_eq!(lb.run("flows --off-table").err, "");
    let mut region = lb.daemon(1);
    Pins { off_table: 2, no_room: 0, protected: 7, not_protected: 0, promoted: 0, ..Pins::default() }
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
    Pins { off_table: 2, no_room: 0, protected: 7, not_protected: 0, promoted: 5, ..Pins::default() }
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

    Pins { off_table: 2, no_room: 3, protected: 7, not_protected: 4, promoted: 0, ..Pins::default() }
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
