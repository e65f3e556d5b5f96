//! The region as a file in `/dev/shm`: created in one step, mapped, locked, and never trusted.
//!
//! - It is created without a name and linked into place when complete. So no process ever sees half a region,
//!   and a live region is never truncated.
//! - Its mode is 0640 with the group `synrail`, which may read it, where this host has that group and its owner may give it
//!   files; otherwise 0600. A file that another user owns (to be read: other than root) or may write is refused, since every
//!   user may create files in `/dev/shm`.
//! - Writers hold `flock`; lbd holds an open-file-description lock on the first byte. Both end with their
//!   holder.
//! - A writer that publishes a state touches the file, which wakes lbd (`events.rs`).
//! - Other processes write the mapping, so it is accessed only by atomic words. A truncated file is detected
//!   (`sigbus.rs`), and does not end the process.
//! - Tables may be large. They are read from the file and written to it, and never accessed through the
//!   mapping, so their pages do not count as memory of this process.

#![allow(unsafe_code)]
#![expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open")]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use memmap2::{MmapOptions, MmapRaw};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, FcntlArg, Flock, FlockArg, fcntl},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::futimens,
        time::TimeSpec,
    },
    unistd::{Gid, fchown, linkat},
};
use thiserror::Error;

use super::{clock, control_socket, privileges, process, sigbus};
use crate::{
    model::ids::Generation,
    shm::{
        Memory, RegionError,
        slots::{self, KnownTables},
        stats,
    },
    state::State,
};

/// The name of the region if none is given.
pub const NAME_DEFAULT: &str = "synrail";
const DIRECTORY: &str = "/dev/shm";
/// How long a writer waits for another writer.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often the holder of a lock is looked for.
const LOOKS: usize = 20;

/// The name of a region: 1 to 100 of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionName(String);

impl std::str::FromStr for RegionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=100).contains(&text.len())
            && !text.starts_with(['.', '-'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err("1 to 100 of A-Z a-z 0-9 . _ -, not starting with . or -")
        }
    }
}

impl std::fmt::Display for RegionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl RegionName {
    /// Returns the path of the region's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.0)
    }
}

/// Why a region was not opened, created, locked or changed. Nothing was changed.
#[derive(Debug, Error)]
pub enum AccessError {
    /// There is no region of this name.
    #[error(
        "there is no region \"{0}\"; make one with `lbctl apply FILE` or `lbctl create M N`, or start lbd"
    )]
    Missing(RegionName),
    /// There is a region of this name already.
    #[error("there is a region \"{0}\" already; `lbctl show` shows it, `lbctl clean` removes it")]
    Exists(RegionName),
    /// The file belongs to another user, or others may write it.
    #[error(
        "region \"{name}\" belongs to user {owner} with mode {mode:04o}; only one that is ours, and that others may not write (mode 0600 or 0640), is used"
    )]
    NotOurs {
        /// The region's name.
        name: RegionName,
        /// The user who owns the file.
        owner: u32,
        /// The permission bits of the file.
        mode: u32,
    },
    /// This user may not open the region.
    #[error(
        "region \"{0}\" is another user's; run this as that user, for lbd's as root, or to read it in the group \"{group}\"", group = control_socket::GROUP
    )]
    NotAllowed(RegionName),
    /// The region was removed, or made anew, after it was opened.
    #[error("region \"{0}\" was removed or made anew meanwhile; nothing was changed, do it again")]
    Gone(RegionName),
    /// Another writer holds the lock.
    #[error("region \"{name}\" is being changed by {holder} since more than {} s; nothing was changed", LOCK_WAIT.as_secs())]
    Locked {
        /// The region's name.
        name: RegionName,
        /// The process that holds the lock.
        holder: String,
    },
    /// Another lbd follows the region.
    #[error("region \"{name}\" is followed by another lbd, {holder}; end that one first")]
    Followed {
        /// The region's name.
        name: RegionName,
        /// The lbd that follows it.
        holder: String,
    },
    /// The contents of the region cannot be used.
    #[error("region \"{name}\": {error}{}", way_out(name, error))]
    Unusable {
        /// The region's name.
        name: RegionName,
        /// What is wrong with the contents.
        error: RegionError,
    },
    /// A system call failed.
    #[error("region \"{name}\": {doing}: {error}")]
    Os {
        /// The region's name.
        name: RegionName,
        /// What was tried.
        doing: &'static str,
        /// The error of the system call.
        error: io::Error,
    },
}

