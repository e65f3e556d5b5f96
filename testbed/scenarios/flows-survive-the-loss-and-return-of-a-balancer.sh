# shellcheck shell=bash
# proves: one of three balancers fails and comes back, another is cut off and comes back: flows move, and none is lost
#
# The backends stay as they are. A flow that comes to another balancer is unknown there, queued once, and goes by a table that
# is the same. One that comes back finds a balancer that has forgotten it, or one that still has its old entry.
# topology: dsr:servers=5,balancers=3
# steering: any
# needs: queue conntrack gre traffic
# captures: no
# limit_s: 900

for lb in lb201 lb202 lb203; do web_config "$lb" gre > "$lb.toml"; done
tier_up lb201 lb202 lb203
flows_up 100
# Short ones besides, 15 a second: some are being opened and some closed, whatever happens.
CLIENTS4=50.0.128.0/17 traffic_start short hold "$VIP4:$PORT" --connections 30 --lifetime-ms 2000 --interval-ms 500 --timeout-ms 30000 \
    --seconds 900 --until-file flows.end --event-file events --sample-ms 500

fails lb201
expect_eq "flows of lb201 that are still there" "$(grep -c ' lb201$' place || true)" 0
returns lb201
expect_ge "flows that are back at lb201" "$(grep -c ' lb201$' place)" 80
cut_off lb203
mended lb203
flows_down

for event in "lb201 fails" "lb201 returns" "lb203 is cut off" "lb203 is reached again"; do
    expect_ge "$event: flows that moved to another balancer, of 400" "$(moved_flows "$event")" 80
done
expect_ge "of them, flows that moved between the two that stayed" \
    "$(($(moved_flows "lb201 fails" lb202) + $(moved_flows "lb201 fails" lb203)))" 20
for kind in tcp4 tcp6 udp4 udp6 short; do
    expect_eq "$kind: flows lost, of $(field "$kind.json" .opened)" "$(field "$kind.json" .lost)" 0
    expect_eq "$kind: flows that could not be opened" "$(field "$kind.json" .failed)" 0
done
expect_ge "segments that TCP sent again" "$(gojq --slurp 'map(.retransmissions) | add' tcp4.json tcp6.json)" 1
note "datagrams without an answer: $(gojq --slurp 'map(.lost_datagrams) | add' udp4.json udp6.json)"
