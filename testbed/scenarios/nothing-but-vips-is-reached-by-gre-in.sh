# shellcheck shell=bash
# proves: by gre_in fragments and large packets come as by a cable, and nothing but VIPs is reached; without ruleset and lbd nothing is forwarded; without gre_in all is gone
#
# Two balancers of a tier, to which the router sends packets in GRE. Fragments go to their owner through the tunnel
# between the two, which is more specific than the router's, over IPv4 and over IPv6. What is for no VIP is dropped,
# also when it is sent in the name of a backend, whose tunnel is open as well. Without ruleset and lbd nothing is
# forwarded that comes by gre_in, and a device for it that lbd makes stays down until lbd can mend the ruleset.
# topology: dsr:servers=2,balancers=2
# needs: queue conntrack gre ip6gre traffic tun busybox
# captures: no
# limit_s: 600

LBS=(lb201 lb202) SIX4=10.0.0.6
# config LB GRE_IN: service "six" has a smaller tunnel than the router's
config() {
    config_balancer "$1" "gre_in = $2"
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers 1 2 gre
    config_service six "$SIX4/32" udp "$PORT"
    config_servers 1 2 ip6gre
    config_table fragments 'ttl_ms = 5000'
    config_tier "${LBS[@]}"
}
witness_up "${LBS[@]}"
gre_up
hops_up 1 2
for lb in "${LBS[@]}"; do
    config "$lb" true > "$lb.toml"
    kernel_state "$lb" > "$lb.before"
    balancer_start "$lb" "$lb.toml"
done
backends_up lb201 web 1 2
backends_up lb201 six 1 2
servers_up 1 2 "$VIP4:$PORT" "[$VIP6]:$PORT"

route_by_gre gre4-lb201 gre6-lb202
say "  fragments"
# both_ways TIER: fragments reach their owner, half of them by way of the other balancer
both_ways() {
    local forwarded=$((-$(sum statistic fragment_forwarded "${LBS[@]}"))) two=$((-$(hops by_two)))
    local from_tier=$((-$(sum statistic fragment_from_tier "${LBS[@]}")))
    fragments_all 50
    forwarded=$((forwarded + $(sum statistic fragment_forwarded "${LBS[@]}"))) two=$((two + $(hops by_two)))
    from_tier=$((from_tier + $(sum statistic fragment_from_tier "${LBS[@]}")))
    expect_ge "fragments sent on to their owner, over $1" "$forwarded" 100
    expect_eq "fragments that the owner got by the tunnel to the other, and not by the router's" "$from_tier" "$forwarded"
    expect_eq "fragments that came to a server by two balancers" "$two" "$forwarded"
    expect_eq "packets dropped" "$(sum statistic dropped "${LBS[@]}")" 0
}
both_ways IPv4
for lb in "${LBS[@]}"; do
    config "$lb" true | sed '/^\[tier\]/,$s/"192[^"]*", //' > "$lb.toml"
    change "$lb" apply "$lb.toml"
done
for lb in "${LBS[@]}"; do wait_until 30 "$lb has taken over the change" taken_over "$lb"; done
both_ways IPv6

say ""
say "  large packets"
route_by_gre gre4-lb201
in_ns client busybox ping -c 3 -W 10 -s 1440 "$SIX4" > ping.txt 2>&1 || true
expect_grep "a ping of 1468 bytes to a tunnel of 1456 is answered, at the second attempt" ' [12] packets received' ping.txt
expect_ge "errors of size by the VIP" "$(ruleset_counter lb201 too_big)" 1
expect_eq "path MTU that the client has learned" "$(ip -netns client route get "$SIX4" | sed -n 's/.* mtu \([0-9]*\).*/\1/p')" 1456
for way in "gre4-lb201 [$VIP6]" "gre6-lb202 $VIP4"; do
    route_by_gre "${way% *}"
    traffic_to transfer "${way#* }:$PORT" --upload 400000 --timeout-ms 30000
    expect_eq "bytes uploaded to ${way#* } by ${way% *}" "$(field "$REPLY" .bytes)" 400000
done

