# shellcheck shell=bash
# proves: connections of drained backends outlive late copies of their SYN, and forged SYN, RST and FIN; their ports work again
#
# What was forged has the addresses and ports of the connections, and sequence numbers that are drawn: both ends ignore it,
# or answer it with an ACK that the other end ignores. Then the connections end, and new ones begin from the same ports.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic tcpdump ethtool
# limit_s: 240

web_up gre
off_table() { lbctl_in lb201 flows --off-table --json | gojq length; }
none_is_of_the_drained() { lbctl_in lb201 flows --off-table > flows.txt && ! grep -qE ' s[12] ' flows.txt; }
captured() { (($(captured_packets syns.pcap) >= $1)); }
in_ns "$CLIENT" ethtool -K eth0 tx off > /dev/null # so that the capture has whole checksums
background "$CLIENT" tcpdump tcpdump -n -i eth0 -s 0 -U -Z root -w "$WORK/syns.pcap" "tcp[13] == 2 and dst port $PORT"
wait_until 30 "tcpdump listens" grep -q 'listening on' tcpdump.log

hold_start four "$VIP4:$PORT" 40 --source-port 43000
hold_start six "[$VIP6]:$PORT" 40 --source-port 43000
wait_until 30 "the capture has each SYN" captured 40
expect_eq "off-table flows while every backend is active" "$(off_table)" 0
change lb201 deactivate --service web s1 s2
moved() { (($(off_table) >= 20)); }
wait_until 20 "the connections of s1 and s2 are off-table" moved
expect_grep "lbctl show tells them" '^flows +[1-9][0-9]* off-table' <(lbctl_in lb201 show)
lbctl_in lb201 flows --off-table > flows.txt
expect_eq "off-table flows of backends that are active" "$(grep -cE ' s[34] ' flows.txt || true)" 0

in_ns "$CLIENT" traffic forge --kind copy --address "$VIP4:$PORT" --file syns.pcap > forge.json
for kind in syn rst fin; do
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        in_ns "$CLIENT" traffic forge --kind "$kind" --address "$address" --source-cidr "$(clients_for "$address")" \
            --source-port 43000 --packets 40 >> forge.json
    done
done
# The connections seem to be closing now, and their SYNs, of which a late copy comes, could begin new ones.
in_ns "$CLIENT" traffic forge --kind copy --address "$VIP4:$PORT" --file syns.pcap >> forge.json
expect_ge "packets sent in the name of the connections" "$(gojq --slurp 'map(.sent) | add' forge.json)" 320
# The next data of each connection, and one more; each has a round trip a second.
said() { (($(ruleset_counter lb201 off_table) >= $1)); }
wait_until 30 "the connections go on" said "$(($(ruleset_counter lb201 off_table) + 200))"
# s3 and s4 wait for the client's answer to the late copies longer than `pending` does; a reset ends that when it asks for a new one.
sleep 12
hold_end four
hold_end six

for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
    traffic_to connect "$address" --connections 40 --source-port 43000 --messages 5 --concurrency 20 --timeout-ms 20000
    expect_eq "new connections to $address from the same ports" "$(gojq '.opened - .lost' "$REPLY")" 40
    expect_eq "of these, on drained backends" "$(gojq '(.servers.s1 // 0) + (.servers.s2 // 0)' "$REPLY")" 0
done
change lb201 activate --service web s1 s2
# Those of the new connections, which have ended on s3 and s4, are off-table now, until they are forgotten.
wait_until 20 "flows of s1 and s2 are on the table again" none_is_of_the_drained
