# shellcheck shell=bash
# proves: hash = "source" keeps a client on one server: iperf3, whose connections belong together, works, TCP and UDP
#
# iperf3 opens a control connection and data connections; on two servers they would be useless. Ports are not named
# in the service: every port of the VIP is balanced.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack gre iperf3
# captures: no
# limit_s: 300

{
    config_balancer lb201
    config_service perf "$VIP4/32 $VIP6/128" "tcp udp" "" 'hash = "source"'
    config_servers 1 "$SERVERS" gre
} > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
backends_up lb201 perf 1 "$SERVERS"
for ((n = 1; n <= SERVERS; n++)); do
    background "s$n" "s$n.iperf4" iperf3 --server --bind "$VIP4" --forceflush
    background "s$n" "s$n.iperf6" iperf3 --server --bind "$VIP6" --forceflush
    wait_until 30 "iperf3 on s$n listens" grep -qs listening "s$n.iperf4.log"
    wait_until 30 "iperf3 on s$n listens, IPv6" grep -qs listening "s$n.iperf6.log"
done

run() { # NAME SOURCE VIP ARGUMENT...
    local name=$1 source=$2 vip=$3
    shift 3
    # A server is busy until it has closed its last test, which may be after its client has ended.
    for _ in {1..20}; do
        ! in_ns client timeout 60 iperf3 --client "$vip" --bind "$source" --json "$@" > "$name.json" || return 0
        gojq --exit-status '.error // "" | contains("busy")' "$name.json" > /dev/null || break
        sleep 0.5
    done
    broken "iperf3, $name: $(gojq --raw-output '.error // "no answer in time"' "$name.json")"
}
# What is in flight when the client ends, some socket buffers of it, the server does not count.
ARRIVED=1000000
for place in "50.0.9.1 $VIP4" "50.0.9.2 $VIP4" "2000::901 $VIP6" "2000::902 $VIP6"; do
    read -r source vip <<< "$place"
    run "tcp-$source" "$source" "$vip" --bytes 4M --parallel 2
    expect_ge "TCP from $source to $vip, two streams: bytes received" \
        "$(gojq .end.sum_received.bytes "tcp-$source.json")" "$ARRIVED"
done
run reverse 50.0.9.1 "$VIP4" --bytes 4M --reverse
expect_ge "TCP back to 50.0.9.1: bytes received" "$(gojq .end.sum_received.bytes reverse.json)" "$ARRIVED"
for place in "50.0.9.3 $VIP4" "2000::903 $VIP6"; do
    read -r source vip <<< "$place"
    run "udp-$source" "$source" "$vip" --udp --bitrate 1M --time 3 --length 1000
    expect_ge "UDP from $source to $vip: datagrams" "$(gojq .end.sum.packets "udp-$source.json")" 300
    # A slow machine's socket buffers may drop some; a flow on two servers would lose half, or all.
    expect_le "UDP from $source to $vip: datagrams lost" "$(gojq .end.sum.lost_packets "udp-$source.json")" 20
done
expect_eq "replies seen by the balancer" "$(witness lb201 from_vip)" 0
