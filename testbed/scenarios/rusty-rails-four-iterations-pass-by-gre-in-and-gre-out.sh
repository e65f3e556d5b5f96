# shellcheck shell=bash
# proves: the router encapsulates, and with 1 or 2 clients, servers and balancers nothing is lost, all in GRE, replies direct
#
# The Maglev paper's way to the balancers, and the four iterations of rusty_rail's test bed: one client, one server, one
# balancer; two servers; two balancers; two clients. Outer packets are IPv4 in the first, IPv6 in the second, and both
# after that; either carries both.
# topology: dsr:servers=2,balancers=2
# needs: queue conntrack gre ip6gre traffic
# captures: no
# limit_s: 600

LBS=(lb201 lb202)
for lb in "${LBS[@]}"; do
    {
        config_balancer "$lb" 'gre_in = true'
        config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
        config_servers 1 2 gre
    } > "$lb.toml"
done
gre_up
balancers_up "${LBS[@]}"

# all ARGUMENT...: the same change on both balancers, and wait until it is in force
all() {
    local lb
    for lb in "${LBS[@]}"; do change "$lb" "$@"; done
    for lb in "${LBS[@]}"; do wait_until 30 "$lb has taken over the change" taken_over "$lb"; done
}
# client N: traffic is from client N, which has networks of its own, lest it use ports again
# shellcheck disable=SC2034 # for lib/balancer.sh
client() { CLIENTS4=50.0.$1.0/24 CLIENTS6=2000::${1}00/120; }
# iteration NUMBER WHAT DEVICE...: by these devices of the router
iteration() {
    say ""
    say "  iteration $1: $2; by ${*:3}"
    route_by_gre "${@:3}"
}

FLOWS=20
client 1
iteration 1 "1 client, 1 server, 1 balancer" gre4-lb201
all deactivate s2
SERVERS=1 demo_traffic "$FLOWS" lb201

iteration 2 "2 servers" gre6-lb201
all activate s2
demo_traffic "$FLOWS" lb201
expect_eq "packets that came to lb202 up to now" "$(witness lb202 to_vip)" 0

iteration 3 "2 balancers" gre4-lb201 gre6-lb202
before=$(statistic lb201 queued)
demo_traffic "$FLOWS" "${LBS[@]}"
expect_ge "flows that came to lb201" $(($(statistic lb201 queued) - before)) 10
expect_ge "flows that came to lb202" "$(statistic lb202 queued)" 10

iteration 4 "2 clients" gre6-lb201 gre4-lb202
queued=$(sum kernel_queued '' "${LBS[@]}") syns=$(sum syns_asked '' "${LBS[@]}")
for number in 1 2; do
    client "$number"
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        for kind in connect:connections udp:flows; do
            traffic_start "$number-${kind%:*}-${address//[^0-9a-f]/}" "${kind%:*}" "$address" "--${kind#*:}" "$FLOWS" \
                --messages 10 --concurrency 10 --timeout-ms 20000
        done
    done
done
for name in "${!TRAFFIC_PID[@]}"; do traffic_end "$name"; done
for number in 1 2; do
    expect_eq "client $number: TCP connections and UDP flows, of $((4 * FLOWS))" "$(total opened "$number"-*.json)" $((4 * FLOWS))
    expect_eq "client $number: failed or lost" "$(($(total failed "$number"-*.json) + $(total lost "$number"-*.json)))" 0
    expect_eq "client $number: servers that answered" "$(servers_used "$number"-*.json)" 2
done
expect_eq "packets queued: UDP flows and SYNs" $(($(sum kernel_queued '' "${LBS[@]}") - queued)) \
    $((4 * FLOWS + $(sum syns_asked '' "${LBS[@]}") - syns))

say ""
for lb in "${LBS[@]}"; do
    expect_ge "$lb: packets to VIPs" "$(witness "$lb" to_vip)" $((FLOWS * 20))
    for device in sr-in4 sr-in6; do
        expect_ge "$lb: packets that came by $device" \
            "$(ip -netns "$lb" -s -json link show $device | gojq '.[].stats64.rx.packets')" $((FLOWS * 10))
    done
    expect_eq "$lb: packets to VIPs that were not in GRE" "$(witness "$lb" plain)" 0
    expect_eq "$lb: packets that conntrack calls invalid" "$(witness "$lb" invalid)" 0
    expect_eq "$lb: replies seen" "$(witness "$lb" from_vip)" 0
    expect_eq "$lb: connections that conntrack sees in GRE itself" "$(in_ns "$lb" conntrack -L -p gre 2>/dev/null | wc -l)" 0
    expect_eq "$lb: packets for no VIP" "$(ruleset_counter "$lb" not_for_vip)" 0
    # A tunnel hands packets over in batches, as a card does (README.md of the testbed, "Real cards").
    expect_eq "packets that connection tracking at $lb dropped" "$(conntrack_drops "$lb")" 0
done
