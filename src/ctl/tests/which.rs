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
