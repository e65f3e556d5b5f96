//! A connection is opened, and reset at once, so that nothing of it lingers here or there.

use std::time::Duration;

use socket2::Type;
use tokio::net::{TcpSocket, TcpStream};

use super::{Failed, Found, Target, socket};

/// Opens a connection.
pub async fn probe(target: &Target) -> Found {
    connect(target).await.map(|_| "connected".to_owned())
}

/// Opens a connection that is reset when it is dropped.
pub(super) async fn connect(target: &Target) -> Result<TcpStream, Failed> {
    target.wait_for("connection");
    let socket = socket::open(target, Type::STREAM, None)?;
    let set = socket.set_linger(Some(Duration::ZERO)).and_then(|()| socket.set_tcp_nodelay(true));
    set.map_err(|error| socket::of_host(&error))?;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.connect(target.to).await.map_err(|error| socket::cannot_connect(target, &error))
}
