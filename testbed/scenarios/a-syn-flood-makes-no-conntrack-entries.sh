# shellcheck shell=bash
# proves: SYNs that are never completed are steered without conntrack state, and connections of others are served meanwhile
#
# 5000 bare SYNs from as many ports to a port where the servers listen. Only the handshake's third packet makes an entry.
# topology: dsr:servers=2
# needs: queue conntrack gre traffic python3
# limit_s: 240

web_up gre
before=$(in_ns lb201 conntrack --count)
forge_syns 5000
connect_all 50
wait "$BACKGROUND"
expect_ge "SYNs seen" "$(witness lb201 syn)" 5100
expect_le "conntrack entries more than before, of 100 connections" "$(($(in_ns lb201 conntrack --count) - before))" 130
