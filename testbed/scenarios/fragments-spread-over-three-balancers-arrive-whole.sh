# shellcheck shell=bash
# proves: fragments thrown at three balancers at random are sent to the one that owns them, once, and every datagram arrives
#
# The router chooses a balancer for each packet by chance. All three name the same owner for a pair of addresses; the
# others forward to it through the tier's tunnels. Then one of them is deactivated: it still takes what the router gives
# it, and owns nothing any more.
# topology: dsr:servers=4,balancers=3
# needs: queue conntrack gre traffic tun nft_numgen
# captures: no
# limit_s: 900

LBS=(lb201 lb202 lb203)
for lb in "${LBS[@]}"; do
    { web_config "$lb" gre; config_table fragments 'ttl_ms = 5000'; config_tier "${LBS[@]}"; } > "$lb.toml"
done
balancers_up "${LBS[@]}"
spread_packets
hops_up 1 "$SERVERS"
# all ARGUMENT...: the same change on every balancer, and wait until it is in force
all() {
    local lb
    for lb in "${LBS[@]}"; do change "$lb" "$@"; done
    for lb in "${LBS[@]}"; do wait_until 30 "$lb has taken over the change" taken_over "$lb"; done
}
# of_all NAME: a counter of lbd, added up over the balancers
of_all() {
    local lb sum=0
    for lb in "${LBS[@]}"; do sum=$((sum + $(statistic "$lb" "$1"))); done
    echo "$sum"
}
for ((n = 0; n < 50; n++)); do
    echo "udp 50.0.0.$n 1000 $VIP4 $PORT"
    echo "udp 2000::$n 1000 $VIP6 $PORT"
done > pairs.txt
# owners: who owns the fragments of these, a line each in lb201.owner-names; all balancers must agree
owners() {
    local lb
    for lb in "${LBS[@]}"; do
        lbctl_in "$lb" which --fragment --batch pairs.txt > "$lb.owners"
        gojq --raw-output .owner "$lb.owners" > "$lb.owner-names"
        expect_same "$lb names the same owners as lb201" lb201.owner-names "$lb.owner-names"
        expect_eq "owner_here as $lb says it" "$(gojq --raw-output .owner_here "$lb.owners" | grep -cx true || true)" \
            "$(grep -cx "$lb" "$lb.owner-names" || true)"
    done
}

owners
expect_eq "owners of 100 pairs of addresses" "$(sort -u lb201.owner-names | wc -l)" 3
fragments_all 1000 --extension-headers 20
expect_lbctl_agrees lb201 "$VIP4" "${REPLIES[0]}"
expect_lbctl_agrees lb202 "$VIP6" "${REPLIES[1]}"
sent=$(total fragments "${REPLIES[@]}")
came=0
for lb in "${LBS[@]}"; do
    count=$(witness "$lb" fragment)
    expect_ge "fragments that came to $lb, of $sent" "$count" $((sent / 4))
    came=$((came + count))
done
expect_eq "fragments that came to all" "$came" "$sent"
forwarded=$(of_all fragment_forwarded)
expect_ge "fragments forwarded" "$forwarded" $((sent / 2))
expect_eq "fragments that came to a server by two balancers" "$(hops by_two)" "$forwarded"
expect_eq "fragments that came by one" "$(hops by_one)" $((sent - forwarded))
expect_eq "fragments that came by more" "$(hops by_more)" 0
expect_eq "fragments that came from others of the tier" "$(of_all fragment_from_tier)" "$forwarded"
expect_eq "fragments steered to backends" "$(of_all steered_fragment)" "$sent"
expect_eq "packets dropped" "$(of_all dropped)" 0
for lb in "${LBS[@]}"; do
    expect_eq "datagrams put together at $lb" "$(witness "$lb" datagram_after)" 0
    lbctl_in lb201 tier > tier.txt
    expect_grep "lbctl tier names $lb" "\\b$lb\\b" tier.txt
done

all tier deactivate lb203
before=$(statistic lb203 fragment_from_tier)
owners
expect_eq "pairs of addresses that lb203 owns" "$(grep -cx lb203 lb201.owner-names || true)" 0
fragments_all 200
expect_eq "fragments that others sent to lb203" "$(statistic lb203 fragment_from_tier)" "$before"
expect_eq "packets dropped" "$(of_all dropped)" 0

all tier activate lb203
owners
expect_ge "pairs of addresses that lb203 owns again" "$(grep -cx lb203 lb201.owner-names || true)" 10
fragments_all 100
