//! A datagram, and one that comes back.

use socket2::{Protocol, Type};
use synrail::model::UdpProbe;
use tokio::{io::Interest, net::UdpSocket, time::timeout};

use super::{Failed, Found, Target, contains, socket};

/// The longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Sends a datagram. With `expect` the first answer decides. Without it silence is success: only a host that says that
/// the port is unreachable (ICMP) is known to have no server.
pub async fn probe(target: &Target, probe: &UdpProbe) -> Found {
    let socket = exchange_socket(target)?;
    send(&socket, probe.send.as_bytes(), target).await?;
    let Some(text) = &probe.expect else {
        // A little less than the whole time, which would be a failure.
        let quiet = target.timeout.mul_f32(0.9);
        return match timeout(quiet, receive(&socket, target)).await {
            Ok(answer) => answer.map(|_| "answered".to_owned()),
            Err(_) => Ok("port not unreachable".to_owned()),
        };
    };
    let answer = receive(&socket, target).await?;
    if contains(&answer, text.as_bytes()) {
        Ok(format!("the answer has {text:?}"))
    } else {
        Err(format!("the answer has no {text:?}").into())
    }
}

/// Returns a socket that takes datagrams of this destination only.
pub(super) fn exchange_socket(target: &Target) -> Result<UdpSocket, Failed> {
    target.wait_for("answer");
    let socket = socket::open(target, Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&target.to.into()).map_err(|error| socket::cannot_connect(target, &error))?;
    UdpSocket::from_std(socket.into()).map_err(|error| socket::of_host(&error))
}

/// Sends a datagram.
pub(super) async fn send(socket: &UdpSocket, datagram: &[u8], target: &Target) -> Result<(), Failed> {
    let sent = socket.send(datagram).await;
    sent.map(drop).map_err(|error| unreachable_port(target, &error))
}

/// Receives a datagram. There is no buffer for it until it is there.
pub(super) async fn receive(socket: &UdpSocket, target: &Target) -> Result<Vec<u8>, Failed> {
    loop {
        // An ICMP error makes it not readable, but is an error of the socket.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await;
        if ready.map_err(|error| socket::of_host(&error))?.is_error() {
            if let Ok(Some(error)) = socket.take_error() {
                return Err(unreachable_port(target, &error));
            }
            let nothing = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::ERROR, nothing);
        }
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        match socket.try_recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(unreachable_port(target, &error)),
        }
    }
}

/// What TCP calls refused is an ICMP error here.
fn unreachable_port(target: &Target, error: &std::io::Error) -> Failed {
    if error.kind() == std::io::ErrorKind::ConnectionRefused {
        return "port unreachable".into();
    }
    socket::cannot_connect(target, error)
}
