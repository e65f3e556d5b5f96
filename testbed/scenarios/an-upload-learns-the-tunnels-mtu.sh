# shellcheck shell=bash
# proves: a client whose segments do not fit the tunnel is told so by the VIP, or, if the service says so, never notices
#
# The backends no longer ask for small segments (advmss), as where an operator did without: segments of 1500 bytes with
# "don't fragment" meet a tunnel that takes 1476. Service "told" is as it is by default, service "cut" has pmtu = "fragment-outer".
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic ethtool
# limit_s: 400

BYTES=2000000 CUT4=10.0.0.1 CUT6=1000::1
# Each packet as long as on a wire: no segmentation offload at the senders.
for place in client:eth0 s1:eth1 s2:eth1 s3:eth1 s4:eth1; do in_ns "${place%:*}" ethtool -K "${place#*:}" tso off gso off; done
{
    config_balancer lb201
    config_service told "$VIP4/32 $VIP6/128" tcp "$PORT"
    config_servers 1 2 gre
    config_service cut "$CUT4/32 $CUT6/128" tcp "$PORT" 'pmtu = "fragment-outer"'
    config_servers 3 4 gre
} > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
backends_up lb201 told 1 2
backends_up lb201 cut 3 4
servers_up 1 2 "$VIP4:$PORT" "[$VIP6]:$PORT"
servers_up 3 4 "$CUT4:$PORT" "[$CUT6]:$PORT"
for ((n = 1; n <= SERVERS; n++)); do
    for family in 4 6; do
        ip -netns "s$n" -"$family" route show table all | sed -n 's/.* table \([0-9]*\) .*advmss.*/\1/p' | sort -u |
            while read -r table; do ip -netns "s$n" -"$family" route flush table "$table"; done
        expect_eq "routes of s$n, IPv$family, that ask for small segments" \
            "$(ip -netns "s$n" -"$family" route show table all | grep -c advmss || true)" 0
    done
done
in_ns client nft -f - <<NFT
table inet told {
    counter by_vip { }
    counter by_cut { }
    counter by_others { }
    chain arrive {
        type filter hook prerouting priority -500; policy accept
        icmp type destination-unreachable icmp code frag-needed goto told
        icmpv6 type packet-too-big goto told
    }
    chain told {
        ip saddr $VIP4 counter name by_vip accept
        ip6 saddr $VIP6 counter name by_vip accept
        ip saddr $CUT4 counter name by_cut accept
        ip6 saddr $CUT6 counter name by_cut accept
        counter name by_others
    }
}
NFT
told() { counter_of client told "$1"; }
# learned VIP: the path MTU that the client has learned, or nothing
learned() { ip -netns client route get "$1" | sed -n 's/.* mtu \([0-9]*\).*/\1/p'; }
upload() { # ADDRESS:PORT
    traffic_to transfer "$1" --upload "$BYTES" --timeout-ms 30000 \
        --source "$([[ $1 == \[* ]] && echo 2000::77 || echo 50.0.3.77)"
    expect_eq "bytes uploaded to $1" "$(field "$REPLY" .bytes)" "$BYTES"
    note "$(field "$REPLY" '"in \(.seconds * 10 | round / 10) s"')"
}

upload "$CUT4:$PORT"
upload "[$CUT6]:$PORT"
for vip in "$CUT4" "$CUT6"; do expect_eq "path MTU that the client has learned to $vip" "$(learned "$vip")" ""; done
for who in by_vip by_cut by_others; do expect_eq "ICMP errors of size to the client, $who" "$(told $who)" 0; done
expect_eq "ICMP errors of size that the balancer sent" "$(ruleset_counter lb201 too_big)" 0
cuts=$(kernel_counter lb201 IpFragCreates)
expect_ge "outer fragments that the balancer made" "$cuts" $((2 * 2 * BYTES / 1600))
expect_ge "packets that the backends put together" \
    $(($(kernel_counter s3 IpReasmOKs) + $(kernel_counter s4 IpReasmOKs))) $((2 * BYTES / 1600))

upload "$VIP4:$PORT"
expect_ge "errors of size by the IPv4 VIP" "$(told by_vip)" 1
four=$(told by_vip)
upload "[$VIP6]:$PORT"
expect_ge "errors of size by the IPv6 VIP" $(($(told by_vip) - four)) 1
for vip in "$VIP4" "$VIP6"; do expect_eq "path MTU that the client has learned to $vip" "$(learned "$vip")" 1476; done
expect_eq "errors of size by other hosts" "$(told by_others)" 0
expect_eq "errors of size that the balancer counted" "$(ruleset_counter lb201 too_big)" "$(told by_vip)"
expect_eq "outer fragments made meanwhile" "$(kernel_counter lb201 IpFragCreates)" "$cuts"
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
