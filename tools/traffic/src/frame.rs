//! The tool's private protocol over TCP. A connection carries frames, each
//!
//! ```text
//! 0      1            5                 5 + length
//! | kind | length u32 | body            |            numbers are big-endian
//! ```
//!
//! | request       | body                  | reply          | body                                       |
//! |---------------|-----------------------|----------------|--------------------------------------------|
//! | `E` echo      | message               | `e`            | name length u8, name, the message          |
//! | `U` upload    | length u64, seed u64, | `u`            | name length u8, name, 0 or 1 (mismatch),   |
//! |               | then the bare stream  |                | offset of the first wrong byte u64         |
//! | `D` download  | length u64, seed u64  | `d`            | name length u8, name; then the bare stream |
//! | `B` bye       |                       | (server closes)|                                            |
//! |               |                       | `x` refused    | why, text; then the server closes          |
//!
//! Everything has a limit: a body [`BODY_BYTES_MAX`], a transfer [`TRANSFER_BYTES_MAX`]. A frame that breaks a rule
//! is [`Malformed`] and ends the connection; it never panics and never makes a reader allocate more than a body.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::name::Name;

/// The longest body of a frame.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest message: with the server's name it is still a body.
pub(crate) const MESSAGE_BYTES_MAX: usize = BODY_BYTES_MAX - 1 - Name::BYTES_MAX;
/// The longest stream of one transfer.
pub(crate) const TRANSFER_BYTES_MAX: u64 = 1 << 40;

const HEADER_BYTES: usize = 5;

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Echo(&'a [u8]),
    Upload(Extent),
    Download(Extent),
    Bye,
}

/// Which stream is transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) length: u64,
    pub(crate) seed: u64,
}

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    Echo { name: Name, message: &'a [u8] },
    Uploaded { name: Name, mismatch: Option<u64> },
    Download { name: Name },
    Refused,
}

/// Bytes that are no frame of this protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, "not a frame of this protocol")
    }
}

impl<'a> Request<'a> {
    /// Appends the frame.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Echo(message) => frame(out, b'E', &[message]),
            Self::Upload(extent) => frame(out, b'U', &[&extent.encode()]),
            Self::Download(extent) => frame(out, b'D', &[&extent.encode()]),
            Self::Bye => frame(out, b'B', &[]),
        }
    }

    pub(crate) fn decode(kind: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        match kind {
            b'E' if body.len() <= MESSAGE_BYTES_MAX => Ok(Self::Echo(body)),
            b'U' => Ok(Self::Upload(Extent::decode(body)?)),
            b'D' => Ok(Self::Download(Extent::decode(body)?)),
            b'B' if body.is_empty() => Ok(Self::Bye),
            _ => Err(Malformed),
        }
    }
}

impl<'a> Reply<'a> {
    /// Appends the frame.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Echo { name, message } => named(out, b'e', name, [message, &[]]),
            Self::Uploaded { name, mismatch } => {
                let offset = mismatch.unwrap_or(0).to_be_bytes();
                named(out, b'u', name, [&[u8::from(mismatch.is_some())], &offset]);
            }
            Self::Download { name } => named(out, b'd', name, [&[], &[]]),
            Self::Refused => frame(out, b'x', &[b"too many connections"]),
        }
    }

    pub(crate) fn decode(kind: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        if kind == b'x' {
            return Ok(Self::Refused);
        }
        let (&length, rest) = body.split_first().ok_or(Malformed)?;
        let (name, rest) = rest.split_at_checked(usize::from(length)).ok_or(Malformed)?;
        let name = Name::from_bytes(name).ok_or(Malformed)?;
        match kind {
            b'e' => Ok(Self::Echo { name, message: rest }),
            b'd' if rest.is_empty() => Ok(Self::Download { name }),
            b'u' => {
                let (&[found], offset) = rest.split_first_chunk::<1>().ok_or(Malformed)?;
                let offset = u64::from_be_bytes(offset.try_into().map_err(|_| Malformed)?);
                match found {
                    0 => Ok(Self::Uploaded { name, mismatch: None }),
                    1 => Ok(Self::Uploaded { name, mismatch: Some(offset) }),
                    _ => Err(Malformed),
                }
            }
            _ => Err(Malformed),
        }
    }
}

