# shellcheck shell=bash
# proves: an ICMP error about a tunnel packet has its backend checked at once, not by the interval; a flood of forged ones at most doubles the checks, and takes nothing out
#
# Checks are 20 s apart, so one that comes sooner has a cause. s1 and s2 are reached by GRE over IPv4, s3 and s4 by GRE over
# IPv6. Forged errors come from the client; real ones are those of the balancer's own kernel when a neighbour does not answer.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic
# captures: no
# limit_s: 500

INTERVAL_S=20
FLOOD_S=60

{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT" \
        "health = { kind = \"tcp\", interval_ms = ${INTERVAL_S}000, jitter_percent = 0, timeout_ms = 1000, fall = 1, rise = 1 }"
    config_servers 1 2 gre
    for n in 3 4; do config_backend "s$n" "fd00:0:0:1::$n" gre; done
} > lb201.toml
balancers_up lb201
for ((n = 1; n <= SERVERS; n++)); do
    in_ns "s$n" nft -f - <<'NFT'
table inet checks {
    counter seen { }
    chain arrive {
        type filter hook input priority 0; policy accept
        ip saddr 192.168.1.201 tcp flags & (syn | ack) == syn counter name seen
    }
}
NFT
done
checks_of() { counter_of "s$1" checks seen; }
checked_since() { (($(checks_of "$1") > $2)); } # N CHECKS
# just_checked N: a check by the interval has come, so the next one does after 20 s.
just_checked() { wait_until 60 "s$1 is checked by its interval" checked_since "$1" "$(checks_of "$1")"; }
# forge N PACKETS: "host unreachable" about as many tunnel packets to s N, 20 a second
forge() {
    in_ns client traffic forge --kind unreachable --address 192.168.1.201:0 --about "192.168.1.$1" \
        --source-cidr 50.0.77.7/32 --packets "$2" --rate 20 > "forged-s$1"
}
health() { lbctl_in lb201 backends --json | gojq --raw-output --arg name "s$1" '.[] | select(.name == $name) | .observed.health // "unknown"'; }
is() { [[ $(health "$1") == "$2" ]]; }
up() { lbctl_in lb201 backends --json | gojq '[.[] | select(.observed.health == "up")] | length'; }
all_up() { [[ $(up) == "$SERVERS" ]]; }

wait_until 90 "all backends are up" all_up

step "one forged error about s1"
others=$(checks_of 2)
just_checked 1
wait_until 15 "s2 is checked at the same time" checked_since 2 "$others"
others=$(checks_of 2) before=$(checks_of 1) began=$(now_ms)
forge 1 1
wait_until 10 "s1 is checked early" checked_since 1 "$before"
note "after $(($(now_ms) - began)) ms"
expect_eq "early checks of s2, which no error was about" "$(($(checks_of 2) - others))" 0
expect_eq "backends that are up" "$(up)" "$SERVERS"
expect_grep "the log says which was checked early" 'backends="web/s1" checks=1.*checked early|checked early.*backends="web/s1" checks=1' lb201.lbd.log

step "a flood of them about s1 and s2"
just_checked 1
errors=$(ruleset_counter lb201 tunnel_error) began=$(now_ms)
before=$(($(checks_of 1) + $(checks_of 2)))
forge 1 $((20 * FLOOD_S)) &
first=$!
forge 2 $((20 * FLOOD_S))
wait "$first"
checks=$(($(checks_of 1) + $(checks_of 2) - before)) took_s=$((($(now_ms) - began) / 1000))
note "$checks checks of two backends in $took_s s"
expect_ge "forged errors that came" $(($(ruleset_counter lb201 tunnel_error) - errors)) $((2 * 20 * FLOOD_S))
expect_le "checks, of which $((2 * took_s / INTERVAL_S)) are due" "$checks" $((2 * (2 * took_s / INTERVAL_S + 2)))
expect_eq "backends that are up" "$(up)" "$SERVERS"
expect_le "lines of the log" "$(grep -c 'checked early' lb201.lbd.log)" 4

background client sender /usr/bin/python3 -c 'import socket, time
sockets = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6) for _ in range(40)]
while True:
    for s in sockets:
        try: s.sendto(b"x", ("10.0.0.0" if s.family == socket.AF_INET else "1000::", 5001))
        except OSError: pass
    time.sleep(0.3)'
sender=$BACKGROUND
for n in 2 3; do
    step "s$n is cut off, and packets of a client go to it"
    just_checked "$n"
    just_checked "$n"
    began=$(now_ms)
    ip -netns fabric link set "s$n-eth1" down
    ip -netns lb201 -4 neigh flush dev eth1
    ip -netns lb201 -6 neigh flush dev eth1
    wait_until 15 "s$n is down, before its next check is due" is "$n" down
    note "after $(($(now_ms) - began)) ms"
    ip -netns fabric link set "s$n-eth1" up
    wait_until 60 "s$n is up" is "$n" up
done
kill_started "$sender"
expect_eq "backends that are up" "$(up)" "$SERVERS"
balancer_stop lb201
