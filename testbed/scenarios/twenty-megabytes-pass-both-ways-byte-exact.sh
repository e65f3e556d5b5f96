# shellcheck shell=bash
# proves: 20 MB up and 20 MB down through gre, IPv4 and IPv6, MTU 1500 everywhere: complete, byte-exact, no black hole
#
# Up is what can go wrong: a full segment and 24 bytes of tunnel header do not fit 1500 bytes. The backend's set-up
# makes the client send smaller segments; not one packet may need to be fragmented or be refused as too big.
# topology: dsr:servers=2
# steering: any
# needs: queue conntrack gre traffic ethtool
# captures: no
# limit_s: 420

BYTES=20000000
# Each packet as long as on a wire: no segmentation offload at the senders.
for place in client:eth0 s1:eth1 s2:eth1; do in_ns "${place%:*}" ethtool -K "${place#*:}" tso off gso off; done
web_up gre

for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
    for way in upload download; do
        traffic_to transfer "$address" --$way "$BYTES" --timeout-ms 30000 \
            --source "$([[ $address == \[* ]] && echo 2000::77 || echo 50.0.3.77)"
        expect_eq "$way to $address, bytes" "$(gojq .bytes "$REPLY")" "$BYTES"
        note "$(gojq --raw-output '"in \(.seconds * 10 | round / 10) s"' "$REPLY")"
    done
done

# By the device: no chain sees the packets of long flows.
came_in=$(ip -netns lb201 -json -stats link show eth2 | gojq '.[0].stats64.rx.packets')
expect_ge "packets to VIPs, each with 1500 bytes or less" "$came_in" "$((2 * BYTES / 1500))"
expect_ge "flows that were promoted" "$(ruleset_counter lb201 promoted)" 2
for counter in IpFragCreates Ip6FragCreates IcmpOutDestUnreachs Icmp6OutPktTooBigs; do
    expect_eq "$counter at the balancer" "$(kernel_counter lb201 $counter)" 0
done
