//! The rules that the nft command cannot express. libnftnl writes them.
//!
//! One transaction flushes each chain and adds its rules, so packets never meet a chain in between. Keys of
//! `pending6` have the same layout as nft gives them: 40 bytes from register 8 on (address, port padded to 4,
//! address, port padded to 4), and the mark in register 18.
#![allow(unsafe_code)] // libnftnl is C; the one function that leaves this module is safe.

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
    ptr::NonNull,
};

use nftnl::{
    Batch, Chain, FinalizedBatch, MsgType, ProtoFamily, Rule, Table,
    expr::{Cmp, CmpOp, Expression, Meta, Verdict},
    nftnl_sys as sys,
};

use super::{
    NftError,
    image::flush_chain,
    messages::{NFT_MSG_NEWRULE, NFT_OBJECT_COUNTER},
    transaction::Transaction,
};
use crate::{
    model::QueueRange,
    packet::{ICMP, ICMPV6, TCP},
    plan::{
        elements::TABLE,
        ruleset::{Family, NativeChain, NativeRule, OffMap, QuotedFields, QuotedIn},
    },
    sys::netlink::{HEADERS_BYTES, NFPROTO_IPV4, NFPROTO_IPV6, NLM_F_APPEND, NLM_F_CREATE, kind, messages},
};

/// From `linux/netfilter/nf_tables.h`.
const NFT_PAYLOAD_L4CSUM_PSEUDOHDR: u32 = 1;
const NFT_DYNSET_OP_DELETE: u32 = 2;
/// The register where keys begin: the first of the 4-byte registers.
const KEY: u32 = libc::NFT_REG32_00.cast_unsigned();
/// The register after the 40 bytes of a key.
const DATA: u32 = KEY + 10;

/// Flushes these chains and adds the rules of each, in one transaction, by a socket of a network namespace whose ruleset
/// is not in force.
///
/// # Errors
/// Returns an error that names the chain, if the kernel refuses a rule.
pub(super) fn fill(socket: &OwnedFd, chains: &[NativeChain]) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    for name in chains.iter().map(|native| native.name).collect::<BTreeSet<_>>() {
        flush_chain(&mut transaction, name);
    }
    let what = |native: &NativeChain| {
        let queues = matches!(native.rule, NativeRule::XtQueue(_));
        let needs = " (it needs the kernel module nft_queue, or nft_compat and xt_NFQUEUE)";
        format!("a rule of chain {}{}", native.name, if queues { needs } else { "" })
    };
    let rules = rules(chains).map_err(|error| NftError::Netlink { what: "rules".to_owned(), error })?;
    let written = rules.iter().flat_map(messages).filter(|message| kind(message) == Some(NFT_MSG_NEWRULE));
    for (message, native) in written.zip(chains) {
        transaction.add(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, what(native), |rule| {
            rule.whole(message.get(HEADERS_BYTES..).unwrap_or_default());
        });
    }
    transaction.commit_by(socket)
}

