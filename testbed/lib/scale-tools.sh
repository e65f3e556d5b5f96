# shellcheck shell=bash
# The load balancers that the scale test compares. Each runs in lb201, gives every new connection to the VIP to one of the
# servers, through GRE, and lets servers answer the client directly.
#
# TOOL_up sets one up, with all servers; TOOL_out N... takes servers out of its service, TOOL_in N... takes them in again.
# Servers themselves go on running all the time. For a dash in a tool's name its functions have an underscore. Every tool
# has the same tunnels, and servers that were set up by the same commands (lbctl backend-setup).

# scale_needs TOOL: what its scenario needs (needs.sh)
scale_needs() {
    case $1 in
        synrail | every-packet) echo "gre traffic queue conntrack" ;;
        ecmp) echo "gre traffic" ;;
        ecmp-resilient) echo "gre traffic nexthop_resilient" ;;
        modulo) echo "gre traffic nft_hash" ;;
        ipvs | ipvs-delete) echo "gre traffic ipvsadm ipvs_mh" ;;
        *) return 1 ;;
    esac
}
# scale_label TOOL: what the picture calls it
scale_label() {
    case $1 in
        synrail) echo "synrail" ;;
        every-packet) echo "synrail, every packet by its hash" ;;
        ipvs) echo "IPVS mh, weight 0" ;;
        ipvs-delete) echo "IPVS mh, real server deleted" ;;
        ecmp-resilient) echo "ECMP, resilient group" ;;
        ecmp) echo "ECMP" ;;
        modulo) echo "hash modulo number of servers" ;;
    esac
}
# shellcheck disable=SC2034 # for scale-command.sh
SCALE_TOOLS=(synrail every-packet ipvs ipvs-delete ecmp-resilient ecmp modulo)

# --- synrail: lbd asks its table about SYNs alone, or about every packet. Out: lbctl deactivate.

synrail_up() { synrail_with 'steering = "syn-only"'; }
every_packet_up() { synrail_with 'steering = "every-packet"'; }
synrail_with() {
    { config_balancer lb201 "$1"; web_service gre; } > lb201.toml
    balancers_up lb201
}
synrail_out() { synrail_change deactivate "$@"; }
synrail_in() { synrail_change activate "$@"; }
synrail_change() { # activate|deactivate N..
    local what=$1
    shift
    change lb201 "$what" --service web "${@/#/s}"
    wait_until 60 "lbd has taken over the change" taken_over lb201
}
every_packet_out() { synrail_out "$@"; }
every_packet_in() { synrail_in "$@"; }

# --- ecmp: the kernel's multipath route, by a hash of the 5-tuple. Out: the route is replaced by one without them.
# Policy 1 would take the hash that a packet has already (l4_hash in fib_multipath_hash). Between namespaces of one kernel that
# is the number that the client's socket drew, which TCP draws anew when it sends again; no network carries it. Policy 3
# reads the packet: source, destination, protocol and both ports.

HASH_BY_5_TUPLE=(net.ipv4.fib_multipath_hash_policy=3 net.ipv4.fib_multipath_hash_fields=0x37)

ecmp_up() {
    without_lbd
    tunnels_up
    settings lb201 "${HASH_BY_5_TUPLE[@]}"
    ecmp_to "$(seq "$SERVERS")"
}
ecmp_out() { ecmp_to "$(all_but "$@")"; }
ecmp_in() { ecmp_to "$(seq "$SERVERS")"; }
ecmp_to() { # "N.."
    local n hops=''
    for n in $1; do hops+=" nexthop dev to-s$n"; done
    echo "route replace $VIP4/32$hops" | batch lb201
}

# --- ecmp-resilient: the same with a resilient next-hop group, which the kernel has since 5.13: 512 buckets, and one changes
# its server only when that is gone, or when nothing came for idle_timer seconds. Out: the group is replaced.

