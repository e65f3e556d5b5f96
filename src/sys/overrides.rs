//! The file that keeps overrides over a reboot. It is replaced as a whole, so a power cut leaves the old or the
//! new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::region::RegionName;
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
    /// When the file cannot be read, or is damaged.
    pub fn load(&self) -> Result<Overrides, OverridesError> {
        let bytes = match fs::metadata(&self.0) {
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(self.damaged(format!("it has more than {BYTES_MAX} bytes")));
            }
            Ok(_) => fs::read(&self.0),
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => Overrides::from_json(&bytes).map_err(|why| self.damaged(why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Overrides::default()),
            Err(error) => Err(self.os(error)),
        }
    }

    /// Keeps `overrides`, and nothing else. Without any there is no file. A damaged one is set aside.
    ///
    /// # Errors
    /// When the file cannot be written; then it is as it was.
    pub fn keep(&self, overrides: &Overrides, unix_seconds: u64) -> Result<(), OverridesError> {
        match self.load() {
            Ok(kept) if kept == *overrides => return Ok(()),
            Err(OverridesError::Damaged { .. }) => drop(self.set_aside(unix_seconds)?),
            Ok(_) | Err(OverridesError::Os { .. }) => {}
        }
        self.write(overrides).map_err(|error| self.os(error))
    }

    /// Renames a damaged file, so that the next one does not replace it. Returns its new path.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn set_aside(&self, unix_seconds: u64) -> Result<PathBuf, OverridesError> {
        let aside = self.0.with_extension(format!("json.damaged-{unix_seconds}"));
        let renamed = fs::rename(&self.0, &aside).and_then(|()| self.sync_directory());
        renamed.map(|()| aside).map_err(|error| self.os(error))
    }

    fn write(&self, overrides: &Overrides) -> io::Result<()> {
        if overrides.is_empty() {
            return match fs::remove_file(&self.0) {
                Ok(()) => self.sync_directory(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
        }
        fs::create_dir_all(self.directory())?;
        // One writer at a time: the writers' lock of the region is held.
        let new = self.0.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(overrides.to_json().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        self.sync_directory()
    }

    /// A new name is not lost by a power cut.
    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.directory())?.sync_all()
    }

    fn directory(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new("/"))
    }

    fn damaged(&self, why: String) -> OverridesError {
        OverridesError::Damaged { file: self.0.clone(), why }
    }

    fn os(&self, error: io::Error) -> OverridesError {
        OverridesError::Os { file: self.0.clone(), error }
    }
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
        state.set_admin(None, &names, &Override::unattributed(Admin::Disabled)).unwrap().overrides()
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
        file.keep(&overrides(&["2"]), 1000).unwrap();
        assert_eq!(file.load().unwrap(), overrides(&["2"]));
        let aside = directory.path().join("synrail.json.damaged-1000");
        assert_eq!(fs::read(aside).unwrap(), whole[..whole.len() / 2]);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = OverridesFile::new(directory.path(), &"synrail".parse().unwrap());
        file.keep(&overrides(&["1"]), 1000).unwrap();
        fs::create_dir(file.path().with_extension("json.new")).unwrap();
        assert!(matches!(file.keep(&overrides(&["2"]), 1000), Err(OverridesError::Os { .. })));
        assert_eq!(file.load().unwrap(), overrides(&["1"]));
    }
}
