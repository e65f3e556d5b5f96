# shellcheck shell=bash
# The topology "dsr": network namespaces joined as the drawing shows. Replies of a server never touch a balancer.
#
#                client          50.0.0.0/16, 2000::/112, 2000:1::/48: every address of the ranges is its own
#                  | 192.168.3.0/24, fd00:0:0:3::/64
#                router          .254, ::254 in every network; VIPs are routed to the balancers, by 5-tuple
#       eth1 |          | eth2
#   "back"   |          |   "outside"
#   192.168.1.0/24      |   192.168.2.0/24
#   fd00:0:0:1::/64     |   fd00:0:0:2::/64
#      |     |          |
#   eth1   eth1 ----- lb201 .. eth2   .201, ::201 ..; VIP traffic comes in on eth2
#   s1 .. sN                          .1, ::1 ..; default route: the router, over eth1
#
# Addresses follow the xcluster load-balancer tests. The two bridges live in a namespace "fabric" of their own.
# IPv6 has no duplicate address detection here, so that nothing must be waited for.
#
# spread_packets tears flows and datagrams apart; route_by_gre has the router encapsulate packets to VIPs; power_off,
# power_on, plug_out, plug_in and route_vips are what happens to a balancer; topology_up SPEC sets SERVERS and
# BALANCERS; topology_down ends what was started in the background (STARTED) or runs in the namespaces still, and deletes these.

topology_up() {
    local spec=$1 setting
    SERVERS=4 BALANCERS=1
    if [[ $spec == *:* ]]; then
        for setting in $(tr ',' ' ' <<< "${spec#*:}"); do
            case $setting in
                servers=*) SERVERS=${setting#*=} ;;
                balancers=*) BALANCERS=${setting#*=} ;;
                *) die "topology dsr has no parameter '$setting'; it has servers and balancers" ;;
            esac
        done
    fi
    ((SERVERS >= 1 && SERVERS <= 200)) || die "servers=$SERVERS; it can be 1 to 200"
    ((BALANCERS >= 1 && BALANCERS <= 20)) || die "balancers=$BALANCERS; it can be 1 to 20"
    step "topology: client, router, $BALANCERS balancer(s), $SERVERS server(s)"

    local ns
    for ns in $(topology_namespaces); do
        make_namespace "$ns" || return "$STATUS_LACKING"
    done
    make_fabric && make_router && make_client && make_servers && make_balancers
}

topology_namespaces() {
    echo fabric client router
    local n
    for ((n = 1; n <= BALANCERS; n++)); do echo "lb$((200 + n))"; done
    for ((n = 1; n <= SERVERS; n++)); do echo "s$n"; done
}

