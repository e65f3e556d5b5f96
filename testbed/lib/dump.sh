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
# captured_packets FILE: how many a capture has so far. As root, since tcpdump's own user is not in every machine.
captured_packets() { { tcpdump -n -Z root -r "$1" 2>/dev/null || true; } | wc -l; }
captures_drop() { rm -f "$WORK"/*.pcap* "$WORK"/*.tcpdump.log; }

dump_all() {
    local ns
    for ns in $(topology_namespaces); do
        in_ns "$ns" bash "$TESTBED/lib/state" "$ns" > "$WORK/state-$ns.txt" 2>&1 || true
    done
    for ns in $(topology_namespaces); do
        [[ $ns == lb* || $ns == vm-2[01]? ]] || continue
        lbctl_in "$ns" show > "$WORK/$ns.show.txt" 2>&1 || true
        lbctl_in "$ns" stats > "$WORK/$ns.stats.txt" 2>&1 || true
        in_ns "$ns" lbctl --shm "$ns" check > "$WORK/$ns.check.txt" 2>&1 || true
    done
    kernel_messages
}
