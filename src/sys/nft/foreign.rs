//! Base chains of other tables, as far as they concern packets to VIPs: chains that drop packets that none of
//! their rules accepts, and chains that translate addresses, with their rules (`foreign_nat.rs`). Only these
//! are read, and only the attributes named here, so other contents of foreign tables cannot disturb this.
//! Rules of legacy iptables are not part of nf_tables, and are not seen.

use std::io;

use super::{
    foreign_nat,
    messages::{
        NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETTABLE, NFT_TABLE_F_DORMANT, NFTA_CHAIN_HOOK,
        NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM, NFTA_OWN_TABLE,
        NFTA_RULE_CHAIN, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME,
    },
    reader::{Ask, Reader},
};
use crate::{
    host::{ForeignChain, NatChain},
    plan::elements::TABLE,
    sys::netlink::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_UNSPEC, attribute, number, text},
};

const NF_DROP: u32 = libc::NF_DROP.cast_unsigned();
const NF_INET_PRE_ROUTING: u32 = libc::NF_INET_PRE_ROUTING.cast_unsigned();
const NF_INET_LOCAL_IN: u32 = libc::NF_INET_LOCAL_IN.cast_unsigned();
const NF_INET_FORWARD: u32 = libc::NF_INET_FORWARD.cast_unsigned();
const NF_INET_POST_ROUTING: u32 = libc::NF_INET_POST_ROUTING.cast_unsigned();

/// What other programs do to packets to VIPs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// The base chains that have policy drop.
    pub drops: Vec<ForeignChain>,
    /// The base chains of type nat that packets to VIPs pass.
    pub nats: Vec<NatChain>,
}

/// Returns the base chains of other tables that are in force.
///
/// # Errors
/// Returns an error if the kernel does not answer.
pub fn foreign() -> io::Result<Foreign> {
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
        let (mut found, mut families) = (Foreign::default(), Vec::new());
        reader.ask(
            NFT_MSG_GETCHAIN,
            Ask::All(NFPROTO_UNSPEC),
            |_| {},
            |number, attributes| {
                let Some(chain) = Base::read(number, attributes) else { return Ok(()) };
                let is_ours = number == NFPROTO_INET && chain.table == TABLE;
                if is_ours || dormant.contains(&(number, chain.table.clone())) {
                    return Ok(());
                }
                found.drops.extend(chain.drop());
                if let Some(nat) = chain.nat() {
                    found.nats.push(nat);
                    families.push(number);
                }
                Ok(())
            },
        )?;
        for (nat, family) in found.nats.iter_mut().zip(families) {
            let NatChain { at: ForeignChain { table, chain, .. }, rules } = nat;
            reader.ask(
                NFT_MSG_GETRULE,
                Ask::All(family),
                |request| {
                    request.text(NFTA_OWN_TABLE, table);
                    request.text(NFTA_RULE_CHAIN, chain);
                },
                |_, rule| {
                    rules.push(foreign_nat::read(rule));
                    Ok(())
                },
            )?;
        }
        Ok(found)
    })
}

/// A base chain of a family that handles packets to VIPs.
struct Base<'a> {
    family: &'static str,
    table: String,
    chain: String,
    kind: &'a str,
    hook: u32,
    policy: u32,
}

impl<'a> Base<'a> {
    fn read(family: u8, chain: &'a [u8]) -> Option<Self> {
        let family = match family {
            NFPROTO_INET => "inet",
            NFPROTO_IPV4 => "ip",
            NFPROTO_IPV6 => "ip6",
            _ => return None,
        };
        let base = attribute(chain, NFTA_CHAIN_HOOK)?;
        Some(Self {
            family,
            table: text(chain, NFTA_OWN_TABLE)?.to_owned(),
            chain: text(chain, NFTA_CHAIN_NAME)?.to_owned(),
            kind: text(chain, NFTA_CHAIN_TYPE)?,
            hook: number(base, NFTA_HOOK_HOOKNUM)?,
            policy: number(chain, NFTA_CHAIN_POLICY)?,
        })
    }

    /// Returns the chain if it has policy drop at a hook that packets to VIPs, or tunnel packets to this
    /// host, pass.
    fn drop(&self) -> Option<ForeignChain> {
        let hook = match self.hook {
            NF_INET_PRE_ROUTING => "prerouting",
            NF_INET_LOCAL_IN => "input",
            NF_INET_FORWARD => "forward",
            _ => return None,
        };
        (self.policy == NF_DROP).then(|| self.at(hook))
    }

    /// Returns the chain, without its rules, if it may translate packets to VIPs.
    fn nat(&self) -> Option<NatChain> {
        let hook = match self.hook {
            NF_INET_PRE_ROUTING => "prerouting",
            NF_INET_POST_ROUTING => "postrouting",
            _ => return None,
        };
        (self.kind == "nat").then(|| NatChain { at: self.at(hook), rules: Vec::new() })
    }

