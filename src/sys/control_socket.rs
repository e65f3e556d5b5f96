//! The socket by which another process asks lbd: lines in, one line out for each. lbd serves it between other work,
//! without a thread: nothing here waits.
//!
//! Only root and the user `synrail`, as which lbagent runs, are answered; a connection of another user is closed, as is one
//! that sends too long a line, or does not read its answers.

use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::{Gid, Uid, User, chown, geteuid},
};

use super::{privileges::readers, region::RegionName};

/// Where sockets are.
pub const DIRECTORY: &str = "/run/synrail";
/// The group that may read regions, and give orders by HTTP; lbagent's user has the same name.
pub const GROUP: &str = "synrail";
/// How many connections there may be; the oldest is closed when another one comes.
const CONNECTIONS_MAX: usize = 16;

/// Of a file's mode: each user may remove its own files alone.
const STICKY: u32 = 0o1000;

/// The listening socket and its connections.
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
    epoll: Epoll,
    connections: Vec<Connection>,
    line_bytes_max: usize,
}

struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
}

/// Returns the path of the socket of the lbd that follows a region.
#[must_use]
pub fn path(region: &RegionName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{region}.sock"))
}

/// Returns the path of the socket where lbagent answers HTTP.
#[must_use]
pub fn http_path(region: &RegionName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{region}.http"))
}

/// Removes the sockets that an lbd and an lbagent have left that were killed.
pub fn remove(region: &RegionName) {
    let _ = fs::remove_file(path(region));
    remove_http(region);
}

/// Removes the socket that an lbagent without rights has left.
pub fn remove_http(region: &RegionName) {
    // There is none if it has served nothing.
    let _ = fs::remove_file(http_path(region));
}

/// Listens at `path`, for the owner and the group [`GROUP`]; what another process left there is removed.
///
/// # Errors
/// Returns an error if the operating system refuses.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    // Without the right to it only the owner may connect. One of the group itself need not ask, and its sandbox may forbid it.
    let has = |group: Gid| fs::metadata(path).is_ok_and(|socket| socket.gid() == group.as_raw());
    let given = readers().is_some_and(|group| has(group) || chown(path, None, Some(group)).is_ok());
    fs::set_permissions(path, fs::Permissions::from_mode(if given { 0o660 } else { 0o600 }))?;
    Ok(listener)
}

impl ControlSocket {
    /// Listens at `path`; what another process left there is removed. Lines may have so many bytes.
    ///
    /// # Errors
    /// Returns an error if the operating system refuses.
    pub fn open(path: PathBuf, line_bytes_max: usize) -> io::Result<Self> {
        let listener = listen(&path)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { path, listener, epoll, connections: Vec::new(), line_bytes_max })
    }

    /// Answers every line that has come with what `answer` returns for it.
    pub fn serve(&mut self, mut answer: impl FnMut(&[u8]) -> String) {
        let mut events = [EpollEvent::empty(); 1];
        // Most times there is nothing, which one system call tells.
        if !matches!(self.epoll.wait(&mut events, EpollTimeout::ZERO), Ok(1..)) {
            return;
        }
        while let Ok((stream, _)) = self.listener.accept() {
            let watched = may_ask(&stream)
                && stream.set_nonblocking(true).is_ok()
                && self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, 1)).is_ok();
            if watched {
                if self.connections.len() == CONNECTIONS_MAX {
                    self.connections.remove(0);
                }
                self.connections.push(Connection { stream, received: Vec::new() });
            }
        }
        let limit = self.line_bytes_max;
        self.connections.retain_mut(|connection| connection.serve(limit, &mut answer).is_ok());
    }
}

/// Reports whether the process at the other end was root's, lbagent's, or this process's own user's when it connected.
fn may_ask(stream: &UnixStream) -> bool {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else { return false };
    let uid = Uid::from_raw(peer.uid());
    let of_agent = || User::from_name(GROUP).ok().flatten().is_some_and(|user| user.uid == uid);
    uid.is_root() || uid == geteuid() || of_agent()
}

