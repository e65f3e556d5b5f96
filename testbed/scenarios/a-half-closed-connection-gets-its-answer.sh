# shellcheck shell=bash
# proves: a client that has sent its FIN gets a long answer 35 s later, from a backend that was drained meanwhile
#
# The balancer sees one FIN only, which says nothing about the other direction. The servers are stopped, so the answers wait.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack gre traffic
# limit_s: 200

web_up gre
servers_signal() {
    local n
    for ((n = 1; n <= SERVERS; n++)); do ip netns pids "s$n" | xargs -r kill "-$1"; done
}
half_closed() { (($(in_ns "$CLIENT" ss -Htn state fin-wait-2 "dport = :$PORT" | wc -l) == 16)); }
servers_signal STOP
asking=()
for ((n = 1; n <= 8; n++)); do
    start_in "$CLIENT" "four-$n.json" "four-$n.err" traffic transfer --address "$VIP4:$PORT" --source "50.0.1.$n" \
        --download 1M --half-close --timeout-ms 120000 --json
    asking+=("$BACKGROUND")
    start_in "$CLIENT" "six-$n.json" "six-$n.err" traffic transfer --address "[$VIP6]:$PORT" --source "2000::$n" \
        --download 1M --half-close --timeout-ms 120000 --json
    asking+=("$BACKGROUND")
done
wait_until 60 "each server has its client's FIN" half_closed
change lb201 deactivate --service web s1 s2
closing() { (($(lbctl_in lb201 flows --off-table --json | gojq 'map(select(.closing)) | length') >= 5)); }
wait_until 20 "those of s1 and s2 are off-table, and closing" closing
sleep 35 # time is what this is about
servers_signal CONT
for pid in "${asking[@]}"; do wait_until 60 "an answer is there, or lost" process_gone "$pid"; done
expect_eq "whole answers, of 16" "$(gojq --slurp 'map(select(.failed + .lost == 0)) | length' four-*.json six-*.json)" 16