/// Lets libnftnl write a message for each of these rules, with what it adds to make a batch of them.
fn rules(chains: &[NativeChain]) -> io::Result<FinalizedBatch> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let table = Table::new(CString::new(TABLE).map_err(invalid)?, ProtoFamily::Inet);
    let mut batch = Batch::new();
    for native in chains {
        let chain = Chain::new(CString::new(native.name).map_err(invalid)?, &table);
        let mut rule = Rule::new(&chain);
        match native.rule {
            NativeRule::Forget6 => by_connection6(&mut rule, DynsetOp::Delete, c"pending6", None),
            NativeRule::Store6 => {
                by_connection6(&mut rule, DynsetOp::Update, c"pending6", None);
                rule.add_expr(&Verdict::Accept);
            }
            NativeRule::StoreBriefly6 { milliseconds, then } => {
                by_connection6(&mut rule, DynsetOp::Update, c"pending6", Some(milliseconds));
                if let Some(chain) = then {
                    rule.add_expr(&Verdict::Goto { chain: CString::new(chain).map_err(invalid)? });
                }
            }
            NativeRule::Answer6 => by_connection6(&mut rule, DynsetOp::Update, c"answered6", None),
            NativeRule::TooBig4 => too_big(&mut rule, &TOO_BIG4),
            NativeRule::TooBig6 => too_big(&mut rule, &TOO_BIG6),
            NativeRule::StoreOff { family, map, protocol, seconds, then } => {
                off_table(&mut rule, family, map, Some((protocol, seconds)));
                if let Some(chain) = then {
                    rule.add_expr(&Verdict::Jump { chain: CString::new(chain).map_err(invalid)? });
                }
            }
            NativeRule::ForgetOff(family, map) => off_table(&mut rule, family, map, None),
            NativeRule::StoreReopened { family, zero, then } => {
                store_reopened(&mut rule, family, zero);
                rule.add_expr(&Verdict::Goto { chain: CString::new(then).map_err(invalid)? });
            }
            NativeRule::AskReopened(family, chain) => {
                let (set, _) = reopened(&mut rule, family);
                rule.add_expr(&Part::Lookup { set, key: KEY });
                rule.add_expr(&Verdict::Goto { chain: CString::new(chain).map_err(invalid)? });
            }
            NativeRule::Goto(chain) => {
                rule.add_expr(&Verdict::Goto { chain: CString::new(chain).map_err(invalid)? });
            }
            NativeRule::Quoted(family, maps, fields) => quoted(&mut rule, family, maps, fields),
            NativeRule::QuotedOff(family, map, chain) => {
                quoted_off(&mut rule, family, map);
                rule.add_expr(&Verdict::Jump { chain: CString::new(chain).map_err(invalid)? });
            }
            NativeRule::BetweenEnds(family) => between_ends(&mut rule, family),
            NativeRule::StoreUndelivered(family) => store_undelivered(&mut rule, family),
            NativeRule::Unreachable(family) => unreachable(&mut rule, family),
            NativeRule::Rejected(family) => rejected(&mut rule, family),
            NativeRule::XtQueue(queues) => rule.add_expr(&Part::XtQueue(queues)),
        }
        batch.add(&rule, MsgType::Add);
    }
    Ok(batch.finalize())
}

/// Adds `OP @MAP { ip6 saddr . tcp sport . ip6 daddr . tcp dport : meta mark }`, with a lifetime of
/// `milliseconds` if given.
fn by_connection6(rule: &mut Rule<'_>, op: DynsetOp, map: &'static CStr, milliseconds: Option<u64>) {
    rule.add_expr(&Meta::NfProto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, NFPROTO_IPV6));
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, TCP));
    let (network, transport) = (Header::Network, Header::Transport);
    rule.add_expr(&Part::Payload { header: network, offset_bytes: 8, bytes: 16, to: KEY });
    rule.add_expr(&Part::Payload { header: transport, offset_bytes: 0, bytes: 2, to: KEY + 4 });
    rule.add_expr(&Part::Payload { header: network, offset_bytes: 24, bytes: 16, to: KEY + 5 });
    rule.add_expr(&Part::Payload { header: transport, offset_bytes: 2, bytes: 2, to: KEY + 9 });
    rule.add_expr(&Part::Mark { to: DATA });
    rule.add_expr(&Part::Dynset { map, op, key: KEY, data: Some(DATA), milliseconds });
}

/// Writes the packet's flow to a map of off-table flows, or deletes it there. `store` has the protocol that a
/// packet must have to be written, and the lifetime in seconds.
fn off_table(rule: &mut Rule<'_>, family: Family, map: OffMap, store: Option<(u8, u32)>) {
    let ports_at = addresses(rule, family, store.map(|(protocol, _)| protocol));
    rule.add_expr(&Part::Protocol { to: ports_at });
    ports(rule, ports_at + 1);
    let data = ports_at + 3;
    rule.add_expr(&Part::Mark { to: data });
    let map = off_map(map, family);
    let op = if store.is_some() { DynsetOp::Update } else { DynsetOp::Delete };
    let milliseconds = store.map(|(_, seconds)| u64::from(seconds) * 1000);
    rule.add_expr(&Part::Dynset { map, op, key: KEY, data: Some(data), milliseconds });
}

