# shellcheck shell=bash
# proves: flows pinned to a backend that the configuration no longer names find another one by themselves
#
# Deactivation leaves open flows where they are; removal takes the way there. A UDP client that keeps sending must not
# be sent into the void for as long as it does.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack traffic
# limit_s: 200

config() { # FIRST: servers from FIRST on
    config_balancer lb201
    config_service four "$VIP4/32" "tcp udp" "$PORT"
    config_servers "$1" "$SERVERS" direct
}
config 1 > lb201.toml
config 2 > without-s1.toml
witness_up lb201
balancer_start lb201 lb201.toml
backends_up lb201 four 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT"

background client udp traffic udp --address "$VIP4:$PORT" --source-cidr "$CLIENTS4" --flows 30 --messages 60 \
    --interval-ms 300 --timeout-ms 3000 --json
udp=$BACKGROUND
pinned() { (($(in_ns lb201 conntrack --dump --proto udp --mark "$1/0xffff" 2>/dev/null | wc -l) >= ${2:-1})); }
wait_until 30 "some flows are pinned to s1" pinned 1 3
change lb201 apply without-s1.toml
wait_until 20 "lbd has taken over the removal" taken_over lb201
expect_eq "routes to s1" "$(ip -netns lb201 -4 route show table all proto 201 | grep -c 'via 192.168.1.1 ' || true)" 0
unpinned() { ! pinned 1; }
wait_until 30 "no flow is pinned to s1 any more" unpinned
wait_until 90 "the UDP flows are done" process_gone "$udp"
expect_ge "flows that another server goes on with" "$(gojq .moved udp.log)" 3
expect_le "flows that lost a datagram at the change" "$(gojq .lost udp.log)" 3
