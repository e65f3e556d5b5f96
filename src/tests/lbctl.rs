//! The real `lbctl` as a process: killed in the midst of writing, and set upon regions that it must not touch.
//!
//! Killing: 10 000 writers on four regions, on each one after another, killed with SIGKILL after a random time, while a
//! thread for each region reads all the while. The time is drawn so that about half of the writers end before it, whatever the machine's speed and load
//! are; how many died at work is counted and must be many, and some must have died while the bytes of a slot changed.

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        fs,
        os::unix::{fs::FileExt, process::ExitStatusExt},
        process::{Child, Command, Output, Stdio},
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
        time::Duration,
    };

    use synrail::{
        model::{Admin, Admission, Override, TableSize, ids::Generation},
        state::State,
        sys::{
            clock,
            overrides::OverridesFile,
            region::{AccessError, Region, RegionName},
        },
    };

    const WRITERS: u64 = 10_000;
    /// Regions at a time: the writers of each wait for processes to start and to end, mostly.
    const REGIONS: u64 = 4;
    /// Between two looks of a reader: it must leave the processor to the writers.
    const READ_PAUSE: Duration = Duration::from_micros(50);
    /// Backend 0 stays active, so that a table is never empty for a good reason.
    const BACKENDS: usize = 5;
    /// As large as lets 10 000 writers end in good time; an optimised one writes faster.
    const M: u64 = if cfg!(debug_assertions) { 1021 } else { 16381 };

    /// A region of one test alone, and what is kept of it, removed when it ends. In memory, since each change waits
    /// until it is kept.
    struct Private(RegionName, tempfile::TempDir);

    impl Private {
        fn new(test: &str) -> Self {
            let name: RegionName = format!("synrail-lbctl-{}-{test}", std::process::id()).parse().unwrap();
            assert!(!name.path().exists());
            Self(name, tempfile::tempdir_in("/dev/shm").unwrap())
        }

        #[expect(clippy::disallowed_methods, reason = "the command itself is what is tested")]
        fn command(&self, args: &[&str]) -> Command {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
            command.args(["--shm", &self.0.to_string(), "--state-dir"]).arg(self.1.path());
            command.args(args).stdin(Stdio::null());
            command
        }

        fn output(&self, args: &[&str]) -> Output {
            self.command(args).output().unwrap()
        }

        fn done(&self, args: &[&str]) -> String {
            let output = self.output(args);
            assert!(output.status.success(), "{args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        }
    }

    impl Drop for Private {
        fn drop(&mut self) {
            let _ = fs::remove_file(self.0.path());
        }
    }

    /// The state without the words of operators, which have the time.
    fn plain(mut state: State) -> State {
        for backend in &mut state.services[0].backends {
            backend.admission = Admission { configured: Some(backend.enabled()), ..Admission::default() };
        }
        state
    }

    fn small() -> State {
        State::unconfigured(TableSize::new(97).unwrap(), BACKENDS, BACKENDS).unwrap()
    }

    /// xorshift64*: the same numbers in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the time of a kill is what is random here, and a reader must pause"
    )]
    fn wait(time: Duration) {
        std::thread::sleep(time);
    }

    /// What a set of active backends, as bits, must look like in full.
    fn every_state() -> HashMap<u32, State> {
        let all = State::unconfigured(TableSize::new(M).unwrap(), BACKENDS, BACKENDS).unwrap();
        let state = |bits: u32| {
            let out: Vec<String> =
                (0..BACKENDS).filter(|b| bits & 1 << b == 0).map(|b| b.to_string()).collect();
            (bits, plain(all.set_admin(None, &out, &Override::unattributed(Admin::Draining)).unwrap()))
        };
        (0..1 << BACKENDS).filter(|bits| bits & 1 == 1).map(state).collect()
    }

    fn active_bits(state: &State) -> u32 {
        (0u32..)
            .zip(&state.services[0].backends)
            .fold(0, |bits, (b, backend)| bits | u32::from(backend.enabled()) << b)
    }

    /// What the reader saw.
    #[derive(Default)]
    struct Seen {
        reads: AtomicU64,
        generations: AtomicU64,
    }

    /// Reads until stopped; every state must be whole, and none older than the last.
    fn read_on(name: &RegionName, states: &HashMap<u32, State>, seen: &Seen, stop: &AtomicBool) {
        let mut region = Region::open(name).unwrap();
        let mut last = Generation(0);
        while !stop.load(Ordering::Relaxed) {
            let (generation, state) = region.state().unwrap();
            assert!(generation >= last);
            assert_eq!(state.services[0].table.len(), usize::try_from(M).unwrap());
            assert!(states[&active_bits(&state)] == plain(state), "generation {generation} is torn");
            seen.reads.fetch_add(1, Ordering::Relaxed);
            if generation > last {
                seen.generations.fetch_add(1, Ordering::Relaxed);
            }
            last = generation;
            wait(READ_PAUSE);
        }
    }

    /// Stops the reader, also when the test fails.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// How the writers ended.
    #[derive(Clone, Copy, Debug, Default)]
    struct Ends {
        /// On their own.
        finished: u64,
        /// Killed.
        killed: u64,
        /// Killed after they had published.
        killed_after: u64,
        /// Killed with a slot changed, and not published.
        killed_at_it: u64,
    }

    impl Ends {
        fn plus(self, other: Self) -> Self {
            Self {
                finished: self.finished + other.finished,
                killed: self.killed + other.killed,
                killed_after: self.killed_after + other.killed_after,
                killed_at_it: self.killed_at_it + other.killed_at_it,
            }
        }
    }

    fn end(mut child: Child, after: Duration) -> bool {
        wait(after);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() || status.signal() == Some(9), "{status}");
        status.signal() == Some(9)
    }

    /// The bytes of both slots and what describes them; statistics lie between.
    fn slots(file: &fs::File) -> Vec<u8> {
        let mut word = [0; 4];
        file.read_exact_at(&mut word, 28).unwrap();
        let start = u64::from(u32::from_ne_bytes(word));
        let len = usize::try_from(file.metadata().unwrap().len() - start).unwrap();
        let mut bytes = vec![0; 128 + len];
        let (descriptions, content) = bytes.split_at_mut(128);
        file.read_exact_at(descriptions, 128).unwrap();
        file.read_exact_at(content, start).unwrap();
        bytes
    }

    #[test]
    fn a_killed_writer_never_leaves_a_torn_table() {
        let (states, seen) = (every_state(), Seen::default());
        let ends = std::thread::scope(|scope| {
            let (states, seen) = (&states, &seen);
            let regions: Vec<_> =
                (0..REGIONS).map(|n| scope.spawn(move || kill_on_one(n, states, seen))).collect();
            regions.into_iter().map(|region| region.join().unwrap()).fold(Ends::default(), Ends::plus)
        });
        let (reads, generations) =
            (seen.reads.load(Ordering::Relaxed), seen.generations.load(Ordering::Relaxed));
        println!("{WRITERS} writers: {ends:?}; {reads} reads saw {generations} generations");
        assert_eq!(ends.killed + ends.finished, WRITERS);
        assert!(ends.killed > WRITERS / 5 && ends.finished > WRITERS / 5, "{ends:?}");
        assert!(ends.killed_at_it > 0, "{ends:?}");
        assert!(generations > WRITERS / 10 && reads > generations);
    }

    /// A region, its reader, and its share of the writers.
    fn kill_on_one(number: u64, states: &HashMap<u32, State>, seen: &Seen) -> Ends {
        let private = Private::new(&format!("kill{number}"));
        private.done(&["create", "-i", "5", &M.to_string(), &BACKENDS.to_string()]);
        let stop = AtomicBool::new(false);
        let ends = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_on(&private.0, states, seen, &stop));
            let guard = Stop(&stop);
            let ends = kill_writers(&private, states, Random(0x5eed + number), || reader.is_finished());
            drop(guard);
            reader.join().unwrap();
            ends
        });
        // The next one works on.
        private.done(&["activate", "0", "1", "2", "3", "4"]);
        private.done(&["deactivate", "4"]);
        let (_, state) = Region::open(&private.0).unwrap().state().unwrap();
        assert!(plain(state) == states[&0b01111]);
        let kept = OverridesFile::new(private.1.path(), &private.0).load().unwrap();
        assert_eq!(kept.len(), 1, "what is kept is whole, and what the last writer left");
        let left = fs::read_dir("/dev/shm").unwrap().filter_map(Result::ok);
        let ours =
            |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(&private.0.to_string());
        assert_eq!(left.filter(ours).count(), 1);
        ends
    }

    fn kill_writers(
        private: &Private,
        states: &HashMap<u32, State>,
        mut random: Random,
        reader_failed: impl Fn() -> bool,
    ) -> Ends {
        let mut region = Region::open(&private.0).unwrap();
        let file = fs::File::open(private.0.path()).unwrap();
        let mut ends = Ends::default();
        let begun = clock::now();
        private.done(&["activate", "1"]);
        // The longest time to live; it finds its level where half of the writers end before they are killed.
        let mut nanos_max = u64::try_from(begun.elapsed().as_nanos()).unwrap();
        let (mut generation, mut state) = region.state().unwrap();
        for _ in 0..WRITERS / REGIONS {
            assert!(!reader_failed(), "the reader saw what it must not");
            let backend = 1 + usize::try_from(random.below(BACKENDS as u64 - 1)).unwrap();
            let verb = if state.services[0].backends[backend].enabled() { "deactivate" } else { "activate" };
            let before = slots(&file);
            // A process writes at its end, after a start that takes most of the time.
            let nanos = nanos_max / 2 + random.below(nanos_max / 2 + 1);
            let mut command = private.command(&[verb, &backend.to_string()]);
            let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
            let killed = end(child, Duration::from_nanos(nanos));
            let (now, next) = region.state().unwrap();
            assert!(states[&active_bits(&next)] == plain(next.clone()));
            if killed {
                ends.killed += 1;
                ends.killed_after += u64::from(now > generation);
                ends.killed_at_it += u64::from(now == generation && slots(&file) != before);
                nanos_max += nanos_max / 50;
            } else {
                ends.finished += 1;
                assert_eq!(now.0, generation.0 + 1, "a writer ended well and published nothing");
                nanos_max -= nanos_max / 50;
            }
            (generation, state) = (now, next);
        }
        ends
    }

    /// Every command that needs a whole region fails, says so, and leaves the file as it is.
    fn assert_refused(private: &Private, what: &str, says: &str) {
        let before = fs::read(private.0.path()).unwrap();
        let config = tempfile::NamedTempFile::new().unwrap();
        fs::write(config.path(), CONFIG).unwrap();
        let config = config.path().to_str().unwrap();
        for args in [
            &["show"][..],
            &["show", "--json"],
            &["services"],
            &["backends"],
            &["stats"],
            &["which", "tcp", "50.0.0.1", "1", "10.0.0.0", "80"],
            &["which", "--fragment", "tcp", "50.0.0.1", "1", "10.0.0.0", "80"],
            &["tier"],
            &["tier", "activate", "lb202"],
            &["activate", "1"],
            &["deactivate", "1"],
            &["apply", config],
            &["apply", config, "--dry-run"],
            &["create", "100", "10"],
            &["backend-setup", "1"],
        ] {
            let output = private.output(args);
            let err = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{what}: {args:?}: {err}");
            let says = if args[0] == "create" { "already" } else { says };
            assert!(
                err.contains(says) && err.starts_with("lbctl: ") && err.lines().count() == 1,
                "{what}: {args:?}: {err}"
            );
            assert_eq!(output.stdout, b"", "{what}: {args:?}");
            assert!(fs::read(private.0.path()).unwrap() == before, "{what}: {args:?} changed the file");
        }
    }

    const CONFIG: &str = r#"
