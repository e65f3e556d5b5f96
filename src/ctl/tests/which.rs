//! `which`: where a flow goes, and why.

use super::*;

#[test]
fn which_names_the_backend_and_the_reason() {
    let lb = Lb::new("which");
    lb.with(FILE, "apply -");
    let text = lb.done("which tcp 50.0.0.1 40000 10.0.0.0 80");
    assert!(
        text.contains(
            "10.0.0.0 tcp port 80 belongs to service web: 10.0.0.0/32, port 80, before all (one port)"
        ),
        "{text}"
    );
    let answer = lb.json("which tcp 50.0.0.1 40000 10.0.0.0 80 --json");
    // It is what lbd would do, and the table that `show` prints.
    let show = lb.json("show --json");
    let index = usize::try_from(answer["index"].as_u64().unwrap()).unwrap();
    assert_eq!(show["services"][0]["table"][index], answer["rank"]);
    let rank = usize::try_from(answer["rank"].as_u64().unwrap()).unwrap();
    assert_eq!(show["services"][0]["active"][rank], answer["backend"]);
    assert_eq!(answer["device"], format!("sr-{}", answer["number"]));
    assert_eq!(lb.json("which icmp 50.0.0.1 - 10.0.0.7 - --json")["service"], "all");
    // By source alone.
    let index =
        |port: u16| lb.json(&format!("which udp 50.0.0.1 {port} 10.0.0.1 53 --json"))["index"].clone();
    assert_eq!(index(1), index(2));
}

#[test]
fn which_names_the_rule_of_precedence() {
    const NESTED: &str = "[balancer]\nname='lb'\ninterfaces='eth1'\naddress=['192.168.1.201','fd00::201']\n\
        [[service]]\nname='net'\nvips=['10.0.0.0/24','1000::/112']\nprotocols='tcp'\ntable_size=97\n\
        [[service]]\nname='any'\nvips='10.0.0.0/28'\ntable_size=97\n\
        [[service]]\nname='host'\nvips=['10.0.0.5','1000::5']\nprotocols='tcp'\nports='80-90'\ntable_size=97\n\
        [[service]]\nname='port'\nvips='10.0.0.5'\nprotocols='tcp'\nports='85'\ntable_size=97\n\
        [[service]]\nname='same'\nvips='10.0.0.5'\ntable_size=97\n";
    let lb = Lb::new("precedence");
    lb.with(NESTED, "apply -");
    for (flow, why) in [
        (
            "icmp 50.0.0.1 - 10.0.0.5 -",
            "10.0.0.5 icmp belongs to service same: 10.0.0.5/32, before net (longer prefix), any (longer prefix), host (takes every protocol), port (takes every protocol)",
        ),
        (
            "icmp 2000::1 - 1000::5 -",
            "1000::5 icmp belongs to service host: 1000::5/128, before net (longer prefix)",
        ),
        (
            "tcp 50.0.0.1 1 10.0.0.5 85",
            "service port: 10.0.0.5/32, port 85, before net (one port), any (one port), host (one port), same (one port)",
        ),
        (
            "tcp 50.0.0.1 1 10.0.0.5 86",
            "service host: 10.0.0.5/32, ports 80-90, before net (a range of ports)",
        ),
        (
            "tcp 50.0.0.1 1 10.0.0.5 1",
            "service same: 10.0.0.5/32, before net (longer prefix), any (longer prefix)",
        ),
        ("tcp 50.0.0.1 1 10.0.0.77 1", "service net: 10.0.0.0/24, all ports"),
        ("50 50.0.0.1 - 10.0.0.5 -", "service same: 10.0.0.5/32, before any (longer prefix)"),
    ] {
        let text = lb.run(&format!("which {flow}")).out;
        assert!(text.contains(why), "{flow}: {text}");
    }
}

#[test]
fn which_names_the_reason_for_no_backend() {
    let lb = Lb::new("whynot");
    lb.with(FILE, "apply -");
    for (flow, why) in [
        ("tcp 2000::1 40000 1000:: 81", "service web there claims tcp udp, ports 80 8000-8010"),
        ("tcp 50.0.0.1 40000 10.0.1.0 80", "10.0.1.0 is no service's address"),
    ] {
        let ended = lb.run(&format!("which {flow}"));
        assert_eq!(ended.status, Status::No);
        assert!(ended.out.starts_with("not steered\n") && ended.out.contains(why), "{}", ended.out);
    }
    lb.run("deactivate --service web s1 s2");
    let ended = lb.run("which tcp 50.0.0.1 40000 10.0.0.0 80 --json");
    let answer: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(
        (ended.status, &answer["service"], &answer["index"]),
        (Status::No, &Value::from("web"), &Value::Null)
    );
    for bad in [
        "tcp 1",
        "tcp 50.0.0.1 1 1000:: 1",
        "xyz 50.0.0.1 1 10.0.0.0 1",
        "tcp 50.0.0.1 - 10.0.0.0 80",
        "300 a 1 b 1",
    ] {
        assert_eq!(lb.run(&format!("which {bad}")).status, Status::Usage, "{bad}");
    }
}

