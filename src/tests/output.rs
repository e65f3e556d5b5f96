//! The real programs with a full disk, an ended reader or nothing at all behind their descriptors.

#[cfg(test)]
mod started;

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{BufRead as _, BufReader, Read as _},
        os::unix::fs::FileExt as _,
        path::Path,
        process::Stdio,
    };

    use synrail::state::State;

    use crate::started::{LBCTL, LBD, Lbd, Private};

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
    fn a_complaint_to_the_journal_has_its_priority() {
        let lb = Private::new("journal");
        fs::write(lb.path("bad.toml"), "[balancer]\n").unwrap();
        for (other, begins) in [(0, "<3>lbd: "), (1, "lbd: ")] {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let stream = nix::sys::stat::fstat(&writer).unwrap();
            let mut command = lb.shell(LBD, "--config bad.toml --check");
            command.env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev, stream.st_ino + other));
            assert_eq!(command.stderr(writer).status().unwrap().code(), Some(1));
            drop(command);
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            assert!(!said.is_empty() && said.lines().all(|line| line.starts_with(begins)), "{said}");
        }
    }

    #[test]
    fn a_check_of_a_file_warns_of_what_is_valid_and_of_no_use() {
        let lb = Private::new("never");
        let never = crate::started::CONFIG
            .replace("interfaces=", "announce_table=201\ninterfaces=")
            .replace("table_size", "announce_min=3\ntable_size");
        fs::write(lb.path("never.toml"), never).unwrap();
        for (file, lines) in [("lb.toml", 1), ("never.toml", 2)] {
            let output = lb.shell(LBD, &format!("--config {file} --check")).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && said.lines().count() == lines, "{said}");
            assert_eq!(said.contains("warning: service web: announce_min is 3"), lines == 2, "{said}");
        }
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
