//! The messages and attributes of nf_tables that are used here. What libc lacks is from
//! `linux/netfilter/nf_tables.h`.

use crate::{
    plan::elements::TABLE,
    sys::netlink::{Writer, message_type},
};

/// Writes what a message about something in our table begins with: the name of the table, and in the attribute
/// `of` that of the chain, set or object.
pub(super) fn names(message: &mut Writer, of: u16, name: &str) {
    message.text(NFTA_OWN_TABLE, TABLE);
    message.text(of, name);
}

pub(super) const NFT_MSG_NEWTABLE: u16 = nf_tables(libc::NFT_MSG_NEWTABLE);
pub(super) const NFT_MSG_GETTABLE: u16 = nf_tables(libc::NFT_MSG_GETTABLE);
pub(super) const NFT_MSG_DELTABLE: u16 = nf_tables(libc::NFT_MSG_DELTABLE);
pub(super) const NFT_MSG_NEWCHAIN: u16 = nf_tables(libc::NFT_MSG_NEWCHAIN);
pub(super) const NFT_MSG_GETCHAIN: u16 = nf_tables(libc::NFT_MSG_GETCHAIN);
pub(super) const NFT_MSG_DELCHAIN: u16 = nf_tables(libc::NFT_MSG_DELCHAIN);
pub(super) const NFT_MSG_NEWRULE: u16 = nf_tables(libc::NFT_MSG_NEWRULE);
pub(super) const NFT_MSG_GETRULE: u16 = nf_tables(libc::NFT_MSG_GETRULE);
pub(super) const NFT_MSG_DELRULE: u16 = nf_tables(libc::NFT_MSG_DELRULE);
pub(super) const NFT_MSG_NEWSET: u16 = nf_tables(libc::NFT_MSG_NEWSET);
pub(super) const NFT_MSG_GETSET: u16 = nf_tables(libc::NFT_MSG_GETSET);
pub(super) const NFT_MSG_DELSET: u16 = nf_tables(libc::NFT_MSG_DELSET);
pub(super) const NFT_MSG_NEWSETELEM: u16 = nf_tables(libc::NFT_MSG_NEWSETELEM);
pub(super) const NFT_MSG_GETSETELEM: u16 = nf_tables(libc::NFT_MSG_GETSETELEM);
pub(super) const NFT_MSG_DELSETELEM: u16 = nf_tables(libc::NFT_MSG_DELSETELEM);
pub(super) const NFT_MSG_GETGEN: u16 = nf_tables(libc::NFT_MSG_GETGEN);
pub(super) const NFT_MSG_NEWOBJ: u16 = nf_tables(libc::NFT_MSG_NEWOBJ);
pub(super) const NFT_MSG_GETOBJ: u16 = nf_tables(libc::NFT_MSG_GETOBJ);
pub(super) const NFT_MSG_DELOBJ: u16 = nf_tables(libc::NFT_MSG_DELOBJ);
pub(super) const NFT_MSG_NEWFLOWTABLE: u16 = nf_tables(22);
pub(super) const NFT_MSG_GETFLOWTABLE: u16 = nf_tables(23);
pub(super) const NFT_MSG_DELFLOWTABLE: u16 = nf_tables(24);

const fn nf_tables(message: libc::c_int) -> u16 {
    message_type(libc::NFNL_SUBSYS_NFTABLES, message)
}

pub(super) const NFTA_GEN_ID: u16 = 1;

pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_TABLE_FLAGS: u16 = 2;
pub(super) const NFT_TABLE_F_DORMANT: u32 = 1;

/// The name of the table, in every message about something in a table: `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`,
/// `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`, `NFTA_OBJ_TABLE`, `NFTA_FLOWTABLE_TABLE`.
pub(super) const NFTA_OWN_TABLE: u16 = 1;

pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;

pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;

pub(super) const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_SET_FLAGS: u16 = 3;
pub(super) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(super) const NFTA_SET_KEY_LEN: u16 = 5;
pub(super) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(super) const NFTA_SET_DATA_LEN: u16 = 7;
pub(super) const NFTA_SET_POLICY: u16 = 8;
pub(super) const NFTA_SET_DESC: u16 = 9;
pub(super) const NFTA_SET_ID: u16 = 10;
pub(super) const NFTA_SET_TIMEOUT: u16 = 11;
pub(super) const NFTA_SET_GC_INTERVAL: u16 = 12;
pub(super) const NFTA_SET_USERDATA: u16 = 13;
pub(super) const NFTA_SET_OBJ_TYPE: u16 = 15;
pub(super) const NFTA_SET_EXPR: u16 = 17;
pub(super) const NFTA_SET_EXPRESSIONS: u16 = 18;
pub(super) const NFTA_SET_DESC_SIZE: u16 = 1;
pub(super) const NFT_SET_ANONYMOUS: u32 = libc::NFT_SET_ANONYMOUS.cast_unsigned();

pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
pub(super) const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
pub(super) const NFTA_SET_ELEM_EXPR: u16 = 7;
pub(super) const NFTA_SET_ELEM_OBJREF: u16 = 9;
pub(super) const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(super) const NFT_SET_ELEM_INTERVAL_END: u32 = libc::NFT_SET_ELEM_INTERVAL_END.cast_unsigned();
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_IMMEDIATE_DATA: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
pub(super) const NFT_GOTO: u32 = libc::NFT_GOTO.cast_unsigned();

pub(super) const NFTA_OBJ_NAME: u16 = 2;
pub(super) const NFTA_OBJ_TYPE: u16 = 3;
pub(super) const NFTA_OBJ_DATA: u16 = 4;
pub(super) const NFT_OBJECT_COUNTER: u32 = 1;
/// The object of `ct timeout`.
pub(super) const NFT_OBJECT_CT_TIMEOUT: u32 = 7;
pub(super) const NFTA_COUNTER_BYTES: u16 = 1;
pub(super) const NFTA_COUNTER_PACKETS: u16 = 2;

pub(super) const NFTA_FLOWTABLE_NAME: u16 = 2;
pub(super) const NFTA_FLOWTABLE_HOOK: u16 = 3;
pub(super) const NFTA_FLOWTABLE_FLAGS: u16 = 7;
pub(super) const NFTA_FLOWTABLE_HOOK_NUM: u16 = 1;
pub(super) const NFTA_FLOWTABLE_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_FLOWTABLE_HOOK_DEVS: u16 = 3;
pub(super) const NFTA_DEVICE_NAME: u16 = 1;
