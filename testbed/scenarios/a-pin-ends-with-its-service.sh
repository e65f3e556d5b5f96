# shellcheck shell=bash
# proves: flows leave a backend that their service no longer has, or that is another service's, though others still use that host
#
# UDP clients that keep sending, as syslog does, must not be sent to a host that does not serve them for as long as they do.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack traffic
# limit_s: 240

config() { # NAME "SERVER..": who serves UDP; TCP is served by all
    local n
    config_balancer lb201
    config_service "$1" "$VIP4/32" udp "$PORT"
    for n in $2; do config_backend "s$n" "192.168.1.$n" direct; done
    config_service web "$VIP4/32" tcp "$PORT"
    config_servers 1 "$SERVERS" direct
}
config log "1 2 3" > lb201.toml
config log "2 3" > without-s1.toml
config other "4" > other.toml
witness_up lb201
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT"
MARK=()
for n in 1 2 3 4; do
    MARK[n]=$(lbctl_in lb201 backends --json | gojq --arg name "s$n" 'map(select(.name == $name))[0].mark')
    [[ ${MARK[n]} =~ ^[0-9]+$ ]] || broken "lbctl backends names no mark of s$n"
done

hold_start web "$VIP4:$PORT" 30
background client udp traffic udp --address "$VIP4:$PORT" --source-cidr "$CLIENTS4" --flows 30 --messages 150 \
    --interval-ms 300 --timeout-ms 3000 --json
udp=$BACKGROUND
# on SERVER: flows of UDP that go there; the mark's upper bits say how long a flow is known
on() {
    in_ns lb201 conntrack --dump --proto udp --mark "${MARK[$1]}/0xffff" > pinned.txt 2> conntrack.err
    wc -l < pinned.txt
}
some() { (($(on "$1") >= $2)); }
none() { (($(on "$1") == 0)); }
wait_until 30 "some flows are pinned to s1" some 1 3
change lb201 apply without-s1.toml
wait_until 20 "no flow is pinned to s1 when its service no longer has it" none 1
expect_eq "off-table flows of UDP" "$(lbctl_in lb201 flows --off-table --json | gojq 'map(select(.protocol == "udp")) | length')" 0
change lb201 apply --allow-removal other.toml
wait_until 20 "no flow is pinned to s2 when the VIP belongs to another service" none 2
wait_until 20 "no flow is pinned to s3" none 3
wait_until 20 "the flows are pinned to s4" some 4 20
hold_end web
wait_until 120 "the UDP flows are done" process_gone "$udp"
expect_ge "flows that another server goes on with" "$(gojq .moved udp.log)" 25
