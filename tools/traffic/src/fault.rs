//! Everything that can go wrong with a connection or a flow, each with the name it has in the report. The list is
//! closed, so the report is bounded.

use std::io;

/// Why a connection or flow failed, was lost, or a datagram stayed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    AddressInUse,
    AddressNotAvailable,
    Refused,
    Unreachable,
    NotPermitted,
    NoConnection,
    NoAnswer,
    NoClose,
    Reset,
    Closed,
    ServerFull,
    ServerChanged,
    WrongAnswer,
    Malformed,
    Corrupted,
    Other,
}

impl Fault {
    /// The name in the report, under `errors`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::AddressInUse => "address_in_use",
            Self::AddressNotAvailable => "address_not_available",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NotPermitted => "not_permitted",
            Self::NoConnection => "no_connection_in_time",
            Self::NoAnswer => "no_answer_in_time",
            Self::NoClose => "no_close_in_time",
            Self::Reset => "reset",
            Self::Closed => "closed_by_server",
            Self::ServerFull => "server_full",
            Self::ServerChanged => "server_changed",
            Self::WrongAnswer => "wrong_answer",
            Self::Malformed => "malformed",
            Self::Corrupted => "corrupted",
            Self::Other => "other",
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        const KINDS: [(Kind, Fault); 12] = [
            (Kind::AddrInUse, Fault::AddressInUse),
            (Kind::AddrNotAvailable, Fault::AddressNotAvailable),
            (Kind::ConnectionRefused, Fault::Refused),
            (Kind::HostUnreachable, Fault::Unreachable),
            (Kind::NetworkUnreachable, Fault::Unreachable),
            (Kind::PermissionDenied, Fault::NotPermitted),
            (Kind::TimedOut, Fault::NoAnswer),
            (Kind::ConnectionReset, Fault::Reset),
            (Kind::ConnectionAborted, Fault::Reset),
            (Kind::BrokenPipe, Fault::Reset),
            (Kind::UnexpectedEof, Fault::Closed),
            (Kind::InvalidData, Fault::Malformed),
        ];
        KINDS.iter().find(|(kind, _)| *kind == error.kind()).map_or(Self::Other, |(_, fault)| *fault)
    }
}
