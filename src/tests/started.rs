//! For tests of the real programs: a region of each test alone, and an lbd in a network namespace of its own.
#![allow(dead_code, reason = "each of the tests that include it uses a part")]

use std::{
    fs,
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

pub(crate) const LBCTL: &str = env!("CARGO_BIN_EXE_lbctl");
pub(crate) const LBD: &str = env!("CARGO_BIN_EXE_lbd");
pub(crate) const CONFIG: &str = "[balancer]\nname='lb'\naddress='192.168.9.201'\ninterfaces='client'\n\
    [[service]]\nname='web'\nvips='10.0.0.1'\nprotocols='tcp'\ntable_size=97\n\
    backend=[{name='s1',address='192.168.9.1',encap='direct'},{name='s2',address='192.168.9.2',encap='direct'}]\n";

/// A region of one test alone, with a directory for its files.
pub(crate) struct Private(pub(crate) RegionName, pub(crate) tempfile::TempDir);

impl Private {
    pub(crate) fn new(test: &str) -> Self {
        let name: RegionName = format!("synrail-output-{}-{test}", std::process::id()).parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("lb.toml"), CONFIG).unwrap();
        Self(name, directory)
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.1.path().join(file).display().to_string()
    }

    /// `program` with the region, in a shell, which sees to the descriptors.
    #[expect(clippy::disallowed_methods, reason = "the programs themselves are what is tested")]
    pub(crate) fn shell(&self, program: &str, arguments: &str) -> Command {
        let mut command = Command::new("sh");
        let line = format!("exec {program} --shm {} --state-dir kept {arguments}", self.0);
        command.args(["-c", &line]).current_dir(self.1.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn ended(&self, program: &str, arguments: &str) -> (Option<i32>, String) {
        let Output { status, stdout: _, stderr } = self.shell(program, arguments).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    /// With a pipe as standard output that no program reads.
    pub(crate) fn unread(&self, program: &str, arguments: &str) -> (Option<i32>, String) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = self.shell(program, arguments);
        let Output { status, stderr, .. } = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    pub(crate) fn state(&self) -> (u64, State) {
        let (generation, state) = Region::open(&self.0).unwrap().state().unwrap();
        (generation.0, state)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.path());
    }
}

/// An lbd in a network of its own; killed when the test fails.
pub(crate) struct Lbd(pub(crate) Child);

impl Drop for Lbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lbd {
    /// With `to` behind its descriptors, and `output` as standard output before that.
    pub(crate) fn start(lb: &Private, output: Stdio, to: &str) -> Self {
        let network = "ip link set lo up; ip link add client type veth peer name far; ip link set client up; \
            ip link set far up; ip address add 192.168.9.201/24 dev client; sysctl -qw net.ipv4.ip_forward=1";
        let arguments = format!("--config lb.toml {to}");
        let program = format!("unshare -n sh -c '{network}; exec \"$@\"' sh {LBD}");
        Self(lb.shell(&program, &arguments).stdout(output).spawn().unwrap())
    }

    /// Follows its region and has it in force.
    pub(crate) fn ready(&mut self, lb: &Private) {
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
    pub(crate) fn adopts(&mut self, lb: &Private, arguments: &str) {
        let (before, _) = lb.state();
        assert_eq!(lb.ended(LBCTL, arguments), (Some(0), String::new()), "{arguments}");
        assert_eq!(lb.state().0, before + 1);
        assert!(self.0.try_wait().unwrap().is_none(), "lbd goes on");
    }

    pub(crate) fn ends(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}