[balancer]
name = "lb201"
address = "192.168.1.201"
interfaces = ["eth1"]
[[service]]
name = "web"
vips = ["10.0.0.0/32"]
[[service.backend]]
name = "s1"
address = "192.168.1.1"
"#;

    #[test]
    fn damaged_and_foreign_regions_are_refused_and_left_alone() {
        let private = Private::new("bad");
        Region::create(&private.0, &small()).unwrap();
        let path = private.0.path();
        let good = fs::read(&path).unwrap();
        let changed = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            bad
        };
        // The live slot is the second, described at 192: its offset first.
        let content = usize::try_from(u64::from_ne_bytes(good[192..200].try_into().unwrap())).unwrap();
        let cases: [(&str, Vec<u8>, &str); 11] = [
            ("another layout version", changed(8, &1u32.to_ne_bytes()), "forget what lbctl has deactivated"),
            ("another byte order", changed(12, &0x0403_0201u32.to_ne_bytes()), "another byte order"),
            ("another program's file", changed(0, b"PostgreS"), "it is no region of synrail"),
            ("a header with a changed size", changed(16, &[1]), "it is corrupt: its header"),
            (
                "a generation without a slot",
                changed(64, &9u64.to_ne_bytes()),
                "it is corrupt: a slot's description",
            ),
            (
                "a description with a changed length",
                changed(200, &[1]),
                "it is corrupt: a slot's description",
            ),
            (
                "a changed byte of content",
                changed(content + 200, &[0xff]),
                "it is corrupt: a slot's checksum",
            ),
            ("an empty file", Vec::new(), "it is no region of synrail"),
            ("cut in its header", good[..20].to_vec(), "it is truncated"),
            ("cut in its statistics", good[..5000].to_vec(), "it is truncated"),
            ("cut in its live slot", good[..content + 100].to_vec(), "it is truncated"),
        ];
        for (what, bad, says) in cases {
            fs::write(&path, bad).unwrap();
            assert_refused(&private, what, says);
        }
        fs::write(&path, &good).unwrap();
        private.done(&["deactivate", "1"]);
    }

    #[test]
    fn a_region_that_another_process_is_writing_is_left_alone() {
        let private = Private::new("locked");
        let holder = Region::create(&private.0, &small()).unwrap();
        let lock = holder.lock().unwrap();
        let before = fs::read(private.0.path()).unwrap();
        let output = private.output(&["deactivate", "1"]);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let us = format!("is being changed by process {}", std::process::id());
        assert!(err.contains(&us) && err.contains("nothing was changed"), "{err}");
        assert!(fs::read(private.0.path()).unwrap() == before);
        // Readers need no lock.
        assert!(private.done(&["show"]).contains("5 of 5 backends active"));
        drop(lock);
        private.done(&["deactivate", "1"]);
    }

    #[test]
    fn the_exit_status_reports_errors() {
        let private = Private::new("status");
        assert_eq!(private.output(&["show"]).status.code(), Some(1));
        assert_eq!(private.output(&["shwo"]).status.code(), Some(2));
        private.done(&["create", "100", "10"]);
        assert_eq!(
            private.output(&["which", "tcp", "50.0.0.1", "1", "10.0.0.0", "80"]).status.code(),
            Some(3)
        );
        private.done(&["clean"]);
        assert!(matches!(Region::open(&private.0), Err(AccessError::Missing(_))));
    }
}