/// "web" and "dns" have no active backend, "spare" has one.
const WITHOUT: &str = "[balancer]\nname='lb'\ninterfaces='eth1'\naddress='192.168.1.201'\n\
    [[service]]\nname='web'\nvips='10.0.0.1'\nprotocols='tcp'\ntable_size=97\nno_backend='service:spare'\n\
    backend=[{name='s1',address='192.168.1.1',active=false}]\n\
    [[service]]\nname='dns'\nvips='10.0.0.2'\nprotocols='udp'\ntable_size=97\nno_backend='reject'\n\
    [[service]]\nname='spare'\nvips='10.0.0.3'\ntable_size=97\nbackend=[{name='s2',address='192.168.1.2'}]\n";

#[test]
fn flows_of_services_without_a_backend_are_explained() {
    let lb = Lb::new("instead");
    lb.with(WITHOUT, "apply -");
    let text = lb.done("which tcp 50.0.0.1 40000 10.0.0.1 80");
    assert!(text.starts_with("service  web\nbackend  s2 of service spare\n"), "{text}");
    assert!(text.contains("new flows go to those of service spare, as no_backend says"), "{text}");
    let answer = lb.json("which tcp 50.0.0.1 40000 10.0.0.1 80 --json");
    assert_eq!([&answer["service"], &answer["of_service"]], ["web", "spare"]);
    assert_eq!(lb.json("which tcp 50.0.0.1 40000 10.0.0.3 80 --json")["of_service"], Value::Null);
    let ended = lb.run("which udp 50.0.0.1 40000 10.0.0.2 53");
    assert_eq!(ended.status, Status::No);
    assert!(ended.out.starts_with("not steered: rejected\n"), "{}", ended.out);
    assert!(ended.out.contains("so its new flows are rejected; `lbctl enable"), "{}", ended.out);
    let out = lb.run("deactivate s2");
    let warns = |name: &str| format!("service \"{name}\" has no active backend: its new flows are dropped");
    assert!(out.err.contains(&warns("web")) && out.err.contains(&warns("spare")), "{}", out.err);
    assert!(!out.err.contains("\"dns\""), "nothing has changed for it: {}", out.err);
    let ended = lb.run("which tcp 50.0.0.1 40000 10.0.0.1 80");
    assert!(
        ended.out.starts_with("not steered\n") && ended.out.contains("nor is one of service spare"),
        "{}",
        ended.out
    );
}

#[test]
fn show_and_check_tell_which_services_have_no_backend_and_what_their_flows_do() {
    let lb = Lb::new("instead-shown");
    lb.with(WITHOUT, "apply -");
    let _daemon = lb.daemon(1);
    let show = lb.done("show");
    for says in [
        "  no backend service:spare: NOW its new flows go to the backends of service spare\n",
        "  no backend reject: NOW its new flows are rejected\n",
        "  no backend drop\n",
    ] {
        assert!(show.contains(says), "{show}");
    }
    let services = &lb.json("show --json")["services"];
    let of = |key: &str| [0, 1, 2].map(|index: usize| services[index][key].clone());
    assert_eq!(of("no_backend"), ["service:spare", "reject", "drop"]);
    assert_eq!(of("served_by"), [Value::from("spare"), Value::Null, Value::from("spare")]);
    assert_eq!(of("rejected"), [false, true, false]);
    assert_eq!(services[0]["table"], services[2]["table"]);
    let Ended { status, out, .. } = lb.run("check");
    assert_eq!(status.code(), 1, "{out}");
    for says in [
        "service web is without an active backend, wanted with one: its new flows go to the backends of service spare: lbctl enable --service web BACKEND",
        "service dns is without an active backend, wanted with one: its new flows are rejected: lbctl",
    ] {
        assert!(out.contains(says), "{out}");
    }
}

#[test]
fn a_batch_is_answered_line_by_line() {
    let lb = Lb::new("batch");
    lb.with(FILE, "apply -");
    let ended = lb.with("tcp 50.0.0.1 1 10.0.0.0 80\n\n# x\nudp 2000::1 1 1000:: 81\n", "which --batch -");
    let answers: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ended.status, Status::Done);
    assert_eq!((&answers[0]["steered"], &answers[1]["steered"]), (&Value::from(true), &Value::from(false)));
    let ended = lb.with("tcp 50.0.0.1 1 10.0.0.0 80\ntcp 1\n", "which --batch -");
    assert_eq!(ended.status, Status::Failed);
    assert!(ended.err.contains("standard input:2: 2 words"), "{}", ended.err);
}
