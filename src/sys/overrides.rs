//! The file that keeps overrides over a reboot. It is replaced as a whole, so a power cut leaves the old or the
//! new one.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{region::RegionName, replace};
use crate::state::Overrides;

/// Where the file is if nothing else is said.
pub const DIRECTORY_DEFAULT: &str = "/var/lib/synrail";
/// The size of the largest file that is read, in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// The file of one region: `DIRECTORY/REGION.json`.
#[derive(Clone, Debug)]
pub struct OverridesFile(PathBuf);

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum OverridesError {
    /// It is damaged, or of another version.
    #[error("{}: {why}", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A system call failed.
    #[error("{}: {error}", .file.display())]
    Os {
        /// The file.
        file: PathBuf,
        /// The error of the system call.
        error: io::Error,
    },
}

impl OverridesFile {
    /// Returns the file of a region. It need not exist.
    #[must_use]
    pub fn new(directory: &Path, region: &RegionName) -> Self {
        Self(directory.join(format!("{region}.json")))
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns what is kept: nothing if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or others may have written it.
    pub fn load(&self) -> Result<Overrides, OverridesError> {
        match self.read() {
            Ok(Ok(bytes)) => Overrides::from_json(&bytes).map_err(|why| self.damaged(why)),
            Ok(Err(why)) => Err(self.damaged(why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Overrides::default()),
            Err(error) => Err(self.os(error)),
        }
    }

    /// Keeps `overrides`, and nothing else. Without any there is no file. A damaged one is set aside: returns
    /// where it is now.
    ///
    /// # Errors
    /// When the file cannot be read or written; then it is as it was.
    pub fn keep(&self, overrides: &Overrides, unix_seconds: u64) -> Result<Option<PathBuf>, OverridesError> {
        let aside = match self.load() {
            Ok(kept) if kept == *overrides => return Ok(None),
            Ok(_) => None,
            Err(OverridesError::Damaged { .. }) => Some(self.set_aside(unix_seconds)?),
            Err(error @ OverridesError::Os { .. }) => return Err(error),
        };
        if overrides.is_empty() {
            self.remove()?;
        } else {
            self.replace(overrides).map_err(|error| self.os(error))?;
        }
        Ok(aside)
    }

    /// Removes the file. Returns whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<bool, OverridesError> {
        match fs::remove_file(&self.0).and_then(|()| replace::sync_directory(&self.0)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.os(error)),
        }
    }

    /// Renames a damaged file, so that the next one does not replace it. Returns its new path.
    fn set_aside(&self, unix_seconds: u64) -> Result<PathBuf, OverridesError> {
        // One of the same second must not replace another.
        let names = (unix_seconds..).map(|at| self.0.with_extension(format!("json.damaged-{at}")));
        let aside = names.take(1000).find(|name| !name.exists());
        let aside = aside.ok_or_else(|| self.os(io::ErrorKind::AlreadyExists.into()))?;
        let renamed = fs::rename(&self.0, &aside).and_then(|()| replace::sync_directory(&self.0));
        renamed.map(|()| aside).map_err(|error| self.os(error))
    }

    /// Returns the contents, or why they are not read: a user who may write the file controls this balancer.
    fn read(&self) -> io::Result<Result<Vec<u8>, String>> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.0);
        let file = match opened {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Ok(Err("it is a symbolic link".to_owned()));
            }
            opened => opened?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Err("it is no regular file".to_owned()));
        }
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if owner != nix::unistd::geteuid().as_raw() || mode & 0o022 != 0 {
            return Ok(Err(format!(
                "it belongs to user {owner} with mode {mode:04o}, so others may have written it"
            )));
        }
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Ok(Err(format!("it has more than {BYTES_MAX} bytes")));
        }
        Ok(Ok(bytes))
    }

    fn replace(&self, overrides: &Overrides) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.directory())?;
        // The new file is of this process alone, since a region that is made again has another lock.
        replace::replace(&self.0, overrides.to_json().as_bytes(), 0o600)
    }

    fn directory(&self) -> &Path {
        replace::directory(&self.0)
    }

    fn damaged(&self, why: String) -> OverridesError {
        OverridesError::Damaged { file: self.0.clone(), why }
    }

    fn os(&self, error: io::Error) -> OverridesError {
        OverridesError::Os { file: self.0.clone(), error }
    }
}

