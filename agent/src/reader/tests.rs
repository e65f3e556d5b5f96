use std::time::Duration;

use serde_json::Value;
use synrail::{config::Config, state::State};

use super::*;

const FILE: &str = "
balancer = { name = 'lb1', address = '192.0.2.201', interfaces = ['lo'] }
http = {}
service = [
    { name = 'web', vips = '198.51.100.1', protocols = 'tcp', ports = 80, table_size = 97,
      backend = [ { name = 's1', address = '192.0.2.1' }, { name = 's2', address = '192.0.2.2', weight = 2 } ] },
    { name = 'dns', vips = '198.51.100.2', protocols = 'udp', ports = 53, table_size = 97,
      backend = [ { name = 'd1', address = '192.0.2.1', active = false } ] } ]";

struct Removed(RegionName);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = Region::remove(&self.0);
    }
}

/// Sources of a host that knows nothing.
fn sources() -> Sources {
    Sources {
        monotonic: || Duration::from_secs(100),
        proc: "/nowhere".into(),
        ruleset_counters: || None,
        given: Default::default,
        off_table: || Ok(Default::default()),
        pending: |_| Ok(Vec::new()),
        tracked: |_, _| Ok(()),
        may_ask_about_flows: || false,
        announced: |_| None,
        look: |_| Default::default(),
        compare: |_| Ok(Default::default()),
    }
}

fn reader(test: &str) -> (Reader, Removed) {
    let name: RegionName = format!("lbagent-{test}-{}", std::process::id()).parse().unwrap();
    let state = State::new(&Config::parse("test", FILE).unwrap()).unwrap();
    Region::create(&name, &state).unwrap();
    (Reader::new(name.clone(), sources()), Removed(name))
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn each_question_has_its_snapshot() {
    let (mut reader, _removed) = reader("each");
    let state = reader.answer(&Ask::State);
    let shown = json(&state);
    assert_eq!(shown["services"][0]["name"], "web");
    assert_eq!(shown["services"][0]["backends"][1]["weight"], 2);
    let entries = |n: usize| shown["services"][0]["backends"][n]["entries"].as_u64().unwrap();
    assert_eq!(entries(0) + entries(1), 97, "shares are those of the table");
    assert!(shown["services"][0].get("table").is_none());
    assert_eq!(state.head.etag, reader.answer(&Ask::State).head.etag);
    let live = json(&reader.answer(&Ask::Live));
    assert_eq!((&live["generation"], &live["in_force"], &live["lbd"]), (&1.into(), &0.into(), &Value::Null));
    assert_eq!(live["targets"].as_object().unwrap().len(), 2);
    assert_eq!(json(&reader.answer(&Ask::Services)).as_array().unwrap().len(), 2);
    let of = |reader: &mut Reader, service: &str| {
        reader.answer(&Ask::Backends { service: Some(service.to_owned()) })
    };
    assert_eq!(json(&of(&mut reader, "dns"))[0]["name"], "d1");
    assert_eq!(of(&mut reader, "mail").head.status, 404);
    let health = json(&reader.answer(&Ask::Health));
    assert_eq!(health["without_backend"], json!(["dns"]));
    let which = |words: [&str; 5]| Ask::Which { words: words.map(str::to_owned), fragment: false };
    let flow = ["tcp", "203.0.113.1", "4000", "198.51.100.1", "80"];
    assert_eq!(json(&reader.answer(&which(flow)))["service"], "web");
    assert_eq!(reader.answer(&which(["tcp", "x", "1", "y", "2"])).head.status, 400);
    let flows = Ask::Flows { service: None, backends: Vec::new(), off_table: false, limit: 10 };
    assert_eq!(json(&reader.answer(&flows)), json!({ "flows": [], "left_out": 0 }));
    let metrics = reader.answer(&Ask::Metrics { openmetrics: true, scopes: vec![Scope::Lbd] });
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.head.media.starts_with("application/openmetrics-text"));
    assert!(text.contains("synrail_region_readable 1") && text.ends_with("# EOF\n"), "{text}");
    assert!(json(&reader.answer(&Ask::Stats))["counters"].is_object());
}

#[test]
fn what_is_not_ready_says_why_and_a_region_that_is_gone_is_no_end() {
    let (mut reader, removed) = reader("ready");
    let ready = reader.answer(&Ask::Ready);
    assert_eq!((ready.head.status, &ready.head.media[..]), (503, PROBLEM));
    assert_eq!(json(&ready)["reasons"], json!(["no lbd follows the region", "no table is in force yet"]));
    drop(removed);
    assert_eq!(reader.answer(&Ask::Live).head.status, 503);
    assert!(json(&reader.answer(&Ask::Ready))["detail"].as_str().unwrap().contains("lbagent-ready"));
    let metrics = reader.answer(&Ask::Metrics { openmetrics: false, scopes: Vec::new() });
    assert!(String::from_utf8(metrics.body).unwrap().contains("synrail_region_readable 0"));
}

#[test]
fn answers_follow_questions_by_the_socket_until_it_is_closed() {
    let (mut reader, _removed) = reader("socket");
    let (ours, its) = UnixStream::pair().unwrap();
    let asking = std::thread::spawn(move || {
        let mut input = BufReader::new(ours.try_clone().unwrap());
        let mut statuses = Vec::new();
        for ask in [Ask::Ready, Ask::State, Ask::Services] {
            let line = serde_json::to_string(&ask).unwrap() + "\n";
            (&ours).write_all(line.as_bytes()).unwrap();
            let mut head = String::new();
            input.read_line(&mut head).unwrap();
            let head: Head = serde_json::from_str(&head).unwrap();
            let mut body = vec![0; head.bytes];
            input.read_exact(&mut body).unwrap();
            serde_json::from_slice::<Value>(&body).unwrap();
            statuses.push(head.status);
        }
        statuses
    });
    reader.serve(its).unwrap();
    assert_eq!(asking.join().unwrap(), [503, 200, 200]);
    let (ours, its) = UnixStream::pair().unwrap();
    (&ours).write_all(b"{\"get\":\"shadow\"}\n").unwrap();
    assert!(reader.serve(its).is_err());
}
