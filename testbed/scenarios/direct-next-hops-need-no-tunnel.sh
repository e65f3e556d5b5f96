# shellcheck shell=bash
# proves: with encap "direct" TCP and UDP are steered to next hops on the same segment, on kernels without any tunnel
#
# The one way of working that the smallest kernels have: with --kernel host it shows there what the others cannot.
# topology: dsr:servers=3
# needs: queue conntrack traffic
# limit_s: 150

{
    config_balancer lb201
    config_service four "$VIP4/32" "tcp udp" "$PORT"
    config_servers 1 "$SERVERS" direct
    config_service six "$VIP6/128" "tcp udp" "$PORT"
    config_servers 1 "$SERVERS" direct6
} > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
backends_up lb201 four 1 "$SERVERS"
backends_up lb201 six 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"

connect_all 100 --messages 20
expect_eq "servers that answered" "$(servers_used connect-*.json)" "$SERVERS"
expect_eq "packets queued for TCP" "$(kernel_queued lb201)" "$(syns_asked lb201)"
for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
    traffic_to udp "$address" --flows 100 --messages 10 --concurrency 20 --timeout-ms 20000
    expect_eq "UDP flows lost to $address" "$(gojq .lost "$REPLY")" 0
done
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
expect_eq "replies seen by the balancer" "$(witness lb201 from_vip)" 0
