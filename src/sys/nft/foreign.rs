//! Base chains of other tables, as far as they concern packets to VIPs: those that drop what none of their rules accepts.
//! Only chains and tables are read, and of these only the attributes named here: what else is in foreign tables cannot
//! disturb it. Rules of the older iptables ("legacy") are no part of nf_tables, and are not seen.

use std::io;

use super::{
    messages::{
        NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_UNSPEC, NFT_MSG_GETCHAIN, NFT_MSG_GETTABLE,
        NFT_TABLE_F_DORMANT, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE,
        NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME,
    },
    reader::{Ask, Reader},
};
use crate::{
    plan::elements::TABLE,
    sys::netlink::{attribute, number, text},
};

/// Of `linux/netfilter.h`.
const NF_DROP: u32 = 0;

/// A base chain of another program's, with policy drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// "ip", "ip6" or "inet".
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Where it is.
    pub hook: Hook,
    /// Among the chains there.
    pub priority: i32,
}

/// Where base chains meet packets to VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// As they come in.
    Prerouting,
    /// What is for this host: the outer packets of tunnels that end here.
    Input,
    /// What goes on to a backend.
    Forward,
}

impl Hook {
    /// As nft calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
        }
    }
}

/// The base chains of other tables that have policy drop; of tables that are in force.
///
/// # Errors
/// When the kernel does not tell.
pub fn foreign_drops() -> io::Result<Vec<ForeignChain>> {
    let ours = |family, table: &str| family == NFPROTO_INET && table == TABLE;
    Reader::open()?.look(|reader| {
        let mut dormant: Vec<(u8, String)> = Vec::new();
        reader.ask(
            NFT_MSG_GETTABLE,
            Ask::All(NFPROTO_UNSPEC),
            |_| {},
            |family, table| {
                let flags = number(table, NFTA_TABLE_FLAGS).unwrap_or(0);
                if let Some(name) = text(table, NFTA_TABLE_NAME).filter(|_| flags & NFT_TABLE_F_DORMANT != 0)
                {
                    dormant.push((family, name.to_owned()));
                }
                Ok(())
            },
        )?;
        let mut found = Vec::new();
        reader.ask(
            NFT_MSG_GETCHAIN,
            Ask::All(NFPROTO_UNSPEC),
            |_| {},
            |family, attributes| {
                let chain = read(family, attributes);
                let in_force = |chain: &ForeignChain| {
                    !ours(family, &chain.table) && !dormant.contains(&(family, chain.table.clone()))
                };
                found.extend(chain.filter(in_force));
                Ok(())
            },
        )?;
        Ok(found)
    })
}

/// A base chain with policy drop at one of the hooks; `None` for any other.
fn read(family: u8, chain: &[u8]) -> Option<ForeignChain> {
    let family = match family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let base = attribute(chain, NFTA_CHAIN_HOOK)?;
    let hook = match number(base, NFTA_HOOK_HOOKNUM)? {
        0 => Hook::Prerouting,
        1 => Hook::Input,
        2 => Hook::Forward,
        _ => return None,
    };
    (number(chain, NFTA_CHAIN_POLICY)? == NF_DROP).then_some(())?;
    Some(ForeignChain {
        family,
        table: text(chain, NFTA_CHAIN_TABLE)?.to_owned(),
        chain: text(chain, NFTA_CHAIN_NAME)?.to_owned(),
        hook,
        priority: number(base, NFTA_HOOK_PRIORITY)?.cast_signed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::namespace::{in_namespace, shell};

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn foreign_chains_that_drop_are_found_and_no_others() {
        in_namespace(|| {
            assert_eq!(foreign_drops().unwrap(), []);
            shell(
                "nft -f - <<'NFT'
table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; }
    chain OUTPUT { type filter hook output priority filter; policy drop; }
    chain INPUT { type filter hook input priority filter; policy accept; }
    chain USER { accept; }
}
table inet fw {
    chain in { type filter hook input priority 7; policy drop; }
    chain pre { type filter hook prerouting priority -310; policy drop; }
}
table inet synrail { chain ours { type filter hook forward priority 0; policy drop; }
}
table ip6 synrail { chain theirs { type filter hook forward priority 0; policy drop; }
}
table inet sleeping { flags dormant; chain c { type filter hook forward priority 0; policy drop; }
}
table bridge b { chain c { type filter hook forward priority 0; policy drop; }
}
NFT",
            );
            let mut found: Vec<String> = foreign_drops()
                .unwrap()
                .into_iter()
                .map(|ForeignChain { family, table, chain, hook, priority }| {
                    format!("{family} {table} {chain} {} {priority}", hook.name())
                })
                .collect();
            found.sort();
            let expected = [
                "inet fw in input 7",
                "inet fw pre prerouting -310",
                "ip filter FORWARD forward 0",
                "ip6 synrail theirs forward 0",
            ];
            assert_eq!(found, expected);
        });
    }
}
