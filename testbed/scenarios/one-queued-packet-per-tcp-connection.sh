# shellcheck shell=bash
# proves: 500 TCP connections of over 20 packets each, in every encapsulation: packets queued = SYNs, none invalid
#
# One service an encapsulation, each with a VIP of IPv4 and of IPv6, all on the same four servers. An independent nft
# table counts SYNs (those sent again apart), packets that conntrack calls invalid, and replies seen by the balancer.
# direct reaches a next hop of the VIP's own family; ipip and gue to one address would be tunnels that the kernel cannot
# tell apart, so each has servers of its own.
# topology: dsr:servers=4
# needs: queue conntrack gre ip6gre ipip ip6tnl gue traffic
# limit_s: 420

#         service encap   servers  connections over IPv4, over IPv6
SERVICES="gre     gre     1 4      56 56
          ip6gre  ip6gre  1 4      56 56
          ipip    ipip    1 2      56 56
          direct  direct  1 4      56 0
          direct6 direct6 1 4      0  56
          gue     gue     3 4      13 13
          gue6    gue6    3 4      13 0
          ip6tnl  ip6tnl  1 2      0  13"

{
    config_balancer lb201
    n=0
    while read -r name encap first last four six; do
        n=$((n + 1))
        vips=''
        ((four == 0)) || vips+=" 10.0.0.$n/32"
        ((six == 0)) || vips+=" 1000::$n/128"
        config_service "$name" "$vips" tcp "$PORT"
        config_servers "$first" "$last" "$encap"
    done <<< "$SERVICES"
} > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
listen12=() listen34=() targets=() # a server listens on the VIPs that it has
n=0
while read -r name encap first last four six; do
    n=$((n + 1))
    backends_up lb201 "$name" "$first" "$last"
    own=()
    ((four == 0)) || { own+=("10.0.0.$n:$PORT"); targets+=("10.0.0.$n:$PORT $four $name"); }
    ((six == 0)) || { own+=("[1000::$n]:$PORT"); targets+=("[1000::$n]:$PORT $six $name"); }
    ((first > 2)) || listen12+=("${own[@]}")
    ((last < 3)) || listen34+=("${own[@]}")
done <<< "$SERVICES"
servers_up 1 2 "${listen12[@]}"
servers_up 3 4 "${listen34[@]}"

connections=0
for target in "${targets[@]}"; do
    read -r address count name <<< "$target"
    traffic_to connect "$address" --connections "$count" --messages 20 --concurrency 20 --timeout-ms 20000
    expect_eq "$name: connections to $address" "$(gojq .opened "$REPLY")" "$count"
    connections=$((connections + count))
done

syns=$(witness lb201 syn) again=$(witness lb201 syn_again)
expect_eq "connections" "$connections" "$(awk '{ n += $5 + $6 } END { print n }' <<< "$SERVICES")"
expect_eq "first SYNs seen ($again were sent again)" "$((syns - again))" "$connections"
expect_ge "packets to VIPs" "$(witness lb201 to_vip)" "$((connections * 20))"
expect_eq "packets queued, as the kernel counts" "$(kernel_queued lb201)" "$(syns_asked lb201)"
expect_eq "packets queued, as lbd counts" "$(statistic lb201 queued)" "$(syns_asked lb201)"
expect_eq "packets dropped by lbd" "$(statistic lb201 dropped)" 0
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
expect_eq "replies seen by the balancer" "$(witness lb201 from_vip)" 0
