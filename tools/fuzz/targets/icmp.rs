//! Any bytes as what an ICMP error quotes: a flow of the error's receiver, or refused; never a panic.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use synrail::packet::{L4, Malformed, Packet};

const VIP4: [u8; 4] = [10, 0, 0, 0];
const VIP6: [u8; 16] = [0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fuzz_target!(|bytes: &[u8]| {
    let [choice, quoted @ ..] = bytes else { return };
    let mut quoted = quoted.to_vec();
    let six = choice & 1 != 0;
    let from_vip = choice & 2 != 0;
    let kind = if six { 1 + (choice >> 2) % 4 } else { [3, 11, 12][usize::from(choice >> 2) % 3] };
    // Quoted as the VIP's own, as far as there is room for its address: else hardly any would be.
    let (version, at, vip): (u8, usize, &[u8]) = if six { (0x60, 8, &VIP6) } else { (0x45, 12, &VIP4) };
    if from_vip && quoted.len() >= at + vip.len() {
        quoted[0] = version | (quoted[0] & if six { 0x0f } else { 0 });
        quoted[at..at + vip.len()].copy_from_slice(vip);
    }
    let message = [&[kind, 0, 0, 0, 0, 0, 5, 0x14], &quoted[..]].concat();
    let Ok(len) = u16::try_from(message.len()) else { return };
    let mut packet = if six {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, 58, 64];
        header[4..6].copy_from_slice(&len.to_be_bytes());
        header.extend([0x20; 16]);
        header.extend(VIP6);
        header
    } else {
        let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1];
        header[2..4].copy_from_slice(&(len + 20).to_be_bytes());
        header.extend(VIP4);
        header
    };
    packet.extend(&message);
    match Packet::parse(&packet) {
        Ok(flow) => {
            assert!(flow.quoted);
            let vip = if six { IpAddr::from(VIP6) } else { VIP4.into() };
            assert_eq!(flow.addresses.destination(), vip);
            assert!(!matches!(flow.l4, L4::Tcp { syn: true, .. }), "an error opens no connection");
        }
        Err(reason) => assert_eq!(reason, Malformed::IcmpQuote),
    }
});
