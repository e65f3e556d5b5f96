# shellcheck shell=bash
# proves: while lbd is dead the kernel puts fragments together, and known flows keep their servers; then lbd takes over
#
# A flow is known by the connection mark that its first datagrams have left; the others, all of them fragmented, keep it. TCP
# connections and whole UDP go on all the time, also while lbd ends and starts.
# topology: dsr:servers=4
# needs: queue conntrack gre traffic tun
# captures: no
# limit_s: 500

FLOWS=20
{ web_config lb201 gre; config_table fragments 'ttl_ms = 5000'; } > lb201.toml
balancers_up lb201
hold_start four "$VIP4:$PORT" 30 --interval-ms 500
hold_start six "[$VIP6]:$PORT" 30 --interval-ms 500
hold_start whole "$VIP4:$PORT" 20 --udp --interval-ms 500

# of_flows WHEN [ARGUMENT...]: five datagrams of each of the same flows; each must be answered, by its own server.
of_flows() {
    local name=$1 address
    shift
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to fragments "$address" --flows "$FLOWS" --datagrams $((5 * FLOWS)) --concurrency "$FLOWS" \
            --source-port 7777 --fragments 2-6 --timeout-ms 20000 "$@"
        expect_eq "$name: datagrams to $address that were answered" "$(field "$REPLY" .messages)" $((5 * FLOWS))
        field "$REPLY" '.served[] | "\(.source) \(.server)"' | sort >> "$name.served"
    done
    [[ $name == before ]] || expect_same "$name: each flow has the server that it had before" before.served "$name.served"
}
of_flows before --whole 100
expect_eq "flows" "$(wc -l < before.served)" $((2 * FLOWS))
expect_eq "fragments left to the kernel" "$(ruleset_counter lb201 fragments_unanswered)" 0

for round in 1 2; do
    balancer_kill lb201
    of_flows "dead-$round"
    unanswered=$(ruleset_counter lb201 fragments_unanswered)
    expect_ge "round $round: fragments left to the kernel" "$unanswered" $((round * 2 * 5 * FLOWS * 2))
    expect_eq "round $round: IPv4 datagrams that it has put together" "$(kernel_counter lb201 IpReasmOKs)" $((round * 5 * FLOWS))

    balancer_start lb201 lb201.toml
    of_flows "back-$round"
    expect_eq "round $round: fragments left to the kernel with lbd back" \
        "$(ruleset_counter lb201 fragments_unanswered)" "$unanswered"
    expect_eq "round $round: datagrams that it has put together" "$(kernel_counter lb201 IpReasmOKs)" $((round * 5 * FLOWS))
    expect_ge "round $round: datagrams whose fragments lbd sent where their flow goes" \
        "$(statistic lb201 fragment_pinned)" $((2 * 5 * FLOWS))
    connect_all 20
done

for name in four six whole; do hold_end "$name"; done
expect_eq "whole UDP datagrams lost" "$(field whole.json .lost_datagrams)" 0
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
