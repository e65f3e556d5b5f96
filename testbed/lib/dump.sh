# shellcheck shell=bash
# What is kept of a scenario: captures while it runs; after a failure the whole state of each namespace.

CAPTURES=(lb201:eth2 s1:eth1)
captures_up() {
    local place ns device
    for place in "${CAPTURES[@]}"; do
        ns=${place%%:*} device=${place#*:}
        # The first 128 bytes of a packet, two files of at most 8 MB each.
        background "$ns" "$ns-$device.tcpdump" tcpdump -n -i "$device" -s 128 -B 4096 -U -Z root -C 8 -W 2 \
            -w "$WORK/$ns-$device.pcap"
        wait_until 20 "tcpdump listens in $ns" grep -q 'listening on' "$WORK/$ns-$device.tcpdump.log"
    done
}
captures_drop() { rm -f "$WORK"/*.pcap* "$WORK"/*.tcpdump.log; }

dump_all() {
    local ns
    for ns in $(topology_namespaces); do
        dump_namespace "$ns" > "$WORK/state-$ns.txt" 2>&1 || true
    done
    for ns in $(topology_namespaces); do
        [[ $ns == lb* ]] || continue
        lbctl_in "$ns" show > "$WORK/$ns.show.txt" 2>&1 || true
        lbctl_in "$ns" stats > "$WORK/$ns.stats.txt" 2>&1 || true
        in_ns "$ns" lbctl --shm "$ns" check > "$WORK/$ns.check.txt" 2>&1 || true
    done
    dmesg 2>/dev/null | tail -n 100 > "$WORK/dmesg.txt" || true
}
# Most of the balancers, least of the servers: under emulation each command takes its time.
dump_namespace() {
    local ns=$1
    part "links" ip -netns "$ns" -details -statistics link
    part "addresses" ip -netns "$ns" -brief address
    [[ $ns != fabric ]] || return 0
    part "routes, IPv4" ip -netns "$ns" -4 route show table all
    part "routes, IPv6" ip -netns "$ns" -6 route show table all
    [[ $ns != s[2-9]* && $ns != s1?* ]] || return 0
    part "neighbours" ip -netns "$ns" neighbour
    part "sockets" in_ns "$ns" ss -tuanp
    part "protocol counters" in_ns "$ns" nstat -a
    [[ $ns == lb* ]] || return 0
    part "rules, IPv4" ip -netns "$ns" -4 rule
    part "rules, IPv6" ip -netns "$ns" -6 rule
    part "counters" in_ns "$ns" nft list counters
    part "ruleset, without the contents of sets" in_ns "$ns" nft --terse list ruleset
    part "ruleset" timeout 20 ip netns exec "$ns" nft list ruleset
    part "connections" in_ns "$ns" conntrack --dump
    part "connection statistics" in_ns "$ns" conntrack --stats
    part "nfnetlink_queue: number portid waiting mode range dropped user_dropped sequence" \
        in_ns "$ns" cat /proc/net/netfilter/nfnetlink_queue
}
part() { local title=$1; shift; printf '\n### %s\n' "$title"; "$@" || true; }
