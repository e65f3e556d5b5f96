# shellcheck shell=bash
# proves: with lbd dead, lbctl check names each object of ours that was deleted or altered by hand, --repair mends just that, and others' objects stay
#
# One by one: chains, rules, sets, counters, entries of fallback tables, tunnels and entrances with their settings, routes, rules, the
# file of overrides. Where lbd runs, --repair leaves it to lbd; a dead lbd's region under another lbd is left alone.
# topology: dsr:servers=3
# needs: queue conntrack gre ipip traffic
# limit_s: 1200

{
    config_balancer lb201 'gre_in = true'
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT" 'table_size = 1009'
    config_servers 1 1 gre
    config_servers 2 3 ipip
} > lb201.toml
# Things of other programs that look alike.
batch lb201 <<'IP'
link add mine type gre local 192.168.1.201 remote 192.168.1.99
link set mine up
route add 172.16.0.0/24 dev mine table 77
rule add fwmark 0x10000/0xff0000 lookup 77 priority 7777
IP
in_ns lb201 nft 'add table inet mine; add chain inet mine c { type filter hook prerouting priority 5; }; add rule inet mine c counter'
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"
connect_all 5
change lb201 deactivate s3 --reason disk
wait_until 60 "lbd has taken it over" taken_over lb201

# checked STATUS [ARGUMENT...]: lbctl check ends with it, and says all in check.txt
checked() {
    local status=0 wanted=$1
    shift
    lbctl_in lb201 check "$@" > check.txt 2>&1 || status=$?
    ((status == wanted)) || broken "lbctl check $* should end with status $wanted, not $status, and says: $(cat check.txt)"
}
# What is not ours as well; without numbers that a repair may change.
whole_state() { lasting_state lb201 | sed 's/ # handle [0-9]*//; s/^link [0-9]* /link /' | sort; }
checked 0
holds "nothing is wrong while lbd runs"
balancer_stop lb201
checked 1
expect_grep "that lbd does not run is a warning" 'warning: lbd is not running' check.txt
expect_eq "errors while all is as lbd has left it" "$(grep -c '^error' check.txt || true)" 0
whole_state > whole.txt

structure=$(in_ns lb201 nft --terse list ruleset inet | awk '$1 == "chain" && $2 ~ /^structure_/ { print $2 }')
map=$(in_ns lb201 nft --terse list maps inet | awk '$1 == "map" && $2 ~ /^table_/ { print $2 }')
rule=$(ip -netns lb201 -4 rule | awk '/lookup 20001/ && !priority { priority = $1 } END { sub(":", "", priority); print priority }')
rule6=$(ip -netns lb201 -6 rule | awk '/lookup 20001/ && !priority { priority = $1 } END { sub(":", "", priority); print priority }')
note "structure $structure, fallback map $map, rules $rule and $rule6"

# spoiled NAME COMMAND: check names it, and --repair makes all as it was
spoiled() {
    local name=$1 command=$2
    in_ns lb201 sh -ec "$command"
    checked 2
    grep -qE "^error: .*$name" check.txt || broken "$command: lbctl check does not name $name: $(cat check.txt)"
    checked 1 --repair
    grep -qE "^mended: .*$name" check.txt || broken "$command: --repair does not say that it mended $name: $(cat check.txt)"
    whole_state > now.txt
    cmp -s whole.txt now.txt || broken "$command: not all is as it was: $(diff whole.txt now.txt)"
    holds "named and mended: $command"
}
t='inet synrail'
spoiled 'the ruleset (is|was) missing' "nft delete table $t"
spoiled 'the table is dormant' "nft 'add table $t { flags dormant; }'"
spoiled 'chain queue_flow has 0 rules' "nft flush chain $t queue_flow"
spoiled 'chain steer has' "nft insert rule $t steer drop"
spoiled 'chain more is not wanted' "nft add chain $t more"
spoiled "chain $structure is missing" "nft delete chain $t $structure"
spoiled 'set vip4 has other elements' "nft flush set $t vip4"
spoiled 'set targets has other elements' "nft add element $t targets '{ 77 }'"
spoiled 'set steer_ways has other elements' "nft flush map $t steer_ways"
spoiled 'set more is not wanted' "nft add set $t more '{ type ipv4_addr; }'"
spoiled 'object more is not wanted' "nft add counter $t more"
spoiled 'fallback table of service web (is|was) changed .entries: 1009' "nft flush map $t $map"
spoiled 'fallback table of service web (is|was) changed .entries: 1[)]' "nft delete element $t $map '{ 7 }'"
spoiled 'device sr-1 (is|was) missing' 'ip link del sr-1'
spoiled 'device sr-in4 (is|was) missing' 'ip link del sr-in4'
spoiled 'device sr-1 (is|was) not set up' 'ip link set sr-1 mtu 1300'
spoiled 'device sr-2 (is|was) not set up' 'ip link set sr-2 alias "synrail: another"'
spoiled 'device sr-1 (is|was) not set up' 'sysctl -qw net.ipv4.conf.sr-1.rp_filter=1'
spoiled 'route .* dev sr-2 table 20002' 'ip link set sr-2 down'
spoiled 'device astray (is|was) not wanted' 'ip link set sr-2 down; ip link set sr-2 name astray; ip link set astray up'
spoiled 'route 0.0.0.0/0 dev sr-1 table 20001' 'ip route del default table 20001'
spoiled 'route ::/0 dev sr-1 table 20001' 'ip -6 route del default table 20001'
spoiled 'route 0.0.0.0/0 dev sr-2 table 20002 .* another one' 'ip route replace default dev sr-1 table 20002 proto 201'
spoiled 'route blackhole 10.0.0.0/32' 'ip route del blackhole 10.0.0.0/32 metric 1000000'
spoiled 'IPv4 rule' "ip rule del priority $rule"
spoiled 'IPv6 rule' "ip -6 rule del priority $rule6"
spoiled 'IPv4 rule 11999' 'ip rule add priority 11999 fwmark 9 lookup 20009 protocol 201'

# What is kept over a reboot.
kept=/var/lib/synrail/lb201.json
cp "$kept" kept.json
echo '{' > "$kept"
checked 1
expect_grep "a damaged file of overrides is named" 'warning: overrides in .*lb201.json is unusable' check.txt
checked 1 --repair
expect_grep "and mended" 'mended: overrides in .*lb201.json was unusable' check.txt
expect_same "the overrides are those of the region" kept.json "$kept"

# With lbd, that one mends it.
balancer_start lb201 lb201.toml
connect_all 5
in_ns lb201 nft flush chain inet synrail queue_flow
checked 0 --repair
mended() { grep -q 'our ruleset was not as it should be; it is mended' lb201.lbd.log; }
wait_until 60 "lbd has mended it" mended
connect_all 5
