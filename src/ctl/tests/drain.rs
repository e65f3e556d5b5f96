//! `drain --wait`, `disable`, `enable` and `kill`.

use std::{
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use super::*;
use crate::shm::stats::Pins;

/// An lbd that takes over what is published, until it is told to end. It counts `ended` flows for each kill.
fn lbd_runs<T>(lb: &Lb, ended: u64, what: impl FnOnce() -> T) -> T {
    let mut region = lb.daemon(1);
    let (end, ends) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut pins = Pins::default();
            while ends.recv_timeout(Duration::from_millis(2)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let Ok((generation, state)) = region.state() else { continue };
                let killed = state.services.iter().flat_map(|service| &service.backends);
                let killed = killed.map(|backend| backend.killed).max().unwrap_or(0);
                if killed > pins.killed {
                    pins = Pins { killed, ended: pins.ended + ended, ..pins };
                }
                pins.write(&mut region).unwrap();
                let daemon = Daemon {
                    pid: 42,
                    adopted: generation,
                    in_kernel: generation,
                    started_unix_seconds: 900,
                    workers: 2,
                };
                daemon.write(&mut region).unwrap();
            }
        });
        let result = what();
        drop(end);
        result
    })
}

/// As in the next test: one flow at each count but the third.
static COUNTS: AtomicU32 = AtomicU32::new(0);

#[test]
fn drain_waits_until_no_flow_is_left() {
    let mut lb = Lb::new("drain");
    lb.off_table = || Ok(OffTable::default());
    lb.tracked = |marked, each| {
        let marked = marked.unwrap();
        assert_eq!((marked.value, marked.mask), (1, 0xffff), "only flows of s1 are asked for");
        if COUNTS.fetch_add(1, Ordering::Relaxed) < 2 {
            each(&flows::seen(1, "10.0.0.1", 80, false))
        } else {
            Ok(())
        }
    };
    lb.adoption_wait = Duration::from_secs(20);
    lb.with(FILE, "apply -");
    lbd_runs(&lb, 0, || {
        let ended = lb.run("drain s1 --service all --wait --timeout 1m");
        assert_eq!(ended.status, Status::Done, "{ended:?}");
        assert!(ended.out.starts_with("all/s1: now draining\nin force: generation 2\n"), "{}", ended.out);
        assert!(ended.out.ends_with("drained: no flow is left\n"), "{}", ended.out);
        assert!(ended.err.ends_with("lbctl: 1 flow left, 0 ended, 0.0 a second\n"), "{}", ended.err);
        // Again, at once.
        let again = lb.run("drain s1 --service all --wait --json");
        let lines: Vec<Value> = again.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["published"], &lines[1]["drained"]), (&false.into(), &true.into()));
        assert_eq!((&lines[1]["flows"], &lines[1]["closing"]), (&0.into(), &0.into()));
    });
}

#[test]
fn drain_ends_at_its_time_with_a_status_of_its_own() {
    let mut lb = Lb::new("patience");
    lb.off_table = || Ok(OffTable::default());
    lb.tracked = |_, each| each(&flows::seen(1, "10.0.0.1", 80, false));
    lb.adoption_wait = Duration::from_secs(20);
    lb.with(FILE, "apply -");
    lbd_runs(&lb, 0, || {
        let ended = lb.run("drain s1 --service all --wait --timeout 1");
        assert_eq!((ended.status, ended.status.code()), (Status::TimedOut, 5));
        assert!(ended.out.contains("not drained: 1 flow left after"), "{}", ended.out);
        assert!(ended.out.contains("`lbctl flows s1` lists them"), "{}", ended.out);
    });
    // Interrupted or not, it stays as it is.
    assert!(lb.done("backends --service all").contains("draining"));
}

