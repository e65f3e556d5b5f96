//! Limits of the server, and what they refused. PURE.

use std::{
    cell::Cell,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use serde::Serialize;

use super::Side;

/// How many connections there may be by the Unix socket, and by TCP.
pub const CONNECTIONS_MAX: usize = 32;
/// How many of them by TCP from one source: an IPv4 address, or an IPv6 /64.
pub const PER_SOURCE_MAX: usize = 8;
/// How many requests a second are answered by TCP, and as many at once after a pause.
pub const PER_SECOND: u32 = 50;
/// How many bytes the headers of a request may have, and how many there may be.
pub const HEADERS_BYTES_MAX: usize = 16 << 10;
/// How many headers a request may have.
pub const HEADERS_MAX: usize = 64;
/// How many bytes the body of an order may have.
pub const ORDER_BYTES_MAX: usize = 64 << 10;
/// How many bytes a configuration file may have.
pub const FILE_BYTES_MAX: usize = 2 << 20;
/// How long a client may take for the headers of a request, or the pause before it.
pub const HEADERS_TIME: Duration = Duration::from_secs(10);
/// How long a client may take for a body.
pub const BODY_TIME: Duration = Duration::from_secs(10);
/// After this time a connection is asked to end.
pub const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// After this time besides it is closed, whatever is still to be sent.
pub const CLOSING_TIME: Duration = Duration::from_secs(10);

/// What the server has done and refused since it started.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Connections by the Unix socket.
    pub connections_unix: Cell<u64>,
    /// Connections by TCP.
    pub connections_tcp: Cell<u64>,
    /// Requests that were read.
    pub requests: Cell<u64>,
    /// Orders that lbd carried out.
    pub orders: Cell<u64>,
    /// Connections that were closed because there were too many.
    pub refused_connections: Cell<u64>,
    /// Connections that were closed because one source had too many.
    pub refused_per_source: Cell<u64>,
    /// Requests that came too fast.
    pub refused_rate: Cell<u64>,
    /// Requests for another host.
    pub refused_host: Cell<u64>,
    /// Requests by TCP for what the Unix socket alone does, and those from pages of others.
    pub refused_forbidden: Cell<u64>,
    /// Requests with too long a body, or one that came too slowly.
    pub refused_body: Cell<u64>,
    /// Connections that were closed because of what the client sent, or because it was too slow.
    pub closed: Cell<u64>,
}

/// Adds one.
pub fn count(counter: &Cell<u64>) {
    counter.set(counter.get().saturating_add(1));
}

/// The connections that are open.
#[derive(Debug, Default)]
pub struct Open {
    unix: usize,
    tcp: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are too many.
    Full,
    /// Its source has too many.
    Source,
}

impl Open {
    /// Takes note of a connection. `source` is where one by TCP comes from.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn add(&mut self, source: Option<IpAddr>) -> Result<(), Refused> {
        let Some(source) = source.map(network) else {
            if self.unix == CONNECTIONS_MAX {
                return Err(Refused::Full);
            }
            self.unix += 1;
            return Ok(());
        };
        if self.tcp == CONNECTIONS_MAX {
            return Err(Refused::Full);
        }
        let of_source = self.by_source.entry(source).or_default();
        if *of_source == PER_SOURCE_MAX {
            return Err(Refused::Source);
        }
        *of_source += 1;
        self.tcp += 1;
        Ok(())
    }

    /// Takes note of the end of one that was added.
    pub fn remove(&mut self, source: Option<IpAddr>) {
        let Some(source) = source.map(network) else {
            self.unix -= 1;
            return;
        };
        self.tcp -= 1;
        if let Some(of_source) = self.by_source.get_mut(&source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// Returns how many there are by this side.
    #[must_use]
    pub fn count(&self, side: Side) -> usize {
        match side {
            Side::Unix => self.unix,
            Side::Tcp => self.tcp,
        }
    }
}

fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        four @ IpAddr::V4(_) => four,
    }
}

/// Lets [`PER_SECOND`] requests a second pass. Times are since one fixed moment.
#[derive(Debug)]
pub struct Bucket {
    left: f64,
    filled: Duration,
}

impl Bucket {
    /// Returns a full one.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { left: f64::from(PER_SECOND), filled: now }
    }

    /// Reports whether a request may pass.
    pub fn take(&mut self, now: Duration) -> bool {
        let since = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = now;
        self.left = (self.left + since * f64::from(PER_SECOND)).min(f64::from(PER_SECOND));
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_share_of_connections_and_the_socket_its_own() {
        let mut open = Open::default();
        let of = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for host in 0..PER_SOURCE_MAX {
            assert_eq!(open.add(of(&format!("2001:db8::{host}"))), Ok(()));
        }
        assert_eq!(open.add(of("2001:db8::ffff")), Err(Refused::Source));
        for host in 0..CONNECTIONS_MAX - PER_SOURCE_MAX {
            assert_eq!(open.add(of(&format!("10.0.0.{host}"))), Ok(()));
        }
        assert_eq!(open.add(of("10.0.1.1")), Err(Refused::Full));
        for _ in 0..CONNECTIONS_MAX {
            assert_eq!(open.add(None), Ok(()), "strangers take nothing from the socket");
        }
        assert_eq!(open.add(None), Err(Refused::Full));
        open.remove(of("2001:db8::1"));
        assert_eq!(open.add(of("2001:db8::ffff")), Ok(()));
        assert_eq!((open.count(Side::Unix), open.count(Side::Tcp)), (CONNECTIONS_MAX, CONNECTIONS_MAX));
    }

    #[test]
    fn requests_pass_at_the_rate_and_a_pause_fills_the_bucket_once() {
        let mut bucket = Bucket::new(Duration::ZERO);
        let passed = |bucket: &mut Bucket, at: u64| {
            (0..200).filter(|_| bucket.take(Duration::from_millis(at))).count()
        };
        assert_eq!(passed(&mut bucket, 0), 50);
        assert_eq!(passed(&mut bucket, 100), 5);
        assert_eq!(passed(&mut bucket, 100_000), 50);
    }
}
