//! `metrics`: what Prometheus reads.

use super::*;
use crate::{
    balance::counters::{Counter, Counters},
    model::ids::{QueueNum, TargetId},
    shm::stats::Identity,
    status::metrics::families,
};

/// A region that an lbd follows, whose first worker has counted.
fn counted(test: &str) -> (Lb, Region) {
    let mut lb = Lb::new(test);
    lb.with(FILE, "apply -");
    let mut region = lb.daemon(1);
    let mut counters = Counters::default();
    counters.add(Counter::SteeredSyn, 3);
    counters.count(Counter::DropNoBackend);
    counters.add(Counter::Packets, 4);
    for _ in 0..3 {
        counters.count_target(TargetId::new(0).unwrap());
    }
    shown::write(&mut region, 0, Identity { queue: QueueNum(0), fragments: false }, &mut counters).unwrap();
    shown::write_host(&mut region, crate::host::Tally { errors: 2, warnings: 1 }).unwrap();
    let net = lb.proc.path().join("net/netfilter");
    fs::create_dir_all(&net).unwrap();
    fs::write(net.join("nfnetlink_queue"), "    0   42     3 2   256    10    20      300  1\n").unwrap();
    fs::write(lb.proc.path().join("net/dev"), "  sr-1: 0 0 0 0 0 0 0 0 4200 30 0 1 0 0 0 0\n").unwrap();
    let conntrack = lb.proc.path().join("sys/net/netfilter");
    fs::create_dir_all(&conntrack).unwrap();
    fs::write(conntrack.join("nf_conntrack_count"), "700\n").unwrap();
    fs::write(conntrack.join("nf_conntrack_max"), "1000\n").unwrap();
    lb.given = || BTreeMap::from([(1, 5)]);
    lb.ruleset_counters = || Some([("handshake".to_owned(), 2), ("by_kernel".to_owned(), 5)].into());
    (lb, region)
}

