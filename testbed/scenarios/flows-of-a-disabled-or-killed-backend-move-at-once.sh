# shellcheck shell=bash
# proves: lbctl disable and kill end a backend's flows, tracked, promoted and off-table: TCP is reset within a second, UDP goes on at another server, and another service of the same host loses nothing; lbd --once ends them too
#
# What is reset is reset by the server that the next packet comes to.
# topology: dsr:servers=3
# needs: queue conntrack flowtable gre traffic ethtool
# captures: no
# limit_s: 1200

OTHER=$((PORT + 1))
A4="$VIP4:$PORT" A6="[$VIP6]:$PORT"
for place in client:eth0 s1:eth1 s2:eth1 s3:eth1; do in_ns "${place%:*}" ethtool -K "${place#*:}" tso off gso off; done
{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers 1 "$SERVERS" gre
    config_service other "$VIP4/32" "tcp udp" "$OTHER"
    config_servers 1 "$SERVERS" gre
    config_table timeouts 'udp_seconds = 300'
} > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "$A4" "$A6" "$VIP4:$OTHER"

tracked() { # FILTER...
    local family
    for family in ipv4 ipv6; do in_ns lb201 conntrack --dump --family "$family" "$@" 2>/dev/null || true; done
}
promoted_are() { (($(tracked | grep -c OFFLOAD || true) == $1)); }
flows_of() { lbctl_in lb201 flows "$1" --service "$2" --count --json | gojq 'map(.flows) | add // 0'; } # SERVER SERVICE
flows_are() { (($(flows_of "$1" "$2") == $3)); }
# holds_start NAME SOURCE-PORT [ARGUMENT...]: 12 connections by IPv4, 12 UDP flows by IPv6. Addresses and ports are the
# same in every run, and so is the server of each.
holds_start() {
    # What earlier ones have left.
    in_ns lb201 conntrack --flush 2> /dev/null
    : > "$1.events"
    hold_start "$1-tcp" "$A4" 12 --source-port "$2" --sample-ms 100 --event-file "$WORK/$1.events" "${@:3}"
    hold_start "$1-udp" "$A6" 12 --source-port "$2" --udp --sample-ms 100 --event-file "$WORK/$1.events" "${@:3}"
}
event() { # NAME WORD...: when lbd has taken it over; if it lives
    process_gone "${LBD_PID[lb201]}" || wait_until 30 "lbd has taken it over" taken_over lb201
    echo "${*:2}" >> "$1.events"
}
# holds_end NAME SERVER: those of SERVER, and no others, were reset within a second of the event, or go on at another server
holds_end() {
    local name=$1 server=$2 part tcp udp
    for part in tcp udp; do
        touch "$name-$part.until"
        wait_until 60 "the flows '$name-$part' are over" process_gone "${HOLD_PID[$name-$part]}"
    done
    tcp=$(field "$name-tcp.json" ".servers.$server // 0") udp=$(field "$name-udp.json" ".servers.$server // 0")
    if [[ $server != none ]]; then
        expect_ge "connections '$name' that were on $server" "$tcp" 1
        expect_ge "UDP flows '$name' that were on $server" "$udp" 1
        expect_eq "the last is reset within a second" "$(field "$name-tcp.json" \
            '.events[-1].seconds as $then | [.connections[].lost_at | select(. != null)] | max < $then + 1')" true
        note "seconds from the event to the last reset: $(field "$name-tcp.json" '.events[-1].seconds as $then | [.connections[].lost_at | select(. != null)] | max - $then')"
    fi
    expect_eq "connections '$name' that were lost" "$(field "$name-tcp.json" .lost)" "$tcp"
    expect_eq "by a reset" "$(field "$name-tcp.json" '[.connections[] | select(.why == "reset")] | length')" "$tcp"
    expect_eq "UDP flows '$name' that another server answers" "$(field "$name-udp.json" .moved)" "$udp"
    expect_eq "datagrams lost" "$(field "$name-udp.json" .lost_datagrams)" 0
}
# Promoted soon; others are not.
LONG=(--message-rate 1000 --message-bytes 1000)
hold_start other "$VIP4:$OTHER" 12 --source-port 43000

step "disabled: tracked flows"
holds_start few 43001 --interval-ms 200
# What the flush has taken comes back with the next packet of each.
others_are_back() { (($(lbctl_in lb201 flows --service other --count --json | gojq 'map(.flows) | add // 0') == 12)); }
wait_until 30 "all flows of the other service are tracked" others_are_back
others=$(flows_of s1 other)
expect_ge "flows of the other service on s1" "$others" 1
change lb201 disable --service web s1
event few disabled
wait_until 10 "no flow of s1 is left" flows_are s1 web 0
holds_end few s1
expect_eq "flows of the other service on s1" "$(flows_of s1 other)" "$others"
change lb201 enable --service web s1

step "disabled: promoted flows"
holds_start long 43002 "${LONG[@]}"
wait_until 180 "all flows are promoted" promoted_are 24
change lb201 disable --service web s1
event long disabled
wait_until 10 "no flow of s1 is left" flows_are s1 web 0
holds_end long s1
change lb201 enable --service web s1

step "killed while it drains: off-table flows"
holds_start off 43003 --interval-ms 200
change lb201 drain --service web s2
none_tracked() { (($(tracked --mark 2/0xffff --orig-port-dst "$PORT" | grep -c . || true) == 0)); }
wait_until 20 "its flows are off-table" none_tracked
all=$(flows_of s2 web)
lbctl_in lb201 kill --service web s2 --json > kill.json
event off killed
expect_eq "flows that lbctl kill says were ended" "$(field kill.json .ended)" "$all"
expect_eq "flows of s2 then" "$(flows_of s2 web)" 0
holds_end off s2
change lb201 enable --service web s2

step "killed while it is enabled: the table leads them back"
holds_start same 43004 "${LONG[@]}"
wait_until 180 "all flows are promoted" promoted_are 24
all=$(flows_of s1 web)
lbctl_in lb201 kill --service web s1 --json > kill.json 2> kill.err
event same killed
expect_eq "flows that lbctl kill says were ended" "$(field kill.json .ended)" "$all"
expect_grep "it says that they may come back" 'may get the same flows again' kill.err
holds_end same none

step "disabled while lbd is dead"
holds_start dead 43005 --interval-ms 200
balancer_kill lb201
all=$(flows_of s3 web)
change lb201 disable --service web s3
expect_eq "flows of s3, which nothing has ended" "$(flows_of s3 web)" "$all"
expect_ok "lbd --once" in_ns lb201 timeout 60 lbd --once --shm lb201
event dead "lbd --once"
expect_eq "flows of s3 then" "$(flows_of s3 web)" 0
holds_end dead s3
hold_end other
