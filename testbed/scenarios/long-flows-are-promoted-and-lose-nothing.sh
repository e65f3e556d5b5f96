# shellcheck shell=bash
# proves: long flows, TCP and UDP, IPv4 and IPv6, go by the flowtable, and lose nothing when a backend, a route, an MTU, their entries, the ruleset or lbd goes amid it
#
# What is promoted is not seen by any chain, so whatever happens to a flow must reach it there.
# setting: UPLOAD_BYTES=20000000: how much is uploaded, over IPv4 and over IPv6
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack flowtable gre traffic ethtool
# captures: no
# limit_s: 1200

BYTES=${UPLOAD_BYTES:-20000000}
A4="$VIP4:$PORT" A6="[$VIP6]:$PORT"
# Each packet as long as on a wire: no segmentation offload at the senders.
for place in client:eth0 s1:eth1 s2:eth1 s3:eth1; do in_ns "${place%:*}" ethtool -K "${place#*:}" tso off gso off; done
config() { # FIRST OF-OTHER [LINE...]: servers of "web" from FIRST on, and of a service without clients
    config_balancer lb201 "${@:3}" | sed 's/"eth2"/"eth2", "late0"/'
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers "$1" "$SERVERS" gre
    config_service other 10.0.0.9/32 udp "$PORT"
    config_servers "$2" "$SERVERS" gre
    # Another one than the host's.
    config_table timeouts 'udp_seconds = 300'
}
config 1 1 > lb201.toml
balancers_up lb201
expect_ok "lbctl show says that long flows are promoted" grep -q '^offload   on: ' <(lbctl_in lb201 show)

tracked() { # FILTER...: which may be of one family
    local family
    for family in ipv4 ipv6; do in_ns lb201 conntrack --dump --family "$family" "$@" 2>/dev/null || true; done
}
promoted() { tracked "$@" | grep -c OFFLOAD || true; }
promoted_are() { # COUNT [FILTER...]
    local count=$1
    shift
    (($(promoted "$@") == count))
}
# long_start NAME ADDRESS [ARGUMENT...]: two flows of 150 packets a second, each of whose bytes is checked
long_start() { hold_start "$1" "$2" 2 --message-rate 300 --message-bytes 1000 "${@:3}"; }
long_start tcp4 "$A4"
long_start tcp6 "$A6"
long_start udp4 "$A4" --udp
long_start udp6 "$A6" --udp
wait_until 180 "all flows are promoted" promoted_are 8
expect_ge "flows that were promoted, as the ruleset counts them" "$(ruleset_counter lb201 promoted)" 8
promoted_shown() { grep -q ', 8 of them promoted' <(lbctl_in lb201 show); }
wait_until 20 "lbctl show names their number" promoted_shown
before=$(witness lb201 to_vip)
sleep 3
expect_le "packets of theirs that any chain has seen in 3 s, of 3600" "$(($(witness lb201 to_vip) - before))" 50
expect_eq "tunnel packets of theirs that are tracked" "$(tracked --proto gre | grep -c . || true)" 0

# Up is what can go wrong: the MTU of the way to the backends becomes smaller amid it.
upload() { # ADDRESS:PORT SOURCE MTU
    local before took
    before=$(witness lb201 to_vip)
    background client up traffic transfer --address "$1" --source "$2" --upload "$BYTES" --timeout-ms 30000 --json
    took=$BACKGROUND
    wait_until 180 "the upload is promoted" promoted_are 1 --orig-src "$2"
    ip -netns lb201 link set eth1 mtu "$3"
    wait_until 200 "the upload to $1 is done" process_gone "$took"
    expect_eq "bytes uploaded to $1, all of them right" "$(field up.log '"\(.bytes) \(.mismatch_offset)"')" "$BYTES null"
    note "$(field up.log '"in \(.seconds * 10 | round / 10) s"'), $(($(witness lb201 to_vip) - before)) packets seen by chains"
}
upload "$A4" 50.0.3.77 1400
upload "$A6" 2000::77 1350
expect_ge "errors of size" "$(ruleset_counter lb201 too_big)" 2
ip -netns lb201 link set eth1 mtu 1500
wait_until 180 "all flows are promoted after the MTU has changed" promoted_are 8

in_ns lb201 conntrack --flush
wait_until 180 "all flows are promoted after all entries were deleted" promoted_are 8

ip -netns lb201 link set eth1 down
ip -netns lb201 link set eth1 up
# The kernel drops a device's IPv6 addresses with it; that they come back is the host's business.
ip -netns lb201 -6 addr replace fd00:0:0:1::201/64 dev eth1 nodad
wait_until 180 "all flows are promoted after the cable was out" promoted_are 8

# What others do to the flowtable itself.
mended() { grep -q "mended:.*$1" lb201.lbd.log; }
in_ns lb201 nft 'delete flowtable inet synrail promoted { hook ingress priority filter; devices = { eth2 }; }
    add flowtable inet synrail promoted { hook ingress priority filter; devices = { eth1 }; }'
wait_until 60 "lbd mends its devices" mended 'the flowtable lacks device eth2; the flowtable has device eth1'
wait_until 180 "all flows are promoted again" promoted_are 8

ip -netns lb201 link add late0 type veth peer name late1
late() { grep -q 'devices = { eth2, late0 }' <(in_ns lb201 nft list flowtables); }
wait_until 60 "a device that comes later is in the flowtable" late
ip -netns lb201 link del late0

# s1 is drained: its flows leave the flowtable, and stay where they are.
change lb201 deactivate s1
gone_from() { (($(tracked --mark "$1/0xffff" | grep -c . || true) == 0)); } # SERVER
wait_until 30 "no flow of s1 is promoted or tracked any more" gone_from 1
change lb201 activate s1

in_ns lb201 nft flush ruleset
expect_eq "flows that are promoted without a ruleset" "$(promoted)" 0
flowtable_back() { grep -q 'devices = { eth2 }' <(in_ns lb201 nft list flowtables); }
wait_until 60 "the flowtable is there again" flowtable_back
some_promoted() { (($(promoted) > 0)); }
wait_until 180 "flows are promoted again" some_promoted

balancer_kill lb201
sleep 3
expect_ge "flows that are promoted with lbd dead" "$(promoted)" 1
balancer_start lb201 lb201.toml
for name in tcp4 tcp6 udp4 udp6; do hold_end "$name"; done

# New flows: the counters began anew with the ruleset.
connect_all 5