#[test]
fn what_is_counted_is_printed() {
    let (lb, _region) = counted("metrics");
    let text = lb.done("metrics");
    for line in [
        "# TYPE synrail_steered_packets_total counter",
        r#"synrail_steered_packets_total{kind="syn"} 3"#,
        r#"synrail_dropped_packets_total{reason="no_backend"} 1"#,
        "# HELP synrail_worker_packets_total Packets that came through the queue.",
        "synrail_worker_packets_total 4",
        r#"synrail_ruleset_packets_total{counter="by_kernel"} 5"#,
        r#"synrail_queue_waiting_packets{queue="0"} 3"#,
        r#"synrail_queue_packets_total{queue="0"} 300"#,
        r#"synrail_queue_dropped_packets_total{queue="0",full="queue"} 10"#,
        r#"synrail_queue_dropped_packets_total{queue="0",full="socket"} 20"#,
        "synrail_conntrack_entries 700",
        "synrail_conntrack_entries_max 1000",
        "synrail_generation 1",
        "synrail_adopted_generation 1",
        "synrail_kernel_generation 1",
        "synrail_lbd_up 1",
        "synrail_lbd_start_time_seconds 900",
        "synrail_ruleset_present 1",
        r#"synrail_host_findings{severity="error"} 2"#,
        "# TYPE synrail_build_info gauge",
        r#"synrail_services{decider="lbd"} 2"#,
        r#"synrail_backend_active{service="web",backend="s1"} 1"#,
        r#"synrail_backend_share_ratio{service="all",backend="s1"} 1.0"#,
        r#"synrail_target_info{target="1",service="web",backend="s1",encap="gre",address="192.168.1.1",device="sr-1"} 1"#,
        r#"synrail_target_steered_packets_total{target="1",by="lbd"} 3"#,
        r#"synrail_target_steered_packets_total{target="1",by="kernel"} 5"#,
        r#"synrail_target_sent_bytes_total{target="1"} 4200"#,
        r#"synrail_target_lost_packets_total{target="1"} 1"#,
    ] {
        assert!(text.lines().any(|is| is == line), "{line}: {text}");
    }
    let digest = lb.json("show --json")["services"][0]["table_digest"].clone();
    let info = format!(r#"synrail_table_info{{service="web",digest={digest}}} 1"#);
    assert!(text.contains(&info), "{info}: {text}");
    assert!(!text.contains("EOF"));
}

#[test]
fn every_series_has_the_labels_of_its_family() {
    let (lb, _region) = counted("labels");
    let families = lb.json("metrics --json");
    for family in families.as_array().unwrap() {
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let declared = family["labels"].as_array().unwrap().iter();
        let declared = sorted(declared.map(|one| one.as_str().unwrap().to_owned()).collect());
        for sample in family["samples"].as_array().unwrap() {
            let has = sorted(sample["labels"].as_object().unwrap().keys().cloned().collect());
            assert_eq!(has, declared, "{}", family["name"]);
        }
    }
}

#[test]
fn openmetrics_ends_and_names_its_types() {
    let (lb, _region) = counted("openmetrics");
    let text = lb.done("metrics --openmetrics");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    for line in [
        "# TYPE synrail_build info",
        "# TYPE synrail_steered_packets counter",
        r#"synrail_steered_packets_total{kind="syn"} 3"#,
    ] {
        assert!(text.lines().any(|is| is == line), "{line}: {text}");
    }
    lb.refused("metrics --openmetrics --json", Status::Usage, "cannot be used with");
}

#[test]
fn scopes_are_all_there_is_and_choose() {
    let (lb, _region) = counted("scopes");
    let names = |line: &str| -> Vec<String> {
        let families = lb.json(line);
        families.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = names("metrics --json");
    let each: Vec<String> = ["lbd", "packets", "services", "backends", "targets"]
        .iter()
        .flat_map(|scope| names(&format!("metrics --json --scope {scope}")))
        .collect();
    assert_eq!(all, each);
    assert_eq!(
        names("metrics --json --scope services --scope lbd"),
        names("metrics --json --scope lbd,services")
    );
    let services = names("metrics --json --scope services");
    assert!(services.iter().all(|name| name.starts_with("synrail_service_") || name == "synrail_table_info"));
    lb.refused("metrics --scope users", Status::Usage, "possible values: lbd, packets, services");
}

#[test]
fn a_file_is_replaced_as_a_whole_or_stays() {
    let (lb, _region) = counted("file");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("synrail.prom");
    fs::write(&file, "old").unwrap();
    assert_eq!(lb.done(&format!("metrics --output {}", file.display())), "");
    assert_eq!(fs::read_to_string(&file).unwrap(), lb.done("metrics"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let nowhere = directory.path().join("none/synrail.prom");
    lb.refused(&format!("metrics --output {}", nowhere.display()), Status::Failed, "the file is as it was");
}

#[test]
fn a_region_that_cannot_be_read_is_a_metric() {
    let lb = Lb::new("unreadable");
    let Ended { status, out, err } = lb.run("metrics");
    assert!(status == Status::Failed && err.contains("there is no region"), "{err}");
    assert!(out.contains("\nsynrail_region_readable 0\n") && out.contains("synrail_build_info"), "{out}");
    assert!(!out.contains("synrail_generation"), "{out}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("synrail.prom");
    assert_eq!(lb.run(&format!("metrics --output {}", file.display())).status, Status::Failed);
    assert!(fs::read_to_string(&file).unwrap().contains("synrail_region_readable 0"));
}

#[test]
fn without_lbd_its_metrics_are_missing_and_counters_stay() {
    let (lb, region) = counted("gone");
    drop(region);
    let text = lb.done("metrics");
    assert!(text.contains("\nsynrail_lbd_up 0\n"), "{text}");
    for name in ["synrail_lbd_answering", "synrail_lbd_start_time", "synrail_host_findings"] {
        assert!(!text.contains(name), "{name}: {text}");
    }
    assert!(text.contains(r#"synrail_steered_packets_total{kind="syn"} 3"#), "{text}");
}

#[test]
fn names_follow_the_conventions_and_are_unique() {
    let mut names = Vec::new();
    for family in families(None) {
        let name = family.name.as_str();
        assert!(
            name.starts_with("synrail_") && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()),
            "{name}"
        );
        use crate::status::metrics::Kind;
        assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_info"), family.kind == Kind::Info, "{name}");
        assert!(family.help.ends_with('.') && !family.help.contains(".."), "{name}: {}", family.help);
        names.push(family.name);
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn rules_and_dashboard_name_metrics_that_there_are() {
    let families = families(None);
    let known = |name: &str| families.iter().any(|family| family.name == name);
    let rules = include_str!("../../../dist/prometheus/synrail.rules.yml");
    let tests = include_str!("../../../dist/prometheus/tests.yml");
    let page = include_str!("../../../dist/grafana/synrail.json");
    for (file, text) in [("rules", rules), ("tests", tests), ("dashboard", page)] {
        let is_of_name = |c: char| c == '_' || c.is_ascii_lowercase();
        let names = text.split(|c| !is_of_name(c)).filter(|word| word.starts_with("synrail_"));
        let names: BTreeSet<&str> = names.collect();
        assert!(names.len() > 10, "{file}: {names:?}");
        for name in names {
            assert!(known(name), "{file}: there is no metric {name}");
        }
    }
    let page: Value = serde_json::from_str(page).unwrap();
    let panels = page["panels"].as_array().unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            assert!(target["expr"].as_str().unwrap().contains("synrail_"), "{}", panel["title"]);
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}

#[test]
fn what_agents_report_is_printed_and_shown() {
    use crate::{
        model::{AgentHealth, AgentMode, Name, Override, Percent, Remark, Reported, Silent},
        state::Report,
    };
    let lb = Lb::new("agents");
    let health = "table_size = 97\nhealth = { kind = \"tcp\", agent_port = 5555 }";
    assert_eq!(lb.with(&FILE.replacen("table_size = 97", health, 1), "apply -").status, Status::Done);
    let mut region = lb.daemon(1);
    let since = Override::time(1000);
    let half = Reported { weight_percent: Percent::nearest(50), ..Reported::nothing(since) };
    let silent = Some(Silent { since, reason: Remark::new("connection refused").unwrap() });
    let down = Reported {
        health: AgentHealth::Down,
        reason: Remark::new("no database"),
        silent,
        ..Reported::nothing(since)
    };
    let service = || Name::new("web").unwrap();
    let reports = [("s1", half), ("s2", down)].map(|(backend, reported)| Report {
        service: service(),
        backend: Name::new(backend).unwrap(),
        reported,
    });
    let changed =
        region.update(|state| Ok::<_, crate::sys::region::AccessError>((Some(state.hear(&reports)), ())));
    changed.unwrap();
    let text = lb.done("metrics");
    for line in [
        r#"synrail_backend_agent_weight_ratio{service="web",backend="s1"} 0.5"#,
        r#"synrail_backend_agent_weight_ratio{service="web",backend="s2"} 1.0"#,
        r#"synrail_backend_agent_answers{service="web",backend="s1"} 1"#,
        r#"synrail_backend_agent_answers{service="web",backend="s2"} 0"#,
        r#"synrail_backend_up{service="web",backend="s2"} 0"#,
        r#"synrail_backend_down_info{service="web",backend="s2",reason="agent: down: no database"} 1"#,
        "synrail_backends_down 1",
    ] {
        assert!(text.lines().any(|is| is == line), "{line}: {text}");
    }
    assert!(!text.contains(r#"synrail_backend_up{service="web",backend="s1""#), "checks have found nothing");
    for (command, s1, s2) in [("show", "  s1", "  s2"), ("backends", "  web/s1", "  web/s2")] {
        let text = lb.done(command);
        let at = "since 1970-01-01T00:16:40Z";
        for line in [
            format!("{s1}: agent: 50% {at}"),
            format!("{s2}: agent: 100%, down {at}: no database; silent {at}: connection refused"),
        ] {
            assert!(text.lines().any(|is| is == line), "{line}: {text}");
        }
        assert!(text.contains("50% of "), "{text}");
    }
    assert!(lb.done("show").contains("; agent port 5555, every 2000 ms"));
    let backends: Value = serde_json::from_str(&lb.done("backends --json")).unwrap();
    let s1 = backends.as_array().unwrap().iter().find(|one| one["service"] == "web" && one["name"] == "s1");
    assert_eq!(s1.unwrap()["reported"]["weight_percent"], 50);
    let checked = lb.run("check").out;
    let said =
        "warning: agent on backend web/s2 is 100%, down since 1970-01-01T00:16:40Z: no database; silent";
    let advice = "it gets no new flows until its agent reports `up`";
    assert!(checked.lines().any(|line| line.starts_with(said) && line.contains(advice)), "{checked}");

    // Nothing that an operator can enable.
    let drained = Reported { mode: AgentMode::Drain, ..Reported::nothing(since) };
    let reports = ["s1", "s2"].map(|backend| Report {
        service: service(),
        backend: Name::new(backend).unwrap(),
        reported: drained.clone(),
    });
    let changed =
        region.update(|state| Ok::<_, crate::sys::region::AccessError>((Some(state.hear(&reports)), ())));
    changed.unwrap();
    let checked = lb.run("check").out;
    let (said, advice) = ("note: agent on backend web/s1 is 100%, drain", "until its agent reports `ready`");
    assert!(checked.lines().any(|line| line.starts_with(said) && line.contains(advice)), "{checked}");
    let which = lb.run("which tcp 50.0.0.1 40000 10.0.0.0 80").out;
    assert!(which.contains("`lbctl show` says") && !which.contains("lbctl enable"), "{which}");
}

#[test]
fn what_health_checks_found_is_printed_with_its_reason() {
    use crate::{
        model::{Health, Name, Observed, Override, Remark},
        state::Observation,
    };
    let lb = Lb::new("health");
    assert!(!families(None).is_empty());
    let file = FILE.replacen("table_size = 97", "table_size = 97\nhealth = { kind = \"tcp\" }", 1);
    assert_eq!(lb.with(&file, "apply -").status, Status::Done);
    let mut region = lb.daemon(1);
    let found = |backend, health, reason| Observation {
        service: Name::new("web").unwrap(),
        backend: Name::new(backend).unwrap(),
        observed: Observed { health, since: Override::time(1000), reason: Remark::new(reason).unwrap() },
    };
    let found = [found("s1", Health::Up, "connected"), found("s2", Health::Down, "it said \"no\": refused")];
    let changed =
        region.update(|state| Ok::<_, crate::sys::region::AccessError>((Some(state.observe(&found)), ())));
    changed.unwrap();
    let text = lb.done("metrics");
    for line in [
        r#"synrail_backend_up{service="web",backend="s1"} 1"#,
        r#"synrail_backend_up{service="web",backend="s2"} 0"#,
        r#"synrail_backend_enabled{service="web",backend="s2"} 1"#,
        r#"synrail_backend_active{service="web",backend="s2"} 0"#,
        r#"synrail_backend_down_info{service="web",backend="s2",reason="it said \"no\": refused"} 1"#,
        r#"synrail_service_panic{service="web"} 0"#,
        "synrail_backends_down 1",
        "synrail_services_in_panic 0",
        "synrail_agent_running 0",
    ] {
        assert!(text.lines().any(|is| is == line), "{line}: {text}");
    }
    assert!(!text.contains(r#"synrail_backend_up{service="all""#), "{text}");
    let beat = shown::Beat { pid: 77, not_made: 0, at: Duration::from_millis(4_999_500) };
    beat.write(&mut region).unwrap();
    let text = lb.done("metrics --scope lbd");
    assert!(
        text.contains("\nsynrail_agent_running 1\n") && text.contains("\nsynrail_agent_silent_seconds 0.5\n"),
        "{text}"
    );
}
