# shellcheck shell=bash
# proves: new connections from ports of old ones work, though old conntrack entries name a backend that is now inactive
#
# 40 clients each connect from port 40000, twice, and in between the table changes under them. The server closes first,
# so that the client may use the port again at once; the balancer still has the entries of the first connections.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic
# limit_s: 240

web_up gre

round() { # WHAT: 40 connections over IPv4 and 40 over IPv6, from the same ports each time
    local address
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to connect "$address" --connections 40 --source-port 40000 --messages 10 --concurrency 20 \
            --timeout-ms 20000
        expect_eq "$1: connections to $address" "$(gojq '.opened - .lost' "$REPLY")" 40
        cat "$REPLY" >> round.json
    done
}
old_entries() { in_ns lb201 conntrack --dump --family "$1" --proto tcp --orig-port-src 40000 2>/dev/null | wc -l; }

: > round.json
round "first"
expect_eq "backends used" "$(servers_used round.json)" 4

change lb201 deactivate --service web s1
expect_ge "old conntrack entries, IPv4" "$(old_entries ipv4)" 10
expect_ge "old conntrack entries, IPv6" "$(old_entries ipv6)" 10
: > round.json
round "with s1 inactive"
expect_eq "connections to s1" "$(total servers.s1 round.json)" 0

change lb201 activate --service web s1
expect_ge "old conntrack entries, IPv4" "$(old_entries ipv4)" 10
: > round.json
round "with s1 active again"
expect_ge "connections to s1" "$(total servers.s1 round.json)" 1
