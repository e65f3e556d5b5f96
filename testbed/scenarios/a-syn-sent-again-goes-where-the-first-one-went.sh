# shellcheck shell=bash
# proves: connections that are being opened while their backend is drained are all established, though SYNs are sent again
#
# No SYN-ACK reaches the client until each SYN has been sent again after the change.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack gre traffic
# limit_s: 200

web_up gre
in_ns "$CLIENT" nft -f - <<NFT
table inet late {
    counter syns { }
    chain out { type filter hook output priority 0; tcp dport $PORT tcp flags & (syn | ack) == syn counter name syns; }
    chain in { type filter hook prerouting priority -500; tcp sport $PORT tcp flags & (syn | ack) == (syn | ack) drop; }
}
NFT
syns() { (($(counter_of "$CLIENT" late syns) >= $1)); }
for name in four six; do
    address="$VIP4:$PORT"
    [[ $name == four ]] || address="[$VIP6]:$PORT"
    traffic_start "$name" connect "$address" --connections 40 --concurrency 40 --messages 2 --close reset --timeout-ms 40000
done
wait_until 30 "each connection has sent its SYN" syns 80
change lb201 deactivate --service web s1
wait_until 20 "lbd has taken that over" taken_over lb201
wait_until 30 "each SYN was sent again" syns "$(($(counter_of "$CLIENT" late syns) + 80))"
in_ns "$CLIENT" nft delete table inet late
for name in four six; do
    traffic_end "$name"
    expect_eq "connections '$name' established, of 40" "$(gojq '.opened - .lost' "$name.json")" 40
done
expect_ge "of these, on the backend that was drained" "$(gojq --slurp 'map(.servers.s1 // 0) | add' four.json six.json)" 10
