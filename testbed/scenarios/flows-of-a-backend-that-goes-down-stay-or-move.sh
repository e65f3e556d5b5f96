# shellcheck shell=bash
# proves: when checks find a backend down, its UDP flows go on at another server and its TCP connections stay, as on_down says by default; with "kill" connections are reset, with "keep" datagrams stay
#
# Only the port that is checked is closed: the flows themselves could go on.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# captures: no
# limit_s: 600

CHECKED=$((PORT + 1))
A4="$VIP4:$PORT" A6="[$VIP6]:$PORT"
config() { # [ON-DOWN]
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    # Checks go by IPv4 and IPv6.
    printf '[service.health]\nkind = "tcp"\nport = %s\ninterval_ms = 1000\ntimeout_ms = 900\nfall = 2\nrise = 2\n' "$CHECKED"
    (($# == 0)) || printf 'on_down = "%s"\n' "$1"
    config_servers 1 "$SERVERS" gre
    config_service checked "$VIP4/32 $VIP6/128" tcp "$CHECKED"
    config_servers 1 "$SERVERS" gre
}
config > lb201.toml
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "$A4" "$A6" "$VIP4:$CHECKED" "[$VIP6]:$CHECKED"

health_is() { # SERVER HEALTH
    [[ $(lbctl_in lb201 backends --service web --json | gojq -r --arg name "$1" '.[] | select(.name == $name) | .observed.health // "unknown"') == "$2" ]]
}
flows_of() { lbctl_in lb201 flows "$1" --service web --json | gojq --arg protocol "$2" 'map(select(.protocol == $protocol)) | length'; } # SERVER PROTOCOL
no_flows_of() { (($(flows_of "$1" "$2") == 0)); }
for n in 1 2 3; do wait_until 60 "s$n is up" health_is "s$n" up; done
# goes_down SERVER, comes_back SERVER
goes_down() {
    in_ns "$1" nft add table inet wall
    in_ns "$1" nft add chain inet wall input '{ type filter hook input priority 0; }'
    in_ns "$1" nft add rule inet wall input tcp dport "$CHECKED" reject with tcp reset
    wait_until 60 "$1 is down" health_is "$1" down
    wait_until 20 "lbd has taken it over" taken_over lb201
}
comes_back() {
    in_ns "$1" nft delete table inet wall
    wait_until 60 "$1 is up" health_is "$1" up
    wait_until 20 "lbd has taken it over" taken_over lb201
}
# The same addresses and ports in every run, and so the server of each.
holds_start() { # NAME SOURCE-PORT
    in_ns lb201 conntrack --flush 2> /dev/null
    hold_start "$1-tcp" "$A4" 12 --source-port "$2" --interval-ms 200
    hold_start "$1-udp" "$A6" 12 --source-port "$2" --interval-ms 200 --udp
}
holds_end() { # NAME
    local part
    for part in tcp udp; do
        touch "$1-$part.until"
        wait_until 60 "the flows '$1-$part' are over" process_gone "${HOLD_PID[$1-$part]}"
    done
}

step "by default"
holds_start default 43001
tcp=$(flows_of s1 tcp)
expect_ge "connections to s1" "$tcp" 1
expect_ge "UDP flows to s1" "$(flows_of s1 udp)" 1
goes_down s1
wait_until 20 "its UDP flows are over" no_flows_of s1 udp
expect_eq "connections that s1 has still" "$(flows_of s1 tcp)" "$tcp"
holds_end default
expect_eq "connections lost" "$(field default-tcp.json .lost)" 0
expect_ge "UDP flows that go on at another server" "$(field default-udp.json .moved)" 1
expect_eq "datagrams lost" "$(field default-udp.json .lost_datagrams)" 0
expect_grep "lbd's log says why" 'flows were ended: their backend is disabled or down' lb201.lbd.log
comes_back s1

step 'on_down = "kill"'
config kill > lb201.toml
change lb201 apply lb201.toml
holds_start kill 43002
tcp=$(flows_of s2 tcp)
expect_ge "connections to s2" "$tcp" 1
goes_down s2
wait_until 20 "its connections are over" no_flows_of s2 tcp
holds_end kill
expect_eq "connections lost" "$(field kill-tcp.json .lost)" "$tcp"
expect_eq "by a reset" "$(field kill-tcp.json '[.connections[] | select(.why == "reset")] | length')" "$tcp"
expect_eq "datagrams lost" "$(field kill-udp.json .lost_datagrams)" 0
comes_back s2

step 'on_down = "keep"'
config keep > lb201.toml
change lb201 apply lb201.toml
holds_start keep 43003
udp=$(flows_of s3 udp)
expect_ge "UDP flows to s3" "$udp" 1
goes_down s3
expect_eq "UDP flows that s3 has still" "$(flows_of s3 udp)" "$udp"
holds_end keep
expect_eq "connections lost" "$(field keep-tcp.json .lost)" 0
expect_eq "UDP flows that moved" "$(field keep-udp.json .moved)" 0
comes_back s3
balancer_stop lb201
