# shellcheck shell=bash
# proves: with steering = "every-packet" lbd decides about each packet, none is tracked, and flows follow the table as it is now
#
# TCP and UDP, whole and in fragments, are served with no entry in connection tracking. Then a backend is deactivated:
# those connections break for which lbctl which names another backend than before, and no others. At last steering becomes
# "syn-only", which picks up connections in the middle, and "every-packet" again, and no connection notices.
# topology: dsr:servers=4
# needs: queue conntrack gre traffic tun
# captures: no
# limit_s: 300

{ web_config lb201 gre; config_table fragments 'ttl_ms = 5000'; } > syn-only.toml
sed 's/^mark_mask .*/&\nsteering = "every-packet"/' syn-only.toml > lb201.toml
balancers_up lb201

tracked() { # entries of flows to VIPs
    { in_ns lb201 conntrack --dump --orig-dst "$VIP4"; in_ns lb201 conntrack --dump --family ipv6 --orig-dst "$VIP6"; } 2>/dev/null | wc -l
}
connect_all 40 --messages 5
for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
    traffic_to udp "$address" --flows 20 --messages 10 --concurrency 20 --timeout-ms 20000
    expect_eq "datagrams to $address that were answered" "$(field "$REPLY" .messages)" 200
done
fragments_all 100 --flows 20 --whole 30 --fragments 2-5
for report in "${REPLIES[@]}"; do
    expect_eq "flows of whole and fragmented datagrams that had two servers" "$(field "$report" .moved)" 0
done
expect_eq "flows to VIPs that connection tracking knows" "$(tracked)" 0
packets=$(witness lb201 to_vip) again=$(statistic lb201 fragment_injected)
expect_ge "packets to VIPs" "$packets" 1500
expect_ge "fragments that were held and came back" "$again" 1
expect_eq "packets queued, as the kernel counts, but for those" $(($(kernel_queued lb201) - again)) "$packets"
expect_eq "packets queued, as lbd counts, but for those" $(($(statistic lb201 queued) - again)) "$packets"
expect_eq "datagrams that the kernel put together" "$(ruleset_counter lb201 fragments_unanswered)" 0
expect_eq "packets without a decision" "$(ruleset_counter lb201 unsteered)" 0

step "a backend is deactivated"
which_of() { # REPORT VIP: the backend of each of its connections, as the table is now
    field "$1" '.connections | sort_by(.source)[].source' | sed -E "s/^\[?([^]]*)\]?:([0-9]+)$/tcp \1 \2 $2 $PORT/" > "$1.flows"
    lbctl_in lb201 which --batch "$1.flows" | gojq --raw-output .backend
}
hold_start four "$VIP4:$PORT" 60
hold_start six "[$VIP6]:$PORT" 60
change lb201 deactivate --service web s2
wait_until 30 "lbd has taken over the change" taken_over lb201
for name in four six; do # each connection makes a last round trip
    touch "$name.until"
    wait_until 60 "the connections '$name' are closed" process_gone "${HOLD_PID[$name]}"
done
which_of four.json "$VIP4" > after.txt
which_of six.json "$VIP6" >> after.txt
change lb201 activate --service web s2
which_of four.json "$VIP4" > before.txt
which_of six.json "$VIP6" >> before.txt
of_all() { for name in four six; do field "$name.json" ".connections | sort_by(.source)[] | $1"; done; }
of_all .server > served.txt
of_all 'if .lost_at then "lost" else "kept" end' > became.txt
paste -d ' ' before.txt after.txt | awk '{ print $1 == $2 ? "kept" : "lost" }' > expected.txt
expect_same "$(wc -l < served.txt) connections were on the backend that the table named" before.txt served.txt
expect_same "those were lost whose backend the table changed" expected.txt became.txt
expect_ge "connections that were lost" "$(grep -cx lost became.txt)" "$(grep -cx s2 before.txt)"
expect_ge "connections that were kept" "$(grep -cx kept became.txt)" 60

step "steering changes while connections go on"
hold_start four "$VIP4:$PORT" 40 --interval-ms 200
hold_start six "[$VIP6]:$PORT" 40 --interval-ms 200
traffic_start udp udp "$VIP4:$PORT" --flows 20 --messages 100 --interval-ms 200 --timeout-ms 20000
change lb201 apply "$WORK/syn-only.toml"
wait_until 30 "lbd has taken over the change" taken_over lb201
all_tracked() { (($(tracked) == 100)); }
wait_until 30 "connection tracking has picked up all flows" all_tracked
restored=$(ruleset_counter lb201 restored)
carried() { (($(ruleset_counter lb201 restored) >= restored + 200)); }
wait_until 30 "the kernel has carried 200 packets by connection marks" carried
change lb201 apply "$WORK/lb201.toml"
wait_until 30 "lbd has taken over the change" taken_over lb201
none_tracked() { (($(tracked) == 0)); }
wait_until 30 "no flow is tracked any more" none_tracked
restored=$(ruleset_counter lb201 restored)
hold_end four
hold_end six
traffic_end udp
expect_eq "datagrams lost" "$(field udp.json .lost_datagrams)" 0
expect_eq "datagrams answered" "$(field udp.json .messages)" 2000
expect_eq "packets that went by a connection mark afterwards" "$(ruleset_counter lb201 restored)" "$restored"
expect_eq "packets without a decision" "$(ruleset_counter lb201 unsteered)" 0
expect_eq "packets dropped by lbd" "$(statistic lb201 dropped)" 0
