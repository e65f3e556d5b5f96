use super::*;
use crate::config::Config;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn state(health: &str) -> State {
    let text = format!(
        "
        balancer = {{ name = 'lb1', address = ['192.168.1.201', 'fd00::201'], interfaces = ['eth0'] }}
        [[service]]
        name = 'web'
        vips = ['10.0.0.0/24', '1000::1']
        protocols = 'tcp'
        ports = 80
        table_size = 97
        health = {{ kind = 'tcp', jitter_percent = 0, agent_port = 5555, {health} }}
        backend = [ {{ name = 's1', address = '192.168.1.1' }}, {{ name = 's2', address = '192.168.1.2' }} ]
        [[service]]
        name = 'tls'
        vips = '10.0.0.0/24'
        protocols = 'tcp'
        ports = 443
        table_size = 97
        health = {{ kind = 'tcp', jitter_percent = 0, agent_port = 5555, {health} }}
        backend = [ {{ name = 'a', address = '192.168.1.1' }} ]"
    );
    State::new(&Config::parse("test", &text).unwrap()).unwrap()
}

/// Agents that say what a function of the time and `service/backend` says; nothing if that is empty.
struct World {
    agents: Agents,
    state: State,
    now: Duration,
    /// When, of what, and what is in force from then on.
    turns: Vec<(Duration, String, String)>,
    asked: usize,
    /// How often the region was told.
    told: usize,
}

impl World {
    fn new(health: &str) -> Self {
        let mut world = Self {
            agents: Agents::new(7),
            state: state(health),
            now: Duration::ZERO,
            turns: Vec::new(),
            asked: 0,
            told: 0,
        };
        world.agents.update(&world.state, world.now);
        world
    }

    fn run(&mut self, until: Duration, says: impl Fn(Duration, &str) -> String) {
        let time = Timestamp::UNIX_EPOCH;
        while self.now < until {
            let mut turns = self.agents.settle(self.now, time);
            while let Some(ask) = self.agents.next(self.now) {
                self.asked += 1;
                let line = says(self.now, &format!("{}/{}", ask.names.0, ask.names.1));
                let refused = || Answer::Nothing(Remark::new("connection refused").unwrap());
                let answer = Words::of(line.as_bytes()).map_or_else(refused, Answer::Words);
                turns.extend(self.agents.finished(ask.id, answer, self.now, time));
            }
            turns.extend(self.agents.settle(self.now, time));
            let named = |turn: Turn| {
                (self.now, format!("{}/{}", turn.names[0].0, turn.names[0].1), turn.to.summary())
            };
            self.turns.extend(turns.into_iter().map(named));
            let reports = self.agents.reports(&self.state);
            self.told += usize::from(!reports.is_empty());
            self.state = self.state.hear(&reports);
            self.agents.update(&self.state, self.now);
            assert_eq!(self.agents.reports(&self.state), [], "it has all of it");
            self.now += self.agents.timeout(self.now).unwrap().max(MS);
        }
    }

    /// What came into force of one backend, and when.
    fn of(&self, name: &str) -> Vec<(Duration, &str)> {
        let of = self.turns.iter().filter(|(_, of, _)| of == name);
        of.map(|(at, _, what)| (*at, what.as_str())).collect()
    }

    fn active(&self, service: usize) -> Vec<&str> {
        self.state.services[service].active().map(|backend| backend.name.as_str()).collect()
    }
}

#[test]
fn what_takes_out_holds_at_once_and_all_else_once_in_ten_seconds() {
    let mut world = World::new("interval_ms = 1000");
    world.run(30 * S, |now, name| match (name, now.as_secs()) {
        ("web/s2", 0..3) => "90%".to_owned(),
        ("web/s2", 3..6) => "47%".to_owned(),
        ("web/s2", 6..8) => "down #no database".to_owned(),
        ("web/s2", _) => "up 100%".to_owned(),
        _ => "100% up ready".to_owned(),
    });
    let of_s2 = world.of("web/s2");
    let expected = [(0, "90%"), (6, "90%, down: no database"), (10, "100%")];
    assert_eq!(of_s2, expected.map(|(at, what)| (at * S, what)));
    assert_eq!(world.of("web/s1"), [(Duration::ZERO, "100%")]);
}

#[test]
fn agents_that_change_their_word_each_time_make_few_tables() {
    let mut world = World::new("interval_ms = 100, timeout_ms = 100, fall = 1");
    world.run(100 * S, |now, name| {
        let n = now.as_millis() / 100 + name.len() as u128;
        if n.is_multiple_of(5) {
            return String::new();
        }
        format!(
            "{}% {}",
            n * 37 % 101 + 1,
            ["up", "down", "drain", "ready", "maint", "fail"][(n % 6) as usize]
        )
    });
    // Of each at most one mode and one health that take out, and all together what does not.
    assert!(world.told <= 11 + 2 * 2 * 11, "{}", world.told);
    let mut calm = World::new("interval_ms = 100, timeout_ms = 100");
    calm.run(100 * S, |now, _| format!("{}%", now.as_millis() / 100 % 50 + 40));
    assert!((9..=11).contains(&calm.told), "{}", calm.told);
    let mut mute = World::new("interval_ms = 100, timeout_ms = 100, fall = 1");
    mute.run(100 * S, |now, _| if (now.as_millis() / 100).is_multiple_of(2) { "up" } else { "" }.to_owned());
    assert!(mute.told <= 11, "{}", mute.told);
}

