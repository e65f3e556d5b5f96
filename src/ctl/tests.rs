//! Commands against regions of their own, without a process; `src/tests/lbctl.rs` has what needs one.

mod balancer;
mod check;
mod drain;
mod flows;
mod metrics;
mod overrides;
mod stats;
mod tier;
mod tracer;
mod which;

use std::{collections::BTreeSet, fs, path::PathBuf};

use ipnet::IpNet;
use serde_json::Value;

use super::*;
use crate::{
    balance::pins::OffTable,
    daemon::Drift,
    host::Snapshot,
    model::ids::{Generation, QueueNum},
    plan::kernel_tables::FALLBACK_TABLES_MAX,
    shm::{
        Memory,
        stats::{self as shown, Daemon},
    },
    state::State,
    status::DumpTracked,
    sys::{
        nft::NftError,
        region::{Region, RegionName},
    },
};

/// A region of this test alone, removed when it ends.
struct Lb {
    name: RegionName,
    proc: tempfile::TempDir,
    state: tempfile::TempDir,
    look: fn(&State) -> Snapshot,
    compare: fn(&Asked<'_>) -> Result<Drift, DaemonError>,
    mend: fn(&Asked<'_>) -> Result<Vec<DaemonError>, DaemonError>,
    given: fn() -> BTreeMap<u32, u64>,
    off_table: fn() -> Result<OffTable, NftError>,
    tracked: DumpTracked,
    may_ask_about_flows: fn() -> bool,
    announced: fn(u8) -> Option<BTreeSet<IpNet>>,
    adoption_wait: Duration,
    ruleset_counters: fn() -> Option<BTreeMap<String, u64>>,
}

/// How a command ended, and what it printed.
#[derive(Debug)]
struct Ended {
    status: Status,
    out: String,
    err: String,
}

impl Lb {
    fn new(test: &str) -> Self {
        let name: RegionName = format!("synrail-ctl-{}-{test}", std::process::id()).parse().unwrap();
        assert!(!name.path().exists());
        Self {
            name,
            proc: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
            look: |_| Snapshot::default(),
            compare: |_| Ok(Drift::default()),
            mend: |_| Ok(Vec::new()),
            given: BTreeMap::new,
            off_table: flows::off_table,
            tracked: |_, _| Ok(()),
            may_ask_about_flows: || true,
            announced: |_| None,
            adoption_wait: Duration::from_millis(20),
            ruleset_counters: || None,
        }
    }

    /// `lbctl --shm THIS line`, with `input` on standard input.
    fn with(&self, input: &str, line: &str) -> Ended {
        self.with_prober(&mut tracer::FakeProber::default(), input, line)
    }

    fn with_prober(&self, prober: &mut dyn Prober, input: &str, line: &str) -> Ended {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let name = self.name.to_string();
        let args = ["lbctl", "--shm", &name].into_iter().chain(line.split_ascii_whitespace());
        let mut env = Env {
            out: &mut out,
            err: &mut err,
            input: &mut input.as_bytes(),
            unix_seconds: 1000,
            state_directory: self.state.path().to_owned(),
            user: "tester".to_owned(),
            sources: Sources {
                monotonic: || Duration::from_secs(5000),
                proc: self.proc.path().to_owned(),
                ruleset_counters: self.ruleset_counters,
                given: self.given,
                off_table: self.off_table,
                pending: |_| Ok(Vec::new()),
                tracked: self.tracked,
                may_ask_about_flows: self.may_ask_about_flows,
                look: self.look,
                announced: self.announced,
                compare: self.compare,
            },
            mend: self.mend,
            numbers_in_kernel: BTreeMap::new,
            adoption_wait: self.adoption_wait,
            prober,
            terminal: false,
        };
        let status = run(args, &mut env);
        Ended { status, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
    }

    fn run(&self, line: &str) -> Ended {
        self.with("", line)
    }

    fn done(&self, line: &str) -> String {
        let ended = self.run(line);
        assert_eq!((ended.status, ended.err.as_str()), (Status::Done, ""), "{line}: {ended:?}");
        ended.out
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.done(line)).unwrap()
    }

    fn refused(&self, line: &str, status: Status, says: &str) {
        let ended = self.run(line);
        assert_eq!(ended.status, status, "{line}: {ended:?}");
        assert!(ended.err.contains(says), "{line}: {}", ended.err);
        assert_eq!(ended.out, "", "{line}");
    }

    fn active(&self) -> Vec<String> {
        let show = self.json("show --json");
        let names = show["services"][0]["active"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// An lbd that follows the region and decides by `adopted`.
    fn daemon(&self, adopted: u64) -> Region {
        let mut region = Region::open(&self.name).unwrap();
        region.follow().unwrap();
        let daemon = Daemon {
            pid: 42,
            adopted: Generation(adopted),
            in_kernel: Generation(adopted),
            started_unix_seconds: 900,
            workers: 2,
        };
        daemon.write(&mut region).unwrap();
        region
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.name.path());
    }
}

/// What `lbctl which --batch -` answers to these questions where this state is in force.
pub(crate) fn which(state: &State, questions: &str) -> Vec<Value> {
    let lb = Lb::new("which-batch");
    Region::create(&lb.name, state).unwrap();
    let ended = lb.with(questions, "which --batch -");
    assert_eq!((ended.status, ended.err.as_str()), (Status::Done, ""));
    ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const FILE: &str = r#"
[balancer]
name = "lb201"
address = ["192.168.1.201", "fd00:0:0:1::201"]
interfaces = ["eth1"]
queues = "0-1"
[[service]]
name = "web"
vips = ["10.0.0.0/32", "1000::/128"]
protocols = ["tcp", "udp"]
ports = ["80", "8000-8010"]
table_size = 97
[[service.backend]]
name = "s1"
address = "192.168.1.1"
[[service.backend]]
name = "s2"
address = "192.168.1.2"
encap = "ipip"
[[service]]
name = "all"
vips = ["10.0.0.0/24"]
hash = "source"
table_size = 97
[[service.backend]]
name = "s1"
address = "192.168.1.1"
"#;

#[test]
fn the_commands_of_the_original() {
    let lb = Lb::new("original");
    let made = lb.done("create -i 5 100 10");
    assert!(made.contains("M 97 (the prime below 100), backends 0 to 9, 5 active"), "{made}");
    assert_eq!(lb.active(), ["0", "1", "2", "3", "4"]);
    lb.done("deactivate 1");
    lb.done("activate 6 7 8");
    assert_eq!(lb.active(), ["0", "2", "3", "4", "6", "7", "8"]);
    assert!(lb.done("show").contains("service default: 7 of 10 backends active, hash 5-tuple, M 97"));
    lb.done("clean");
    lb.refused("show", Status::Failed, "there is no region");
}

#[test]
fn without_i_none_is_active_and_limits_are_named() {
    let lb = Lb::new("limits");
    lb.refused("create 2 10", Status::Usage, "3..=1048573");
    lb.refused("create 100 0", Status::Usage, "1..=4096");
    lb.refused("create 100 4097", Status::Usage, "1..=4096");
    lb.refused("create -i 11 100 10", Status::Usage, "there are only 10 backends");
    lb.done("create 100 10");
    assert!(lb.active().is_empty());
    lb.refused("create 100 10", Status::Failed, "already");
}

#[test]
fn nothing_is_written_where_nothing_changes() {
    let lb = Lb::new("same");
    lb.done("create -i 5 100 10");
    assert!(lb.done("activate 1 1").contains("default/1: already enabled\nnothing to change\n"));
    lb.refused("deactivate 1 99", Status::Failed, "no backend \"99\" in any service; there are: 0, 1,");
    lb.refused("deactivate --service web 1", Status::Failed, "no service \"web\"; there are: default");
    assert_eq!(lb.json("show --json")["region"]["generation"], 1);
    let outcome = lb.json("deactivate 1 --json");
    assert_eq!(outcome["generation"], 2);
    assert_eq!(outcome["lbd"], "no_daemon");
    assert_eq!(outcome["changes"][0]["what"], "backend default/1");
}

#[test]
fn the_last_active_backend_leaves_a_warning() {
    let lb = Lb::new("empty");
    lb.done("create -i 1 100 10");
    let ended = lb.run("deactivate 0");
    assert_eq!(ended.status, Status::Done);
    assert!(ended.err.contains("service \"default\" has no active backend"), "{}", ended.err);
}

#[test]
fn a_file_is_compared_before_it_is_applied() {
    let lb = Lb::new("apply");
    let dry = lb.with(FILE, "apply - --dry-run");
    assert_eq!(dry.status, Status::No);
    assert!(
        dry.out.contains("+ region") && dry.out.contains("+ backend web/s2: path ipip 192.168.1.2"),
        "{}",
        dry.out
    );
    assert!(!lb.name.path().exists());
    let applied = lb.with(FILE, "apply -");
    assert_eq!(applied.status, Status::Done);
    assert!(applied.out.starts_with(&dry.out) && applied.out.ends_with("no lbd follows this region now\n"));
    let again = lb.with(FILE, "apply -");
    assert_eq!((again.status, again.out.as_str()), (Status::Done, "nothing to change\n"));
    // What the file leaves open stays.
    lb.done("deactivate --service web s2");
    assert_eq!(lb.with(FILE, "apply --dry-run -").status, Status::Done);
    let weighty = FILE.replace("encap = \"ipip\"", "weight = 3");
    let dry: Value = serde_json::from_str(&lb.with(&weighty, "--json apply - --dry-run").out).unwrap();
    assert_eq!((&dry["generation"], &dry["published"]), (&Value::from(2), &Value::from(false)));
    assert_eq!(lb.with(&weighty, "apply -").out.matches("web/s2").count(), 2);
}

#[test]
fn what_is_in_use_is_taken_away_when_that_is_asked_for_alone() {
    let lb = Lb::new("removal");
    let only_balancer = &FILE[..FILE.find("[[service]]").unwrap()];
    lb.with(FILE, "apply -");
    let going = "service web goes, with 2 backends in use";
    let dry = lb.with(only_balancer, "apply - --dry-run");
    assert_eq!(dry.status, Status::No);
    assert!(
        dry.out.contains(&format!("loss: {going}\n")) && dry.out.contains("refused without --allow-removal")
    );
    let refused = lb.with(only_balancer, "apply -");
    assert_eq!(refused.status, Status::Failed);
    let command = format!("nothing was changed; `lbctl apply --allow-removal --shm {} -` does it", lb.name);
    assert!(refused.err.contains(going) && refused.err.contains(&command), "{}", refused.err);
    let outcome: Value = serde_json::from_str(&lb.with(only_balancer, "apply - --json").out).unwrap();
    assert_eq!(
        (&outcome["published"], &outcome["losses"]["in_use"][0]),
        (&Value::from(false), &going.into())
    );
    assert_eq!(lb.json("show --json")["region"]["generation"], 1);
    // Out of use, the service can be removed. The overrides that go with it are listed.
    lb.run("deactivate --service web s1 s2");
    let web = FILE.find("[[service]]").unwrap()..FILE.rfind("[[service]]").unwrap();
    let mut without = FILE.to_owned();
    without.replace_range(web, "");
    let dry = lb.with(&without, "apply - --dry-run");
    let loss = "loss: service web goes, and with it what lbctl said of s1 s2\n";
    assert!(dry.out.ends_with(loss), "{}", dry.out);
    let renamed = FILE.replacen("\"web\"", "\"site\"\nrenamed_from = \"web\"", 1);
    let dry = lb.with(&renamed, "apply - --dry-run").out;
    assert_eq!(dry, "~ service site name: web -> site\n");
    assert_eq!(lb.with(&without, "apply -").status, Status::Done);
    assert_eq!(lb.with(only_balancer, "apply - --allow-removal").status, Status::Done);
    assert_eq!(lb.json("services --json"), Value::Array(vec![]));
}

#[test]
fn every_complaint_about_a_file_is_printed() {
    let lb = Lb::new("wrong");
    let ended = lb.with(&FILE.replace("= 97", "= 100").replace("eth1", "eth 1"), "apply -");
    assert_eq!(ended.status, Status::Failed);
    for line in [":5:", ":12:", ":24:"] {
        assert!(ended.err.contains(&format!("standard input{line}")), "{}", ended.err);
    }
    lb.refused("apply /nowhere/lb.toml", Status::Failed, "/nowhere/lb.toml: No such file");
    assert!(!lb.name.path().exists());
}

#[test]
fn a_change_is_in_force_when_lbd_has_taken_it_over() {
    let lb = Lb::new("adopt");
    lb.done("create -i 5 100 10");
    let mut daemon = lb.daemon(1);
    let ended = lb.run("deactivate 1");
    assert_eq!(ended.status, Status::Pending);
    assert!(ended.err.contains("lbd (process 42) has not taken it over yet"), "{}", ended.err);
    assert!(
        lb.done("show").contains("process 42, 2 workers, for 1 min 40 s, generation 1 in force, 2 NOT YET")
    );
    Daemon {
        pid: 42,
        adopted: Generation(2),
        in_kernel: Generation(1),
        started_unix_seconds: 900,
        workers: 2,
    }
    .write(&mut daemon)
    .unwrap();
    assert!(lb.done("show").contains("generation 2 in force, its tables NOT YET in the kernel\n"));
    // From here on lbd is ahead of the region.
    Daemon {
        pid: 42,
        adopted: Generation(9),
        in_kernel: Generation(2),
        started_unix_seconds: 900,
        workers: 2,
    }
    .write(&mut daemon)
    .unwrap();
    let ahead = lb.done("activate 1");
    assert!(ahead.ends_with("in force: generation 3; the fallback tables follow\n"));
    let all = Daemon { in_kernel: Generation(9), ..Daemon::read(&mut daemon).unwrap() };
    all.write(&mut daemon).unwrap();
    assert_eq!(lb.done("deactivate 1"), "default/1: now draining\nin force: generation 4\n");
    assert_eq!(lb.json("deactivate 2 --json")["lbd"], "in_force");
    assert_eq!(lb.json("--json show")["lbd"]["pid"], 42);
}

#[test]
fn what_the_last_lbd_has_put_in_force_is_shown() {
    let lb = Lb::new("in-force");
    lb.done("create -i 5 100 10");
    assert!(lb.done("show").contains("none follows this region\n"));
    drop(lb.daemon(1));
    assert!(lb.done("show").contains("none follows this region; generation 1 was put in force last\n"));
    lb.done("deactivate 1");
    assert!(lb.done("show").contains(&format!(
        "; generation 1 was put in force last, 2 NOT YET: start lbd, or `lbd --once --shm {}`\n",
        lb.name
    )));
    let show = lb.json("show --json");
    assert_eq!((&show["region"]["in_force"], &show["region"]["generation"]), (&1.into(), &2.into()));
    assert_eq!(show["lbd"], Value::Null);
    // It has died before the kernel had its tables.
    let mut region = Region::open(&lb.name).unwrap();
    let died =
        Daemon { adopted: Generation(2), in_kernel: Generation(1), ..Daemon::read(&mut region).unwrap() };
    died.write(&mut region).unwrap();
    assert!(lb.done("show").contains("; generation 1 was put in force last, 2 NOT YET: "));
}

#[test]
fn what_is_in_use_is_not_removed() {
    let lb = Lb::new("clean");
    lb.refused("clean", Status::Failed, "there is no region");
    lb.done("create 100 10");
    let daemon = lb.daemon(1);
    lb.refused("clean", Status::Failed, "is followed by lbd, process 42");
    drop(daemon);
    lb.done("clean");
    fs::write(lb.name.path(), "mine").unwrap();
    lb.done("clean --force");
    fs::write(lb.name.path(), [b'x'; 5000]).unwrap();
    lb.refused("clean", Status::Failed, "else see `lbctl clean`; --force removes it all the same");
    lb.done("clean --force");
    lb.done("create 100 10");
    lb.daemon(1).store(64, 77).unwrap();
    lb.refused("show", Status::Failed, "it is corrupt");
    lb.done("clean");
}

#[test]
fn what_a_service_does_about_path_mtu_is_shown() {
    let lb = Lb::new("pmtu");
    lb.with(&FILE.replace("hash = \"source\"", "pmtu = \"fragment-outer\""), "apply -");
    let show = lb.json("show --json");
    let pmtu: Vec<&Value> =
        show["services"].as_array().unwrap().iter().map(|service| &service["pmtu"]).collect();
    assert_eq!(pmtu, ["icmp", "fragment-outer"]);
    assert_eq!(show["balancer"]["fragments"]["held_packets"], 8192);
    let text = lb.done("show");
    let limits = "fragments queue 20199, 200 ms, 16384 entries (2048 a source), held 8192 packets and 16777216 bytes \
                  (1048576 a source)\n";
    assert!(text.contains(limits) && text.contains("\n  pmtu       fragment-outer\n"), "{text}");
}

#[test]
fn services_without_a_fallback_table_are_named() {
    let lb = Lb::new("tables");
    lb.with(FILE, "apply -");
    assert!(
        lb.done("show").contains("\nkernel    decides where lbd does not; 194 of at most 1048576 entries\n")
    );
    lb.with(&FILE.replace("queues = \"0-1\"", "kernel_entries = 100"), "apply -");
    let not = "\nkernel    decides where lbd does not, but NOT for all (kernel_entries); 97 of at most 100 entries\n";
    assert!(lb.done("show").contains(not));
    let services = lb.json("services --json");
    let in_kernel: Vec<&Value> =
        services.as_array().unwrap().iter().map(|service| &service["fallback_table"]).collect();
    assert_eq!(in_kernel, [true, false]);
    // There is room for all entries, but not for so many services.
    let mut many = FILE.split("[[service]]").next().unwrap().to_owned();
    for n in 0..FALLBACK_TABLES_MAX + 2 {
        many += &format!(
            "[[service]]\nname = \"s{n}\"\nvips = \"10.7.0.{n}\"\ntable_size = 97\nsteering = \"kernel\"\n\
             backend = [{{ name = \"b\", address = \"192.168.1.1\" }}]\n"
        );
    }
    let other = Lb::new("many-tables");
    other.with(&many, "apply -");
    let text = other.done("show");
    assert!(text.contains(", but NOT for s128 s129 (128 services at most); "), "{text}");
    assert!(
        text.contains("which has no table (128 services at most)\n") && !text.contains("(kernel_entries)")
    );
}

#[test]
fn show_and_which_name_what_decides() {
    let lb = Lb::new("deciders");
    let of_web = FILE.replacen("name = \"web\"\n", "name = \"web\"\nsteering = \"kernel\"\n", 1);
    assert_ne!(of_web, FILE);
    lb.with(&of_web, "apply -");
    let text = lb.done("show");
    assert!(text.contains("\nkernel    decides for 1 service, and where lbd does not; "), "{text}");
    assert!(
        text.contains("\n  steering   the kernel decides\n") && text.contains("\n  steering   lbd decides\n")
    );
    let services = lb.json("services --json");
    let deciders: Vec<&Value> =
        services.as_array().unwrap().iter().map(|service| &service["decider"]).collect();
    assert_eq!(deciders, ["kernel", "lbd"]);
    let decider = || lb.json("which --json tcp 50.0.0.1 1000 10.0.0.0 80")["decider"].clone();
    assert_eq!(decider(), "kernel");
    assert!(lb.done("which tcp 50.0.0.1 1000 10.0.0.0 80").contains("\ndecider  kernel\n"));
    // The kernel has no room for it.
    lb.with(&of_web.replace("queues = \"0-1\"", "kernel_entries = 96"), "apply -");
    let not = "\n  steering   lbd decides, NOT the kernel, which has no table (kernel_entries)\n";
    assert!(lb.done("show").contains(not));
    assert_eq!(decider(), "lbd");
}

#[test]
fn equal_active_sets_have_equal_digests() {
    let (one, other) = (Lb::new("digest1"), Lb::new("digest2"));
    one.done("create -i 5 997 10");
    other.done("create -i 10 997 10");
    let digest = |lb: &Lb| lb.json("show --json")["services"][0]["table_digest"].clone();
    assert_ne!(digest(&one), digest(&other));
    for name in ["9", "5", "7", "6", "8"] {
        other.done(&format!("deactivate {name}"));
    }
    assert_eq!(digest(&one), digest(&other));
    let table = |lb: &Lb| lb.json("show --json")["services"][0]["table"].clone();
    assert_eq!(table(&one), table(&other));
}

#[test]
fn a_backend_in_several_services_needs_the_service() {
    let lb = Lb::new("setup");
    lb.with(FILE, "apply -");
    lb.refused("backend-setup s1", Status::Usage, "in several services: web, all; choose one with --service");
    lb.refused("backend-setup s9", Status::Failed, "no service has a backend \"s9\"");
    assert!(lb.done("backend-setup s2").contains("192.168.1.2"));
    assert!(lb.done("backend-setup s1 --service all").contains("10.0.0.0/24"));
}

#[test]
fn help_and_version_are_answers() {
    let lb = Lb::new("help");
    assert!(lb.done("--help").contains("Exit status:"));
    assert!(lb.done("--version").starts_with("lbctl "));
    for command in [
        "show",
        "services",
        "backends",
        "stats",
        "which",
        "tier",
        "tier activate",
        "tier deactivate",
        "tracer",
        "tracer send",
        "create",
        "apply",
        "activate",
        "deactivate",
        "backend-setup",
        "clean",
    ] {
        assert!(lb.done(&format!("{command} --help")).contains("Examples:"), "{command}");
    }
    lb.refused("nonsense", Status::Usage, "unrecognized subcommand");
}

/// Standard output whose reader has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_without_an_end_is_refused() {
    let ended = Lb::new("endless").run("apply --dry-run /dev/zero");
    assert_eq!(ended.status, Status::Failed);
    assert!(
        ended.err.contains("/dev/zero") && ended.err.contains("more than 67108864 bytes"),
        "{}",
        ended.err
    );
}

#[test]
fn a_reader_that_leaves_early_ends_it_quietly() {
    let lb = Lb::new("pipe");
    lb.done("create -i 5 100 10");
    let mut err = Vec::new();
    let name = lb.name.to_string();
    let mut env = Env {
        state_directory: PathBuf::new(),
        user: "tester".to_owned(),
        out: &mut Gone,
        err: &mut err,
        input: &mut io::empty(),
        unix_seconds: 0,
        sources: Sources {
            monotonic: || Duration::ZERO,
            proc: PathBuf::new(),
            ruleset_counters: || None,
            given: BTreeMap::new,
            off_table: flows::off_table,
            pending: |_| Ok(Vec::new()),
            tracked: |_, _| Ok(()),
            may_ask_about_flows: || true,
            look: |_| Snapshot::default(),
            announced: |_| None,
            compare: |_| Ok(Drift::default()),
        },
        mend: |_| Ok(Vec::new()),
        numbers_in_kernel: BTreeMap::new,
        adoption_wait: Duration::ZERO,
        prober: &mut tracer::FakeProber::default(),
        terminal: false,
    };
    assert_eq!(run(["lbctl", "--shm", &name, "show"], &mut env), Status::ReaderGone);
    assert!(err.is_empty());
}

#[test]
fn show_reports_that_lbd_hangs() {
    let lb = Lb::new("hangs");
    lb.with(FILE, "apply -");
    let mut region = lb.daemon(1);
    for (worker, queue, fragments) in [(0, 0, false), (1, 10, true)] {
        let identity = shown::Identity { queue: QueueNum(queue), fragments };
        shown::identify(&mut region, worker, identity).unwrap();
    }
    let line = || lb.done("show").lines().find(|line| line.starts_with("lbd ")).unwrap().to_owned();
    let mut looked = |ms, hangs| {
        shown::looked(&mut region, Duration::from_millis(ms), hangs).unwrap();
        (line(), lb.json("show --json")["hangs"].clone())
    };
    // The clock says 5000 s.
    let (text, json) = looked(4_999_900, [false, false]);
    assert!(text.ends_with(" in force"), "{text}");
    assert_eq!(json, Value::Null);
    let (text, json) = looked(4_999_900, [false, true]);
    assert!(
        text.ends_with(" in force; the workers of these queues HANG, the fallback tables decide: 10"),
        "{text}"
    );
    assert_eq!(json.to_string(), r#"{"process_ms":null,"queues":[10]}"#);
    let (text, json) = looked(4_970_000, [false, false]);
    assert!(text.ends_with(" in force; HANGS for 30 s: the fallback tables decide"), "{text}");
    assert_eq!(json.to_string(), r#"{"process_ms":30000,"queues":[]}"#);
    let check = lb.run("check");
    assert_eq!(check.status, Status::Errors);
    assert!(check.out.contains("error: lbd is hanging for 30 s"), "{}", check.out);
    // The next lbd has only just begun.
    shown::look_no_more(&mut region).unwrap();
    assert_eq!(lb.json("show --json")["hangs"], Value::Null);
}
