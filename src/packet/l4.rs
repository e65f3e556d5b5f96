//! Transport headers: ports, and whether a TCP segment opens a connection.

use super::{L4, Malformed, Ports, bytes_at};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Returns the minimum length of the transport header of a protocol that has ports; 0 for other protocols.
pub(super) fn header_bytes(protocol: u8) -> usize {
    match protocol {
        TCP => 20,
        UDP => 8,
        SCTP => 12,
        _ => 0,
    }
}

/// Reads the transport header at the start of `payload`. Only the fields that are used must be there: the
/// ports, and for TCP the flags.
pub(super) fn parse(protocol: u8, payload: &[u8]) -> Result<L4, Malformed> {
    let Some(ports) = ports(protocol, payload)? else { return Ok(L4::Other) };
    Ok(match protocol {
        TCP => {
            let flags = payload.get(13).ok_or(Malformed::L4Header)?;
            L4::Tcp { ports, syn: flags & (SYN | ACK | RST | FIN) == SYN }
        }
        UDP => L4::Udp(ports),
        _ => L4::Sctp(ports),
    })
}

/// Reads the ports; `None` for protocols without ports.
pub(super) fn ports(protocol: u8, payload: &[u8]) -> Result<Option<Ports>, Malformed> {
    if !matches!(protocol, TCP | UDP | SCTP) {
        return Ok(None);
    }
    let [s0, s1, d0, d1] = bytes_at(payload, 0).ok_or(Malformed::L4Header)?;
    Ok(Some(Ports { src: u16::from_be_bytes([s0, s1]), dst: u16::from_be_bytes([d0, d1]) }))
}