#[test]
fn a_weight_near_the_middle_of_two_steps_makes_one_table() {
    let mut world = World::new("interval_ms = 1000");
    let near = |now: Duration, _: &str| format!("{}%", if now.as_secs().is_multiple_of(2) { 44 } else { 46 });
    world.run(65 * S, near);
    assert_eq!((world.of("web/s2"), world.told), (vec![(Duration::ZERO, "40%")], 1));
    // Nor does a new start.
    world.agents = Agents::new(9);
    world.agents.update(&world.state, world.now);
    world.run(130 * S, near);
    assert_eq!(world.told, 1);
    world.run(150 * S, |_, _| "50%".to_owned());
    assert_eq!(world.of("web/s2").last().unwrap().1, "50%");
}

#[test]
fn nothing_at_all_counts_as_drained_and_comes_back_later() {
    let mut world = World::new("interval_ms = 1000");
    let flaps = |now: Duration, name: &str| match name {
        "web/s2" if now.as_secs().is_multiple_of(2) => "0%".to_owned(),
        _ => "100%".to_owned(),
    };
    world.run(500 * MS, flaps);
    assert_eq!((world.of("web/s2"), world.active(0)), (vec![(Duration::ZERO, "0%")], vec!["s1"]));
    world.run(60 * S, flaps);
    // At the 1st second, and then not before the 11th.
    let back: Vec<u64> =
        world.of("web/s2").iter().filter(|(_, what)| *what == "100%").map(|(at, _)| at.as_secs()).collect();
    assert_eq!(back, [1, 11, 21, 31, 41, 51]);
}

#[test]
fn what_is_not_said_stays() {
    let mut world = World::new("interval_ms = 1000");
    world.run(40 * S, |now, _| match now.as_secs() {
        0 => "50% drain".to_owned(),
        1..12 => "down".to_owned(),
        12..24 => "ready".to_owned(),
        24 => "up".to_owned(),
        _ => "maxconn:30 up".to_owned(),
    });
    let said: Vec<&str> = world.of("web/s2").into_iter().map(|(_, what)| what).collect();
    assert_eq!(said, ["100%, drain", "50%, drain", "50%, drain, down", "50%, down", "50%"]);
}

#[test]
fn silence_changes_nothing_but_what_the_region_says_of_it() {
    let mut world = World::new("interval_ms = 1000, fall = 3");
    let of = |lost: std::ops::Range<u64>| {
        move |now: Duration, _: &str| {
            if lost.contains(&now.as_secs()) { String::new() } else { "30% drain".to_owned() }
        }
    };
    world.run(25 * S, of(5..15));
    let of_s2 = world.of("web/s2");
    let silent = "30%, drain; silent: connection refused";
    assert_eq!(
        of_s2[of_s2.len() - 3..],
        [(Duration::ZERO, "30%, drain"), (10 * S, silent), (20 * S, "30%, drain")]
    );
    assert_eq!(world.active(0), [""; 0]);
    let told = world.told;
    world.run(50 * S, of(30..32));
    assert_eq!(world.told, told, "twice is not three times");
    // One that never answered takes nothing.
    let mut world = World::new("interval_ms = 1000, fall = 2");
    world.run(5 * S, |_, _| String::new());
    assert_eq!(world.of("web/s2"), [(S, "silent: connection refused")]);
    assert_eq!(world.active(0), ["s1", "s2"]);
}

#[test]
fn another_weight_of_a_backend_that_is_out_leaves_why_and_since_when() {
    let mut world = World::new("interval_ms = 1000");
    world.run(25 * S, |now, name| match (name, now.as_secs()) {
        ("web/s2", 0..3) => "drain #upgrade".to_owned(),
        ("web/s2", 3..18) => "50%".to_owned(),
        ("web/s2", _) => "ready".to_owned(),
        _ => "100%".to_owned(),
    });
    let shown: Vec<&str> = world.of("web/s2").into_iter().map(|(_, what)| what).collect();
    assert_eq!(shown, ["100%, drain: upgrade", "50%, drain: upgrade", "50%"]);
}

#[test]
fn what_the_region_knows_is_where_a_new_start_begins() {
    let mut world = World::new("interval_ms = 1000");
    world.run(25 * S, |_, _| "50% drain".to_owned());
    let told = world.told;
    world.agents = Agents::new(9);
    world.agents.update(&world.state, world.now);
    // Not all at the same moment.
    let due: Vec<Duration> = world.agents.waiting.iter().map(|(at, _)| *at - world.now).collect();
    assert!(due[0] != due[1] && due.iter().all(|wait| *wait < S), "{due:?}");
    world.run(28 * S, |_, _| String::new());
    assert_eq!((world.told, world.active(0)), (told + 1, vec![]), "silence is told, and nothing else");
    world.run(40 * S, |_, _| "ready".to_owned());
    assert_eq!(world.active(0), ["s1", "s2"]);
    assert_eq!(world.of("web/s2").last().unwrap().1, "50%");
}