fn off_map(map: OffMap, family: Family) -> &'static CStr {
    match (map, family) {
        (OffMap::Open, Family::Ipv4) => c"off_table4",
        (OffMap::Open, Family::Ipv6) => c"off_table6",
        (OffMap::Closing, Family::Ipv4) => c"off_closing4",
        (OffMap::Closing, Family::Ipv6) => c"off_closing6",
    }
}

/// If `zero` is the lowest zero bit of the sequence number, adds the sequence number that follows to
/// `reopened`.
fn store_reopened(rule: &mut Rule<'_>, family: Family, zero: u32) {
    let changed = zero | (zero - 1);
    rule.add_expr(&sequence(KEY));
    rule.add_expr(&Part::Bitwise { at: KEY, mask: changed, xor: 0 });
    // The comparison uses register 1, which overlaps the first register of keys.
    rule.add_expr(&Cmp::new(CmpOp::Eq, &(zero - 1).to_be_bytes()[..]));
    let (map, sequence_at) = reopened(rule, family);
    rule.add_expr(&Part::Bitwise { at: sequence_at, mask: u32::MAX, xor: changed });
    rule.add_expr(&Part::Dynset { map, op: DynsetOp::Update, key: KEY, data: None, milliseconds: None });
}

/// Loads the key of a TCP segment for `reopened`. Returns the name of that set, and the register of the
/// sequence number.
fn reopened(rule: &mut Rule<'_>, family: Family) -> (&'static CStr, u32) {
    let ports_at = addresses(rule, family, Some(TCP));
    ports(rule, ports_at);
    let sequence_at = ports_at + 2;
    rule.add_expr(&sequence(sequence_at));
    let set = match family {
        Family::Ipv4 => c"reopened4",
        Family::Ipv6 => c"reopened6",
    };
    (set, sequence_at)
}

/// Loads the sequence number of a TCP segment.
fn sequence(to: u32) -> Part {
    Part::Payload { header: Header::Transport, offset_bytes: 4, bytes: 4, to }
}

/// Loads the source and destination of a packet of this family and protocol into the first registers of the
/// key. Returns the next register.
fn addresses(rule: &mut Rule<'_>, family: Family, protocol: Option<u8>) -> u32 {
    let (nfproto, source_at, bytes) = match family {
        Family::Ipv4 => (NFPROTO_IPV4, 12, 4),
        Family::Ipv6 => (NFPROTO_IPV6, 8, 16),
    };
    rule.add_expr(&Meta::NfProto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, nfproto));
    // Both comparisons use register 1, which overlaps the first register of keys.
    if let Some(protocol) = protocol {
        rule.add_expr(&Meta::L4Proto);
        rule.add_expr(&Cmp::new(CmpOp::Eq, protocol));
    }
    let destination = KEY + bytes / 4;
    let header = Header::Network;
    rule.add_expr(&Part::Payload { header, offset_bytes: source_at, bytes, to: KEY });
    rule.add_expr(&Part::Payload { header, offset_bytes: source_at + bytes, bytes, to: destination });
    destination + bytes / 4
}

/// Loads both ports, beginning at register `to`.
fn ports(rule: &mut Rule<'_>, to: u32) {
    for (offset_bytes, to) in [(0, to), (2, to + 1)] {
        rule.add_expr(&Part::Payload { header: Header::Transport, offset_bytes, bytes: 2, to });
    }
}

