//! Files that are replaced as a whole: a reader finds the old contents or the new ones, also after a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Gives the file at `path` these contents and this mode. The directory must exist. Where a symbolic link leads is replaced.
///
/// # Errors
/// When the file cannot be written, or is no regular file. It is as it was then, and nothing else is left.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let there = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        there => there?,
    };
    let path = there.as_path();
    if fs::symlink_metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let new = beside(path)?;
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let written = options.write(true).create_new(true).mode(mode).open(&new).and_then(|mut file| {
        // Whatever the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    sync_directory(path)
}

/// Makes the names in the directory of this file outlive a power cut.
///
/// # Errors
/// When a system call fails.
pub fn sync_directory(of: &Path) -> io::Result<()> {
    File::open(directory(of))?.sync_all()
}

/// Returns the directory that a file is in.
#[must_use]
pub fn directory(of: &Path) -> &Path {
    of.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the name of the new file while it is written. It is of this process alone, and has another ending:
/// programs that take all files of one ending do not take it.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = name.to_owned();
    new.push(format!(".new-{}", std::process::id()));
    Ok(path.with_file_name(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_or_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.prom");
        for contents in ["one", "another"] {
            replace(&file, contents.as_bytes(), 0o644).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), contents);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        let link = directory.path().join("link.prom");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, b"by the link", 0o644).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "by the link");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(replace(&pipe, b"more", 0o644).is_err());
        assert!(!fs::metadata(&pipe).unwrap().is_file(), "it is still a pipe");
        replace(&file, b"another", 0o644).unwrap();
        let inside = file.join("b.prom");
        assert!(replace(&inside, b"more", 0o644).is_err());
        assert!(replace(Path::new("/"), b"more", 0o644).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "another");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "and the link and the pipe");
    }
}