ecmp_resilient_up() {
    without_lbd
    tunnels_up
    settings lb201 "${HASH_BY_5_TUPLE[@]}"
    seq "$SERVERS" | sed 's/.*/nexthop add id & dev to-s&/' | batch lb201
    ecmp_resilient_to add "$(seq "$SERVERS")"
    echo "route add $VIP4/32 nhid 1000" | batch lb201
}
ecmp_resilient_out() { ecmp_resilient_to replace "$(all_but "$@")"; }
ecmp_resilient_in() { ecmp_resilient_to replace "$(seq "$SERVERS")"; }
ecmp_resilient_to() { # add|replace "N.."
    local group
    group=$(tr '\n' / <<< "$2")
    echo "nexthop $1 id 1000 group ${group%/} type resilient buckets 512 idle_timer $SCALE_SILENT_S unbalanced_timer 0" | batch lb201
}

# --- modulo: a hash of the 5-tuple modulo the number of servers, with no state and no program. Out: the modulus changes.
# What nft calls `mod` scales the hash and takes no remainder (nft_hash.c: reciprocal_scale). So it makes a number below a
# common multiple of all moduli here, and a map has the remainders.

modulo_up() {
    local n
    without_lbd
    tunnels_up
    for ((n = 1; n <= SERVERS; n++)); do
        echo "route add default dev to-s$n table $n"
        echo "rule add pref 90 fwmark $n table $n"
    done | batch lb201
    in_ns lb201 nft 'add table ip modulo; add chain ip modulo steer { type filter hook prerouting priority mangle; }'
    modulo_to "$(seq "$SERVERS")"
}
modulo_out() { modulo_to "$(all_but "$@")"; }
modulo_in() { modulo_to "$(seq "$SERVERS")"; }
modulo_to() { # "N.."
    local among number multiple=$((SERVERS * (SERVERS - ${#SCALE_OUT[@]}))) remainders=''
    read -ra among <<< "$(tr '\n' ' ' <<< "$1")"
    for ((number = 0; number < multiple; number++)); do
        remainders+="${remainders:+, }$number : ${among[number % ${#among[@]}]}"
    done
    in_ns lb201 nft -f - <<NFT
flush chain ip modulo steer
add rule ip modulo steer iifname "eth2" ip daddr $VIP4 meta mark set jhash ip saddr . tcp sport . ip daddr . tcp dport mod $multiple seed $HASH_SEED map { $remainders }
NFT
}

# --- ipvs: the kernel's own load balancer, with its Maglev scheduler (mh). Out: weight 0, which keeps open connections;
# ipvs-delete: the real server is deleted. A server of weight 0 keeps its place in the table; without mh-fallback what is
# hashed to it would be refused.

ipvs_up() {
    local n
    without_lbd
    # IPVS takes packets that are for this host.
    echo "route add local $VIP4/32 dev lo" | batch lb201
    in_ns lb201 ipvsadm -A -t "$VIP4:$PORT" -s mh -b mh-port,mh-fallback
    for ((n = 1; n <= SERVERS; n++)); do ipvs_server -a "$n" 1; done
}
ipvs_server() { # -a|-e N WEIGHT
    in_ns lb201 ipvsadm "$1" -t "$VIP4:$PORT" -r "192.168.1.$2:$PORT" -i --tun-type gre -w "$3"
}
ipvs_out() { local n; for n; do ipvs_server -e "$n" 0; done; }
ipvs_in() { local n; for n; do ipvs_server -e "$n" 1; done; }
ipvs_delete_up() { ipvs_up; }
ipvs_delete_out() { local n; for n; do in_ns lb201 ipvsadm -d -t "$VIP4:$PORT" -r "192.168.1.$n:$PORT"; done; }
ipvs_delete_in() { local n; for n; do ipvs_server -a "$n" 1; done; }

# --- What those without lbd have in common

# without_lbd: the servers, set up by the same commands as for synrail; these need a region, and no lbd.
without_lbd() {
    witness_up lb201
    web_config lb201 gre > lb201.toml
    lbctl_in lb201 apply lb201.toml > lbctl.log
    step "$SERVERS servers"
    backends_up lb201 web 1 "$SERVERS"
    servers_up 1 "$SERVERS" "$VIP4:$PORT"
}
tunnels_up() {
    local n
    for ((n = 1; n <= SERVERS; n++)); do
        echo "link add to-s$n type gre local 192.168.1.201 remote 192.168.1.$n"
        echo "link set to-s$n up"
    done | batch lb201
}
all_but() { seq "$SERVERS" | grep -vxF "$(printf '%s\n' "$@")"; }
