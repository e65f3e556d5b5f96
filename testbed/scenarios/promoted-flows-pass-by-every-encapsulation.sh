# shellcheck shell=bash
# proves: long flows by every encapsulation, IPv4 and IPv6, are promoted and lose nothing; IPv4 by an IPv6 next hop, which the flowtable cannot send, is left to the rules
#
# One service an encapsulation, as in one-queued-packet-per-tcp-connection, with UDP.
# topology: dsr:servers=4
# needs: queue conntrack flowtable gre ip6gre ipip ip6tnl gue traffic
# captures: no
# limit_s: 1200

#         service encap   servers  over IPv4, over IPv6
SERVICES="gre     gre     1 4      yes yes
          ip6gre  ip6gre  1 4      yes yes
          ipip    ipip    1 2      yes yes
          direct  direct  1 4      yes no
          direct6 direct6 1 4      yes yes
          gue     gue     3 4      yes yes
          gue6    gue6    3 4      yes no
          ip6tnl  ip6tnl  1 2      no  yes"

listen12=() listen34=() targets=()
{
    config_balancer lb201
    n=0
    while read -r name encap first last four six; do
        n=$((n + 1))
        vips=''
        [[ $four == no ]] || vips+=" 10.0.0.$n/32"
        [[ $six == no ]] || vips+=" 1000::$n/128"
        config_service "$name" "$vips" udp "$PORT"
        config_servers "$first" "$last" "$encap"
        own=()
        [[ $four == no ]] || own+=("10.0.0.$n:$PORT")
        [[ $six == no ]] || own+=("[1000::$n]:$PORT")
        for address in "${own[@]}"; do targets+=("$address $name"); done
        ((first > 2)) || listen12+=("${own[@]}")
        ((last < 3)) || listen34+=("${own[@]}")
    done <<< "$SERVICES"
} > lb201.toml
balancer_start lb201 lb201.toml
while read -r name _ first last _; do backends_up lb201 "$name" "$first" "$last"; done <<< "$SERVICES"
servers_up 1 2 "${listen12[@]}"
servers_up 3 4 "${listen34[@]}"

ASIDE="10.0.0.5" # the IPv4 address of direct6
promoted_to() { [[ $(in_ns lb201 conntrack --dump --orig-dst "$1" 2>/dev/null) == *OFFLOAD* ]]; } # VIP
vip_of() { local vip=${1%:*}; vip=${vip#[}; echo "${vip%]}"; }
flows=0
for target in "${targets[@]}"; do
    read -r address name <<< "$target"
    flows=$((flows + 1))
    hold_start "flow$flows" "$address" 1 --udp --message-rate 150
    [[ $(vip_of "$address") == "$ASIDE" ]] || wait_until 180 "the flow to $address, by $name, is promoted" promoted_to "$(vip_of "$address")"
done
sleep 5 # in which all of them go on
expect_eq "whether the IPv4 flow by IPv6 next hops is promoted" "$(promoted_to "$ASIDE" && echo yes || echo no)" no
for ((n = 1; n <= flows; n++)); do
    hold_end "flow$n"
    expect_eq "${targets[n - 1]}: datagrams without an answer, or with a wrong one" "$(field "flow$n.json" '"\(.lost_datagrams) \(.errors)"')" "0 {}"
done
