# shellcheck shell=bash
# proves: flows of whole and fragmented datagrams keep their deactivated server: fragments follow the connection mark
#
# The table would send them elsewhere from then on, and does so with new flows.
# topology: dsr:servers=4
# needs: queue conntrack gre traffic tun
# captures: no
# limit_s: 400

FLOWS=40 ROUNDS=40
{ web_config lb201 gre; config_table fragments 'ttl_ms = 5000'; } > lb201.toml
balancers_up lb201
LONG=(--flows "$FLOWS" --datagrams $((FLOWS * ROUNDS)) --concurrency "$FLOWS" --fragments 2-5
    --interval-ms 500 --timeout-ms 30000)
traffic_start four fragments "$VIP4:$PORT" "${LONG[@]}" --whole 50
traffic_start six fragments "[$VIP6]:$PORT" "${LONG[@]}" --whole 50 --extension-headers 30

# Flows are pinned by their whole datagrams.
pinned() { in_ns lb201 conntrack --dump --family "$1" --proto udp 2>/dev/null | grep -c 'mark=[1-9]' || true; }
all_pinned() { (($(pinned ipv4) >= FLOWS && $(pinned ipv6) >= FLOWS)); }
wait_until 100 "all flows have had a whole datagram" all_pinned
change lb201 deactivate --service web s2
wait_until 30 "lbd has taken over the change" taken_over lb201
seen=$(witness lb201 fragment) known=$(statistic lb201 fragment_pinned)
fragments_all 50 --fragments 2-5
expect_eq "new flows to s2" "$(jq --slurp 'map(.servers.s2 // 0) | add' "${REPLIES[@]}")" 0

for name in four six; do
    traffic_end "$name"
    expect_eq "flows '$name' that changed their server" "$(field "$name.json" .moved)" 0
    expect_eq "flows '$name' with lost datagrams" "$(field "$name.json" .lost)" 0
    expect_eq "datagrams answered" "$(field "$name.json" .messages)" $((FLOWS * ROUNDS))
    expect_ge "of the flows, on s2" "$(field "$name.json" '.servers.s2 // 0')" 1
done
expect_ge "fragments that came afterwards" $(($(witness lb201 fragment) - seen)) 300
expect_ge "datagrams whose fragments followed the mark, afterwards" $(($(statistic lb201 fragment_pinned) - known)) 100
expect_eq "datagrams that the kernel put together" "$(ruleset_counter lb201 fragments_unanswered)" 0