    fn at(&self, hook: &'static str) -> ForeignChain {
        ForeignChain { family: self.family, table: self.table.clone(), chain: self.chain.clone(), hook }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::{Snapshot, judge},
        sys::namespace::{in_namespace, shell},
        tests::fixture,
    };

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn foreign_chains_that_drop_are_found_and_no_others() {
        in_namespace(|| {
            assert_eq!(foreign().unwrap(), Foreign::default());
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
            let mut found: Vec<String> = foreign()
                .unwrap()
                .drops
                .into_iter()
                .map(|ForeignChain { family, table, chain, hook }| format!("{family} {table} {chain} {hook}"))
                .collect();
            found.sort();
            let expected = [
                "inet fw in input",
                "inet fw pre prerouting",
                "ip filter FORWARD forward",
                "ip6 synrail theirs forward",
            ];
            assert_eq!(found, expected);
        });
    }

    /// Returns the names of the chains that are reported to translate packets to VIPs, for a balancer that
    /// has tunnels.
    fn translating() -> Vec<String> {
        let state = fixture::balancer("interfaces = ['eth1', 'eth2']")
            .service("web", "10.0.0.0/32 1000::/128", "protocols = 'tcp'\nports = '5001'")
            .backends(&[("s1", "192.168.1.1")])
            .state();
        let host = Snapshot { nats: foreign().unwrap().nats, ..Snapshot::default() };
        judge(&state, &host).into_iter().filter(|it| it.wanted == "none of these").map(|it| it.name).collect()
    }

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn chains_that_translate_packets_to_vips_are_reported_and_no_others() {
        let (pre, post) = ("prerouting priority dstnat", "postrouting priority srcnat");
        let cases = [
            ("ip", post, "masquerade", true),
            ("ip", post, "counter masquerade random", true),
            ("ip", post, "snat to 192.168.1.201", true),
            ("inet", post, "meta nfproto ipv6 masquerade", true),
            ("ip", post, "jump other; masquerade", true),
            ("ip", pre, "tcp dport 5001 redirect to :3128", true),
            ("ip", pre, "iifname \"eth1\" tcp dport 5001 dnat to 192.168.1.9", true),
            ("ip", pre, "iifname \"eth*\" redirect", true),
            ("ip", post, "oifname != \"docker0\" masquerade", true),
            ("ip", post, "ip saddr != 10.0.0.0/8 masquerade", true),
            ("ip", post, "ip daddr 10.0.0.0/24 masquerade", true),
            ("ip", post, "ip daddr 10.0.0.0/25 masquerade", true),
            ("ip", post, "ip daddr != 10.3.0.0/17 masquerade", true),
            ("ip6", post, "ip6 daddr 1000::/16 masquerade", true),
            ("inet", post, "ip6 daddr 1000::/17 masquerade", true),
            ("ip", post, "tcp dport 22 accept; meta l4proto udp accept; masquerade", true),
            // Rules that docker, libvirt, a router and kube-proxy have, and rules that cannot be read.
            ("ip", post, "ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade", false),
            ("ip", post, "ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 masquerade", false),
            ("ip", post, "oifname \"eth1\" masquerade", false),
            ("ip", post, "meta mark & 0x4000 != 0x4000 return; masquerade", false),
            ("ip", post, "ip daddr { 10.0.0.0, 10.9.0.0 } masquerade", false),
            ("ip", post, "ct state new masquerade", false),
            ("ip", post, "ip daddr 10.3.0.0/17 masquerade", false),
            ("ip", post, "ip daddr != 10.0.0.0 masquerade", false),
            ("ip6", post, "ip6 daddr 1001::/16 masquerade", false),
            ("ip", pre, "tcp dport 2222 redirect to :22", false),
            ("ip", pre, "udp dport 5001 redirect to :53", false),
            ("ip", pre, "iifname \"lan0\" redirect", false),
            ("ip", post, "meta l4proto icmp masquerade", false),
            ("ip", post, "jump other", false),
            // What the finding advises to do.
            ("inet", post, "ip daddr 10.0.0.0 accept; ip6 daddr 1000:: accept; masquerade", false),
        ];
        in_namespace(move || {
            for (family, hook, rules, hits) in cases {
                shell(&format!(
                    "nft -f - <<'NFT'\ntable {family} other {{\n chain other {{ counter; }}\n\
                     chain c {{ type nat hook {hook}; {rules}; }}\n}}\nNFT"
                ));
                let hook = hook.split(' ').next().unwrap();
                let name = format!("chain c of table {family} other, hook {hook}");
                let expected: &[String] = if hits { &[name] } else { &[] };
                assert_eq!(translating(), expected, "{family} {hook} {rules}");
                shell(&format!("nft delete table {family} other"));
            }
        });
    }
}