/// Returns what to do about a region that cannot be used, if the error does not say it.
fn way_out(name: &RegionName, error: &RegionError) -> String {
    match error {
        RegionError::NotARegion => {
            "; if it is another program's file, choose another --shm, else see `lbctl clean`".to_owned()
        }
        RegionError::Unstable => "; try again".to_owned(),
        RegionError::ForeignVersion { .. } | RegionError::TooLarge { .. } => String::new(),
        RegionError::Os(error) if error.kind() != io::ErrorKind::UnexpectedEof => String::new(),
        RegionError::ForeignByteOrder
        | RegionError::Truncated { .. }
        | RegionError::Corrupt(_)
        | RegionError::Document(_)
        | RegionError::Os(_) => format!(
            "; make it anew with `lbctl clean --keep-overrides --shm {name}` (and --force while an lbd follows it), then `lbctl apply FILE --shm {name}`"
        ),
    }
}

/// What a region is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Change,
    Read,
}

/// A mapping of a region's file. Each user of a shared mapping accesses only its own words.
pub struct Mapping {
    // Declared before the map, so that it is dropped first.
    guard: sigbus::Guard,
    map: MmapRaw,
    purpose: Purpose,
}

impl Mapping {
    fn new(file: &File, purpose: Purpose) -> io::Result<Self> {
        let options = MmapOptions::new();
        let map = match purpose {
            Purpose::Change => options.map_raw(file),
            Purpose::Read => options.map_raw_read_only(file),
        }?;
        if map.len() == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { guard: sigbus::Guard::new(map.as_ptr(), map.len())?, map, purpose })
    }

    /// A word of it that may be written.
    fn word_to_write(&self, offset: usize) -> io::Result<&AtomicU64> {
        match self.purpose {
            Purpose::Change => self.word(offset),
            Purpose::Read => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    fn word(&self, offset: usize) -> io::Result<&AtomicU64> {
        if !offset.is_multiple_of(8) || offset.checked_add(8).is_none_or(|end| end > self.map.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the offset was checked to lie inside of the mapping.
        let pointer = unsafe { self.map.as_mut_ptr().add(offset) };
        // SAFETY: a mapping begins on a page, so the word is aligned; it lives as long as `self`; this
        // process and all that know the layout touch it atomically; should the file shrink, the guard puts
        // other memory there.
        Ok(unsafe { AtomicU64::from_ptr(pointer.cast()) })
    }

    fn alive(&self) -> io::Result<()> {
        if self.guard.lost() {
            Err(io::Error::other("its file was truncated while it was in use"))
        } else {
            Ok(())
        }
    }
}

/// For the statistics: words that exist from the start, and are written without a lock.
impl Memory for Arc<Mapping> {
    fn size(&mut self) -> io::Result<usize> {
        Ok(self.map.len())
    }

    fn load(&mut self, offset: usize) -> io::Result<u64> {
        let value = self.word(offset)?.load(Ordering::Acquire);
        self.alive().map(|()| value)
    }

    fn store(&mut self, offset: usize, value: u64) -> io::Result<()> {
        self.word_to_write(offset)?.store(value, Ordering::Release);
        self.alive()
    }

    fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        for at in (offset..offset + len).step_by(8) {
            bytes.extend(self.word(at)?.load(Ordering::Relaxed).to_ne_bytes());
        }
        // A later load, such as that of the generation, must not be older than these words.
        fence(Ordering::Acquire);
        self.alive().map(|()| bytes)
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        // A reader that sees one of these words must see what was stored before, such as the last generation.
        fence(Ordering::Release);
        for (word, at) in bytes.as_chunks().0.iter().zip((offset..).step_by(8)) {
            self.word_to_write(at)?.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        self.alive()
    }

    fn grow(&mut self, len: usize) -> io::Result<()> {
        if len <= self.map.len() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }
}

/// An open region.
pub struct Region {
    name: RegionName,
    file: File,
    map: Arc<Mapping>,
    /// The tables of the state that was read last.
    tables: KnownTables,
    /// Watches the file for changes, if this process follows the region.
    watch: Option<Inotify>,
}

/// The writers' lock on a region. It ends when it is dropped, or with the process.
pub struct WriteLock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Region {
    /// Creates a region that holds `state`.
    ///
    /// # Errors
    /// Returns an error if the region exists already, or cannot be created.
    pub fn create(name: &RegionName, state: &State) -> Result<Self, AccessError> {
        let region = Self::nameless(name, state)?;
        region.link(&name.path())?;
        Ok(region)
    }

    /// Puts a region that holds `state` in the place of this one, which may be of another layout.
    ///
    /// # Errors
    /// Returns an error if it cannot be created; then this one is in its place.
    pub fn replace(&self, state: &State) -> Result<Self, AccessError> {
        let region = Self::nameless(&self.name, state)?;
        // No region has such a name, and no other process takes this one.
        let beside = Path::new(DIRECTORY).join(format!(".{}.new-{}", self.name, std::process::id()));
        region.link(&beside)?;
        fs::rename(&beside, self.name.path()).map_err(|error| {
            let _ = fs::remove_file(&beside);
            self.os("putting the new one in its place", error)
        })?;
        Ok(region)
    }

    /// Creates a region that has no name until it is complete, so a process that dies before leaves nothing.
    fn nameless(name: &RegionName, state: &State) -> Result<Self, AccessError> {
        let os = |doing| move |error| AccessError::Os { name: name.clone(), doing, error };
        let unusable = |error| AccessError::Unusable { name: name.clone(), error };
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        let file = options.open(DIRECTORY).map_err(os("making it"))?;
        file.set_len(slots::HEADER_BYTES).map_err(os("sizing it"))?;
        let map = Arc::new(Mapping::new(&file, Purpose::Change).map_err(os("mapping it"))?);
        let mut region = Self { name: name.clone(), file, map, tables: KnownTables::new(), watch: None };
        region.let_readers_read();
        slots::format(&mut region, state).map_err(unusable)?;
        region.share(state);
        Ok(region)
    }

    fn link(&self, path: &Path) -> Result<(), AccessError> {
        let nameless = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let here = nix::fcntl::AT_FDCWD;
        linkat(here, &nameless[..], here, path, AtFlags::AT_SYMLINK_FOLLOW).map_err(|error| match error {
            Errno::EEXIST => AccessError::Exists(self.name.clone()),
            error => self.os("naming it", error.into()),
        })
    }

    /// Opens a region to read and to change it. Its contents are not checked yet.
    ///
    /// # Errors
    /// Returns an error if there is no such region, or it is not ours.
    pub fn open(name: &RegionName) -> Result<Self, AccessError> {
        Self::open_for(Purpose::Change, name)
    }

    /// As [`Region::open`], but only to read it, which also the group of readers may.
    ///
    /// # Errors
    /// As [`Region::open`].
    pub fn open_to_read(name: &RegionName) -> Result<Self, AccessError> {
        Self::open_for(Purpose::Read, name)
    }

    fn open_for(purpose: Purpose, name: &RegionName) -> Result<Self, AccessError> {
        let os = |doing| move |error| AccessError::Os { name: name.clone(), doing, error };
        let mut options = OpenOptions::new();
        options.read(true).write(purpose == Purpose::Change).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(name.path()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => AccessError::Missing(name.clone()),
            io::ErrorKind::PermissionDenied => AccessError::NotAllowed(name.clone()),
            _ => os("opening it")(error),
        })?;
        let metadata = file.metadata().map_err(os("asking for its owner"))?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        // Every user may create files in this directory, and the owner of the region controls lbd.
        let ours = owner == nix::unistd::geteuid().as_raw() || purpose == Purpose::Read && owner == 0;
        if !metadata.is_file() || !ours || mode & 0o022 != 0 {
            return Err(AccessError::NotOurs { name: name.clone(), owner, mode });
        }
        let not_a_region = || AccessError::Unusable { name: name.clone(), error: RegionError::NotARegion };
        if metadata.len() == 0 {
            return Err(not_a_region());
        }
        let map = Arc::new(Mapping::new(&file, purpose).map_err(os("mapping it"))?);
        Ok(Self { name: name.clone(), file, map, tables: KnownTables::new(), watch: None })
    }

    /// Lets the group of readers read it, if this host has that group and this process may give it files.
    pub fn let_readers_read(&self) {
        if let Some(group) = privileges::readers() {
            self.let_read(group);
        }
    }

    fn let_read(&self, group: Gid) {
        if fchown(&self.file, None, Some(group)).is_ok() {
            // Without it only the owner may read.
            let _ = self.file.set_permissions(fs::Permissions::from_mode(0o640));
        }
    }

    /// Removes a region's name. A process that has it open keeps it.
    ///
    /// # Errors
    /// Returns an error if there is no such region.
    pub fn remove(name: &RegionName) -> Result<(), AccessError> {
        fs::remove_file(name.path()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => AccessError::Missing(name.clone()),
            _ => AccessError::Os { name: name.clone(), doing: "removing it", error },
        })
    }

    /// Returns the region's name.
    #[must_use]
    pub fn name(&self) -> &RegionName {
        &self.name
    }

    /// Returns the live state, verified. Tables that have not changed since the last read are shared with
    /// that state, and not read again.
    ///
    /// # Errors
    /// Returns an error if there is no complete state.
    pub fn state(&mut self) -> Result<(Generation, State), AccessError> {
        let (generation, state) = self.state_with_tables(|state| (0..state.services.len()).collect())?;
        self.share(&state);
        Ok((generation, state))
    }

    /// As [`Region::state`], but only with the tables of the services whose indexes `pick` returns; others
    /// are not read. A change of a state needs no tables: those that it leaves stay where they are.
    ///
    /// # Errors
    /// As [`Region::state`].
    pub fn state_with_tables(
        &mut self,
        pick: impl Fn(&State) -> Vec<usize>,
    ) -> Result<(Generation, State), AccessError> {
        let known = std::mem::take(&mut self.tables);
        let read = slots::read_knowing(self, &known, pick);
        self.tables = known;
        read.map_err(|error| self.unusable(error))
    }

    /// States that are read later share the tables of this one.
    pub fn share(&mut self, state: &State) {
        let tables = state.services.iter().map(|service| &service.table).filter(|table| table.is_read());
        self.tables = tables.map(|table| (table.digest(), table.clone())).collect();
    }

    /// Publishes what `change` makes of the live state, whose tables are not read. No other writer can change
    /// the region meanwhile. Returns the new generation and the value that `change` returned beside the
    /// state. Publishes nothing if `change` returns no state.
    ///
    /// # Errors
    /// Returns an error if another process keeps the lock, the region cannot be used, or `change` returns an
    /// error. Nothing was changed then.
    pub fn update<T, E: From<AccessError>>(
        &mut self,
        change: impl FnOnce(&State) -> Result<(Option<State>, T), E>,
    ) -> Result<(Generation, T), E> {
        self.update_and(change, |_| ()).map(|(generation, result, ())| (generation, result))
    }

    /// As [`Region::update`]; then calls `after` with the state that is live, under the same lock, and returns
    /// its value as well.
    ///
    /// # Errors
    /// As [`Region::update`].
    pub fn update_and<T, R, E: From<AccessError>>(
        &mut self,
        change: impl FnOnce(&State) -> Result<(Option<State>, T), E>,
        after: impl FnOnce(&State) -> R,
    ) -> Result<(Generation, T, R), E> {
        let _lock = self.lock()?;
        if !self.is_current().map_err(|error| self.os("asking for its name", error))? {
            return Err(AccessError::Gone(self.name.clone()).into());
        }
        let (live, state) = self.state_with_tables(|_| Vec::new())?;
        let (next, result) = change(&state)?;
        let Some(next) = next else { return Ok((live, result, after(&state))) };
        let generation = slots::publish(self, &next, live).map_err(|error| self.unusable(error))?;
        self.touch();
        Ok((generation, result, after(&next)))
    }

    /// Wakes the lbd that waits for a change of the region ([`super::events`]).
    fn touch(&self) {
        // The state is published already; without this lbd finds it later by itself.
        let _ = futimens(&self.file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW);
    }

    /// Returns a descriptor that is readable after a state was published or the file has lost its name;
    /// `None` if the file cannot be watched.
    #[must_use]
    pub fn watch(&self) -> Option<&Inotify> {
        self.watch.as_ref()
    }

    /// Waits at most [`LOCK_WAIT`] for the writers' lock.
    ///
    /// # Errors
    /// Returns an error if another writer keeps the lock, and names that process.
    pub fn lock(&self) -> Result<WriteLock, AccessError> {
        let try_lock = || {
            let file = self.file.try_clone().map_err(|error| self.os("cloning its descriptor", error));
            match file.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
                Ok(Ok(lock)) => Some(Ok(WriteLock(lock))),
                Ok(Err((_, Errno::EWOULDBLOCK))) => None,
                Ok(Err((_, error))) => Some(Err(self.os("locking it", error.into()))),
                Err(error) => Some(Err(error)),
            }
        };
        clock::wait_for(LOCK_WAIT, Duration::from_millis(5), try_lock).unwrap_or_else(|| {
            Err(AccessError::Locked { name: self.name.clone(), holder: self.flock_holder() })
        })
    }

    /// Makes this process the lbd of the region, until the region is dropped. From then on the region is
    /// watched for changes.
    ///
    /// # Errors
    /// Returns an error if another lbd follows the region, and names that process.
    pub fn follow(&mut self) -> Result<(), AccessError> {
        let lock = first_byte(libc::F_WRLCK);
        match fcntl(self.file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => {
                // Without it lbd looks now and then.
                self.watch = watch(&self.file).ok();
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let pid = stats::Daemon::read(self).map_or(0, |daemon| daemon.pid);
                Err(AccessError::Followed { name: self.name.clone(), holder: holder(pid) })
            }
            Err(error) => Err(self.os("locking it", error.into())),
        }
    }

    /// Reports whether an lbd follows the region.
    ///
    /// # Errors
    /// Returns an error if the lock cannot be queried.
    pub fn is_followed(&self) -> Result<bool, AccessError> {
        let mut lock = first_byte(libc::F_WRLCK);
        fcntl(self.file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))
            .map_err(|error| self.os("asking who follows it", error.into()))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }

    /// Reports whether the region's name still belongs to this file. It does not after the region was removed
    /// or created anew.
    ///
    /// # Errors
    /// Returns an error if the file cannot be queried.
    pub fn is_current(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::symlink_metadata(self.name.path()) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Maps the file again if it was truncated while it was mapped; every access to such a mapping returns an
    /// error. Returns whether the file was mapped again.
    ///
    /// # Errors
    /// Returns an error if the file is still too short to be a region.
    pub fn recover(&mut self) -> Result<bool, AccessError> {
        if !self.map.guard.lost() {
            return Ok(false);
        }
        self.remap().map_err(|error| match error.kind() {
            // The file is empty. This is the same error as for a region that is empty when it is opened.
            io::ErrorKind::UnexpectedEof => self.unusable(RegionError::NotARegion),
            _ => self.os("mapping it again after it was truncated", error),
        })?;
        Ok(true)
    }

    /// Returns the mapping, for words that are written without a lock.
    #[must_use]
    pub fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.map)
    }

    fn unusable(&self, error: RegionError) -> AccessError {
        AccessError::Unusable { name: self.name.clone(), error }
    }

    fn os(&self, doing: &'static str, error: io::Error) -> AccessError {
        AccessError::Os { name: self.name.clone(), doing, error }
    }

    /// Describes the process that holds the writers' lock, according to `/proc/locks`, which may lack it at one look while other
    /// locks come and go.
    fn flock_holder(&self) -> String {
        let inode = self.file.metadata().map_or(0, |metadata| metadata.ino());
        let look = || {
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            locks.lines().map(str::split_ascii_whitespace).find_map(|fields| {
                let fields: Vec<&str> = fields.collect();
                let [_, "FLOCK", _, _, pid, device, ..] = fields[..] else { return None };
                (device.rsplit(':').next()? == inode.to_string()).then(|| pid.parse().ok()).flatten()
            })
        };
        holder((0..LOOKS).find_map(|_| look()).unwrap_or(0))
    }

    /// Maps the file in its present length.
    fn remap(&mut self) -> io::Result<()> {
        self.map = Arc::new(Mapping::new(&self.file, self.map.purpose)?);
        Ok(())
    }
}