/// Offsets in an ICMP error and in the packet that it quotes, which begins 8 bytes after the start of the
/// error.
struct TooBig {
    protocol: (u8, u8),
    vips: &'static CStr,
    quoted_destination_at: u32,
    source_at: u32,
    address_bytes: u32,
    checksum: Checksum,
}

const TOO_BIG4: TooBig = TooBig {
    protocol: (NFPROTO_IPV4, ICMP),
    vips: c"vip4",
    quoted_destination_at: 8 + 16,
    source_at: 12,
    address_bytes: 4,
    checksum: Checksum::Header { at: 10 },
};
const TOO_BIG6: TooBig = TooBig {
    protocol: (NFPROTO_IPV6, ICMPV6),
    vips: c"vip6",
    quoted_destination_at: 8 + 24,
    source_at: 8,
    address_bytes: 16,
    checksum: Checksum::OfTransport,
};

/// Sets the source to the destination of the quoted packet, if that is a VIP.
fn too_big(rule: &mut Rule<'_>, at: &TooBig) {
    let (network, transport, bytes) = (Header::Network, Header::Transport, at.address_bytes);
    rule.add_expr(&Meta::NfProto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, at.protocol.0));
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, at.protocol.1));
    rule.add_expr(&Part::Payload {
        header: transport,
        offset_bytes: at.quoted_destination_at,
        bytes,
        to: KEY,
    });
    rule.add_expr(&Part::Lookup { set: at.vips, key: KEY });
    rule.add_expr(&Part::Count { counter: c"too_big" });
    let checksum = at.checksum;
    rule.add_expr(&Part::Write { header: network, offset_bytes: at.source_at, bytes, from: KEY, checksum });
}

/// Offsets in an ICMP error: its own destination, and the addresses, protocol and ports of the packet that it
/// quotes. `bytes` is the length of an address.
struct Quote {
    protocol: (u8, u8),
    error_destination_at: u32,
    source_at: u32,
    destination_at: u32,
    bytes: u32,
    protocol_at: u32,
    ports_at: u32,
}

impl Quote {
    fn of(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self {
                protocol: (NFPROTO_IPV4, ICMP),
                error_destination_at: 16,
                source_at: 8 + 12,
                destination_at: TOO_BIG4.quoted_destination_at,
                bytes: 4,
                protocol_at: 8 + 9,
                ports_at: 8 + 20,
            },
            Family::Ipv6 => Self {
                protocol: (NFPROTO_IPV6, ICMPV6),
                error_destination_at: 24,
                source_at: 8 + 8,
                destination_at: TOO_BIG6.quoted_destination_at,
                bytes: 16,
                protocol_at: 8 + 6,
                ports_at: 8 + 40,
            },
        }
    }

    fn ask_protocol(&self, rule: &mut Rule<'_>) {
        rule.add_expr(&Meta::NfProto);
        rule.add_expr(&Cmp::new(CmpOp::Eq, self.protocol.0));
        rule.add_expr(&Meta::L4Proto);
        rule.add_expr(&Cmp::new(CmpOp::Eq, self.protocol.1));
    }

    /// Loads a field that follows the error's own IP header.
    fn load(rule: &mut Rule<'_>, offset_bytes: u32, bytes: u32, to: u32) {
        rule.add_expr(&Part::Payload { header: Header::Transport, offset_bytes, bytes, to });
    }

    /// Loads the VIP of the flow.
    fn load_vip(&self, rule: &mut Rule<'_>, to: u32) {
        let (offset_bytes, bytes) = (self.error_destination_at, self.bytes);
        rule.add_expr(&Part::Payload { header: Header::Network, offset_bytes, bytes, to });
    }

    fn look_up(&self, rule: &mut Rule<'_>, offset_bytes: u32, set: &'static CStr) {
        Self::load(rule, offset_bytes, self.bytes, KEY);
        rule.add_expr(&Part::Lookup { set, key: KEY });
    }
}