say ""
say "  what is for no VIP"
batch router <<'IP'
route add 172.31.0.0/16 dev gre4-lb201
route add fd99::/64 dev gre6-lb201
route add 192.168.2.201/32 dev gre6-lb201
route add fd00:0:0:2::201/128 dev gre4-lb201
IP
forwarded() { echo $(($(kernel_counter lb201 IpForwDatagrams) + $(kernel_counter lb201 Ip6OutForwDatagrams))); }
ours=$(forwarded)
# send BYTES: a datagram to each, from the client
send() {
    local to
    for to in 172.31.0.1 fd99::1 192.168.2.201 fd00:0:0:2::201; do
        in_ns client bash -c "head -c $1 /dev/zero > /dev/udp/$to/9"
    done
}
dropped() { (($(ruleset_counter lb201 not_for_vip) >= $1)); }
send 100
wait_until 20 "4 packets were dropped" dropped 4 || true
expect_eq "packets for no VIP" "$(ruleset_counter lb201 not_for_vip)" 4
batch s1 <<'IP'
link add back type gre local 192.168.1.1 remote 192.168.1.201
link set back up
route add 172.31.0.0/16 dev back
IP
in_ns s1 bash -c 'head -c 100 /dev/zero > /dev/udp/172.31.0.1/9'
wait_until 20 "the packet from s1 was dropped" dropped 5 || true
expect_eq "packets for no VIP, with that of a backend" "$(ruleset_counter lb201 not_for_vip)" 5
send 4000
send 4000 # the first told the client how large an IPv6 fragment may be
wait_until 20 "fragments were dropped" dropped 25 || true
expect_ge "packets for no VIP, with fragments" "$(ruleset_counter lb201 not_for_vip)" 25
expect_eq "fragments of them that were kept to be put together" \
    "$(($(kernel_counter lb201 IpReasmReqds) + $(kernel_counter lb201 Ip6ReasmReqds)))" 0
expect_eq "packets of them that were forwarded" $(($(forwarded) - ours)) 0
unwanted() { echo $(($(kernel_counter lb201 UdpNoPorts) + $(kernel_counter lb201 Udp6NoPorts))); }
expect_eq "datagrams that no socket of lb201's own wanted" "$(unwanted)" 0

say ""
say "  with neither ruleset nor lbd"
kill -STOP "${LBD_PID[lb201]}"
in_ns lb201 nft delete table inet synrail
arrived() { (($(unwanted) >= $1)); }
send 100
wait_until 20 "what is for lb201 itself has arrived" arrived 2
expect_eq "packets that were forwarded" $(($(forwarded) - ours)) 0
for family in -4 -6; do ip -netns lb201 "$family" rule del priority 22289 iif sr-in4; done
send 100
wait_until 20 "what is for lb201 itself has arrived again" arrived 4
expect_ge "packets that are forwarded without the rules of sr-in4" $(($(forwarded) - ours)) 1

# A table that another process owns can be changed by no other process.
mkfifo owner
start_in lb201 owner.log owner.log bash -c 'nft -i < owner'
exec 9> owner
rm owner
echo 'add table inet synrail { flags owner; }' >&9
owned() { [[ $(in_ns lb201 nft list tables) == *synrail* ]]; }
wait_until 20 "the table belongs to another program" owned
ip -netns lb201 link del sr-in4
kill -CONT "${LBD_PID[lb201]}"
wait_until 60 "lbd says that it cannot mend the ruleset" grep -q 'can be mended; it is tried again' lb201.lbd.log
sr_in4() { ip -netns lb201 -json link show sr-in4 2>/dev/null | gojq --raw-output '.[0] | "\(.ifalias) \(.flags | index("UP") != null)"'; }
expect_eq "alias of the new sr-in4, and whether it is up" "$(sr_in4)" "synrail: gre_in false"
exec 9>&-
up() { [[ $(sr_in4) == *true ]]; }
wait_until 60 "sr-in4 is up" up
ours=$(forwarded)
send 100
wait_until 20 "4 packets were dropped" dropped 4 || true
expect_eq "packets for no VIP, by the new ruleset" "$(ruleset_counter lb201 not_for_vip)" 4
expect_eq "packets of them that were forwarded" $(($(forwarded) - ours)) 0

say ""
say "  the end of it"
devices() { ip -netns "$1" -json link | gojq --raw-output '[.[].ifname | select(startswith("sr-in"))] | sort | join(" ")'; }
expect_eq "devices of lb201" "$(devices lb201)" "sr-in4 sr-in6"
config lb201 false > lb201.toml
change lb201 apply --allow-removal lb201.toml
wait_until 30 "lb201 has taken over the change" taken_over lb201
expect_eq "devices of lb201 without gre_in" "$(devices lb201)" ""
expect_eq "devices of lb202" "$(devices lb202)" "sr-in4 sr-in6"
route_by_gre gre4-lb202 gre6-lb202
connect_all 10
for lb in "${LBS[@]}"; do
    balancer_stop "$lb"
    expect_ok "lbd --cleanup in $lb" in_ns "$lb" timeout 60 lbd --cleanup --config "$lb.toml" --shm "$lb"
    kernel_state "$lb" > "$lb.after"
    expect_same "nothing is left in $lb" "$lb.before" "$lb.after"
done
