# shellcheck shell=bash
# proves: promoted flows end by FIN and by RST, go to another server when theirs is removed, outlast silence, carry datagrams byte-exact, and end with offload = false
#
# What is promoted is not seen by any chain, so none of this is told by a rule.
# setting: DATAGRAM_BYTES=5000000: how much is sent in datagrams, over IPv4 and over IPv6
# topology: dsr:servers=2
# needs: queue conntrack flowtable gre traffic ethtool
# captures: no
# limit_s: 1200

BYTES=${DATAGRAM_BYTES:-5000000}
for place in client:eth0 s1:eth1 s2:eth1; do in_ns "${place%:*}" ethtool -K "${place#*:}" tso off gso off; done
config() { # FIRST [LINE...]: servers of "web" from FIRST on
    config_balancer lb201 "${@:2}"
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers "$1" "$SERVERS" gre
    config_table timeouts 'udp_seconds = 300'
}
config 1 > lb201.toml
config 2 > without-s1.toml
config 2 'offload = false' > without-offload.toml
balancers_up lb201

promoted() { # [SERVER]: how many flows, of this one
    local family filter=()
    (($# == 0)) || filter=(--mark "$1/0xffff")
    for family in ipv4 ipv6; do in_ns lb201 conntrack --dump --family "$family" "${filter[@]}" 2>/dev/null || true; done | grep -c OFFLOAD || true
}
promoted_are() { (($(promoted) == $1)); }
long_start() { hold_start "$1" "$2" 2 --source-port 43000 --message-rate 300 --message-bytes 1000 "${@:3}"; } # NAME ADDRESS [ARGUMENT...]

step "FIN and RST"
long_start fin "$VIP4:$PORT"
long_start rst "[$VIP6]:$PORT" --close reset
wait_until 180 "the connections are promoted" promoted_are 4
hold_end fin
wait_until 10 "two are, when the others have closed" promoted_are 2
hold_end rst
wait_until 10 "none is" promoted_are 0

step "datagrams"
received() { in_ns lb201 cat /sys/class/net/eth2/statistics/rx_bytes; }
received_are() { (($(received) >= $1)); }
for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
    hold_start udp "$address" 1 --udp --source-port 43000 --message-rate 1000 --message-bytes 1300
    wait_until 180 "the flow is promoted" promoted_are 1
    seen=$(witness lb201 to_vip)
    wait_until 400 "$BYTES bytes are sent" received_are "$(($(received) + BYTES))"
    expect_le "packets of it that any chain has seen meanwhile" "$(($(witness lb201 to_vip) - seen))" 100
    hold_end udp
    expect_eq "datagrams without an answer, or with a wrong one" "$(field udp.json '"\(.lost_datagrams) \(.errors)"')" "0 {}"
    in_ns lb201 conntrack --flush 2> /dev/null
done

step "silence"
# The flowtable forgets a flow after 30 s without a packet, connection tracking does not.
hold_start silent "$VIP4:$PORT" 1 --udp --source-port 43000 --message-rate 300
wait_until 180 "the flow is promoted" promoted_are 1
kill -STOP "${HOLD_PID[silent]}"
wait_until 180 "the silent flow is promoted no more" promoted_are 0
# The kernel gives the entry the host's own time, 120 s, less these 30, till lbd looks at it.
kept_for() { (($(in_ns lb201 conntrack --dump --proto udp --orig-dst "$VIP4" 2>/dev/null | awk '{ n = $3 } END { print n + 0 }') >= $1)); }
wait_until 10 "its entry is kept for as long as udp_seconds says" kept_for 200
kill -CONT "${HOLD_PID[silent]}"
wait_until 180 "it is promoted again" promoted_are 1
hold_end silent
in_ns lb201 conntrack --flush 2> /dev/null

step "a backend is removed"
background client moving traffic udp --address "$VIP4:$PORT" --source-cidr "$CLIENTS4" --source-port 43000 --flows 4 --messages 8000 \
    --interval-ms 5 --timeout-ms 2000 --json
moving=$BACKGROUND
long_start tcp "$VIP4:$PORT"
wait_until 180 "all flows are promoted" promoted_are 6
ours=$(promoted 1)
expect_ge "of them, flows of s1" "$ours" 1
on_s1=$(in_ns lb201 conntrack --dump --proto tcp --mark 1/0xffff 2>/dev/null | grep -c OFFLOAD || true)
change lb201 apply "$WORK/without-s1.toml"
wait_until 30 "lbd has taken over the removal" taken_over lb201
none_of_s1() { (($(promoted 1) == 0)); }
wait_until 20 "no flow of s1 is promoted" none_of_s1
wait_until 180 "the others are promoted on s2" promoted_are $((6 - on_s1))

step "offload = false"
change lb201 apply "$WORK/without-offload.toml"
wait_until 30 "lbd has taken over the change" taken_over lb201
wait_until 20 "no flow is promoted" promoted_are 0
expect_grep "lbctl show says so" '^offload   off' <(lbctl_in lb201 show)
seen=$(witness lb201 to_vip)
sleep 2
expect_ge "packets that chains have seen in 2 s" "$(($(witness lb201 to_vip) - seen))" 100

wait_until 300 "the datagrams are done" process_gone "$moving"
expect_eq "flows of datagrams that went on at another server" "$(field moving.log .moved)" "$((ours - on_s1))"
expect_eq "round trips of all" "$(field moving.log .messages)" 32000
touch tcp.until
wait_until 60 "the connections are over" process_gone "${HOLD_PID[tcp]}"
expect_eq "connections lost, which were on s1" "$(field tcp.json .lost)" "$on_s1"