/// Matches an error whose quoted packet went from one of our addresses to a target.
fn between_ends(rule: &mut Rule<'_>, family: Family) {
    let (local, remotes, next) = match family {
        Family::Ipv4 => (c"local4", c"remotes4", c"tunnel_error4"),
        Family::Ipv6 => (c"local6", c"remotes6", c"tunnel_error6"),
    };
    let at = Quote::of(family);
    at.ask_protocol(rule);
    at.look_up(rule, at.source_at, local);
    at.look_up(rule, at.destination_at, remotes);
    rule.add_expr(&Verdict::Goto { chain: next.to_owned() });
}

/// Stores the destination of the quoted packet. Nothing is asked: only errors come to the chain.
fn store_undelivered(rule: &mut Rule<'_>, family: Family) {
    let at = Quote::of(family);
    let map = match family {
        Family::Ipv4 => c"undelivered4",
        Family::Ipv6 => c"undelivered6",
    };
    Quote::load(rule, at.destination_at, at.bytes, KEY);
    rule.add_expr(&Part::Dynset { map, op: DynsetOp::Update, key: KEY, data: None, milliseconds: None });
}

/// Matches an error whose quoted packet went to a VIP.
fn unreachable(rule: &mut Rule<'_>, family: Family) {
    let vips = match family {
        Family::Ipv4 => TOO_BIG4.vips,
        Family::Ipv6 => TOO_BIG6.vips,
    };
    let at = Quote::of(family);
    at.ask_protocol(rule);
    at.look_up(rule, at.destination_at, vips);
    rule.add_expr(&Part::Count { counter: c"unreachable" });
    rule.add_expr(&Verdict::Drop);
}

/// Gives an error "port unreachable" the destination of the quoted packet as source, if a service rejects such
/// packets, and lets it pass untracked: connection tracking knows no flow that it could be about.
fn rejected(rule: &mut Rule<'_>, family: Family) {
    let (set, too_big, port_unreachable) = match family {
        Family::Ipv4 => (c"rejected4", &TOO_BIG4, [3_u8, 3]),
        Family::Ipv6 => (c"rejected6", &TOO_BIG6, [1, 4]),
    };
    let at = Quote::of(family);
    at.ask_protocol(rule);
    // Type and code. The comparison uses register 1, which overlaps the first register of keys.
    Quote::load(rule, 0, 2, KEY);
    rule.add_expr(&Cmp::new(CmpOp::Eq, &port_unreachable[..]));
    Quote::load(rule, at.destination_at, at.bytes, KEY);
    let next = KEY + at.bytes / 4;
    Quote::load(rule, at.protocol_at, 1, next);
    Quote::load(rule, at.ports_at + 2, 2, next + 1);
    rule.add_expr(&Part::Lookup { set, key: KEY });
    let &TooBig { source_at, checksum, .. } = too_big;
    rule.add_expr(&Part::Write {
        header: Header::Network,
        offset_bytes: source_at,
        bytes: at.bytes,
        from: KEY,
        checksum,
    });
    rule.add_expr(&Part::Untracked);
    rule.add_expr(&Verdict::Accept);
}