impl Connection {
    /// An error means that the connection is to be closed.
    fn serve(&mut self, limit: usize, answer: &mut impl FnMut(&[u8]) -> String) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.received.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            while let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let reply = answer(&line[..end]) + "\n";
                // An answer fits into the socket, unless the other side has not read the ones before.
                self.stream.write_all(reply.as_bytes())?;
            }
            if self.received.len() > limit {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }
}

impl AsFd for ControlSocket {
    /// The descriptor is readable when there is something to serve.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // The directory stays if another socket is in it, and if the package has made it (dist/systemd/tmpfiles.conf).
        let is_of_package =
            |at: &&Path| fs::metadata(at).is_ok_and(|at| at.permissions().mode() & STICKY != 0);
        let _ = self.path.parent().filter(|at| !is_of_package(at)).map(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    fn upper(line: &[u8]) -> String {
        String::from_utf8_lossy(line).to_uppercase()
    }

    fn socket(directory: &tempfile::TempDir) -> ControlSocket {
        ControlSocket::open(directory.path().join("run/lb.sock"), 1000).unwrap()
    }

    #[test]
    fn every_line_is_answered_however_it_comes() {
        let directory = tempfile::tempdir().unwrap();
        let mut socket = socket(&directory);
        let path = directory.path().join("run/lb.sock");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0, "not for others");
        socket.serve(upper);
        let mut client = UnixStream::connect(&path).unwrap();
        let mut answers = BufReader::new(client.try_clone().unwrap()).lines();
        client.write_all(b"one\ntwo\nth").unwrap();
        socket.serve(upper);
        assert_eq!([answers.next().unwrap().unwrap(), answers.next().unwrap().unwrap()], ["ONE", "TWO"]);
        client.write_all(b"ree\n").unwrap();
        socket.serve(upper);
        assert_eq!(answers.next().unwrap().unwrap(), "THREE");
    }

    #[test]
    fn a_line_without_end_and_answers_that_are_not_read_close_the_connection() {
        let directory = tempfile::tempdir().unwrap();
        let mut socket = socket(&directory);
        let path = directory.path().join("run/lb.sock");
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&[b'x'; 1001]).unwrap();
        socket.serve(upper);
        assert_eq!(socket.connections.len(), 0);
        let mut deaf = UnixStream::connect(&path).unwrap();
        for _ in 0..10_000 {
            if deaf.write_all(&[[b'x'; 500].as_slice(), b"\n"].concat()).is_err() {
                break;
            }
            socket.serve(upper);
        }
        assert_eq!(socket.connections.len(), 0);
        assert!(UnixStream::connect(&path).is_ok(), "others are served");
    }

    #[test]
    #[ignore = "needs root"]
    fn another_user_gets_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut socket = socket(&directory);
        let path = directory.path().join("run/lb.sock");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let asks = || {
            // Of this thread alone.
            // SAFETY: a system call with a number.
            #[expect(unsafe_code, reason = "the C library sets the user of all threads")]
            unsafe {
                libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534);
            }
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"ask\n").unwrap();
            client
        };
        let mut stranger = std::thread::scope(|scope| scope.spawn(asks).join().unwrap());
        socket.serve(upper);
        assert_eq!(stranger.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(socket.connections.len(), 0);
    }

    #[test]
    fn more_connections_than_allowed_close_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let mut socket = socket(&directory);
        let path = directory.path().join("run/lb.sock");
        let mut clients: Vec<UnixStream> = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 3 {
            clients.push(UnixStream::connect(&path).unwrap());
            socket.serve(upper);
        }
        assert_eq!(socket.connections.len(), CONNECTIONS_MAX);
        let mut byte = [0];
        assert_eq!(clients[0].read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn what_was_left_at_the_path_is_replaced_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/lb.sock");
        let first = socket(&directory);
        std::mem::forget(first);
        let second = socket(&directory);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        assert!(!path.parent().unwrap().exists());
        fs::DirBuilder::new().mode(0o1755).create(path.parent().unwrap()).unwrap();
        drop(socket(&directory));
        assert!(!path.exists() && path.parent().unwrap().exists(), "the package's directory stays");
    }
}
