# shellcheck shell=bash
# proves: after known traffic the numbers of lbctl metrics are those of lbctl stats, of the kernel and of the traffic tool, of each backend too; lbtop shows them
#
# TCP and UDP, IPv4 and IPv6. Of UDP each flow is one packet to lbd, so each backend has exactly as many as its server has served.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# limit_s: 300

web_up gre
# metrics_now: all of them in metrics.json
metrics_now() { lbctl_in lb201 metrics --json > metrics.json; }
# metric NAME [LABELS AS JSON]: the sum of these series in metrics.json
metric() {
    gojq --arg name "$1" --argjson labels "${2-"{}"}" '[.[] | select(.name == $name) | .samples[] |
        select(.labels as $has | [$labels | to_entries[] | $has[.key] == .value] | all) | .value] |
        if . == [] then error("no series \($name) \($labels)") else add end' metrics.json
}
connect_all 20
metrics_now
expect_ge "TCP connections that were pinned, seldom one twice (docs/counters.md)" "$(metric synrail_ruleset_packets_total '{"counter":"handshake"}')" 40
expect_eq "SYNs steered, as lbctl stats has them" "$(metric synrail_steered_packets_total '{"kind":"syn"}')" "$(statistic lb201 steered_syn)"
expect_eq "UDP flows before" "$(metric synrail_steered_packets_total '{"kind":"udp"}')" 0
for ((n = 1; n <= SERVERS; n++)); do before[n]=$(metric synrail_target_steered_packets_total "{\"target\":\"$n\"}"); done

for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
    traffic_to udp "$address" --flows 30 --messages 5 --concurrency 10 --timeout-ms 20000
    expect_eq "UDP flows lost to $address" "$(field "$REPLY" .lost)" 0
    field "$REPLY" '.servers | to_entries[] | "\(.key) \(.value)"'
done > served.txt
served_by() { awk -v name="$1" '$1 == name { sum += $2 } END { print sum + 0 }' served.txt; }
metrics_now
expect_eq "UDP flows steered, as the traffic tool has them" "$(metric synrail_steered_packets_total '{"kind":"udp"}')" 60
lbctl_in lb201 stats --json > stats.json
for ((n = 1; n <= SERVERS; n++)); do
    steered=$(metric synrail_target_steered_packets_total "{\"target\":\"$n\"}")
    expect_eq "UDP flows of s$n, as its server has served them" "$((steered - before[n]))" "$(served_by "s$n")"
    expect_eq "all of s$n, as lbctl stats has them" "$steered" \
        "$(gojq --argjson n "$n" '.backends[] | select(.number == $n) | .packets + .by_kernel' stats.json)"
    expect_eq "s$n is backend of target $n" "$(metric synrail_target_info "{\"target\":\"$n\",\"service\":\"web\",\"backend\":\"s$n\"}")" 1
    # Nothing is under way any more but ends of connections, so it may have grown since.
    expect_le "bytes of sr-$n" "$(metric synrail_target_sent_bytes_total "{\"target\":\"$n\"}")" \
        "$(ip -netns lb201 -stats -json link show "sr-$n" | gojq '.[0].stats64.tx.bytes')"
    expect_ge "bytes of sr-$n, of $((steered)) flows" "$(metric synrail_target_sent_bytes_total "{\"target\":\"$n\"}")" "$((steered * 50))"
done
expect_eq "packets that lbd has dropped" "$(metric synrail_dropped_packets_total)" "$(statistic lb201 dropped)"
expect_eq "packets queued" "$(metric synrail_queue_packets_total)" "$(kernel_queued lb201)"
expect_eq "packets that lbd got" "$(metric synrail_worker_packets_total)" "$(metric synrail_queue_packets_total)"
expect_eq "share of all backends" "$(metric synrail_backend_share_ratio | awk '{ printf "%.6f", $1 }')" 1.000000

step "lbtop while connections come"
start_in "$CLIENT" more.json more.err traffic connect --address "$VIP4:$PORT" --source-cidr "$(clients_for "$VIP4:$PORT")" --connections 400 --concurrency 10 --timeout-ms 20000
in_ns lb201 lbtop --shm lb201 --once --interval 3 --width 100 --height 16 > top.txt
note "$(< top.txt)"
wait "$BACKGROUND"
expect_grep "lbtop says that lbd runs" 'lbd runs' top.txt
expect_eq "active backends in it" "$(awk '$1 == "web" { print $2 }' top.txt)" "$SERVERS/$SERVERS"
expect_ge "new flows a second in it" "$(awk '$1 == "web" { print int($3) }' top.txt)" 1
expect_ge "live flows in it" "$(awk '$1 == "web" { print $4 }' top.txt)" 60

# The text has the same numbers, and takes the place of the file at once.
in_ns lb201 lbctl --shm lb201 metrics --output synrail.prom
expect_grep "in the file" "^synrail_steered_packets_total\{kind=\"udp\"\} 60\$" synrail.prom
expect_grep "lbd runs" '^synrail_lbd_up 1$' synrail.prom
balancer_kill lb201
gone() { lbctl_in lb201 metrics --scope lbd > gone.prom; grep -qx 'synrail_lbd_up 0' gone.prom; }
wait_until 20 "lbd is gone, by the metrics" gone
in_ns lb201 lbctl --shm lb201 metrics --output synrail.prom
expect_grep "its counters stay" "^synrail_steered_packets_total\{kind=\"udp\"\} 60\$" synrail.prom
traffic_to udp "$VIP4:$PORT" --flows 10 --messages 2 --concurrency 10 --timeout-ms 20000
metrics_now
expect_eq "flows that the kernel decided, of lbd's last second and 10" "$(($(metric synrail_target_steered_packets_total '{"by":"kernel"}') >= 10))" 1
