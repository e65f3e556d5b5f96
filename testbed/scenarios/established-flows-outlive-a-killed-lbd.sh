# shellcheck shell=bash
# proves: lbd killed with -9 amid traffic and started again: no established flow breaks, all is taken over, not rebuilt
#
# While no lbd runs, established flows are carried by the kernel alone, and it decides about new ones. Taken over means: the same region, the same devices by interface index, the
# same rules of routing, routes, and nft rules by their handles.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic
# limit_s: 300

web_up gre
hold_start four "$VIP4:$PORT" 60 --interval-ms 500
hold_start six "[$VIP6]:$PORT" 60 --interval-ms 500
start_in client udp.json udp.err traffic udp --address "$VIP4:$PORT" --source-cidr "$CLIENTS4" --flows 20 --messages 60 --interval-ms 500 \
    --timeout-ms 20000 --json
udp=$BACKGROUND
udp_flows() { (($(in_ns lb201 conntrack --count --proto udp 2>/dev/null || in_ns lb201 conntrack --dump --proto udp 2>/dev/null | wc -l) >= 20)); }
wait_until 30 "the UDP flows are known to conntrack" udp_flows
lasting_state lb201 > before.txt
inode=$(stat -c %i /dev/shm/lb201)
expect_ge "lines of what lbd made in the kernel" "$(wc -l < before.txt)" 30

for round in 1 2; do
    balancer_kill lb201
    lasting_state lb201 > dead.txt
    expect_same "round $round: lbd dead, its rules, routes and devices are there" before.txt dead.txt
    packets=$(witness lb201 to_vip)
    carried() { (($(witness lb201 to_vip) >= packets + 300)); }
    wait_until 30 "the kernel has carried 300 packets with no lbd" carried
    connect_all 10

    balancer_start lb201 lb201.toml
    lasting_state lb201 > after.txt
    expect_same "round $round: taken over, not rebuilt" before.txt after.txt
    expect_eq "round $round: the region is the same file" "$(stat -c %i /dev/shm/lb201)" "$inode"
    connect_all 20
done

hold_end four
hold_end six
wait_until 90 "the UDP flows are done" process_gone "$udp"
expect_eq "UDP flows lost" "$(gojq .lost udp.json)" 0
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
