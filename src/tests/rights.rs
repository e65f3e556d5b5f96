//! What the real lbd may do once it runs, and who may read its region.

#[cfg(test)]
mod started;

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
        process::Stdio,
        time::Duration,
    };

    use synrail::sys::{clock, control_socket};

    use crate::started::{CONFIG, LBCTL, Lbd, Private};

    const NET_ADMIN: u64 = 1 << 12;
    const NET_RAW: u64 = 1 << 13;
    const SYS_ADMIN: u64 = 1 << 21;

    /// The fields of a process' or thread's status that are numbers: the sets are hexadecimal.
    fn status(path: &str) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(format!("{path}/status")).unwrap();
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        let number = |name: &str, value: &str| match name {
            "CapInh" | "CapPrm" | "CapEff" | "CapBnd" | "CapAmb" => u64::from_str_radix(value, 16).ok(),
            _ => value.split_whitespace().next()?.parse().ok(),
        };
        fields.filter_map(|(name, value)| Some((name.to_owned(), number(name, value)?))).collect()
    }

    /// The process of this name that this one has started.
    fn child(parent: u64, name: &str) -> Option<u64> {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let named =
            |pid: &u64| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(named)
    }

    fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let seen = clock::wait_for(Duration::from_secs(30), Duration::from_millis(20), &mut look);
        seen.unwrap_or_else(|| panic!("{what}"))
    }

    #[test]
    #[ignore = "needs root, nf_tables and /dev/net/tun"]
    fn lbd_keeps_one_capability_and_its_helper_makes_what_takes_more() {
        let lb = Private::new("rights");
        let agent = lb.path("agent");
        // It is started as lbagent is, and waits.
        fs::write(&agent, "#!/bin/sh\nexec sleep 100\n").unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let checked = CONFIG.replace("table_size=97\n", "table_size=97\nhealth={kind='tcp',port=80}\n");
        assert_ne!(checked, CONFIG);
        fs::write(lb.path("lb.toml"), &checked).unwrap();
        let mut lbd = Lbd::start(&lb, Stdio::null(), &format!("--agent {agent} >/dev/null"));
        lbd.ready(&lb);
        let pid = u64::from(lbd.0.id());
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let task = status(&task.unwrap().path().display().to_string());
            for (field, expected) in [
                ("CapInh", 0),
                ("CapPrm", NET_ADMIN),
                ("CapEff", NET_ADMIN),
                ("CapBnd", NET_ADMIN),
                ("CapAmb", 0),
                ("NoNewPrivs", 1),
                ("Seccomp", 2),
            ] {
                assert_eq!(task[field], expected, "{field}: {task:?}");
            }
        }
        let helper = child(pid, "lbd-helper").unwrap();
        let its = status(&format!("/proc/{helper}"));
        assert_eq!((its["NoNewPrivs"], its["CapEff"] & SYS_ADMIN), (1, SYS_ADMIN));
        let excess = its["CapEff"] & (1 << 0 | 1 << 1 | 1 << 2 | 1 << 17 | 1 << 19 | 1 << 22);
        assert_eq!(excess, 0, "no file of others, no raw I/O, no ptrace, no reboot: {its:?}");
        let started = soon("the agent is started", || child(helper, "sleep"));
        assert_eq!(status(&format!("/proc/{started}"))["CapEff"] & NET_RAW, NET_RAW);
        // The new tables are compiled by nft, which lbd itself could not start.
        fs::write(lb.path("lb.toml"), checked.replace("97", "251")).unwrap();
        assert_eq!(lb.ended(LBCTL, "apply lb.toml").0, Some(0), "lbd has taken it over");
        let metadata = fs::metadata(lb.0.path()).unwrap();
        assert_eq!(metadata.mode() & 0o137, 0, "others read nothing, and the group writes nothing");
        // The others end with it, however it ends.
        lbd.0.kill().unwrap();
        lbd.0.wait().unwrap();
        for other in [helper, started] {
            soon("they end", || fs::metadata(format!("/proc/{other}")).is_err().then_some(()));
        }
        // It was killed, and could not do so itself.
        control_socket::remove(&lb.0);
        let _ = fs::remove_dir(control_socket::DIRECTORY);
    }
}
