# shellcheck shell=bash
# The disturbance test of one load balancer: connections are held through it, it or its network is disturbed in one of the
# ways of disturb-kinds.sh, and those that broke are counted.
#
#   each kind:  as at first (calm) | hold | the disturbance | a last round trip on each, new connections | row.json
#
# Kinds come one after another in one topology. Each runs in a process of its own, from addresses and a port of its own,
# so that one that cannot be measured does not end the others. A connection is lost when another server answers (by a
# reset) or when none does for HOLD_TIMEOUT_MS; a new one failed likewise.
#
# What is left in $WORK: KIND/ with the reports of the traffic tool and row.json; rows.json with all rows.

DISTURB_OUT=(1 2)       # servers that are drained
DISTURB_PORT=5000       # the first kind's, of the clients; no port that a kernel chooses by itself
HOLD_TIMEOUT_MS=15000
SILENT=86400000         # an interval for hold: no round trip between the first and the last one
# shellcheck source=disturb-kinds.sh
source "$TESTBED/lib/disturb-kinds.sh"

# disturb_run TOOL CONNECTIONS KIND..: the rows of all kinds. It is a claim that each kind could be measured.
disturb_run() {
    local kind number=0 broken=''
    DISTURB_TOOL=$1 DISTURB_HELD=$2 DISTURB_HOME=$WORK
    shift 2
    "${DISTURB_TOOL//-/_}_up"
    [[ $DISTURB_TOOL != ipvs* ]] || disturb_ipvs_up
    ip -netns router route add blackhole 60.0.0.0/8 # where answers to forged sources go
    CONNTRACK_MAX=$(conntrack_room)
    for kind; do
        number=$((number + 1))
        calm
        step "$kind: $(disturb_label "$kind")"
        mkdir "$kind"
        if disturb_applies "$kind"; then
            (disturb_kind "$kind" "$number") & wait $! || broken+=" $kind"
        else
            note "nothing to do to $DISTURB_TOOL"
            disturb_row "$kind" null > "$kind/row.json"
        fi
        [[ -s $kind/row.json ]] || disturb_row "$kind" '"not measured"' > "$kind/row.json"
    done
    gojq --slurp . ./*/row.json > rows.json
    expect_eq "kinds that could not be measured" "${broken:- none}" " none"
}
# Of IPVS nothing is a process.
disturb_applies() { [[ $DISTURB_TOOL != ipvs* || ($1 != hang && $1 != kill) ]]; }
# The same servers for UDP, too.
disturb_ipvs_up() {
    local n
    in_ns lb201 ipvsadm -A -u "$VIP4:$PORT" -s mh -b mh-port,mh-fallback
    for ((n = 1; n <= SERVERS; n++)); do
        in_ns lb201 ipvsadm -a -u "$VIP4:$PORT" -r "192.168.1.$n:$PORT" -i --tun-type gre -w 1
    done
}

disturb_kind() { # KIND NUMBER
    set -e
    STARTED=() HELD=0 LOST=0 NEW=0 FAILED=0
    trap 'kill_started "${STARTED[@]}"' EXIT
    SOURCES=50.0.$((100 + $2)).0/24 SOURCE_PORT=$((DISTURB_PORT + $2))
    cd "$1"
    WORK=$PWD
    "disturb_${1//-/_}"
    disturb_row "$1" "{\"held\": $HELD, \"lost\": $LOST, \"new\": $NEW, \"failed\": $FAILED}" > row.json
    note "lost: $LOST of $HELD held$( ((NEW == 0)) || echo "; failed: $FAILED of $NEW new")"
}
disturb_row() { # KIND RESULT
    gojq -cn --arg kind "$1" --arg tool "$DISTURB_TOOL" --argjson result "$2" '{$kind, $tool, $result}'
}

# calm: everything as at first, whatever the last kind has left. Some of it only time undoes: a tunnel that was told of errors
# answers packets with errors for 30 s.
calm() {
    local max
    max=$(conntrack_room)
    if has_lbd; then
        kill -CONT "${LBD_PID[lb201]}" 2>/dev/null || true
        ! process_gone "${LBD_PID[lb201]}" || balancer_start lb201 lb201.toml
    fi
    servers_signal CONT
    [[ ! -e $DISTURB_HOME/drained ]] || undrain
    cable_in s1
    [[ $max == "$CONNTRACK_MAX" ]] || echo "$CONNTRACK_MAX" > "$CONNTRACK_MAX_FILE"
    in_ns "$CLIENT" nft delete table inet disturb 2>/dev/null || true
    in_ns router tc qdisc del dev eth0 root 2>/dev/null || true
    in_ns lb201 conntrack -F > /dev/null 2>&1 || true
    ip -netns lb201 route flush cache
    ip -netns "$CLIENT" route flush cache
    wait_until 120 "new connections are answered" all_answered
}
all_answered() {
    in_ns "$CLIENT" traffic connect --address "$VIP4:$PORT" --source-cidr 50.0.99.0/24 --connections 50 --messages 1 --timeout-ms 5000
}
has_lbd() { [[ $DISTURB_TOOL == synrail || $DISTURB_TOOL == every-packet ]]; }

# --- Out of service and in again; servers run on

drain() {
    touch "$DISTURB_HOME/drained"
    "${DISTURB_TOOL//-/_}_out" "${DISTURB_OUT[@]}" 2>> "$WORK/lbctl.log" # that lbd needs longer than lbctl waits is no news
}
undrain() {
    "${DISTURB_TOOL//-/_}_in" "${DISTURB_OUT[@]}" 2>> "$WORK/lbctl.log"
    rm -f "$DISTURB_HOME/drained"
}
servers_signal() { # NAME
    local n
    for ((n = 1; n <= SERVERS; n++)); do ip netns pids "s$n" | xargs -r kill "-$1"; done
}
cable_out() { ip -netns fabric link set "$1-eth1" down; }
cable_in() { ip -netns fabric link set "$1-eth1" up; }
# pass_s SECONDS: time is what the kind is about; there is no condition that could be waited for.
pass_s() { sleep "$1"; }

# --- Connections

# hold [INTERVAL_MS [ARGUMENT..]]: HELD connections, open when it returns.
hold() {
    local interval_ms=${1:-1000}
    HELD=$DISTURB_HELD
    start_in "$CLIENT" held.json held.err traffic hold --address "$VIP4:$PORT" --source-cidr "$SOURCES" --source-port "$SOURCE_PORT" \
        --connections "$HELD" --concurrency 20 --timeout-ms "$HOLD_TIMEOUT_MS" --interval-ms "$interval_ms" --seconds 900 \
        --ready-file ready --until-file until --json "${@:2}"
    HOLDING=$BACKGROUND
    wait_until 120 "the connections are open" test -s ready
    expect_eq "connections open" "$(gojq .opened ready)" "$HELD"
}
# held_end: a last round trip on each; sets LOST.
held_end() {
    touch until
    wait_until 120 "the connections are closed" process_gone "$HOLDING"
    LOST=$(gojq '.lost + .failed' held.json)
}
# new CONNECTIONS [TIMEOUT_MS]: so many more to NEW, and those that failed to FAILED.
new() {
    connections_begin "new-$((++BEGUN))" connect --connections "$1" --concurrency 20 --messages 1 --timeout-ms "${2:-5000}"
    NEW=$((NEW + $1)) FAILED=$((FAILED + $(gojq '.failed + .lost' "$REPLY")))
}
BEGUN=0
new_datagrams() { # FLOWS BYTES: flows of one datagram, counted as new ones
    connections_begin datagrams udp --flows "$1" --concurrency 20 --messages 1 --message-bytes "$2" --timeout-ms 5000
    NEW=$((NEW + $1)) FAILED=$((FAILED + $(gojq '.failed + .lost' "$REPLY")))
}
connections_begin() { # NAME KIND ARGUMENT..: REPLY is the report
    local name=$1 kind=$2
    shift 2
    traffic_start "$name" "$kind" "$VIP4:$PORT" "$@"
    traffic_end "$name"
    REPLY=$name.json
    [[ -s $REPLY ]] || { cat "$name.err" >&2; return 1; }
}

# --- Connections that are being opened while answers wait

# answers_wait: all that goes to the client, in the router, until answers_go_on, in its order. ARP must not wait for it.
answers_wait() {
    ip -netns "$CLIENT" neigh replace 192.168.3.254 lladdr "$(mac_of router eth0)" dev eth0 nud permanent
    ip -netns router neigh replace 192.168.3.1 lladdr "$(mac_of "$CLIENT" eth0)" dev eth0 nud permanent
    in_ns "$CLIENT" nft -f - <<NFT
table inet disturb {
    counter syns { }
    chain out {
        type filter hook output priority 0; policy accept
        ip daddr $VIP4 tcp flags & (syn | ack) == syn counter name syns
    }
}
NFT
    in_ns router tc qdisc add dev eth0 root plug limit 10000000
}
answers_go_on() { in_ns router tc qdisc change dev eth0 root plug release_indefinite; }
mac_of() { in_ns "$1" cat "/sys/class/net/$2/address"; }
syns_seen() { (($(counter_of "$CLIENT" disturb syns) >= $1)); }
opening() {
    HELD=$DISTURB_HELD
    traffic_start opening connect "$VIP4:$PORT" --connections "$HELD" --concurrency "$HELD" --messages 1 --close reset \
        --timeout-ms 40000
}
opened() { # what became of them
    traffic_end opening
    LOST=$(gojq '.failed + .lost' opening.json)
}

# --- Connections that are half-closed while the answer waits

ask_half_closed() { # CONNECTIONS
    local n
    HELD=$1
    ASKING=()
    for ((n = 1; n <= HELD; n++)); do
        start_in "$CLIENT" "half-$n.json" "half-$n.err" traffic transfer --address "$VIP4:$PORT" --source "${SOURCES%.0/24}.$n" \
            --download 1M --half-close --timeout-ms 120000 --json
        ASKING+=("$BACKGROUND")
    done
    wait_until 60 "each server has its client's FIN" half_closed_are "$HELD"
}
half_closed_are() { (($(in_ns "$CLIENT" ss -Htn state fin-wait-2 "dport = :$PORT" | wc -l) == $1)); }
half_closed_end() {
    local pid
    for pid in "${ASKING[@]}"; do wait_until 150 "the answer is there, or lost" process_gone "$pid"; done
    LOST=$(gojq --slurp 'map(.failed + .lost) | add' half-*.json)
}

# --- Packets of no connection

forge() { in_ns "$CLIENT" traffic forge --address "$VIP4:$PORT" "$@" >> forge.log; }
forge_held() { forge --kind "$1" --source-cidr "$SOURCES" --source-port "$SOURCE_PORT" --packets "$HELD"; }
# flood ack|datagram PACKETS RATE: from sources that no other flood had, each packet twice, since two packets of a flow can
# have a longer entry than one.
flood() {
    forge --kind "$1" --source-cidr "60.$((16 * ++FLOODS)).0.0/12" --packets "$(($2 / 2))" --rate "$3" --repeat 2
}
FLOODS=0
flood_on() { # the same, going on
    start_in "$CLIENT" forge.log forge.log traffic forge --address "$VIP4:$PORT" --kind "$1" --source-cidr 60.128.0.0/9 \
        --packets "$2" --rate "$3"
}
forge_about_tunnels() { # KIND PACKETS [ARGUMENT..]: as many to each server's tunnel
    local n kind=$1 packets=$2
    shift 2
    for ((n = 1; n <= SERVERS; n++)); do
        in_ns "$CLIENT" traffic forge --kind "$kind" --address 192.168.1.201:0 --about "192.168.1.$n" --source-cidr 50.0.77.7 \
            --packets "$packets" "$@" >> forge.log
    done
}
capture_syns() {
    background "$CLIENT" tcpdump tcpdump -n -i eth0 -s 0 -U -Z root -w "$WORK/syns.pcap" "tcp[13] == 2 and dst port $PORT"
    wait_until 30 "tcpdump listens" grep -q 'listening on' tcpdump.log
}
captured_at_least() { (($(captured_packets syns.pcap) >= $1)); }

# --- Connection tracking

CONNTRACK_MAX_FILE=/proc/sys/net/netfilter/nf_conntrack_max
conntrack_room() { cat "$CONNTRACK_MAX_FILE" 2>/dev/null || true; }
# conntrack_max ENTRIES: the limit of the whole machine. Of IPVS: on a host whose rules ask for connection tracking, as most do.
conntrack_max() {
    has_lbd || in_ns lb201 nft 'add table inet tracked; add chain inet tracked c { type filter hook prerouting priority 10; };
        add rule inet tracked c ct state new counter'
    echo "$1" > "$CONNTRACK_MAX_FILE"
}