/// Looks up the service's fallback table by the packet that an ICMP error quotes.
fn quoted(rule: &mut Rule<'_>, family: Family, maps: QuotedIn, fields: QuotedFields) {
    let map = match (maps, fields, family) {
        (QuotedIn::Claimed, QuotedFields::Address, Family::Ipv4) => c"claimed_address4",
        (QuotedIn::Claimed, QuotedFields::Address, Family::Ipv6) => c"claimed_address6",
        (QuotedIn::Claimed, QuotedFields::Protocol, Family::Ipv4) => c"claimed_protocol4",
        (QuotedIn::Claimed, QuotedFields::Protocol, Family::Ipv6) => c"claimed_protocol6",
        (QuotedIn::Claimed, QuotedFields::Port, Family::Ipv4) => c"claimed_port4",
        (QuotedIn::Claimed, QuotedFields::Port, Family::Ipv6) => c"claimed_port6",
        (QuotedIn::Kernel, QuotedFields::Address, Family::Ipv4) => c"kernel_address4",
        (QuotedIn::Kernel, QuotedFields::Address, Family::Ipv6) => c"kernel_address6",
        (QuotedIn::Kernel, QuotedFields::Protocol, Family::Ipv4) => c"kernel_protocol4",
        (QuotedIn::Kernel, QuotedFields::Protocol, Family::Ipv6) => c"kernel_protocol6",
        (QuotedIn::Kernel, QuotedFields::Port, Family::Ipv4) => c"kernel_port4",
        (QuotedIn::Kernel, QuotedFields::Port, Family::Ipv6) => c"kernel_port6",
    };
    let at = Quote::of(family);
    at.ask_protocol(rule);
    at.load_vip(rule, KEY);
    let next = KEY + at.bytes / 4;
    if fields >= QuotedFields::Protocol {
        Quote::load(rule, at.protocol_at, 1, next);
    }
    if fields >= QuotedFields::Port {
        Quote::load(rule, at.ports_at, 2, next + 1);
    }
    rule.add_expr(&Part::Goto { map, key: KEY });
}

/// Looks up the flow that an ICMP error is about in a map of off-table flows, and sets its mark.
fn quoted_off(rule: &mut Rule<'_>, family: Family, map: OffMap) {
    let at = Quote::of(family);
    at.ask_protocol(rule);
    let (vip, next) = (KEY + at.bytes / 4, KEY + at.bytes / 2);
    // The quoted packet went from the VIP to the client.
    Quote::load(rule, at.destination_at, at.bytes, KEY);
    at.load_vip(rule, vip);
    for (offset, bytes, to) in
        [(at.protocol_at, 1, next), (at.ports_at + 2, 2, next + 1), (at.ports_at, 2, next + 2)]
    {
        Quote::load(rule, offset, bytes, to);
    }
    let mark = next + 3;
    rule.add_expr(&Part::Find { map: off_map(map, family), key: KEY, to: mark });
    rule.add_expr(&Part::SetMark { from: mark });
}

/// The checksum that must be updated when a field of the IP header changes.
#[derive(Clone, Copy)]
enum Checksum {
    /// The checksum of the IP header.
    Header { at: u32 },
    /// The checksum of the transport header, which covers the addresses.
    OfTransport,
}

#[derive(Clone, Copy)]
#[repr(u32)]
enum Header {
    Network = libc::NFT_PAYLOAD_NETWORK_HEADER.cast_unsigned(),
    Transport = libc::NFT_PAYLOAD_TRANSPORT_HEADER.cast_unsigned(),
}

#[derive(Clone, Copy)]
#[repr(u32)]
enum DynsetOp {
    Update = libc::NFT_DYNSET_OP_UPDATE.cast_unsigned(),
    Delete = NFT_DYNSET_OP_DELETE,
}

/// Expressions that the nftnl crate lacks, or restricts to register 1.
enum Part {
    Payload {
        header: Header,
        offset_bytes: u32,
        bytes: u32,
        to: u32,
    },
    Write {
        header: Header,
        offset_bytes: u32,
        bytes: u32,
        from: u32,
        checksum: Checksum,
    },
    Lookup {
        set: &'static CStr,
        key: u32,
    },
    /// A lookup in a map of verdicts.
    Goto {
        map: &'static CStr,
        key: u32,
    },
    /// A lookup in a map of marks.
    Find {
        map: &'static CStr,
        key: u32,
        to: u32,
    },
    Count {
        counter: &'static CStr,
    },
    Mark {
        to: u32,
    },
    SetMark {
        from: u32,
    },
    /// Changes 4 bytes in network byte order, in place: `& mask ^ xor`.
    Bitwise {
        at: u32,
        mask: u32,
        xor: u32,
    },
    Protocol {
        to: u32,
    },
    /// Changes an element of a map, or of a set, which has no data. An element has the lifetime of the set
    /// unless `milliseconds` is given.
    Dynset {
        map: &'static CStr,
        op: DynsetOp,
        key: u32,
        data: Option<u32>,
        milliseconds: Option<u64>,
    },
    XtQueue(QueueRange),
    Untracked,
}

