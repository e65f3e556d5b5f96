//! `stats`: what workers have counted.

use super::*;
use crate::{
    balance::counters::{Counter, Counters},
    model::ids::{QueueNum, TargetId},
    shm::stats::{self as blocks, Identity, QueueLine},
};

#[test]
fn statistics_are_summed_over_workers() {
    let mut lb = Lb::new("stats");
    lb.with(FILE, "apply -");
    assert!(lb.done("stats").starts_with("lbd  none follows this region\n"));
    let mut region = lb.daemon(1);
    for worker in 0..2 {
        let mut counters = Counters::default();
        counters.count(Counter::SteeredSyn);
        counters.count_target(TargetId::new(worker).unwrap());
        counters.count_target(TargetId::new(9).unwrap());
        let queue = QueueNum(u16::try_from(worker).unwrap());
        blocks::write(&mut region, worker, Identity { queue, fragments: false }, &mut counters).unwrap();
    }
    fs::create_dir_all(lb.proc.path().join("net/netfilter")).unwrap();
    fs::write(
        lb.proc.path().join("net/netfilter/nfnetlink_queue"),
        "    1   42     3 2   256    10    20      300  1\n",
    )
    .unwrap();
    // What the kernel has steered is beside it: to the first target, and to one that is in use by none.
    lb.given = || BTreeMap::from([(1, 5), (11, 7)]);
    let stats = lb.json("stats --json");
    assert_eq!(stats["counters"]["steered_syn"], 2);
    assert_eq!(stats["workers"][1]["queue"], 1);
    assert_eq!(stats["daemon"]["pid"], 42);
    assert_eq!(stats["queues"][0]["waiting"], 3);
    let backends = stats["backends"].as_array().unwrap();
    assert_eq!(backends[0]["names"], serde_json::json!(["web/s1", "all/s1"]));
    let counts: Vec<_> =
        backends.iter().map(|one| (one["packets"].clone(), one["by_kernel"].clone())).collect();
    assert_eq!(counts, [(1, 5), (1, 0), (2, 0), (0, 7)].map(|(lbd, kernel)| (lbd.into(), kernel.into())));
    let text = lb.done("stats");
    for part in ["QUEUE 1", "steered_syn", "web/s1 all/s1", "(removed)", "SOCKET FULL"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The region of an lbd with a worker of flows, of queue 0, and one of fragments, of queue 10.
fn two_workers(lb: &Lb) -> Region {
    let mut region = lb.daemon(2);
    for (worker, queue) in [0, 10].into_iter().enumerate() {
        let identity = Identity { queue: QueueNum(queue), fragments: queue == 10 };
        blocks::write(&mut region, worker, identity, &mut Counters::default()).unwrap();
    }
    region
}

#[test]
fn statistics_are_of_the_queues_that_lbd_has_until_it_starts_again() {
    let lb = Lb::new("queues");
    lb.with(FILE, "apply -");
    let _region = two_workers(&lb);
    fs::create_dir_all(lb.proc.path().join("net/netfilter")).unwrap();
    let line = |queue| format!("{queue:5} 42 0 2 256 0 0 0 1\n");
    let queues = lb.proc.path().join("net/netfilter/nfnetlink_queue");
    fs::write(queues, [0, 4, 9, 10].map(line).concat()).unwrap();
    // Queue 10 is now one of flows, and another program has 4 and 9.
    let other = FILE.replace(r#"queues = "0-1""#, "queues = \"4-10\"\nfragment_queue = 0");
    assert_eq!(lb.with(&other, "apply -").status, Status::Done);
    let stats = lb.json("stats --json");
    let of = |what: &str, key: &str| -> Vec<Value> {
        stats[what].as_array().unwrap().iter().map(|each| each[key].clone()).collect()
    };
    assert_eq!(of("workers", "queue"), [0, 10]);
    assert_eq!(of("workers", "fragments"), [false, true]);
    assert_eq!(of("queues", "queue"), [0, 10]);
}

#[test]
fn queues_that_the_kernel_shows_to_root_alone_are_as_lbd_saw_them() {
    let lb = Lb::new("seen");
    lb.with(FILE, "apply -");
    let mut region = two_workers(&lb);
    assert_eq!(lb.json("stats --json")["queues"], serde_json::json!([]));
    let line = QueueLine {
        queue: 10,
        portid: 42,
        waiting: 3,
        copy_range: 256,
        dropped: 10,
        user_dropped: 20,
        packets: 300,
    };
    blocks::show_queues(&mut region, 2, &[QueueLine { queue: 7, ..line }, line]).unwrap();
    assert_eq!(lb.json("stats --json")["queues"], serde_json::json!([line]));
    blocks::show_queues(&mut region, 2, &[]).unwrap();
    assert_eq!(lb.json("stats --json")["queues"], serde_json::json!([]), "one that is no more");
    blocks::show_queues(&mut region, 2, &[line]).unwrap();
    drop(region);
    assert_eq!(lb.json("stats --json")["queues"], Value::Null, "lbd has ended");
}

#[test]
fn levels_are_distinguished_from_counts() {
    let lb = Lb::new("levels");
    lb.with(&format!("{FILE}[fragments]\nentries = 1000\nttl_ms = 70\n"), "apply -");
    let mut region = lb.daemon(1);
    for (worker, queue) in [0u16, 10].into_iter().enumerate() {
        let mut counters = Counters::default();
        counters.add(Counter::FragmentHeld, 4);
        if queue == 10 {
            counters.set(Counter::FragmentEntriesNow, 12);
            counters.set(Counter::FragmentHeldPacketsNow, 3);
            counters.set(Counter::FragmentHeldBytesNow, 4000);
        }
        let identity = Identity { queue: QueueNum(queue), fragments: queue == 10 };
        blocks::write(&mut region, worker, identity, &mut counters).unwrap();
    }
    let stats = lb.json("stats --json");
    let expected = serde_json::json!({
        "entries": 12, "entries_max": 1000, "held_packets": 3, "held_packets_max": 8192,
        "held_bytes": 4000, "held_bytes_max": 16_777_216, "ttl_ms": 70,
    });
    assert_eq!(stats["fragments"], expected);
    assert_eq!(stats["counters"]["fragment_held"], 8);
    assert_eq!(stats["counters"].as_object().unwrap().keys().find(|name| name.ends_with("_now")), None);
    assert_eq!(
        (&stats["workers"][0]["fragments"], &stats["workers"][1]["fragments"]),
        (&false.into(), &true.into())
    );
    let text = lb.done("stats");
    assert!(
        text.contains(
            "\nfragments: 12 of 1000 entries (1.2 %), 3 of 8192 packets (0.0 %) and 4000 of 16777216 bytes (0.0 %) held, \
             for 70 ms\n"
        ),
        "{text}"
    );
    assert!(
        text.lines().next().unwrap().starts_with("lbd") && text.contains("QUEUE 0  FRAGMENTS  WHAT"),
        "{text}"
    );
    // Without lbd nothing is held any more; the counters stay.
    drop(region);
    let stats = lb.json("stats --json");
    assert_eq!((&stats["fragments"]["entries"], &stats["counters"]["fragment_held"]), (&0.into(), &8.into()));
}