#[test]
fn the_agent_of_a_host_is_asked_once_for_all_its_services() {
    let mut world = World::new("interval_ms = 1000");
    assert_eq!(world.agents.len(), 2);
    let asks: Vec<Ask> = std::iter::from_fn(|| world.agents.next(Duration::ZERO)).collect();
    let to: Vec<String> = asks.iter().map(|ask| format!("{} {:?}", ask.to, ask.mark)).collect();
    assert_eq!(to, ["192.168.1.1:5555 None", "192.168.1.2:5555 None"]);
    let mut world = World::new("interval_ms = 1000");
    world.run(3 * S, |_, name| if name == "web/s1" { "drain" } else { "up" }.to_owned());
    assert_eq!((world.active(0), world.active(1)), (vec!["s2"], vec![]));
    assert!((6..=8).contains(&world.asked), "{}", world.asked);
    // One that asks in another way asks for itself.
    let mut own = world.state.clone();
    let agent = own.services[1].health.as_mut().unwrap().agent.as_mut().unwrap();
    agent.send = "tls\n".into();
    world.agents.update(&own, world.now);
    assert_eq!(world.agents.len(), 3);
}

#[test]
fn what_is_known_of_one_service_is_known_of_the_agent() {
    let mut world = World::new("interval_ms = 1000");
    world.run(5 * S, |_, _| "drain".to_owned());
    let mut state = world.state.clone();
    state.services.iter_mut().find(|service| service.name.as_str() == "tls").unwrap().backends[0].reported =
        None;
    let mut agents = Agents::new(9);
    agents.update(&state, Duration::ZERO);
    let reports = agents.reports(&state);
    let told: Vec<_> = reports.iter().map(|report| (report.service.as_str(), report.reported.mode)).collect();
    assert_eq!(told, [("tls", AgentMode::Drain)]);
}

#[test]
fn a_backend_without_an_address_is_asked_by_its_tunnel() {
    let text = "
        balancer = { name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }
        service = [ { name = 'web', vips = ['1000::1', '10.0.0.1'], protocols = 'tcp', ports = 80, table_size = 97,
            health = { kind = 'tcp', agent_port = 5555, agent_send = 'a' },
            backend = [ { name = 's1', encap = 'mark' } ] } ]";
    let state = State::new(&Config::parse("test", text).unwrap()).unwrap();
    let mut agents = Agents::new(1);
    agents.update(&state, Duration::ZERO);
    let ask = agents.next(Duration::ZERO).unwrap();
    let vip = state.services[0].vips[0].addr();
    assert_eq!((ask.to, ask.send.as_str()), (SocketAddr::new(vip, 5555), "a"));
    assert_eq!(ask.mark, Some(state.balancer.mark_mask.mark(state.services[0].backends[0].target)));
}

#[test]
fn not_more_than_the_limit_are_asked_at_once_and_an_answer_of_one_that_is_gone_is_dropped() {
    let backends: Vec<String> = (0..RUNNING_MAX + 9)
        .map(|n| format!("{{ name = 'b{n}', address = '192.168.2.{}' }}", 1 + n))
        .collect();
    let text = |port: u16| {
        format!(
            "
            balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }}
            service = [ {{ name = 'web', vips = '10.0.0.1', protocols = 'tcp', ports = 80, table_size = 1009,
                health = {{ kind = 'tcp', agent_port = {port} }}, backend = [ {} ] }} ]",
            backends.join(", ")
        )
    };
    let of = |port| State::new(&Config::parse("test", &text(port)).unwrap()).unwrap();
    let mut agents = Agents::new(1);
    agents.update(&of(5555), Duration::ZERO);
    let asks: Vec<Ask> = std::iter::from_fn(|| agents.next(Duration::ZERO)).collect();
    assert_eq!((asks.len(), agents.timeout(MS)), (RUNNING_MAX, None));
    let words = || Answer::Words(Words::of(b"drain").unwrap());
    assert!(agents.finished(asks[0].id, words(), MS, Timestamp::UNIX_EPOCH).is_some());
    assert!(agents.finished(asks[0].id, words(), MS, Timestamp::UNIX_EPOCH).is_none(), "it is not asked");
    assert!(agents.next(MS).is_some());
    assert!(agents.next(MS).is_none());
    let other = of(6666);
    agents.update(&other, 2 * MS);
    assert!(agents.finished(asks[1].id, words(), 3 * MS, Timestamp::UNIX_EPOCH).is_none());
    assert_eq!(agents.reports(&other), []);
    assert_eq!(std::iter::from_fn(|| agents.next(3 * MS)).count(), RUNNING_MAX);
}
