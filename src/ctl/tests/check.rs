//! `check`, and what other commands say of this host.

use super::*;
use crate::{host::Local, shm::stats};

/// A host on which the VIP of [`FILE`] was put on lo.
fn vip_on_lo(_: &State) -> Snapshot {
    let own = |address: &str, device| Local::own(address.parse().unwrap(), device);
    let locals = vec![
        own("10.0.0.0", "lo"),
        own("192.168.1.201", "eth1"),
        own("fd00:0:0:1::201", "eth1"),
        own("10.9.0.7", "eth1"),
    ];
    Snapshot { locals, ..Snapshot::default() }
}

#[test]
fn the_status_of_check_is_that_of_the_worst_finding() {
    let mut lb = Lb::new("check");
    let check = |lb: &Lb| {
        let Ended { status, out, err } = lb.run("check");
        assert_eq!(err, "");
        (status.code(), out)
    };
    let (code, out) = check(&lb);
    assert!(code == 2 && out.contains("there is no region"), "{out}");
    lb.run("create 100 10");
    let (code, out) = check(&lb);
    assert!(code == 2 && out.contains("error: interfaces is empty"), "{out}");
    lb.run("clean");
    lb.with(FILE, "apply -");
    let (code, out) = check(&lb);
    assert!(
        code == 2 && out.contains("error: lbd is not running") && out.contains("lbd --once --shm"),
        "{out}"
    );
    let daemon = lb.daemon(1);
    assert_eq!(check(&lb).0, 0);
    assert!(check(&lb).1.starts_with("ok: region "));
    drop(daemon);
    let (code, out) = check(&lb);
    assert!(code == 1 && out.starts_with("warning: lbd is not running"), "{out}");
    let _daemon = lb.daemon(1);
    lb.run("deactivate s1");
    let (code, out) = check(&lb);
    assert!(code == 1 && out.contains("generation 2, and 1 is in force"), "{out}");
    lb.look = vip_on_lo;
    let (code, out) = check(&lb);
    assert_eq!(code, 2);
    assert!(out.contains("error: VIP 10.0.0.0/32 is an address of this host, on lo, wanted"), "{out}");
    let json = lb.run("check --json");
    let report: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.status.code(), &report["status"]), (2, &Value::from("error")));
    assert_eq!(report["findings"][0]["severity"], "error");
    assert_eq!(report["findings"][1]["name"], "VIP 10.0.0.0/32");
    assert!(report["findings"][1]["advice"].as_str().unwrap().contains("ip address del"));
}

#[test]
fn a_missing_ruleset_is_an_error_where_it_may_be_read() {
    let mut lb = Lb::new("gone");
    lb.with(FILE, "apply -");
    // Nothing was in force yet.
    lb.ruleset_counters = || Some(BTreeMap::new());
    assert!(!lb.run("check").out.contains("ruleset"));
    let daemon = lb.daemon(1);
    let says = |lb: &Lb, advice: &str| {
        let Ended { status, out, .. } = lb.run("check");
        assert_eq!(status.code(), 2, "{out}");
        assert!(
            out.contains("error: the ruleset is missing, wanted table inet synrail") && out.contains(advice),
            "{out}"
        );
        assert!(lb.done("show").contains("; the kernel has NO RULESET of synrail"));
    };
    says(&lb, "lbd puts it back at once");
    drop(daemon);
    says(&lb, "lbd --once --shm");
    assert!(!lb.run("check").out.contains("goes on by itself"));
    lb.ruleset_counters = || Some([("steered".to_owned(), 0)].into());
    assert!(!lb.run("check").out.contains("the ruleset is") && !lb.done("show").contains("RULESET"));
}

#[test]
fn tables_that_the_kernel_has_not_yet_are_noted() {
    let lb = Lb::new("behind");
    lb.with(FILE, "apply -");
    let mut daemon = lb.daemon(1);
    assert!(!lb.run("check").out.contains("of the tables"));
    Daemon { in_kernel: Generation(0), ..Daemon::read(&mut daemon).unwrap() }.write(&mut daemon).unwrap();
    let Ended { status, out, .. } = lb.run("check");
    let note =
        "note: what the kernel has of the tables is of generation 0, and 1 is in force, wanted the same";
    assert!(status.code() == 0 && out.contains(note), "{out}");
}

#[test]
fn a_service_that_drops_its_new_flows_is_a_warning() {
    let lb = Lb::new("no-backend");
    lb.with(FILE, "apply -");
    let _daemon = lb.daemon(9);
    assert_eq!(lb.run("check").status.code(), 0);
    lb.run("deactivate s1");
    let Ended { status, out, .. } = lb.run("check");
    assert!(
        status.code() == 1
            && out.contains("warning: service all is without an active backend, wanted with one"),
        "{out}"
    );
    assert!(out.contains("lbctl activate --service all BACKEND"), "{out}");
}

#[test]
fn other_commands_report_that_the_host_keeps_packets() {
    let mut lb = Lb::new("kept");
    lb.with(FILE, "apply -");
    let question = "which tcp 50.0.0.1 40000 10.0.0.0 80";
    assert_eq!(lb.run(question).err, "");
    lb.look = vip_on_lo;
    let ended = lb.run(question);
    assert!(ended.err.contains("10.0.0.0 is an address of this host, on lo"), "{}", ended.err);
    let json = lb.run(&format!("{question} --json"));
    assert!(json.err.is_empty() && json.out.contains(r#""host":"10.0.0.0 is an address"#), "{json:?}");
    let batch = lb.with("tcp 50.0.0.1 40000 10.0.0.0 80\n", "which --batch -");
    assert!(batch.out.contains(r#""host":"10.0.0.0 is an address"#), "{batch:?}");

    let mut region = lb.daemon(1);
    assert!(!lb.done("show").contains("host "));
    stats::write_host(&mut region, crate::host::Tally { errors: 2, warnings: 1 }).unwrap();
    assert!(lb.done("show").contains("host      errors 2, warnings 1: `lbctl check` tells them"));
    assert_eq!(lb.json("show --json")["lbd"]["host"], serde_json::json!({ "errors": 2, "warnings": 1 }));

    // What is so already holds up no other change; what would become so is refused while an lbd follows.
    let prefix = FILE.replace("\"10.0.0.0/32\"", "\"10.9.0.0/24\"");
    assert_ne!(prefix, FILE);
    let refused = lb.with(&prefix, "apply -");
    assert_eq!(refused.status, Status::Failed);
    assert!(
        refused
            .err
            .contains("VIP 10.9.0.0/24 is a prefix with addresses of this host in it: 10.9.0.7 (eth1)"),
        "{refused:?}"
    );
    assert!(refused.err.contains("nothing was changed") && lb.done("show").contains("10.0.0.0/32"));
    assert_eq!(lb.with(&prefix, "apply --dry-run -").status, Status::No);
    let allowed = prefix.replacen("interfaces", "allow_own_addresses = true\ninterfaces", 1);
    let other = FILE.replacen("queues", "kernel_entries = 99\nqueues", 1);
    for file in [&other, &allowed] {
        let applied = lb.with(file, "apply -");
        assert!(matches!(applied.status, Status::Done | Status::Pending), "{applied:?}");
    }
    drop(region);
    lb.with(&other, "apply -");
    let warned = lb.with(&prefix, "apply -");
    assert!(warned.status == Status::Done && warned.err.contains("10.9.0.7"), "{warned:?}");
}
