# shellcheck shell=bash
# proves: pings of 3000 bytes, which come in fragments, are answered by IPv4 and IPv6 VIPs, in order and reversed
#
# Those of ping are cut by the client's kernel to 1500 bytes, which the tunnel of 1476 does not take. IPv4 fragments may be
# cut again, so each ping is answered. IPv6 ones may not: the VIP says "packet too big" to the first, and the later ones fit.
# The reversed ones are cut by the traffic tool, to 1200 bytes, and compared with what comes back byte by byte.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic tun busybox
# limit_s: 240

{ web_config lb201 gre; config_table fragments 'ttl_ms = 5000'; } > lb201.toml
balancers_up lb201

answered() { # VIP: of five pings
    in_ns client busybox ping -c 5 -W 10 -s 3000 "$1" > "ping-$1.txt" 2>&1 || true
    sed -n 's/.* \([0-9]*\) packets received.*/\1/p' "ping-$1.txt"
}
expect_eq "pings to $VIP4 that were answered" "$(answered "$VIP4")" 5
expect_ge "pings to $VIP6 that were answered, of five" "$(answered "$VIP6")" 3
expect_ge "errors of size by the VIP" "$(ruleset_counter lb201 too_big)" 1
expect_eq "path MTU that the client has learned to $VIP6" \
    "$(ip -netns client -6 route get "$VIP6" | sed -n 's/.* mtu \([0-9]*\).*/\1/p')" 1476
expect_eq "pings to $VIP6 that were answered once that is known" "$(answered "$VIP6")" 5

held=$(statistic lb201 fragment_held)
for vip in "$VIP4:0" "[$VIP6]:0"; do
    traffic_to fragments "$vip" --echo --datagrams 50 --fragments 3 --message-bytes 2984 --order reversed \
        --concurrency 20 --timeout-ms 20000
    expect_eq "reversed pings to ${vip%:0} that were answered" "$(field "$REPLY" .messages)" 50
done
expect_ge "fragments held for their first one" $(($(statistic lb201 fragment_held) - held)) 200
expect_eq "packets dropped" "$(statistic lb201 dropped)" 0
expect_eq "pings put together at the balancer" "$(kernel_counter lb201 IpReasmReqds)" 0
expect_eq "replies seen by the balancer" "$(witness lb201 from_vip)" 0

# Whole packets beside them.
connect_all 5
