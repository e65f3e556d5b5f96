//! What `hold` holds: a TCP connection or a UDP flow, under the same rule: it belongs to the server that answered first.

use std::io;
use std::net::SocketAddr;

use crate::cli::Remote;
use crate::fault::Fault;
use crate::link::{Closing, Link, Target};
use crate::name::Name;
use crate::run;
use crate::udp::{Answer, Flow};

/// A connection or a flow.
#[derive(Debug)]
pub(crate) enum Line {
    Tcp(Link),
    Udp(Flow),
}

/// What a round trip came to, if the line still stands.
#[derive(Debug)]
pub(crate) enum Trip {
    /// The first answer.
    First(Name),
    Answered,
    /// One datagram is lost, but not yet its flow.
    Unanswered(Fault),
}

impl Line {
    pub(crate) async fn open(udp: bool, remote: &Remote, index: u64) -> Result<Self, Fault> {
        if udp {
            return Ok(Self::Udp(Flow::open(remote, index)?));
        }
        Ok(Self::Tcp(Link::open(Target::of(remote), run::source(remote, index), index).await?))
    }

    pub(crate) async fn round_trip(&mut self, message_bytes: usize) -> Result<Trip, Fault> {
        match self {
            Self::Tcp(link) => {
                let first = link.round_trip(message_bytes).await?;
                Ok(first.cloned().map_or(Trip::Answered, Trip::First))
            }
            Self::Udp(flow) => match flow.round_trip(message_bytes).await {
                Ok(Answer::First(server)) => Ok(Trip::First(server)),
                Ok(Answer::Again) => Ok(Trip::Answered),
                Ok(Answer::Other) => Err(Fault::ServerChanged),
                Err(why) if flow.given_up() => Err(why),
                Err(why) => Ok(Trip::Unanswered(why)),
            },
        }
    }

    /// Waits, while nothing is asked, until it breaks. A flow cannot.
    pub(crate) async fn broken(&mut self) -> Fault {
        match self {
            Self::Tcp(link) => link.broken().await,
            Self::Udp(_) => std::future::pending().await,
        }
    }

    /// Ends it in order.
    pub(crate) async fn close(&mut self, how: Closing) -> Result<(), Fault> {
        match self {
            Self::Tcp(link) => link.close(how).await,
            Self::Udp(_) => Ok(()),
        }
    }

    pub(crate) fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    pub(crate) fn server(&self) -> Option<&Name> {
        match self {
            Self::Tcp(link) => link.server(),
            Self::Udp(flow) => flow.server(),
        }
    }

    pub(crate) fn source(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(link) => link.source(),
            Self::Udp(flow) => flow.source(),
        }
    }

    /// Segments that had to be sent again, so far; flows have none.
    pub(crate) fn retransmissions(&self) -> u64 {
        match self {
            Self::Tcp(link) => link.retransmissions().unwrap_or(0),
            Self::Udp(_) => 0,
        }
    }
}
