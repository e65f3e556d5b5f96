# shellcheck shell=bash
# proves: for 100 random headers the tracer names, on each of 2 balancers, the backend that real traffic reaches; no probe does
#
# Probes come first, then connections and datagrams with the same headers; where these arrive is seen by rules on the servers. Then
# the table changes under open flows, and the tracer tells those in place from new ones. At last probes meet a balancer
# that may not report, one whose rate is used up, and one whose lbd is dead.
# topology: dsr:servers=4,balancers=2
# steering: any
# needs: queue conntrack gre traffic python3
# captures: no
# limit_s: 400

# What arrives at a server, and how many probes pass.
MAGIC=0x$(printf 'synrail-a-probe!' | od -An -tx1 | tr -d ' \n')
arrivals_up() { # NAMESPACE...
    local ns
    for ns; do
        in_ns "$ns" nft -f - <<NFT
table inet arrivals {
    set flows4 { typeof ip saddr . th sport; size 65535; flags dynamic; }
    set flows6 { typeof ip6 saddr . th sport; size 65535; flags dynamic; }
    counter probes { }
    chain arrive {
        type filter hook prerouting priority -500; policy accept
        ip length 128 @nh,896,128 $MAGIC counter name probes
        ip6 length 108 @nh,1056,128 $MAGIC counter name probes
        meta l4proto != { tcp, udp } accept
        ip daddr 10.0.0.0/24 add @flows4 { ip saddr . th sport }
        ip6 daddr 1000::/112 add @flows6 { ip6 saddr . th sport }
    }
}
NFT
    done
}
probes_at() { sum counter_of_arrivals probes "$@"; } # NAMESPACE...
counter_of_arrivals() { counter_of "$1" arrivals "$2"; }
SERVER_NAMES=(s1 s2 s3 s4)
# source, source port and server of all flows since forget_flows
reached() {
    local ns
    for ns in "${SERVER_NAMES[@]}"; do in_ns "$ns" nft --json --numeric list table inet arrivals; done |
        gojq --slurp --raw-output '$ARGS.positional as $servers | to_entries[] | $servers[.key] as $server |
            .value.nftables[].set // empty | .elem[]? | (.elem.val // .) | .concat | "\(.[0]) \(.[1]) \($server)"' \
            --args "${SERVER_NAMES[@]}" | sort
}
forget_flows() {
    local ns
    for ns in "${SERVER_NAMES[@]}"; do in_ns "$ns" nft 'flush set inet arrivals flows4; flush set inet arrivals flows6'; done
}

# headers.txt: 25 each of TCP and UDP, IPv4 and IPv6, from different sources
RANDOM=4
for n in $(seq 0 24); do
    for proto in tcp udp; do
        source=$((2 + n * 2600 + RANDOM % 2500)) port=$((1024 + RANDOM % 60000)) vip=$((RANDOM % 256))
        [[ $proto == tcp ]] || source=$((source + 1))
        # shellcheck disable=SC2153 # PORT is of lib/setups.sh
        echo "$proto 50.0.$((source / 256)).$((source % 256)) $port 10.0.0.$vip $PORT"
        printf '%s 2000::%x %d 1000::%x %d\n' "$proto" "$source" "$((1024 + RANDOM % 60000))" "$((1 + RANDOM % 65000))" "$PORT"
    done
done > headers.txt
expect_eq "headers" "$(sort -u headers.txt | wc -l)" 100

# Probes a second that are answered. Another rate would be another ruleset: that takes an emulated machine ten seconds.
RATE=50
for lb in lb201 lb202; do
    {
        config_balancer "$lb"
        config_service web "10.0.0.0/24 1000::/112" "tcp udp" "$PORT"
        config_servers 1 "$SERVERS" gre
        config_table tracer 'receivers = ["50.0.0.0/16", "2000::/112"]' "per_second = $RATE"
        config_table timeouts 'udp_seconds = 600' # longer than a slow machine takes
    } > "$lb.toml"
done
arrivals_up lb201 lb202 "${SERVER_NAMES[@]}"
step "lbd on lb201 and lb202, then $SERVERS backends"
for lb in lb201 lb202; do balancer_begin "$lb" "$lb.toml"; done
for lb in lb201 lb202; do balancer_await "$lb"; done
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "0.0.0.0:$PORT" "[::]:$PORT"

