//! The real programs with a full disk, an ended reader or nothing at all behind their descriptors.

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{BufRead as _, BufReader},
        os::unix::fs::FileExt as _,
        path::Path,
        process::{Child, Command, Output, Stdio},
        time::Duration,
    };

    use synrail::{
        state::State,
        sys::{
            clock,
            region::{Region, RegionName},
        },
    };

    const LBCTL: &str = env!("CARGO_BIN_EXE_lbctl");
    const LBD: &str = env!("CARGO_BIN_EXE_lbd");
    const CONFIG: &str = "[balancer]\nname='lb'\naddress='192.168.9.201'\ninterfaces='client'\n\
        [[service]]\nname='web'\nvips='10.0.0.1'\nprotocols='tcp'\ntable_size=97\n\
        backend=[{name='s1',address='192.168.9.1',encap='direct'},{name='s2',address='192.168.9.2',encap='direct'}]\n";

    /// A region of one test alone, with a directory for its files.
    struct Private(RegionName, tempfile::TempDir);

    impl Private {
        fn new(test: &str) -> Self {
            let name: RegionName = format!("synrail-output-{}-{test}", std::process::id()).parse().unwrap();
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("lb.toml"), CONFIG).unwrap();
            Self(name, directory)
        }

        fn path(&self, file: &str) -> String {
            self.1.path().join(file).display().to_string()
        }

        /// `program` with the region, in a shell, which sees to the descriptors.
        #[expect(clippy::disallowed_methods, reason = "the programs themselves are what is tested")]
        fn shell(&self, program: &str, arguments: &str) -> Command {
            let mut command = Command::new("sh");
            let line = format!("exec {program} --shm {} --state-dir kept {arguments}", self.0);
            command.args(["-c", &line]).current_dir(self.1.path()).stdin(Stdio::null());
            command
        }

        fn ended(&self, program: &str, arguments: &str) -> (Option<i32>, String) {
            let Output { status, stdout: _, stderr } = self.shell(program, arguments).output().unwrap();
            (status.code(), String::from_utf8(stderr).unwrap())
        }

        /// With a pipe as standard output that no program reads.
        fn unread(&self, program: &str, arguments: &str) -> (Option<i32>, String) {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = self.shell(program, arguments);
            let Output { status, stderr, .. } =
                command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
            (status.code(), String::from_utf8(stderr).unwrap())
        }

        fn state(&self) -> (u64, State) {
            let (generation, state) = Region::open(&self.0).unwrap().state().unwrap();
            (generation.0, state)
        }
    }

    impl Drop for Private {
        fn drop(&mut self) {
            let _ = fs::remove_file(self.0.path());
        }
    }

    fn active(state: &State) -> Vec<&str> {
        state.services[0].active().map(|backend| backend.name.as_str()).collect()
    }

    #[test]
    fn an_answer_that_cannot_be_written_is_an_error() {
        let lb = Private::new("full");
        assert_eq!(lb.ended(LBCTL, "apply lb.toml").0, Some(0));
        let full = "No space left on device";
        for (program, arguments) in [
            (LBCTL, "show"),
            (LBCTL, "show --json"),
            (LBCTL, "stats"),
            (LBCTL, "--help"),
            (LBCTL, "--version"),
            (LBCTL, "which tcp 50.0.0.1 1 10.0.0.1 80"),
            (LBD, "--help"),
            (LBD, "--config lb.toml --check"),
        ] {
            let (code, err) = lb.ended(program, &format!("{arguments} >/dev/full"));
            assert!(code == Some(1) && err.contains(full) && err.lines().count() == 1, "{arguments}: {err}");
            assert_eq!(lb.ended(program, &format!("{arguments} >/dev/full 2>&1")).0, Some(1), "{arguments}");
            assert_eq!(lb.unread(program, arguments), (Some(141), String::new()), "{arguments}");
        }
    }

    #[test]
    fn a_complaint_that_is_lost_changes_no_status() {
        let lb = Private::new("complaint");
        let bad = lb.path("bad.toml");
        fs::write(&bad, "[balancer]\n").unwrap();
        for (program, arguments, code) in [
            (LBCTL, "show", 1),
            (LBCTL, "shwo", 2),
            (LBCTL, "apply bad.toml", 1),
            (LBD, "--config bad.toml --check", 1),
            (LBD, "--nonsense", 2),
        ] {
            for to in ["2>/dev/full", ">/dev/full 2>&1", "2>&-", "<&- >&- 2>&-"] {
                assert_eq!(lb.ended(program, &format!("{arguments} {to}")).0, Some(code), "{arguments} {to}");
            }
            let mut command = lb.shell(program, &format!("{arguments} 2>&1"));
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            assert_eq!(command.stdout(writer).status().unwrap().code(), Some(code), "{arguments}, unread");
        }
        // A warning is a complaint as well.
        assert_eq!(lb.ended(LBCTL, "apply lb.toml").0, Some(0));
        assert_eq!(lb.ended(LBCTL, "deactivate s1 s2 2>/dev/full").0, Some(0));
        assert_eq!(active(&lb.state().1), Vec::<&str>::new());
    }

    #[test]
    fn whether_a_change_was_made_is_reported_when_its_answer_is_lost() {
        let lb = Private::new("change");
        // What `apply` would do could not be shown, so it was not done.
        for lost in [lb.ended(LBCTL, "apply lb.toml >/dev/full"), lb.unread(LBCTL, "apply lb.toml")] {
            assert!(lost.1.starts_with("lbctl: writing the output: "), "{lost:?}");
            assert!(!lb.0.path().exists());
        }
        assert_eq!(lb.ended(LBCTL, "apply lb.toml").0, Some(0));
        let (before, _) = lb.state();
        let (code, err) = lb.ended(LBCTL, "deactivate s1 >/dev/full");
        let says = format!("generation {} is written to the region", before + 1);
        assert!(code == Some(1) && err.contains(&says), "{err}");
        let (code, err) = lb.unread(LBCTL, "deactivate s2");
        assert!(code == Some(141) && err.contains(&format!("generation {} is written", before + 2)), "{err}");
        let (generation, state) = lb.state();
        assert_eq!((generation, active(&state)), (before + 2, vec![]));
    }

    #[test]
    fn nothing_is_printed_into_what_takes_the_number_of_a_closed_descriptor() {
        let lb = Private::new("closed");
        for closed in ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
            for arguments in ["apply lb.toml", "show", "deactivate s1 s2", "activate s1 s2", "apply bad.toml"]
            {
                let code = if arguments == "apply bad.toml" { 1 } else { 0 };
                assert_eq!(lb.ended(LBCTL, &format!("{arguments} {closed}")).0, Some(code), "{arguments}");
            }
            let (_, state) = lb.state();
            assert_eq!(active(&state), ["s1", "s2"], "{closed}");
        }
        let file = File::open(lb.0.path()).unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for text in [&b"generation "[..], b"backends active", b"lbctl:"] {
            assert!(bytes.windows(text.len()).all(|window| window != text));
        }
    }

    /// An lbd in a network of its own; killed when the test fails.
    struct Lbd(Child);

    impl Drop for Lbd {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    impl Lbd {
        /// With `to` behind its descriptors, and `output` as standard output before that.
        fn start(lb: &Private, output: Stdio, to: &str) -> Self {
            let network = "ip link set lo up; ip link add client type veth peer name far; ip link set client up; \
                ip link set far up; ip address add 192.168.9.201/24 dev client; sysctl -qw net.ipv4.ip_forward=1";
            let arguments = format!("--config lb.toml {to}");
            let program = format!("unshare -n sh -c '{network}; exec \"$@\"' sh {LBD}");
            Self(lb.shell(&program, &arguments).stdout(output).spawn().unwrap())
        }

        /// Follows its region and has it in force.
        fn ready(&mut self, lb: &Private) {
            let begun = clock::now();
            loop {
                let stats = lb.shell(LBCTL, "stats --json 2>&-").output().unwrap().stdout;
                let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap_or_default();
                if stats["daemon"]["adopted"].as_u64().is_some_and(|generation| generation > 0) {
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(60) && self.0.try_wait().unwrap().is_none());
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }

        /// A change, which it takes over.
        fn adopts(&mut self, lb: &Private, arguments: &str) {
            let (before, _) = lb.state();
            assert_eq!(lb.ended(LBCTL, arguments), (Some(0), String::new()), "{arguments}");
            assert_eq!(lb.state().0, before + 1);
            assert!(self.0.try_wait().unwrap().is_none(), "lbd goes on");
        }

        fn ends(mut self) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            assert_eq!(self.0.wait().unwrap().code(), Some(0));
        }
    }

    #[test]
    #[ignore = "needs root, nf_tables and /dev/net/tun"]
    fn lbd_goes_on_without_its_log_and_reports_lost_lines() {
        let lb = Private::new("lbd");
        let mut lbd = Lbd::start(&lb, Stdio::null(), ">/dev/full 2>&1");
        lbd.ready(&lb);
        lbd.adopts(&lb, "deactivate s1");
        lbd.adopts(&lb, "activate s1");
        lbd.ends();
        // It can be started again, and its reader ends.
        let (reader, writer) = std::io::pipe().unwrap();
        let mut lbd = Lbd::start(&lb, writer.into(), "2>&1");
        let mut first = String::new();
        BufReader::new(reader).read_line(&mut first).unwrap();
        lbd.ready(&lb);
        lbd.adopts(&lb, "deactivate s1");
        lbd.adopts(&lb, "activate s1");
        lbd.ends();
        // Its reader does not read: the pipe, a small one, fills, lbd does not wait; then it reads on, and gets a line about the loss.
        let (reader, writer) = std::io::pipe().unwrap();
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
        let mut lbd = Lbd::start(&lb, writer.into(), "2>&1");
        lbd.ready(&lb);
        for _ in 0..30 {
            lbd.adopts(&lb, "deactivate s1");
            lbd.adopts(&lb, "activate s1");
        }
        let lines = std::thread::spawn(move || {
            BufReader::new(reader).lines().map_while(Result::ok).collect::<Vec<_>>()
        });
        lbd.adopts(&lb, "deactivate s1");
        lbd.ends();
        let lines = lines.join().unwrap();
        let reports = lines.iter().filter(|line| line.contains("lines before this one could not be written"));
        assert_eq!(reports.count(), 1, "{lines:#?}");
        assert!(lines.last().unwrap().contains("ended; the kernel goes on by itself"));
        // Nothing there at all.
        let mut lbd = Lbd::start(&lb, Stdio::null(), "<&- >&- 2>&-");
        lbd.ready(&lb);
        for descriptor in 0..3 {
            let link = fs::read_link(format!("/proc/{}/fd/{descriptor}", lbd.0.id())).unwrap();
            assert_eq!(link, Path::new("/dev/null"));
        }
        lbd.adopts(&lb, "activate s1");
        lbd.ends();
    }
}
