# shellcheck shell=bash
# proves: 2000 datagrams in 2 to 20 fragments, in any order, arrive byte-exact where lbctl which says, as fragments
#
# The client cuts them itself: in order, reversed, at random, last one first, those of several datagrams interleaved; some
# IPv6 ones with extension headers before and behind the fragment header. Each flow is one datagram, which no connection
# mark helps. That the balancer's kernel puts nothing together is seen by an nft chain behind the place where it would.
#
# Then some are spoiled: a fragment twice does no harm; with one that overlaps others, or without one, none arrives.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic tun
# captures: no
# limit_s: 600

{ web_config lb201 gre; config_table fragments 'ttl_ms = 5000'; } > lb201.toml
balancers_up lb201

fragments_all 1000 --extension-headers 40 --tiny 10
expect_lbctl_agrees lb201 "$VIP4" "${REPLIES[0]}"
expect_lbctl_agrees lb201 "$VIP6" "${REPLIES[1]}"
expect_eq "servers that answered" "$(servers_used "${REPLIES[@]}")" "$SERVERS"

sent=$(total fragments "${REPLIES[@]}")
expect_eq "fragments that came to the balancer" "$(witness lb201 fragment)" "$sent"
expect_eq "fragments behind the place of defragmentation" "$(witness lb201 fragment_after)" "$sent"
expect_eq "whole datagrams there" "$(witness lb201 datagram_after)" 0
for counter in IpReasmReqds Ip6ReasmReqds; do
    expect_eq "$counter at the balancer" "$(kernel_counter lb201 $counter)" 0
done
expect_eq "fragments that lbd counted" "$(statistic lb201 fragments)" "$sent"
expect_eq "fragments steered" "$(statistic lb201 steered_fragment)" "$sent"
expect_eq "fragments left to the kernel" "$(ruleset_counter lb201 fragments_unanswered)" 0
held=$(statistic lb201 fragment_held)
expect_ge "fragments that were held for their first one" "$held" 2000
expect_eq "of these, sent on" "$(statistic lb201 fragment_injected)" "$held"
expect_eq "packets dropped" "$(statistic lb201 dropped)" 0
expect_eq "fragments held at the end" "$(fragment_level lb201 held_packets)" 0

for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
    traffic_to fragments "$address" --datagrams 100 --seed 2 --duplicate 30 --overlap 20 --drop 10 --extension-headers 40 \
        --rate 20 --timeout-ms 15000
    expect_eq "spoiled datagrams to $address that were answered" "$(field "$REPLY" .unexpected)" 0
    expect_eq "others that were answered" "$(field "$REPLY" .messages)" "$(field "$REPLY" '100 - .overlapped - .left_out')"
    expect_ge "datagrams spoiled" "$(field "$REPLY" '.overlapped + .left_out')" 10
    expect_ge "fragments sent twice" "$(field "$REPLY" .duplicates)" 10
done
expect_ge "overlaps that lbd dropped" "$(statistic lb201 drop_fragment_overlap)" 10
expect_ge "duplicates that lbd dropped" "$(statistic lb201 drop_fragment_duplicate)" 1
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
expect_eq "replies seen by the balancer" "$(witness lb201 from_vip)" 0

# Whole packets beside them.
connect_all 5
