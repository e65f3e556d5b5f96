# shellcheck shell=bash
# proves: rules flushed or changed and routes lost by other hands are back within seconds, with no operator, and traffic goes on
#
# What happens on real hosts: a service that reloads the host's own rules flushes those of all programs, and a link that goes down
# takes its routes along. lbd compares the kernel with what it should be, and mends it. A next hop that is out of reach
# when lbd starts holds up nothing else, and is used as soon as there is a way.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack traffic
# limit_s: 200

{
    config_balancer lb201
    config_service four "$VIP4/32" "tcp udp" "$PORT"
    config_servers 1 "$SERVERS" direct
    config_service six "$VIP6/128" "tcp udp" "$PORT"
    config_servers 1 "$SERVERS" direct6
    config_service far 10.0.0.9/32 tcp "$PORT"
    config_backend far 192.168.77.1 direct
} > lb201.toml
balancer_start lb201 lb201.toml
backends_up lb201 four 1 "$SERVERS"
backends_up lb201 six 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"
connect_all 20
expect_grep "lbd names the next hop that is out of reach" 'out of reach.*' lb201.lbd.log
ip -netns lb201 addr add 192.168.77.254/24 dev eth1
far_is_reached() { [[ $(ip -netns lb201 route show table all) == *"via 192.168.77.1 "* ]]; }
wait_until 60 "the far backend has its route" far_is_reached
routes() { ip -netns lb201 -4 route show table all proto 201; ip -netns lb201 -6 route show table all proto 201; }
routes | without_expiry | sort > routes.before

in_ns lb201 nft flush ruleset
# The chain that lbd adds when all else is there.
ruleset_back() { [[ $(in_ns lb201 nft --terse list ruleset inet) == *"chain structure_"* ]]; }
wait_until 60 "the ruleset is there again" ruleset_back
wait_until 60 "lbd says that it mended it" grep -q 'our ruleset was not as it should be; it is mended' lb201.lbd.log
connect_all 20

# Of the same names, as many as before, and yet nothing passes.
in_ns lb201 nft 'flush chain inet synrail queue_flow; add rule inet synrail queue_flow drop;
    add chain inet synrail leaving { type filter hook forward priority mangle; policy drop; }'
# Linux 6.12 takes a table's flags and a base chain not in one transaction.
in_ns lb201 nft 'add table inet synrail { flags dormant; }'
mended() { grep -q "mended:.*$1" lb201.lbd.log; }
for what in 'the table is dormant' 'chain leaving has policy drop' 'chain queue_flow: rule 1 differs'; do
    wait_until 60 "lbd says that it mended it: $what" mended "$what"
done
connect_all 20

ip -netns lb201 link set eth1 down
ip -netns lb201 link set eth1 up
# The kernel drops a device's IPv6 addresses with it; that they come back is the host's business.
ip -netns lb201 -6 addr replace fd00:0:0:1::201/64 dev eth1 nodad
routes_back() { routes | without_expiry | sort > routes.after; cmp -s routes.before routes.after; }
wait_until 60 "the routes are there again" routes_back
connect_all 20
