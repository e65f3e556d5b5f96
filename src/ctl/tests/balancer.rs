//! Which VIPs are announced and why others are not, and the balancer that is drained.

use super::*;

/// The second service has no backend that gets new flows.
const FILE: &str = "
balancer = { name = 'lb201', address = '192.168.1.201', interfaces = ['eth0'], announce_table = 201 }
service = [
    { name = 'web', vips = ['10.0.0.1', '10.0.0.3'], table_size = 97, backend = { name = 's1', address = '192.168.1.1' } },
    { name = 'api', vips = ['10.0.0.2'], table_size = 97,
      backend = { name = 's2', address = '192.168.1.2', active = false } } ]";

/// The kernel has one of the VIPs.
fn announcing(test: &str) -> Lb {
    let mut lb = Lb::new(test);
    lb.announced = |table| (table == 201).then(|| BTreeSet::from(["10.0.0.1/32".parse().unwrap()]));
    lb.with(FILE, "apply -");
    lb
}

/// The lines of the table.
fn vips(lb: &Lb) -> Vec<String> {
    let out = lb.done("balancer");
    let lines = out.lines().filter(|line| line.starts_with("  10."));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

const TOO_FEW: &str = "service api has 0 usable backends, and announce_min is 1";

#[test]
fn what_is_never_announced_is_a_warning_of_apply_and_check() {
    let lb = Lb::new("never-announced");
    let file = FILE.replace("'web',", "'web', announce_min = 2,");
    let warning = "service web: announce_min is 2, more than the 1 backends that it";
    for line in ["apply --dry-run -", "apply -"] {
        let ended = lb.with(&file, line);
        assert!(ended.err.contains(warning), "{line}: {ended:?}");
    }
    let out = lb.run("check").out;
    assert!(out.contains("warning: announce_min of service web is 2, wanted at most 1"), "{out}");
    assert!(!announcing("may-be-announced").run("check").out.contains("announce_min of"));
}

#[test]
fn each_vip_is_announced_or_says_why_not() {
    let lb = announcing("announced");
    let without_lbd = "no lbd runs: `lbctl check --repair` announces it";
    let expected = |held: &str| {
        ["10.0.0.1/32 yes".to_owned(), format!("10.0.0.2/32 no {TOO_FEW}"), format!("10.0.0.3/32 no {held}")]
    };
    assert_eq!(vips(&lb), expected(without_lbd));
    let _region = lb.daemon(1);
    assert_eq!(
        vips(&lb),
        expected("it could not be served, and comes back when it has been served for a while")
    );
    let show = lb.done("show");
    assert!(show.contains("announce  1 of 3 VIPs by table 201\n"), "{show}");
    let json = lb.json("balancer --json");
    assert_eq!((&json["table"], &json["enabled"]), (&201.into(), &true.into()));
    assert_eq!(json["vips"][1]["why"], TOO_FEW);
    assert_eq!(lb.json("show --json")["announce"], json);
    let metrics = lb.done("metrics");
    for line in [
        "synrail_vip_announced{vip=\"10.0.0.1/32\"} 1\n",
        "synrail_vip_announced{vip=\"10.0.0.2/32\"} 0\n",
        "synrail_balancer_enabled 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn a_drained_balancer_shows_the_user_and_the_reason() {
    let lb = announcing("drained");
    let said = lb.done("balancer drain --reason kernel");
    assert!(said.starts_with("balancer lb201: now draining\n"), "{said}");
    let order = "draining by tester since 1970-01-01T00:16:40Z: kernel";
    assert_eq!(
        vips(&lb),
        [
            format!("10.0.0.1/32 yes {order}"),
            format!("10.0.0.2/32 no {order}"),
            format!("10.0.0.3/32 no {order}")
        ]
    );
    assert!(lb.done("show").contains(&format!("announce  1 of 3 VIPs by table 201; {order}\n")));
    assert!(lb.done("metrics").contains("synrail_balancer_enabled 0\n"));
    let check = lb.run("check").out;
    assert!(check.contains("warning: this balancer is draining by tester"), "{check}");
    // A file says nothing about it, and it outlives the region.
    lb.with(FILE, "apply -");
    Region::remove(&lb.name).unwrap();
    lb.with(FILE, "apply -");
    assert!(lb.done("balancer").contains(order));
    assert!(lb.done("balancer enable").starts_with("balancer lb201: now enabled\n"));
    assert_eq!(vips(&lb)[0], "10.0.0.1/32 yes");
    assert!(lb.done("balancer enable").contains("nothing to change"));
}

#[test]
fn without_a_table_nothing_is_announced() {
    let lb = Lb::new("untabled");
    lb.with(&FILE.replacen(", announce_table = 201", "", 1), "apply -");
    assert!(lb.done("balancer").contains("announce  nothing: [balancer] announce_table is not set\n"));
    assert!(!lb.done("show").contains("announce "));
    let ended = lb.run("balancer drain");
    assert!(ended.err.contains("announce_table is not set"), "{ended:?}");
    lb.run("balancer enable");
    // A table that cannot be read.
    lb.with(FILE, "apply -");
    assert_eq!(vips(&lb)[0], "10.0.0.1/32 ?");
    assert!(!lb.done("metrics").contains("synrail_vip_announced"));
}