impl Memory for Region {
    fn size(&mut self) -> io::Result<usize> {
        let len = self.file.metadata()?.len();
        usize::try_from(len).map_err(io::Error::other)
    }

    fn load(&mut self, offset: usize) -> io::Result<u64> {
        self.map.load(offset)
    }

    fn store(&mut self, offset: usize, value: u64) -> io::Result<()> {
        self.map.store(offset, value)
    }

    fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        if offset < stats::END {
            return self.map.read(offset, len);
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset as u64)?;
        // A later load, such as that of the generation, must not be older than these bytes.
        fence(Ordering::Acquire);
        Ok(bytes)
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        if offset < stats::END {
            return self.map.write(offset, bytes);
        }
        self.file.write_all_at(bytes, offset as u64)
    }

    fn grow(&mut self, len: usize) -> io::Result<()> {
        if len > self.size()? {
            // Allocate the space now: a write to a sparse file on a full file system would raise SIGBUS.
            let len = i64::try_from(len).map_err(io::Error::other)?;
            nix::fcntl::posix_fallocate(self.file.as_fd(), 0, len).map_err(io::Error::from)?;
        }
        if len.min(stats::END) > self.map.map.len() {
            self.remap()?;
        }
        Ok(())
    }
}

/// Watches for this file to be touched or to lose its name.
fn watch(file: &File) -> nix::Result<Inotify> {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    watch.add_watch(&format!("/proc/self/fd/{}", file.as_raw_fd())[..], AddWatchFlags::IN_ATTRIB)?;
    Ok(watch)
}

/// Describes a lock of this kind on a region's first byte.
fn first_byte(kind: i32) -> libc::flock {
    // The constants are small and not negative.
    let short = |n: i32| i16::try_from(n).unwrap_or(0);
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: 0, l_len: 1, l_pid: 0 }
}

/// Describes the holder of a lock by its process number; 0 if that is unknown.
fn holder(pid: u64) -> String {
    if pid == 0 {
        return "another process".to_owned();
    }
    process(pid).unwrap_or_else(|| format!("process {pid}"))
}

#[cfg(test)]
mod tests;