impl Extent {
    fn encode(self) -> [u8; 16] {
        ((u128::from(self.length) << 64) | u128::from(self.seed)).to_be_bytes()
    }

    fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (length, seed) = body.split_first_chunk::<8>().ok_or(Malformed)?;
        let seed = u64::from_be_bytes(seed.try_into().map_err(|_| Malformed)?);
        let length = u64::from_be_bytes(*length);
        if length > TRANSFER_BYTES_MAX { Err(Malformed) } else { Ok(Self { length, seed }) }
    }
}

/// Reads one frame into `body` and returns its kind; `None` when the other end closed between two frames.
pub(crate) async fn read<R: AsyncRead + Unpin>(from: &mut R, body: &mut Vec<u8>) -> io::Result<Option<u8>> {
    let mut header = [0; HEADER_BYTES];
    if from.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..]).await?;
    let [kind, length @ ..] = header;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed)?;
    if length > BODY_BYTES_MAX {
        return Err(Malformed.into());
    }
    body.resize(length, 0);
    from.read_exact(body).await?;
    Ok(Some(kind))
}

fn named(out: &mut Vec<u8>, kind: u8, name: &Name, [first, second]: [&[u8]; 2]) {
    let length = u8::try_from(name.as_str().len()).unwrap_or(u8::MAX); // a name has at most 64 bytes
    frame(out, kind, &[&[length], name.as_str().as_bytes(), first, second]);
}

fn frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= BODY_BYTES_MAX);
    out.push(kind);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(mut bytes: &[u8]) -> io::Result<Option<(u8, Vec<u8>)>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut body = Vec::new();
        let kind = runtime.block_on(read(&mut bytes, &mut body))?;
        assert!(body.capacity() <= 2 * BODY_BYTES_MAX);
        Ok(kind.map(|kind| (kind, body)))
    }

    fn name() -> Name {
        "vm-001".parse().unwrap()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let extent = Extent { length: TRANSFER_BYTES_MAX, seed: 0xfeed };
        for request in [
            Request::Echo(b"hello"),
            Request::Echo(b""),
            Request::Upload(extent),
            Request::Download(extent),
            Request::Bye,
        ] {
            let mut bytes = Vec::new();
            request.encode(&mut bytes);
            let (kind, body) = read_all(&bytes).unwrap().unwrap();
            assert_eq!(Request::decode(kind, &body), Ok(request));
        }
        for reply in [
            Reply::Echo { name: name(), message: b"hello" },
            Reply::Uploaded { name: name(), mismatch: None },
            Reply::Uploaded { name: name(), mismatch: Some(7) },
            Reply::Download { name: name() },
            Reply::Refused,
        ] {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            let (kind, body) = read_all(&bytes).unwrap().unwrap();
            assert_eq!(Reply::decode(kind, &body), Ok(reply));
        }
    }

    #[test]
    fn the_bytes_are_as_drawn() {
        let mut bytes = Vec::new();
        Request::Upload(Extent { length: 2, seed: 3 }).encode(&mut bytes);
        assert_eq!(bytes, b"U\0\0\0\x10\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03");
        bytes.clear();
        Reply::Echo { name: name(), message: b"hi" }.encode(&mut bytes);
        assert_eq!(bytes, b"e\0\0\0\x09\x06vm-001hi");
    }

    #[test]
    fn cut_and_oversized_frames_are_errors() {
        assert_eq!(read_all(b"").unwrap(), None);
        assert_eq!(read_all(b"E\0\0").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_all(b"E\0\0\0\x02x").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_all(b"E\xff\xff\xff\xff").unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read_all(b"E\x00\x01\x00\x01").unwrap_err().kind(), io::ErrorKind::InvalidData);
        let long = Request::decode(b'D', &[0xff; 16]);
        assert_eq!(long, Err(Malformed));
        assert_eq!(Request::decode(b'B', b"x"), Err(Malformed));
        assert_eq!(Request::decode(b'E', &[0; MESSAGE_BYTES_MAX + 1]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn malformed_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }

        #[test]
        fn malformed_bodies_never_panic(
            kind in prop::sample::select(b"EUDBeudx?".to_vec()),
            body in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = Request::decode(kind, &body);
            let _ = Reply::decode(kind, &body);
        }
    }
}
