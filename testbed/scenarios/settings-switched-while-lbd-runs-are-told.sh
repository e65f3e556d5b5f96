# shellcheck shell=bash
# proves: what others switch on the host while lbd runs is told within a repair, by lbctl check and show at once, and so is its end
#
# Settings, an interface that is set down, an address that is gone, a filter as docker makes it: each stops traffic, and none
# of it is lbd's to mend. A look costs nothing but a few milliseconds, every ten seconds at least.
# topology: dsr:servers=1
# needs: queue conntrack gre traffic
# limit_s: 300

web_up gre
# lines_with PATTERN: how many of lbd's log.
lines_with() { sed 's/\x1b\[[0-9;]*m//g' lb201.lbd.log | grep -cE -- "$1" || true; }
is_told() { (($(lines_with "$1") > $2)); }
checked() { # STATUS: lbctl check ends with it, and says all in check.txt
    local status=0
    lbctl_in lb201 check > check.txt || status=$?
    ((status == $1))
}
expect_ok "nothing is wrong: lbctl check" checked 0
# told_and_over SEVERITY STATUS NAME "COMMAND" "UNDO": both commands in lb201
told_and_over() {
    local severity=$1 status=$2 name=$3 change=$4 undo=$5 before after
    before=$(lines_with "$severity .*$name") after=$(lines_with "this is over .*$name")
    in_ns lb201 sh -ec "$change"
    checked "$status" || broken "$change: lbctl check should end with status $status, and says: $(cat check.txt)"
    grep -qE "$name" check.txt || broken "$change: lbctl check does not name $name: $(cat check.txt)"
    wait_until 40 "lbd tells: $name" is_told "$severity .*$name" "$before"
    [[ $(lbctl_in lb201 show) == *"\`lbctl check\` tells them"* ]] || broken "lbctl show says nothing about $name"
    in_ns lb201 sh -ec "$undo"
    wait_until 40 "lbd tells that this is over: $name" is_told "this is over .*$name" "$after"
    holds "told, and its end too: $change"
}
told_and_over ERROR 2 net.ipv4.ip_forward 'sysctl -qw net.ipv4.ip_forward=0' 'sysctl -qw net.ipv4.ip_forward=1'
told_and_over ERROR 2 net.ipv6.conf.all.forwarding 'sysctl -qw net.ipv6.conf.all.forwarding=0' \
    'sysctl -qw net.ipv6.conf.all.forwarding=1; ip -6 route replace default via fd00:0:0:2::254'
# Those that remain, all at once, so that it does not take long. lbd looks when an address or a ruleset changes, so what is waited for
# comes last.
told_and_over ERROR 2 nf_conntrack_tcp_loose \
    'sysctl -qw net.ipv4.conf.eth2.forwarding=0 net.ipv4.conf.eth2.rp_filter=1 net.ipv6.fwmark_reflect=1 net.ipv6.conf.eth2.disable_ipv6=1
    ip addr del 192.168.1.201/24 dev eth1
    nft "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"
    sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0' \
    'sysctl -qw net.netfilter.nf_conntrack_tcp_loose=1 net.ipv4.conf.eth2.forwarding=1 net.ipv4.conf.eth2.rp_filter=0 \
        net.ipv6.fwmark_reflect=0 net.ipv6.conf.eth2.disable_ipv6=0
    ip addr add 192.168.1.201/24 dev eth1; nft delete table ip filter
    ip addr replace fd00:0:0:2::201/64 dev eth2 nodad; ip -6 route replace default via fd00:0:0:2::254'
for name in eth2.forwarding eth2.rp_filter net.ipv6.fwmark_reflect eth2.disable_ipv6 'address 192.168.1.201' \
    'chain FORWARD of table ip filter'; do
    expect_grep "told as well: $name" "(WARN|ERROR) .*$name" lb201.lbd.log
    expect_grep "and its end: $name" "this is over .*$name" lb201.lbd.log
done
told_and_over ERROR 2 'interface eth2' 'ip link set eth2 down; ip link set eth2 name eth7' \
    'ip link set eth7 name eth2; ip link set eth2 up
    ip addr replace fd00:0:0:2::201/64 dev eth2 nodad
    ip route replace default via 192.168.2.254; ip -6 route replace default via fd00:0:0:2::254'
expect_ok "all is well again: lbctl check" checked 0
connect_all 10
