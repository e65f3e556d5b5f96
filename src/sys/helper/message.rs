//! What goes between lbd and its helper: a length of 4 bytes, with it the descriptors of sockets if there are any, then so
//! many bytes of JSON.

use std::{
    borrow::Cow,
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sys::nft::{Elsewhere, NftError};

/// More than the text of the largest ruleset.
const BYTES_MAX: usize = 64 << 20;

/// What lbd asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request<'a> {
    /// What nft makes of a text in an empty network namespace.
    Make {
        text: Cow<'a, str>,
    },
    /// Whether nft and the kernel accept these texts.
    Check {
        texts: Vec<Cow<'a, str>>,
    },
    /// Some of [`MODULES`](super::server::MODULES).
    LoadModules {
        names: Vec<Cow<'a, str>>,
    },
    StartAgent {
        region: String,
    },
    AgentEnded,
    StopAgent,
}

/// The answers, in the same order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// With the sockets of the namespace.
    Made,
    Checked(Vec<Result<(), String>>),
    Loaded(bool),
    Started(u32),
    NotStarted(String),
    /// The status as the kernel has it, or why it is not known; `None` while it runs.
    Ended(Option<Result<i32, String>>),
    Stopped,
    /// The first two failed.
    Failed(Failure),
}

/// An error of nft, without what was tried, which lbd knows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    NoCommand,
    Refused(String),
    NoNamespace(Option<i32>, String),
    Other(String),
}

impl From<NftError> for Failure {
    fn from(error: NftError) -> Self {
        match error {
            NftError::NoCommand => Self::NoCommand,
            NftError::Refused { message, .. } => Self::Refused(message),
            NftError::NoNamespace(error) => Self::NoNamespace(error.raw_os_error(), error.to_string()),
            error @ (NftError::Run(_)
            | NftError::Netlink { .. }
            | NftError::Table { .. }
            | NftError::Set { .. }
            | NftError::Unreadable(_)
            | NftError::NotInForce(_)) => Self::Other(error.to_string()),
        }
    }
}

impl Failure {
    pub(super) fn with(self, what: &'static str) -> NftError {
        match self {
            Self::NoCommand => NftError::NoCommand,
            Self::Refused(message) => NftError::Refused { what, message },
            Self::NoNamespace(Some(number), _) => NftError::NoNamespace(io::Error::from_raw_os_error(number)),
            Self::NoNamespace(None, text) => NftError::NoNamespace(io::Error::other(text)),
            Self::Other(text) => NftError::Run(io::Error::other(text)),
        }
    }
}

pub(super) fn send(socket: &mut UnixStream, message: &impl Serialize, sockets: &[RawFd]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_ne_bytes();
    let rights = [ControlMessage::ScmRights(sockets)];
    let rights = if sockets.is_empty() { &[][..] } else { &rights[..] };
    let sent =
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&length)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    socket.write_all(&text)
}

/// Receives a message, with the two sockets of a namespace if they came with it.
pub(super) fn receive<T: DeserializeOwned>(socket: &mut UnixStream) -> io::Result<(T, Option<Elsewhere>)> {
    let mut length = [0; 4];
    let sockets = receive_length(socket, &mut length)?;
    let length = usize::try_from(u32::from_ne_bytes(length)).map_err(io::Error::other)?;
    if length > BYTES_MAX {
        return Err(io::Error::other("a message is too long"));
    }
    let mut text = vec![0; length];
    socket.read_exact(&mut text)?;
    let mut sockets = sockets.into_iter();
    let elsewhere = sockets.next().zip(sockets.next());
    let elsewhere = elsewhere.map(|(changes, reads)| Elsewhere { changes, reads });
    Ok((serde_json::from_slice(&text)?, elsewhere))
}

#[expect(unsafe_code, reason = "the kernel hands over descriptors as numbers")]
fn receive_length(socket: &UnixStream, length: &mut [u8; 4]) -> io::Result<Vec<OwnedFd>> {
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(length)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut sockets = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            // SAFETY: the kernel has just made these descriptors for this process, and nothing else knows them.
            sockets.extend(descriptors.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if received.bytes != 4 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(sockets)
}
