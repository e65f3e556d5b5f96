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
    assert!(out.contains("lbctl enable --service all BACKEND"), "{out}");
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

thread_local! {
    /// Whether something of the kernel's side was changed by another program.
    static SPOILED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn compare_spoiled(asked: &Asked<'_>) -> Result<Drift, DaemonError> {
    use crate::{
        plan::{
            nf_table::{Difference, Thing},
            routing::{Op, desired},
        },
        sys::nft::FallbackDifference,
    };
    if !SPOILED.get() {
        return Ok(Drift::default());
    }
    let chain = Thing::Chain("steer".to_owned());
    let desired = desired(asked.state).unwrap();
    let (_, device) = desired.devices.first_key_value().unwrap();
    let of = |table| desired.routes.iter().find(move |route| route.table == table).unwrap().clone();
    Ok(Drift {
        ruleset: vec![Difference::new(chain, "chain steer: rule 1 differs".to_owned())],
        routing: vec![Op::Ready(device.clone()), Op::AddRoute(of(20_001)), Op::AddRoute(of(254))],
        fallback: vec![FallbackDifference::Entries { service: 0, entries: 3 }],
        ..Drift::default()
    })
}

#[test]
fn a_difference_of_the_kernel_is_listed_with_what_it_breaks_and_what_mends_it() {
    let mut lb = Lb::new("drift");
    lb.compare = compare_spoiled;
    lb.with(FILE, "apply -");
    let daemon = lb.daemon(1);
    assert_eq!(lb.run("check").status.code(), 0);
    SPOILED.set(true);
    let Ended { status, out, .. } = lb.run("check");
    assert_eq!(status.code(), 2, "{out}");
    for line in [
        "error: table inet synrail is changed (chain steer: rule 1 differs), wanted as lbd has made it: packets to VIPs may be \
         dropped, or go where they should not; lbd mends it within ten seconds, or its log says why not",
        "error: device sr-1 is not set up as it should be (up, MTU, alias, sysctls), wanted",
        "error: fallback table of service web is changed (entries: 3)",
        "go back to the routers",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(out.contains("table 20001") && out.contains("packets to web/s1 all/s1 are lost"), "{out}");
    drop(daemon);
    let out = lb.run("check").out;
    assert!(out.contains("mended by `lbctl check --repair`, and when lbd starts"), "{out}");
    // Nothing is compared with a state that is not in force.
    lb.run("deactivate s1");
    assert!(!lb.run("check").out.contains("inet synrail is changed"));
}

#[test]
fn a_missing_table_is_listed_once() {
    let mut lb = Lb::new("no-table");
    lb.with(FILE, "apply -");
    drop(lb.daemon(1));
    lb.ruleset_counters = || Some(BTreeMap::new());
    lb.compare = |asked| {
        use crate::plan::nf_table::{Difference, Thing};
        let mut drift = compare_spoiled(asked)?;
        drift.ruleset.insert(0, Difference::new(Thing::Table, "there is no table".to_owned()));
        Ok(drift)
    };
    SPOILED.set(true);
    let out = lb.run("check").out;
    assert_eq!(out.matches("error: the ruleset is missing, wanted table inet synrail").count(), 1, "{out}");
    assert!(out.contains("mended by `lbctl check --repair`") && !out.contains("fallback table"), "{out}");
}

#[test]
fn a_repair_mends_what_the_check_names() {
    let mut lb = Lb::new("repair");
    lb.compare = compare_spoiled;
    lb.with(FILE, "apply -");
    drop(lb.daemon(1));
    let warned = lb.run("check --repair");
    assert!(warned.status == Status::Warnings && !warned.out.starts_with("mended: "), "{warned:?}");
    SPOILED.set(true);
    lb.mend = |asked| {
        assert!(asked.running.is_none());
        SPOILED.set(false);
        Ok(Vec::new())
    };
    let Ended { status, out, .. } = lb.run("check --repair");
    assert_eq!(status, Status::Warnings, "lbd does not run: {out}");
    assert!(out.contains("mended: table inet synrail was changed (chain steer: rule 1 differs)"), "{out}");
    assert!(!out.contains("error: "), "{out}");
    SPOILED.set(true);
    let json = lb.run("check --repair --json").out;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["status"], json["mended"].as_array().unwrap().len()), (&"warning".into(), 5));
    // What cannot be mended.
    SPOILED.set(true);
    lb.mend = |_| Err(DaemonError::NotAllowed);
    let Ended { status, out, .. } = lb.run("check --repair");
    assert!(status.code() == 2 && out.contains("the repair of the kernel's side is not done"), "{out}");
    assert!(out.contains("error: table inet synrail is changed") && !out.starts_with("mended: "), "{out}");
}

#[test]
fn where_an_lbd_runs_that_one_repairs() {
    let mut lb = Lb::new("by-lbd");
    lb.compare = |asked| {
        let drift = compare_spoiled(asked);
        // lbd does it while the second look waits.
        SPOILED.set(false);
        drift
    };
    lb.mend = |_| panic!("two must not repair at once");
    lb.with(FILE, "apply -");
    let _daemon = lb.daemon(1);
    SPOILED.set(true);
    let Ended { status, out, err } = lb.run("check --repair");
    assert!(status.code() == 0 && out.contains("mended: table inet synrail"), "{out}");
    assert!(err.contains("lbd runs, and mends this itself"), "{err}");
}

#[test]
fn what_may_not_be_looked_at_is_a_note() {
    let mut lb = Lb::new("no-rights");
    lb.with(FILE, "apply -");
    let _daemon = lb.daemon(1);
    lb.compare = |_| Err(DaemonError::NotAllowed);
    let Ended { status, out, .. } = lb.run("check --repair");
    assert!(status.code() == 0, "{out}");
    assert!(
        out.contains("note: the kernel's side is not compared") && out.contains("run it as root"),
        "{out}"
    );
    lb.compare = |_| Err(DaemonError::OtherKeeper { here: false });
    assert!(lb.run("check").out.contains("runs in another network namespace"));
}

#[test]
fn overrides_that_differ_from_the_region_are_listed_and_kept_again() {
    let lb = Lb::new("overrides");
    lb.with(FILE, "apply -");
    lb.run("deactivate --service web s1");
    let _daemon = lb.daemon(2);
    let Ended { status, out, .. } = lb.run("check");
    assert_eq!(status.code(), 0, "{out}");
    let file = fs::read_dir(lb.state.path()).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    for spoil in [None, Some(&b"{"[..]), Some(br#"{"version":1,"overrides":[]}"#)] {
        match spoil {
            None => fs::remove_file(&file).unwrap(),
            Some(text) => fs::write(&file, text).unwrap(),
        }
        let Ended { status, out, .. } = lb.run("check");
        assert!(status.code() == 1 && out.contains("warning: overrides in "), "{out}");
        let Ended { status, out, .. } = lb.run("check --repair");
        assert!(status.code() == 0 && out.contains("mended: overrides in "), "{out}");
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&file, open).unwrap();
    let out = lb.run("check").out;
    assert!(out.contains("with mode 0666, so others may have written it"), "{out}");
    assert_eq!(lb.run("check --repair").status.code(), 0);
}
