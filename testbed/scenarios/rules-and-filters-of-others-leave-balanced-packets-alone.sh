# shellcheck shell=bash
# proves: policy rules of others, a VRF, and reverse path filters that look by mark stop no connection
#
# What is tried: a rule for a second uplink before lbd's, wg-quick's rules, which take the priority before all others, firewalld's
# reverse path filter in both forms, rp_filter=1 with src_valid_mark=1, and the interface of the VIPs in a VRF.
# topology: dsr:servers=2
# needs: queue conntrack gre traffic
# limit_s: 240

web_up gre
connect_all 10
# The rules of lbd that lead into its tree stand before the first of others that could catch what is marked.
before_others() { # PATTERN
    local ours theirs family
    for family in -4 -6; do
        ours=$(grep -nm 1 'iif eth2 goto 10000' <(ip -netns lb201 "$family" rule) | cut -d : -f 1)
        theirs=$(grep -nEm 1 "$1" <(ip -netns lb201 "$family" rule) | cut -d : -f 1)
        [[ -n $ours && -n $theirs ]] && ((ours < theirs)) || return 1
    done
}

ip -netns lb201 -4 route add default via 192.168.2.254 table 500
ip -netns lb201 -6 route add default via fd00:0:0:2::254 table 500
for family in -4 -6; do ip -netns lb201 "$family" rule add pref 500 iif eth2 lookup 500; done
wait_until 40 "lbd's rules stand before the operator's" before_others '^500:'
connect_all 10

for family in -4 -6; do
    ip -netns lb201 "$family" rule add not fwmark 51820 lookup 500
    ip -netns lb201 "$family" rule add lookup main suppress_prefixlength 0
done
wait_until 40 "lbd's rules stand before those of a VPN" before_others 'not from all fwmark'
connect_all 10
for family in -4 -6; do
    ip -netns lb201 "$family" rule del not fwmark 51820 lookup 500
    ip -netns lb201 "$family" rule del lookup main suppress_prefixlength 0
    ip -netns lb201 "$family" rule del pref 500
done

in_ns lb201 nft -f - <<'NFT'
table inet hostfirewall {
    counter rpfilter { }
    chain from_outside {
        type filter hook prerouting priority filter + 10; policy accept
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        fib saddr . mark . iif oif missing counter name rpfilter drop
    }
    chain before {
        type filter hook prerouting priority raw + 10; policy accept
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        fib saddr . iif oif missing counter name rpfilter drop
    }
}
NFT
settings lb201 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth2.rp_filter=1 net.ipv4.conf.all.src_valid_mark=1
connect_all 10
expect_eq "packets dropped by the host's reverse path filter" "$(counter_of lb201 hostfirewall rpfilter)" 0
balancer_stop lb201
balancer_start lb201 lb201.toml
connect_all 10
in_ns lb201 nft delete table inet hostfirewall
settings lb201 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth2.rp_filter=0 net.ipv4.conf.all.src_valid_mark=0

modprobe -q vrf
if ! ip -netns lb201 link add vrf-ext type vrf table 700; then
    note "this kernel has no VRFs"
    exit 0
fi
ip -netns lb201 link set vrf-ext up
ip -netns lb201 link set eth2 master vrf-ext
ip -netns lb201 -6 addr replace fd00:0:0:2::201/64 dev eth2 nodad
ip -netns lb201 -4 route add default via 192.168.2.254 vrf vrf-ext
ip -netns lb201 -6 route add default via fd00:0:0:2::254 vrf vrf-ext
follows() { [[ $(ip -netns lb201 -4 rule) == *"iif vrf-ext goto 10000"* && $(ip -netns lb201 -6 rule) == *"iif vrf-ext goto 10000"* ]]; }
wait_until 40 "lbd's rules know the VRF" follows
before_others 'l3mdev-table' || broken "the VRF's rule stands before lbd's"
connect_all 10
sed 's/interfaces = .*/interfaces = ["vrf-ext"]/' lb201.toml > vrf.toml
change lb201 apply --allow-removal "$WORK/vrf.toml" || true
wait_until 20 "lbd says that a VRF is no interface for packets to VIPs" grep -q 'vrf-ext is a VRF' lb201.lbd.log
connect_all 10