topology_down() {
    kill_started "${STARTED[@]}"
    # Also what these have started: one process that is left keeps its namespace, and the modules that this uses.
    wait_until 5 "nothing runs in the namespaces" namespaces_empty || true
    ip -all netns delete
    rm -f /dev/shm/lb20? /dev/shm/lb21? /var/lib/synrail/lb20?.json* /var/lib/synrail/lb21?.json*
}
# namespaces_empty: whether nothing runs in the namespaces; what does is ended.
namespaces_empty() {
    local ids
    mapfile -t ids < <(ip netns list | while read -r ns _; do ip netns pids "$ns"; done)
    ((${#ids[@]} == 0)) || { kill -9 "${ids[@]}"; false; }
}
kernel_messages() { dmesg 2>/dev/null | tail -n 100 > "$WORK/dmesg.txt" || true; }
# shellcheck disable=SC2034 # for lib/scenario, lib/balancer.sh
WORK_IN=/run CLIENT=client
# shellcheck disable=SC2034
server_name() { name=s$1; } # N: sets `name`

# in_ns NAMESPACE COMMAND...
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
# start_in NAMESPACE OUT ERR COMMAND...: in the background, its output appended to these files; sets BACKGROUND to its id
start_in() {
    local ns=$1 out=$2 err=$3
    shift 3
    ip netns exec "$ns" "$@" </dev/null >> "$out" 2>> "$err" &
    # shellcheck disable=SC2034
    BACKGROUND=$!
    STARTED+=($!)
}
STARTED=() # ids of the processes in the background
# kill_started ID...: at once. The shell's own word on a job of its that was killed is of no interest.
kill_started() { { kill -9 "$@"; wait "$@"; } 2>/dev/null || true; }
# settings NAMESPACE KEY=VALUE...: sysctls, in one process
settings() {
    local ns=$1
    shift
    in_ns "$ns" bash -c 'for s; do k=${s%%=*}; echo "${s#*=}" > "/proc/sys/${k//.//}" || exit 1; done' settings "$@"
}
# batch NAMESPACE: ip commands, a line each, from standard input
batch() { ip -netns "$1" -batch -; }

QUIET_IPV6=(net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.accept_ra=0
    net.ipv6.conf.default.router_solicitations=0)

make_namespace() {
    ip netns add "$1" || return
    # Before there are devices: a device copies these when it is made.
    settings "$1" "${QUIET_IPV6[@]}"
}
make_fabric() {
    batch fabric <<'IP'
link set lo up
link add back type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link add outside type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set back up
link set outside up
IP
}
# plug NAMESPACE DEVICE BRIDGE [MAC]: ip commands for the fabric that join the namespace to a bridge
plug() {
    echo "link add $1-$2 type veth peer name $2${4:+ address $4} netns $1"
    echo "link set $1-$2 master $3 up"
}
# addresses DEVICE NETWORK HOST: ip commands; network 1 is "back", 2 is "outside", 3 joins client and router
addresses() {
    local device=$1 network=$2 host=$3
    echo "link set $device up"
    echo "address add 192.168.$network.$host/24 dev $device"
    echo "address add fd00:0:0:$network::$host/64 dev $device nodad"
}

make_router() {
    { plug router eth1 back; plug router eth2 outside; } | batch fabric
    ip -netns router link add eth0 type veth peer name eth0 netns client
    # Spread by the 5-tuple that is in the packet (policy 3, these fields). Policy 1 would take the hash that the client's
    # kernel gave the packet: veth carries it along, and TCP changes it when it sends something again.
    settings router net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
        net.ipv4.fib_multipath_hash_policy=3 net.ipv6.fib_multipath_hash_policy=3 \
        net.ipv4.fib_multipath_hash_fields=55 net.ipv6.fib_multipath_hash_fields=55
    local lbs
    mapfile -t lbs < <(topology_namespaces | grep '^lb')
    {
        echo "link set lo up"
        addresses eth0 3 254
        addresses eth1 1 254
        addresses eth2 2 254
        echo "route add 50.0.0.0/16 via 192.168.3.1"
        echo "route add 2000::/112 via fd00:0:0:3::1"
        echo "route add 2000:1::/48 via fd00:0:0:3::1"
    } | batch router
    route_vips "${lbs[@]}"
}
# route_vips LB...: what goes to VIPs is spread over these balancers from now on, as a routing daemon would have it.
route_vips() {
    local lb hops4='' hops6=''
    for lb; do
        hops4+=" nexthop via 192.168.2.${lb#lb}"
        hops6+=" nexthop via fd00:0:0:2::${lb#lb}"
    done
    printf 'route replace %s\n' "10.0.0.0/24$hops4" "1000::/112$hops6" | batch router
}

# spread_packets: from now on the router sends each packet to a VIP to any balancer, at random, whatever flow it is part
# of. Nothing here tracks connections, so fragments are spread one by one.
spread_packets() {
    in_ns router nft -f - <<NFT
table inet spread {
    chain arrive {
        type filter hook prerouting priority -150; policy accept
        ip daddr 10.0.0.0/24 meta mark set numgen random mod $BALANCERS offset 1
        ip6 daddr 1000::/112 meta mark set numgen random mod $BALANCERS offset 1
    }
}
NFT
    local n
    for ((n = 1; n <= BALANCERS; n++)); do
        echo "route add 10.0.0.0/24 via 192.168.2.$((200 + n)) table $n"
        echo "rule add pref 90 fwmark $n table $n"
    done | ip -netns router -4 -batch -
    for ((n = 1; n <= BALANCERS; n++)); do
        echo "route add 1000::/112 via fd00:0:0:2::$((200 + n)) table $n"
        echo "rule add pref 90 fwmark $n table $n"
    done | ip -netns router -6 -batch -
}

# gre_up: the router has GRE devices to each balancer's own addresses, gre4-lb201 over IPv4 and gre6-lb201 over IPv6.
gre_up() {
    local n
    for ((n = 201; n <= 200 + BALANCERS; n++)); do
        echo "link add gre4-lb$n type gre local 192.168.1.254 remote 192.168.1.$n ttl 64"
        echo "link add gre6-lb$n type ip6gre local fd00:0:0:1::254 remote fd00:0:0:1::$n ttl 64 encaplimit none"
        echo "link set gre4-lb$n up"
        echo "link set gre6-lb$n up"
    done | batch router
}
# route_by_gre DEVICE...: from now on the router sends packets to VIPs by these, by the 5-tuple, and in no other way. Linux
# has no IPv6 routes by several devices without a next hop, whose address means nothing to a tunnel with two ends.
route_by_gre() {
    local device hops4='' hops6=''
    for device; do
        hops4+=" nexthop dev $device"
        hops6+=" nexthop via fe80::1 dev $device"
    done
    {
        echo "route replace 10.0.0.0/24$hops4"
        echo "route del 1000::/112"
        echo "route add 1000::/112$hops6"
    } | batch router
}

make_client() {
    settings client net.ipv4.ip_nonlocal_bind=1 net.ipv6.ip_nonlocal_bind=1
    {
        echo "link set lo up"
        addresses eth0 3 1
        echo "address add 50.0.0.1/32 dev lo"
        echo "address add 2000::1/128 dev lo nodad"
        echo "route add local 50.0.0.0/16 dev lo"
        echo "route add local 2000::/112 dev lo"
        echo "route add local 2000:1::/48 dev lo"
        echo "route add default via 192.168.3.254 src 50.0.0.1"
        echo "route add default via fd00:0:0:3::254 src 2000::1"
    } | batch client
}

make_servers() {
    local n
    for ((n = 1; n <= SERVERS; n++)); do plug "s$n" eth1 back; done | batch fabric
    for ((n = 1; n <= SERVERS; n++)); do
        {
            echo "link set lo up"
            addresses eth1 1 "$n"
            echo "route add default via 192.168.1.254"
            echo "route add default via fd00:0:0:1::254"
        } | batch "s$n"
    done
}

make_balancers() {
    local n
    for ((n = 201; n <= 200 + BALANCERS; n++)); do plug_balancer "$n"; done | batch fabric
    for ((n = 201; n <= 200 + BALANCERS; n++)); do make_balancer "$n"; done
}
# With link addresses of its own, as a machine has: it has the same ones when it comes back.
plug_balancer() {
    local number
    printf -v number %02x "$1"
    plug "lb$1" eth1 back "02:00:00:00:01:$number"
    plug "lb$1" eth2 outside "02:00:00:00:02:$number"
}
make_balancer() {
    # Forwarding is the operator's duty, not lbd's.
    settings "lb$1" net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    {
        echo "link set lo up"
        addresses eth1 1 "$1"
        addresses eth2 2 "$1"
        echo "route add default via 192.168.2.254"
        echo "route add default via fd00:0:0:2::254"
    } | batch "lb$1"
}

# power_off LB: the machine is gone, with its links, connection tracking, rules, the region, and what was kept of that: it
# comes back as a new one. Its lbd must be gone before.
power_off() {
    printf 'link delete %s\n' "$1-eth1" "$1-eth2" | batch fabric
    ip netns delete "$1"
    rm -f "/dev/shm/$1" "/var/lib/synrail/$1.json"*
}
# power_on LB: it has booted, and knows nothing.
power_on() {
    make_namespace "$1"
    plug_balancer "${1#lb}" | batch fabric
    make_balancer "${1#lb}"
}
# power_fails: of the whole machine that the testbed runs in, where a scenario's head says "# boots: 2" (testbed/run).
power_fails() {
    : > "$RUN/power-fails"
    sleep 60
    broken "the power did not fail"
}
# plug_out LB, plug_in LB: its cables; the machine itself runs on.
plug_out() { printf 'link set %s down\n' "$1-eth1" "$1-eth2" | batch fabric; }
plug_in() { printf 'link set %s up\n' "$1-eth1" "$1-eth2" | batch fabric; }