impl Expression for Part {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        match *self {
            Self::Payload { header, offset_bytes, bytes, to } => Raw::new(c"payload")
                .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, header as u32)
                .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset_bytes)
                .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, bytes)
                .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, to),
            Self::Write { header, offset_bytes, bytes, from, checksum } => {
                let write = Raw::new(c"payload")
                    .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, header as u32)
                    .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset_bytes)
                    .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, bytes)
                    .u32(sys::NFTNL_EXPR_PAYLOAD_SREG, from);
                match checksum {
                    Checksum::Header { at } => write
                        .u32(sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE, libc::NFT_PAYLOAD_CSUM_INET.cast_unsigned())
                        .u32(sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, at),
                    Checksum::OfTransport => {
                        write.u32(sys::NFTNL_EXPR_PAYLOAD_FLAGS, NFT_PAYLOAD_L4CSUM_PSEUDOHDR)
                    }
                }
            }
            Self::Lookup { set, key } => Raw::new(c"lookup")
                .text(sys::NFTNL_EXPR_LOOKUP_SET, set)
                .u32(sys::NFTNL_EXPR_LOOKUP_SREG, key),
            Self::Goto { map, key } => Raw::new(c"lookup")
                .text(sys::NFTNL_EXPR_LOOKUP_SET, map)
                .u32(sys::NFTNL_EXPR_LOOKUP_SREG, key)
                .u32(sys::NFTNL_EXPR_LOOKUP_DREG, libc::NFT_REG_VERDICT.cast_unsigned()),
            Self::Find { map, key, to } => Raw::new(c"lookup")
                .text(sys::NFTNL_EXPR_LOOKUP_SET, map)
                .u32(sys::NFTNL_EXPR_LOOKUP_SREG, key)
                .u32(sys::NFTNL_EXPR_LOOKUP_DREG, to),
            Self::Count { counter } => Raw::new(c"objref")
                .u32(sys::NFTNL_EXPR_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER)
                .text(sys::NFTNL_EXPR_OBJREF_IMM_NAME, counter),
            Self::Mark { to } => Raw::new(c"meta")
                .u32(sys::NFTNL_EXPR_META_KEY, libc::NFT_META_MARK.cast_unsigned())
                .u32(sys::NFTNL_EXPR_META_DREG, to),
            Self::SetMark { from } => Raw::new(c"meta")
                .u32(sys::NFTNL_EXPR_META_KEY, libc::NFT_META_MARK.cast_unsigned())
                .u32(sys::NFTNL_EXPR_META_SREG, from),
            Self::Bitwise { at, mask, xor } => Raw::new(c"bitwise")
                .u32(sys::NFTNL_EXPR_BITWISE_SREG, at)
                .u32(sys::NFTNL_EXPR_BITWISE_DREG, at)
                .u32(sys::NFTNL_EXPR_BITWISE_LEN, 4)
                .u32(sys::NFTNL_EXPR_BITWISE_MASK, mask.to_be())
                .u32(sys::NFTNL_EXPR_BITWISE_XOR, xor.to_be()),
            Self::Protocol { to } => Raw::new(c"meta")
                .u32(sys::NFTNL_EXPR_META_KEY, libc::NFT_META_L4PROTO.cast_unsigned())
                .u32(sys::NFTNL_EXPR_META_DREG, to),
            Self::Dynset { map, op, key, data, milliseconds } => {
                let mut dynset = Raw::new(c"dynset")
                    .text(sys::NFTNL_EXPR_DYNSET_SET_NAME, map)
                    .u32(sys::NFTNL_EXPR_DYNSET_OP, op as u32)
                    .u32(sys::NFTNL_EXPR_DYNSET_SREG_KEY, key);
                if let Some(data) = data {
                    dynset = dynset.u32(sys::NFTNL_EXPR_DYNSET_SREG_DATA, data);
                }
                if let Some(milliseconds) = milliseconds {
                    dynset = dynset.u64(sys::NFTNL_EXPR_DYNSET_TIMEOUT, milliseconds);
                }
                dynset
            }
            Self::Untracked => Raw::new(c"notrack"),
            Self::XtQueue(queues) => Raw::new(c"target")
                .text(sys::NFTNL_EXPR_TG_NAME, c"NFQUEUE")
                .u32(sys::NFTNL_EXPR_TG_REV, 3)
                .target_info(XtNfqInfo::new(queues)),
        }
        .0
    }
}

