# shellcheck shell=bash
# An nft table of the testbed's own in a balancer, that counts what passes, independent of what lbd says.
#
# It must be made before lbd starts and stay until the end: to delete a base chain drops the packets that wait in any
# queue of the namespace. It changes no packet. A SYN sent again is told from a first one by a set of those seen.

witness_up() { # LB...
    local lb
    witness_rules > "$WORK/witness.nft"
    for lb; do in_ns "$lb" nft -f "$WORK/witness.nft"; done
}
witness_rules() {
    cat <<'NFT'
table inet witness {
    set syns4 { typeof ip saddr . tcp sport . ip daddr . tcp dport; size 65535; flags dynamic; }
    set syns6 { typeof ip6 saddr . tcp sport . ip6 daddr . tcp dport; size 65535; flags dynamic; }
    counter syn { comment "bare SYNs to a VIP, those sent again too" }
    counter syn_again { comment "those of them that were sent again" }
    counter to_vip { comment "all packets to a VIP" }
    counter invalid { comment "packets to a VIP that conntrack calls invalid" }
    counter fragment { comment "fragments to a VIP, as they come in" }
    counter fragment_after { comment "fragments to a VIP from anywhere, where connection tracking would have put them together" }
    counter datagram_after { comment "whole UDP datagrams there, put together or never cut" }
    counter plain { comment "those of them, and others, that came as they are, not in GRE" }
    counter from_vip { comment "packets from a VIP: replies, none where they do not pass balancers" }
    chain arrive {
        type filter hook prerouting priority -500; policy accept
        ip saddr 10.0.0.0/24 counter name from_vip
        ip6 saddr 1000::/112 counter name from_vip
        iifname { "eth1", "eth2" } ip daddr 10.0.0.0/24 counter name plain
        iifname { "eth1", "eth2" } ip6 daddr 1000::/112 counter name plain
        iifname != { "eth2", "sr-in4", "sr-in6" } accept
        ip daddr 10.0.0.0/24 counter name to_vip
        ip6 daddr 1000::/112 counter name to_vip
        ip daddr 10.0.0.0/24 ip frag-off & 0x3fff != 0 counter name fragment accept
        ip6 daddr 1000::/112 exthdr frag exists counter name fragment accept
        meta l4proto != tcp accept
        tcp flags & (syn | ack | rst | fin) != syn accept
        ip daddr 10.0.0.0/24 counter name syn
        ip6 daddr 1000::/112 counter name syn
        ip daddr 10.0.0.0/24 ip saddr . tcp sport . ip daddr . tcp dport @syns4 counter name syn_again
        ip6 daddr 1000::/112 ip6 saddr . tcp sport . ip6 daddr . tcp dport @syns6 counter name syn_again
        ip daddr 10.0.0.0/24 add @syns4 { ip saddr . tcp sport . ip daddr . tcp dport }
        ip6 daddr 1000::/112 add @syns6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport }
    }
    chain after_defragmentation {
        type filter hook prerouting priority -399; policy accept
        ip daddr 10.0.0.0/24 ip frag-off & 0x3fff != 0 counter name fragment_after accept
        ip6 daddr 1000::/112 exthdr frag exists counter name fragment_after accept
        meta l4proto != udp accept
        ip daddr 10.0.0.0/24 counter name datagram_after
        ip6 daddr 1000::/112 counter name datagram_after
    }
    chain tracked {
        type filter hook prerouting priority -199; policy accept
        ip daddr 10.0.0.0/24 ct state invalid counter name invalid
        ip6 daddr 1000::/112 ct state invalid counter name invalid
    }
}
NFT
}
# hops_up FIRST LAST: from now on servers count fragments to a VIP by the routers that they have passed: a client sends them
# with 64 hops to go, the router takes one, each balancer another. A tunnel's outer header has hops of its own.
hops_up() {
    local n
    for ((n = $1; n <= $2; n++)); do
        in_ns "s$n" nft -f - <<'NFT'
table inet witness {
    counter by_one { comment "fragments that one balancer had" }
    counter by_two { comment "fragments that two had" }
    counter by_more { }
    chain arrive {
        type filter hook prerouting priority -500; policy accept
        ip daddr 10.0.0.0/24 ip frag-off & 0x3fff != 0 ip ttl vmap { 62 : goto one, 61 : goto two, 0-60 : goto more }
        ip6 daddr 1000::/112 exthdr frag exists ip6 hoplimit vmap { 62 : goto one, 61 : goto two, 0-60 : goto more }
    }
    chain one { counter name by_one; }
    chain two { counter name by_two; }
    chain more { counter name by_more; }
}
NFT
    done
}
hops() { # COUNTER: fragments, of all servers
    local n sum=0
    for ((n = 1; n <= SERVERS; n++)); do sum=$((sum + $(witness "s$n" "$1"))); done
    echo "$sum"
}
witness() { counter_of "$1" witness "$2"; } # LB COUNTER: packets
# conntrack_drops LB: packets that came before the entry of their flow's first one was in place, for example
conntrack_drops() {
    in_ns "$1" conntrack -S | awk '{ for (i = 1; i <= NF; i++) if (sub("^drop=", "", $i)) n += $i } END { print n + 0 }'
}
# kernel_counter NAMESPACE NAME: one of the kernel's own protocol counters
kernel_counter() { in_ns "$1" nstat -az "$2" | awk 'NR > 1 { n += $2 } END { print n + 0 }'; }