/// Returns where overrides are kept if nothing else is said: root's are those of the host, those of another user
/// are in `state_home`, or else below `home`.
#[must_use]
pub fn directory(state_home: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let of_user = state_home.or_else(|| Some(home?.join(".local/state"))).map(|path| path.join("synrail"));
    of_user.filter(|_| !nix::unistd::geteuid().is_root()).unwrap_or_else(|| DIRECTORY_DEFAULT.into())
}

/// Returns the name of the user who gives commands: `sudo_user`, who called sudo, if this is root.
#[must_use]
pub fn user(sudo_user: Option<String>) -> String {
    let uid = nix::unistd::getuid();
    let sudo = sudo_user.filter(|name| uid.is_root() && !name.is_empty());
    let named = || nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    sudo.or_else(named).unwrap_or_else(|| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Admin, Override, TableSize},
        state::State,
    };

    fn overrides(backends: &[&str]) -> Overrides {
        let state = State::unconfigured(TableSize::new(97).unwrap(), 5, 5).unwrap();
        let names: Vec<String> = backends.iter().map(|&name| name.to_owned()).collect();
        state.set_admin(None, &names, &Override::unattributed(Admin::Draining)).unwrap().overrides()
    }

    #[test]
    fn it_is_kept_replaced_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let name: RegionName = "synrail".parse().unwrap();
        let file = OverridesFile::new(&directory.path().join("made"), &name);
        assert!(file.load().unwrap().is_empty());
        assert!(file.keep(&Overrides::default(), 1000).is_ok(), "nothing is made for nothing");
        for kept in [overrides(&["1"]), overrides(&["1", "3"])] {
            file.keep(&kept, 1000).unwrap();
            assert_eq!(file.load().unwrap(), kept);
        }
        let names = |path: &Path| fs::read_dir(path).unwrap().count();
        assert_eq!(names(file.directory()), 1, "nothing else is left");
        file.keep(&Overrides::default(), 1000).unwrap();
        assert_eq!(names(file.directory()), 0);
    }

    #[test]
    fn a_damaged_one_is_refused_and_can_be_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let file = OverridesFile::new(directory.path(), &"synrail".parse().unwrap());
        file.keep(&overrides(&["1", "3"]), 1000).unwrap();
        let whole = fs::read(file.path()).unwrap();
        fs::write(file.path(), &whole[..whole.len() / 2]).unwrap();
        let error = file.load().unwrap_err().to_string();
        assert!(error.contains("synrail.json: EOF while parsing"), "{error}");
        let aside = file.keep(&overrides(&["2"]), 1000).unwrap().unwrap();
        assert_eq!(file.load().unwrap(), overrides(&["2"]));
        assert_eq!(aside, directory.path().join("synrail.json.damaged-1000"));
        assert_eq!(fs::read(aside).unwrap(), whole[..whole.len() / 2]);
    }

    #[test]
    fn what_others_may_have_written_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = OverridesFile::new(directory.path(), &"synrail".parse().unwrap());
        let refused = |says: &str| {
            let error = file.load().unwrap_err().to_string();
            assert!(error.ends_with(says), "{error}");
            fs::remove_file(file.path()).unwrap();
        };
        nix::unistd::mkfifo(file.path(), nix::sys::stat::Mode::S_IRUSR).unwrap();
        refused("it is no regular file");
        std::os::unix::fs::symlink("/dev/zero", file.path()).unwrap();
        refused("it is a symbolic link");
        file.keep(&overrides(&["1"]), 1000).unwrap();
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        refused("with mode 0666, so others may have written it");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("place");
        fs::write(&place, "").unwrap();
        let file = OverridesFile::new(&place, &"synrail".parse().unwrap());
        assert!(matches!(file.keep(&overrides(&["2"]), 1000), Err(OverridesError::Os { .. })));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