/// `struct xt_NFQ_info_v3`, padded to the alignment that xtables require (8).
#[repr(C, align(8))]
struct XtNfqInfo {
    first: u16,
    total: u16,
    flags: u16,
    padding: u16,
}

impl XtNfqInfo {
    const BYPASS: u16 = 1;
    const FANOUT: u16 = 2;

    fn new(queues: QueueRange) -> Self {
        let (first, last) = (queues.first().0, queues.last().0);
        let flags = if first == last { Self::BYPASS } else { Self::BYPASS | Self::FANOUT };
        Self { first, total: last - first + 1, flags, padding: 0 }
    }
}

/// An expression of libnftnl under construction. After it is added to a rule, the rule frees it.
struct Raw(NonNull<sys::nftnl_expr>);

impl Raw {
    fn new(name: &'static CStr) -> Self {
        // SAFETY: the name is a C string; libnftnl returns an expression of its own, or null.
        let expression = unsafe { sys::nftnl_expr_alloc(name.as_ptr()) };
        Self(NonNull::new(expression).expect("libnftnl knows the expression and has memory"))
    }

    fn u32(self, attribute: u32, value: u32) -> Self {
        // SAFETY: the expression is live; the attributes used above are 32 bits wide in libnftnl.
        unsafe { sys::nftnl_expr_set_u32(self.0.as_ptr(), short(attribute), value) };
        self
    }

    fn u64(self, attribute: u32, value: u64) -> Self {
        // SAFETY: the expression is live; the attributes used above are 64 bits wide in libnftnl.
        unsafe { sys::nftnl_expr_set_u64(self.0.as_ptr(), short(attribute), value) };
        self
    }

    fn text(self, attribute: u32, value: &'static CStr) -> Self {
        // SAFETY: the expression is live; libnftnl copies the string.
        unsafe { sys::nftnl_expr_set_str(self.0.as_ptr(), short(attribute), value.as_ptr()) };
        self
    }

    fn target_info(self, info: XtNfqInfo) -> Self {
        const BYTES: u32 = 8;
        const _: () = assert!(size_of::<XtNfqInfo>() == BYTES as usize);
        // SAFETY: malloc has no preconditions.
        let copy = unsafe { libc::malloc(size_of::<XtNfqInfo>()) }.cast::<XtNfqInfo>();
        let copy = NonNull::new(copy).expect("there are 8 bytes of memory");
        // SAFETY: `copy` is as large as the value and, as malloc's memory, aligned for it.
        unsafe { copy.write(info) };
        let attribute = short(sys::NFTNL_EXPR_TG_INFO);
        // SAFETY: the expression is live, `copy` is BYTES long, and libnftnl takes it over and frees it with
        // free().
        unsafe { sys::nftnl_expr_set(self.0.as_ptr(), attribute, copy.as_ptr().cast(), BYTES) };
        self
    }
}

fn short(attribute: u32) -> u16 {
    u16::try_from(attribute).expect("libnftnl's attributes are small")
}
