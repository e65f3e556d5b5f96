# shellcheck shell=bash
# proves: the demo's traffic works between machines: ECMP over the balancers, which are the routers of the replies as well
#
# testbed/run cluster --servers N --balancers N --testers N: the same with other numbers, and with --no-stop all is left
# running.
# topology: cluster:servers=2,balancers=1,testers=1
# limit_s: 600
# captures: no

mapfile -t LBS < <(node_names | sed -n '/^vm-20\|^vm-21\|^vm-220/p')
for lb in "${LBS[@]}"; do
    { web_config "$lb" gre; config_tier "${LBS[@]}"; } > "$lb.toml"
done
balancers_up "${LBS[@]}"
for ((tester = 0; tester < TESTERS; tester++)); do
    # shellcheck disable=SC2034 # for lib/balancer.sh
    CLIENT=vm-$((221 + tester)) CLIENTS4=$(clients4 "$tester") CLIENTS6=$(clients6 "$tester")
    ((TESTERS == 1)) || say "  from $CLIENT"
    demo_traffic 100 "${LBS[@]}"
done
for lb in "${LBS[@]}"; do
    expect_ge "flows that came to $lb" "$(statistic "$lb" queued)" 1
    expect_ge "replies that $lb routed" "$(witness "$lb" from_vip)" 1
    # The client's first data comes in one batch with its ACK (README.md, "Real cards").
    expect_eq "packets that connection tracking at $lb dropped" "$(conntrack_drops "$lb")" 0
    expect_eq "connections that \`pinning\` at $lb had no room for" "$(ruleset_counter "$lb" pinning_full)" 0
done
