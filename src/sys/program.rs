//! Other programs that synrail starts: nft and modprobe.

use std::{
    env,
    ffi::{OsStr, OsString},
    process::{Command, Stdio},
};

use super::helper;

/// Directories that are searched after PATH: the PATH of users lacks those for administrators, and `su` keeps
/// it.
const DIRECTORIES: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Returns the program of this name as a command, without arguments.
pub(crate) fn program(name: &str) -> Command {
    program_by(env::var_os("PATH").as_deref(), name)
}

/// Loads kernel modules. Returns whether that was done.
pub(super) fn load_modules(names: &[&str]) -> bool {
    helper::running().map_or_else(|| load_modules_here(names), |helper| helper.load_modules(names))
}

/// As [`load_modules`], by this process.
pub(super) fn load_modules_here(names: &[&str]) -> bool {
    let mut command = program("modprobe");
    let command = command.args(["--quiet", "--all"]).args(names);
    let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

fn program_by(path: Option<&OsStr>, name: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is where programs are started")]
    let mut command = Command::new(name);
    // The program itself is also searched for in this PATH.
    command.env("PATH", search_path(path));
    command
}

/// Returns `path` with [`DIRECTORIES`] after it. An empty entry would be the working directory.
fn search_path(path: Option<&OsStr>) -> OsString {
    match path {
        Some(path) if !path.is_empty() => {
            let mut path = path.to_os_string();
            path.push(":");
            path.push(DIRECTORIES);
            path
        }
        _ => DIRECTORIES.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_path_comes_first() {
        for (path, searched) in [
            (None, DIRECTORIES.to_owned()),
            (Some(""), DIRECTORIES.to_owned()),
            (Some("/opt/bin"), format!("/opt/bin:{DIRECTORIES}")),
        ] {
            assert_eq!(search_path(path.map(OsStr::new)), OsString::from(searched));
        }
    }

    #[test]
    fn a_program_is_found_whatever_the_path_is() {
        let mut command = program_by(Some(OsStr::new("/nowhere")), "sh");
        assert!(command.args(["-c", "exit 0"]).status().unwrap().success());
    }
}
