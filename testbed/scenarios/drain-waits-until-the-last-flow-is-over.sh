# shellcheck shell=bash
# proves: lbctl drain --wait ends when the backend's last flow does, TCP and UDP, or at its time with status 5; lbctl flows lists and counts what is left
#
# A connection that its client has closed counts for 10 s more, a UDP flow until its lifetime is over.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack gre traffic
# limit_s: 400

config_balancer lb201 > lb201.toml
{
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers 1 "$SERVERS" gre
    config_table timeouts 'udp_seconds = 15'
} >> lb201.toml
in_ns lb201 sysctl -qw net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_timestamp=1
balancers_up lb201
hold_start four "$VIP4:$PORT" 12
hold_start six "[$VIP6]:$PORT" 12
hold_start udp "$VIP4:$PORT" 12 --udp
flows_of() { lbctl_in lb201 flows "$1" --count --json | gojq 'map(.flows) | add // 0'; } # SERVER
marked() { # MARK: how many flows connection tracking has with it
    local family
    for family in ipv4 ipv6; do in_ns lb201 conntrack --dump --family "$family" --mark "$1/0xffff" 2>/dev/null || true; done | grep -c . || true
}
counted=$(flows_of s1)
expect_ge "flows of s1, as lbctl counts them" "$counted" 3
expect_eq "flows with its mark in connection tracking" "$(marked 1)" "$counted"
expect_eq "flows of all backends" "$(lbctl_in lb201 flows --count --json | gojq 'map(.flows) | add')" 36
expect_eq "flows that the list has, each with its packets and its age" \
    "$(lbctl_in lb201 flows --json | gojq 'map(select(.packets > 0 and .age_seconds != null)) | length')" 36
lbctl_in lb201 flows --json > listed.json
expect_eq "they come with the most packets first" "$(field listed.json 'map(.packets) | . == (sort | reverse)')" true
expect_eq "flows with --limit 5" "$(lbctl_in lb201 flows --limit 5 --json 2>limit.err | gojq length)" 5
expect_grep "what is left out is told" '31 more flows are left out' limit.err

step "the time is over before the flows"
status=0
lbctl_in lb201 drain s1 --wait --timeout 15s > short.log 2> short.err || status=$?
expect_eq "exit status of lbctl drain --wait --timeout 15s" "$status" 5
expect_grep "it says what is left" "^not drained: $counted flows left after" short.log
expect_grep "it has said how many were left" "^lbctl: $counted flows left, 0 ended, " short.err
expect_eq "flows of s1 afterwards" "$(flows_of s1)" "$counted"

step "it ends with the last one"
start_in lb201 long.log long.err lbctl --shm lb201 drain s1 --wait --timeout 5m
waiting=$BACKGROUND
hold_end four
hold_end six
# Those of UDP go on.
sleep 12
expect_ok "it still waits" kill -0 "$waiting"
hold_end udp
wait_until 60 "lbctl drain --wait ends" process_gone "$waiting"
status=0
wait "$waiting" || status=$?
expect_eq "its exit status" "$status" 0
expect_grep "it says so" '^drained: no flow is left' long.log
expect_eq "open flows of s1 then" "$(lbctl_in lb201 flows s1 --json | gojq 'map(select(.closing | not)) | length')" 0
note "$(paste -sd ';' long.err)"
traffic_to connect "$VIP4:$PORT" --connections 20 --concurrency 20 --timeout-ms 20000
expect_eq "new connections to s1" "$(gojq '.servers.s1 // 0' "$REPLY")" 0
change lb201 enable s1

step "without the right to ask"
status=0
in_ns lb201 setpriv --bounding-set -net_admin --inh-caps -net_admin lbctl --shm lb201 drain s1 --wait > right.log 2> right.err || status=$?
expect_eq "exit status without CAP_NET_ADMIN" "$status" 1
expect_grep "it says what it takes" 'takes CAP_NET_ADMIN' right.err
expect_eq "active backends then" "$(lbctl_in lb201 services --json | gojq '.[0].active | length')" "$SERVERS"