#[test]
fn what_keeps_drain_from_waiting_is_reported() {
    let mut lb = Lb::new("nowait");
    lb.with(FILE, "apply -");
    let ended = lb.run("drain s2 --wait");
    assert_eq!(ended.status, Status::Pending, "{ended:?}");
    assert!(
        ended.err.contains("no lbd decides by this yet, so new flows may still begin there"),
        "{}",
        ended.err
    );
    lb.may_ask_about_flows = || false;
    lb.refused("drain s1 --service web --wait", Status::Failed, "CAP_NET_ADMIN");
    assert_eq!(lb.active(), ["s1"], "nothing was changed");
    assert_eq!(lb.run("drain s1 --service all").status, Status::Done, "to say so takes none");
    lb.refused("drain s1 --timeout 5m", Status::Usage, "--wait");
    for bad in ["0", "", "5d", "1.5h", "+5", "-1", "169h", "99999999999999999999"] {
        lb.refused(&format!("drain s1 --wait --timeout={bad}"), Status::Usage, "timeout");
    }
}

#[test]
fn the_words_of_an_operator_are_draining_disabled_and_enabled() {
    let lb = Lb::new("admin");
    lb.with(FILE, "apply -");
    let now = |command: &str, is: &str| {
        let said = lb.done(&format!("{command} --service web s1 --reason disk"));
        assert!(said.starts_with(&format!("web/s1: now {is}\n")), "{command}: {said}");
        let backend = &lb.json("backends --service web --json")[0];
        assert_eq!(backend["admin"], is);
        assert_eq!(backend["active"], is == "enabled");
    };
    now("drain", "draining");
    assert!(lb.done("deactivate --service web s1").contains("web/s1: already draining\nnothing to change\n"));
    now("disable", "disabled");
    assert!(lb.done("show").contains("  s1: disabled by tester since "), "{}", lb.done("show"));
    now("deactivate", "draining");
    now("disable", "disabled");
    lb.done("enable --service web s1");
    assert!(lb.done("activate --service web s1").contains("web/s1: already enabled\nnothing to change\n"));
    assert_eq!(lb.active(), ["s1", "s2"]);
    // It outlives the region, as what it is.
    now("disable", "disabled");
    Region::remove(&lb.name).unwrap();
    lb.with(FILE, "apply -");
    assert_eq!(lb.json("backends --service web --json")[0]["admin"], "disabled");
    // The file can only say that new flows stay away.
    let off = FILE.replacen("name = \"s2\"", "name = \"s2\"\nactive = false", 1);
    lb.with(&off, "apply -");
    assert_eq!(lb.json("backends --service web --json")[1]["admin"], "draining");
}

#[test]
fn kill_says_how_many_flows_lbd_has_ended() {
    let mut lb = Lb::new("kill");
    lb.with(FILE, "apply -");
    let ended = lb.run("kill s1");
    assert_eq!(ended.status, Status::Pending, "{ended:?}");
    assert!(
        ended.err.contains("no lbd follows this region now: the flows are ended when one starts"),
        "{ended:?}"
    );
    // An lbd that runs and does not do it.
    let region = lb.daemon(100);
    let ended = lb.run("kill s1");
    assert_eq!(ended.status, Status::Pending);
    assert!(ended.err.contains("lbd (process 42) has not ended the flows yet"), "{ended:?}");
    drop(region);
    lb.adoption_wait = Duration::from_secs(20);
    lbd_runs(&lb, 7, || {
        lb.run("drain s1 --service web");
        assert_eq!(lb.done("kill --service web s1"), "web/s1: 7 flows ended\n");
        let ended = lb.run("kill s1 --json");
        assert_eq!(
            ended.err,
            "lbctl: warning: all/s1 may get the same flows again, being enabled; `lbctl disable s1` ends them for good\n"
        );
        let ended: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!((&ended["ended"], &ended["lbd"]), (&7.into(), &"in_force".into()));
        assert_eq!(
            (ended["backends"].as_array().unwrap().len(), &ended["enabled"][0]),
            (2, &"all/s1".into())
        );
    });
    lb.refused("kill s9", Status::Failed, "no backend \"s9\" in any service; there are: s1, s2");
    lb.refused("kill", Status::Usage, "BACKEND");
}
