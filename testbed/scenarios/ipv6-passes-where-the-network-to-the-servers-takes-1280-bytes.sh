# shellcheck shell=bash
# proves: with an underlay of 1280 and 1300 bytes IPv4 passes in every tunnel, IPv6 in those over IPv4; an underlay that shrinks is followed
#
# Linux sends no tunnel's packet over IPv6 in fragments, so IPv6 in those cannot have its 1280 bytes; lbd says what is lacking.
# A device with less than 1280 bytes has no IPv6, and tunnels over 1280 bytes leave less. Offloads are off, so that packets
# are as large on the wire as their senders make them.
# topology: dsr:servers=5
# steering: any
# needs: queue conntrack gre ip6gre ip6tnl gue traffic
# limit_s: 200

ENCAPS=(gre ipip gue ip6gre ip6tnl)
underlay_takes() { # BYTES
    local place
    for place in lb201 s1 s2 s3 s4 s5; do ip -netns "$place" link set eth1 mtu "$1"; done
}
for place in client:eth0 s1:eth1 s2:eth1 s3:eth1 s4:eth1 s5:eth1; do in_ns "${place%:*}" ethtool -K "${place#*:}" tso off gso off; done
underlay_takes 1280
{
    config_balancer lb201
    for n in 1 2 3 4 5; do
        config_service "${ENCAPS[n - 1]}" "10.0.0.$n/32 1000::$n/128" "tcp udp" "$PORT"
        config_servers "$n" "$n" "${ENCAPS[n - 1]}"
    done
    config_table fragments 'ttl_ms = 5000'
} > lb201.toml
balancer_start lb201 lb201.toml
for n in 1 2 3 4 5; do
    backends_up lb201 "${ENCAPS[n - 1]}" "$n" "$n"
    servers_up "$n" "$n" "10.0.0.$n:$PORT" "[1000::$n]:$PORT"
done
# The servers' answers ask clients for segments that fit into 1500 bytes; larger ones than fit here are what is tried.
mtu_of() { ip -netns lb201 -json link show "$1" | gojq '.[0].mtu'; }
uploads() { # UNDERLAY
    local n address
    for n in 1 2 3 4 5; do
        for address in "10.0.0.$n:$PORT" "[1000::$n]:$PORT"; do
            [[ ${ENCAPS[n - 1]} != ip6* || $address != \[* ]] || continue
            traffic_to transfer "$address" --upload 300000 --timeout-ms 20000
            expect_eq "bytes uploaded by ${ENCAPS[n - 1]} over $1 to $address" "$(field "$REPLY" .bytes)" 300000
        done
    done
    # Nothing in them says that they must not be fragmented, and GRE over IPv4 carries them all the same.
    traffic_to fragments "10.0.0.1:$PORT" --datagrams 20 --concurrency 5 --timeout-ms 20000
    expect_eq "fragmented datagrams by gre over $1, of 20" "$(field "$REPLY" .messages)" 20
}
for n in 1 2 3 4 5; do expect_eq "MTU of sr-$n over 1280" "$(mtu_of "sr-$n")" 1280; done
uploads 1280
expect_grep "lbd says what IPv6 in ip6gre lacks" 'takes 1280 bytes: IPv6 packets above 1236 are lost in it; give that network 1324' lb201.lbd.log
expect_grep "and in ip6tnl" 'takes 1280 bytes: IPv6 packets above 1240 are lost in it; give that network 1320' lb201.lbd.log

underlay_takes 1500
mtus() { for n in 1 2 3 4 5; do mtu_of "sr-$n"; done | paste -sd ' '; }
grown() { [[ $(mtus) == "1476 1480 1468 1456 1460" ]]; }
wait_until 40 "the tunnels have grown with the underlay" grown
underlay_takes 1300
shrunk() { [[ $(mtus) == "1280 1280 1280 1280 1280" ]]; }
wait_until 40 "the tunnels have shrunk with the underlay" shrunk
expect_grep "lbd says so" 'they are mended.*device sr-1' lb201.lbd.log
uploads 1300