# by LB: from now on all packets to VIPs go there
by() {
    local lb=$1
    ip -netns router route replace 10.0.0.0/24 via "192.168.2.${lb#lb}"
    ip -netns router -6 route delete 1000::/112
    ip -netns router -6 route add 1000::/112 via "fd00:0:0:2::${lb#lb}"
}
# trace NAME LB: probes for all headers; what LB, alone, reports is in NAME.json
trace() {
    in_ns client lbctl tracer send --batch headers.txt --per-second "$RATE" --json > "$1.json" 2> "$1.err"
    expect_eq "$1: headers about which $2 reported, and no other" \
        "$(gojq --slurp --arg lb "$2" '[.[] | select([.reports[].balancer] == [$lb])] | length' "$1.json")" 100
}
# traced NAME EXPRESSION: source, source port, and what the report says
traced() { gojq --raw-output "\"\\(.source) \\(.source_port) \\(.reports[0] | $2)\"" "$1.json" | sort; }
# a connection or a datagram for each header, open until flows_end
cat > flows.py <<'PYTHON'
import os, socket, struct, time
flows = []
for line in open("headers.txt"):
    proto, src, sport, dst, dport = line.split()
    tcp = proto == "tcp"
    flow = socket.socket(socket.AF_INET6 if ":" in src else socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    flow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    flow.settimeout(20)
    flow.bind((src, int(sport)))
    flow.connect((dst, int(dport)))
    if tcp:  # closed by a reset, so that its port may be used again at once
        flow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        flow.send(b"a datagram")
    flows.append(flow)
print("open", flush=True)
while not os.path.exists("flows.until"):
    time.sleep(0.05)
PYTHON
all_arrived() { reached > "$1" && (($(wc -l < "$1") == 100)); }
flows_start() { # FILE: where they arrived
    forget_flows
    rm -f flows.until
    background client flows python3 flows.py
    wait_until 60 "the flows are open" grep -qx open flows.log
    wait_until 30 "all flows have arrived" all_arrived "$1"
}
flows_end() {
    touch flows.until
    wait_until 20 "the flows are closed" process_gone "$BACKGROUND"
}

by lb201
trace before-201 lb201
flows_start reached-201
traced before-201 .backend > named-201
expect_same "lb201: the backends of 100 of 100 headers are those that real traffic reached" named-201 reached-201
expect_eq "backends among them" "$(awk '{ print $3 }' reached-201 | sort -u | wc -l)" 4

change lb201 deactivate --service web s2
wait_until 30 "lbd has taken over the change" taken_over lb201
trace changed lb201
traced changed .pinned.backend > pinned
expect_same "lb201, flows in place: all are reported as pinned to where they are" pinned reached-201
expect_eq "lb201, flows in place: those that a table without s2 would send there" "$(traced changed .table.backend | grep -cw s2 || true)" 0
expect_ge "datagrams that follow their pin to s2, as is reported" \
    "$(gojq --slurp '[.[] | select(.protocol == "udp" and .reports[0].by == "pin" and .reports[0].backend == "s2")] | length' changed.json)" 5
# one HEADER: as a person asks
# shellcheck disable=SC2086 # a header is five words
one() { in_ns client lbctl tracer send $1 | tee one.txt; }
one "$(gojq --slurp --raw-output '[.[] | select(.protocol == "udp" and .reports[0].by == "pin" and .reports[0].backend == "s2")][0] |
    "\(.protocol) \(.source) \(.source_port) \(.destination) \(.destination_port)"' changed.json)"
expect_grep "a person is told what is in place, and what is new" \
    '^lb201  web  s2  a new flow goes to s[134], as the table says; the one in place is pinned to s2 for another .*, and this packet follows it$' one.txt
flows_end
flows_start reached-changed
traced changed .backend > named-changed
expect_same "lb201, changed: new connections and pinned datagrams reach what was named for them" named-changed reached-changed
flows_end

by lb202
trace before-202 lb202
flows_start reached-202
traced before-202 .backend > named-202
expect_same "lb202: the backends of 100 of 100 headers are those that real traffic reached" named-202 reached-202
expect_same "lb202 and lb201 have the same table" named-202 named-201
flows_end

one "tcp 50.0.0.7 40000 10.0.0.0 $PORT"
expect_grep "a person is told which backend, and why" \
    '^lb202  web  s[1-4]  a new connection goes to s[1-4], as the table says; none is in place here$' one.txt

step "a balancer that may not report, and whose rate is used up"
sed -e 's/^receivers = .*/receivers = ["192.0.2.0\/24"]/' lb202.toml > strict.toml
cat headers.txt{,,,,} > headers-500.txt
change lb202 apply strict.toml
wait_until 30 "lbd has taken over the change" taken_over lb202
expect_eq "probes that lb202 has refused" "$(statistic lb202 probes_refused)" 0
expect_refused "no report" "does \[tracer\] receivers there contain 50.0.0.1\?" \
    in_ns client lbctl tracer send --batch headers-500.txt --per-second 1000 --wait 200
limited=$(ruleset_counter lb202 probe_limited) refused=$(statistic lb202 probes_refused)
expect_eq "probes limited ($limited) or refused ($refused)" $((limited + refused)) 500
expect_ge "probes above the rate, dropped in the kernel" "$limited" 100
expect_ge "probes refused" "$refused" "$RATE"
expect_eq "probes malformed, or reports not sent" $(($(statistic lb202 probes_malformed) + $(statistic lb202 probes_unsent))) 0

step "lbd is dead"
by lb201
balancer_kill lb201
limited=$(ruleset_counter lb201 probe_limited)
expect_refused "no report" "does lbd run there" in_ns client lbctl tracer send --batch headers.txt --per-second 100 --wait 200
expect_eq "probes that came back from the queue, or above the rate" \
    $(($(ruleset_counter lb201 probe_unanswered) + $(ruleset_counter lb201 probe_limited) - limited)) 100
expect_ge "those that came back" "$(ruleset_counter lb201 probe_unanswered)" 50

expect_eq "probes that came to the balancers" "$(probes_at lb201 lb202)" 902
expect_eq "probes that came to a server" "$(probes_at "${SERVER_NAMES[@]}")" 0
