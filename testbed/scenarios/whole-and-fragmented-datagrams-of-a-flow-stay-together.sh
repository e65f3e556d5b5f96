# shellcheck shell=bash
# proves: flows of whole and fragmented datagrams, in any mixture, keep their deactivated server: both follow the connection mark
#
# Either kind pins its flow: some flows here have both kinds, some nothing but fragmented datagrams, and some have one such
# datagram before the change and whole ones afterwards. The table would send them elsewhere, and does so with new flows.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic tun
# captures: no
# limit_s: 400

FLOWS=30 ROUNDS=60
# Flows of fragments alone last longer than this, so they are kept by being renewed.
SECONDS_KEPT=40
{
    web_config lb201 gre
    config_table fragments 'ttl_ms = 5000'
    config_table timeouts "udp_seconds = $SECONDS_KEPT"
} > lb201.toml
balancers_up lb201
LONG=(--flows "$FLOWS" --datagrams $((FLOWS * ROUNDS)) --concurrency "$FLOWS" --fragments 2-5
    --interval-ms 500 --timeout-ms 30000)
traffic_start mixed4 fragments "$VIP4:$PORT" "${LONG[@]}" --whole 50
traffic_start mixed6 fragments "[$VIP6]:$PORT" "${LONG[@]}" --whole 50 --extension-headers 30
traffic_start only4 fragments "$VIP4:$PORT" "${LONG[@]}"
traffic_start only6 fragments "[$VIP6]:$PORT" "${LONG[@]}" --extension-headers 30

pinned() { in_ns lb201 conntrack --dump --family "$1" --proto udp 2>/dev/null | grep -c 'mark=[1-9]' || true; }
all_pinned() { (($(pinned ipv4) >= 2 * FLOWS && $(pinned ipv6) >= 2 * FLOWS)); }
wait_until 100 "connection tracking has all flows" all_pinned

# one_each NAME [ARGUMENT...]: a datagram of each of the same flows, and who answered it.
one_each() {
    local name=$1 address
    shift
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to fragments "$address" --flows "$FLOWS" --datagrams "$FLOWS" --concurrency "$FLOWS" --source-port 7777 \
            --fragments 2-5 --timeout-ms 20000 "$@"
        field "$REPLY" '.served[] | "\(.source) \(.server)"' | sort >> "$name.served"
    done
    expect_eq "$name: flows that were answered" "$(wc -l < "$name.served")" $((2 * FLOWS))
}
one_each fragmented
change lb201 deactivate --service web s2
wait_until 30 "lbd has taken over the change" taken_over lb201
one_each whole --whole 100
expect_ge "flows on s2 that began with a fragmented datagram" "$(grep -c ' s2$' fragmented.served || true)" 1
expect_same "whole datagrams go where the fragmented one went" fragmented.served whole.served
seen=$(witness lb201 fragment) known=$(statistic lb201 fragment_pinned)
fragments_all 50 --fragments 2-5
expect_eq "new flows to s2" "$(gojq --slurp 'map(.servers.s2 // 0) | add' "${REPLIES[@]}")" 0

for name in mixed4 mixed6 only4 only6; do
    traffic_end "$name"
    expect_eq "flows '$name' that changed their server" "$(field "$name.json" .moved)" 0
    expect_eq "flows '$name' with lost datagrams" "$(field "$name.json" .lost)" 0
    expect_eq "datagrams answered" "$(field "$name.json" .messages)" $((FLOWS * ROUNDS))
    expect_ge "of the flows, on s2" "$(field "$name.json" '.servers.s2 // 0')" 1
done
expect_ge "fragments that came afterwards" $(($(witness lb201 fragment) - seen)) 300
expect_ge "datagrams whose fragments followed the mark, afterwards" $(($(statistic lb201 fragment_pinned) - known)) 100
# Each of `only` once and again, each of `fragmented` once.
expect_ge "flows pinned, or kept, by fragments" "$(statistic lb201 fragment_pins)" $((2 * 2 * FLOWS + 2 * FLOWS))
expect_eq "failures of connection tracking" "$(statistic lb201 conntrack_error)" 0
expect_eq "datagrams that the kernel put together" "$(ruleset_counter lb201 fragments_unanswered)" 0
