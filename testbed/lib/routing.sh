# shellcheck shell=bash
# Routing daemons: BIRD at the router, BIRD or FRR at balancers, which announce what is in table 201, by BGP with BFD.
#
# The configurations are those of docs/announcements.md. Without them the router has no route to a VIP.

# bird_up NAMESPACE: by NAMESPACE.bird
bird_up() {
    LD_LIBRARY_PATH=$ROUTING/libraries background "$1" "$1.bird" \
        "$ROUTING/usr/sbin/bird" -f -c "$WORK/$1.bird" -s "/run/testbed-$1.ctl" -P "$WORK/$1.pid"
    finally "rm -f /run/testbed-$1.ctl"
}

# router_by_bgp LB...: from now on the router learns from these where VIPs are.
router_by_bgp() {
    local lb
    ip -netns router -4 route del 10.0.0.0/24
    ip -netns router -6 route del 1000::/112
    {
        cat <<'BIRD'
router id 192.168.2.254;
protocol device {}
protocol bfd { interface "eth2" { interval 100 ms; multiplier 10; }; }
protocol kernel kernel4 { merge paths on; ipv4 { export all; import none; }; }
protocol kernel kernel6 { merge paths on; ipv6 { export all; import none; }; }
template bgp balancer {
    local 192.168.2.254 as 65000;
    bfd on;
    error wait time 1, 60;
    ipv4 { import all; export none; };
    ipv6 { import all; export none; };
}
BIRD
        for lb; do echo "protocol bgp $lb from balancer { neighbor 192.168.2.${lb#lb} as 65001; }"; done
    } > router.bird
    bird_up router
}

# announce_by_bird LB
announce_by_bird() {
    local n=${1#lb}
    cat > "$1.bird" <<BIRD
router id 192.168.2.$n;
ipv4 table vips4;
ipv6 table vips6;
protocol device {}
protocol bfd { interface "eth2" { interval 100 ms; multiplier 10; }; }
protocol kernel synrail4 {
    kernel table 201; learn; scan time 10;
    ipv4 { table vips4; import where krt_source = 201; export none; };
}
protocol kernel synrail6 {
    kernel table 201; learn; scan time 10;
    ipv6 { table vips6; import where krt_source = 201; export none; };
}
protocol bgp router1 {
    local 192.168.2.$n as 65001;
    neighbor 192.168.2.254 as 65000;
    bfd on;
    error wait time 1, 60;
    ipv4 { table vips4; import none; export all; next hop self; };
    ipv6 { table vips6; import none; export all; next hop address fd00:0:0:2::$n; };
}
BIRD
    bird_up "$1"
}

# announce_by_frr LB: it wants a user and a group of its own, which it gets in mount namespaces.
announce_by_frr() {
    local lb=$1 n=${1#lb} place=/run/frr-$1 daemon options
    ip -netns "$lb" link add synrail type vrf table 201
    ip -netns "$lb" link set synrail up
    mkdir -m 777 "$place"
    finally "rm -rf $place"
    cp /etc/passwd /etc/group "$place"
    echo 'frr:x:991:991::/:/bin/false' >> "$place/passwd"
    printf '%s\n' 'frrvty:x:990:frr' 'frr:x:991:' >> "$place/group"
    echo "hostname $lb" > "$place/zebra.conf"
    cat > "$place/bfdd.conf" <<FRR
bfd
 profile fast
  receive-interval 100
  transmit-interval 100
  detect-multiplier 10
FRR
    cat > "$place/bgpd.conf" <<FRR
router bgp 65001
 bgp router-id 192.168.2.$n
 no bgp ebgp-requires-policy
 neighbor 192.168.2.254 remote-as 65000
 neighbor 192.168.2.254 bfd
 neighbor 192.168.2.254 bfd profile fast
 address-family ipv4 unicast
  import vrf synrail
  table-map nothing
  neighbor 192.168.2.254 route-map vips4 out
 exit-address-family
 address-family ipv6 unicast
  import vrf synrail
  table-map nothing
  neighbor 192.168.2.254 activate
  neighbor 192.168.2.254 route-map vips6 out
 exit-address-family
!
router bgp 65001 vrf synrail
 bgp router-id 192.168.2.$n
 address-family ipv4 unicast
  redistribute kernel
 exit-address-family
 address-family ipv6 unicast
  redistribute kernel
 exit-address-family
!
route-map vips4 permit 10
 set ip next-hop 192.168.2.$n
!
route-map vips6 permit 10
 set ipv6 next-hop global fd00:0:0:2::$n
!
route-map nothing deny 10
FRR
    chmod 644 "$place"/*.conf
    for daemon in zebra bfdd bgpd; do
        options=()
        [[ $daemon != bfdd ]] || options=(--bfdctl "$place/bfdd.sock")
        # shellcheck disable=SC2016 # for the shell in there
        background "$lb" "$lb.$daemon" unshare --mount sh -c 'mount --bind "$1/passwd" /etc/passwd; mount --bind "$1/group" /etc/group
            place=$1 program=$2 daemon=$3; shift 3; export LD_LIBRARY_PATH=$program/libraries
            exec "$program/usr/lib/frr/$daemon" -z "$place/zserv.api" -f "$place/$daemon.conf" -i "$place/$daemon.pid" --vty_socket "$place" \
                --log stdout "$@"' sh "$place" "$ROUTING" "$daemon" "${options[@]}"
        wait_until 60 "$daemon of $lb runs" test -s "$place/$daemon.pid"
    done
}

# next_hops 4|6: of a VIP, as the router has them, a line each
next_hops() {
    local vip=$VIP4
    [[ $1 == 4 ]] || vip=$VIP6
    ip -netns router "-$1" -json route show "$vip" | gojq --raw-output '.[] | .gateway // (.nexthops // [] | .[].gateway)' | sort -u
}
routed_to() { # LB...: whether both VIPs are routed to these and no others
    local lb four='' six=''
    for lb; do
        four+="192.168.2.${lb#lb} "
        six+="fd00:0:0:2::${lb#lb} "
    done
    [[ $(next_hops 4 | tr '\n' ' ') == "$four" && $(next_hops 6 | tr '\n' ' ') == "$six" ]]
}
# await_routes WHAT SECONDS LB...: and say how long it took
await_routes() {
    local what=$1 seconds=$2 began
    shift 2
    began=$(now_ms)
    wait_until "$seconds" "$what: the router has VIPs at $*" routed_to "$@"
    holds "$what: after $(($(now_ms) - began)) ms the router sends packets to VIPs to ${*:-no balancer}"
}
# quiet LB: no packet to a VIP has come to it since the last look
quiet() {
    local last=${SEEN[$1]:--}
    SEEN[$1]=$(witness "$1" to_vip)
    [[ ${SEEN[$1]} == "$last" ]]
}
declare -A SEEN=()

# announcements_by DAEMON: everything that docs/announcements.md says of the daemon (bird or frr), with flows that live all the time.
announcements_by() {
    local lb kind address flows=(tcp4 tcp6 udp4 udp6)
    for lb in lb201 lb202; do
        { config_balancer "$lb" 'announce_table = 201'; web_service direct6 'table_size = 997'; } > "$lb.toml"
    done
    balancers_up lb201 lb202
    router_by_bgp lb201 lb202
    for lb in lb201 lb202; do "announce_by_$1" "$lb"; done
    await_routes "both balancers can serve" 120 lb201 lb202
    # FRR cannot tell routes of the table by their protocol.
    [[ $1 == frr ]] || in_ns lb201 ip route add blackhole 10.0.0.77 table 201 proto static
    in_ns lb201 ip route add blackhole 10.0.0.78 proto 201 metric 7

    for kind in "${flows[@]}"; do
        address=$VIP4:$PORT
        [[ $kind != *6 ]] || address="[$VIP6]:$PORT"
        if [[ $kind == tcp* ]]; then hold_start "$kind" "$address" 40; else hold_start "$kind" "$address" 40 --udp; fi
    done

    step "lb201 is drained: everything goes to lb202"
    change lb201 balancer drain --reason "kernel"
    await_routes "lb201 is drained" 30 lb202
    lbctl_in lb201 balancer > drained.txt
    expect_grep "lbctl balancer says why" '10.0.0.0/32 +no +draining by root .*: kernel' drained.txt
    wait_until 30 "nothing comes to lb201" quiet lb201
    holds "nothing comes to lb201 any more"
    change lb201 balancer enable
    await_routes "lb201 is enabled" 30 lb201 lb202
    expect_eq "routes of others that are announced" "$(ip -netns router route | grep -cE '10\.0\.0\.7[78]' || true)" 0

    step "lbd of lb201 is killed, and ends, and starts: nothing moves"
    start_in router monitor.txt monitor.txt ip monitor route
    balancer_kill lb201
    in_ns lb201 lbd --withdraw --shm lb201 > withdraw.txt
    expect_grep "without lbd the kernel serves: nothing is withdrawn" 'nothing to withdraw' withdraw.txt
    balancer_start lb201 lb201.toml
    balancer_stop lb201
    balancer_start lb201 lb201.toml
    expect_eq "changes of routes to VIPs meanwhile" "$(grep -cE '10\.0\.0\.0|1000::' monitor.txt || true)" 0

    step "lb201 has no backend: everything goes to lb202"
    change lb201 drain s1 s2 s3
    await_routes "lb201 has no backend" 30 lb202
    change lb201 enable s1 s2 s3
    await_routes "lb201 has backends again for 5 s" 60 lb201 lb202
    expect_ge "changes of routes to VIPs since" "$(grep -cE '10\.0\.0\.0|1000::' monitor.txt || true)" 2

    step "lb202 is cut off, and comes back"
    plug_out lb202
    await_routes "lb202 is cut off" 60 lb201
    plug_in lb202
    await_routes "lb202 is reached again" 300 lb201 lb202
    for kind in "${flows[@]}"; do hold_end "$kind"; done
    note "datagrams without an answer, of flows that live: $(gojq --slurp 'map(.lost_datagrams) | add' udp4.json udp6.json)"

    kernel_decided
    step "the end"
    for lb in lb201 lb202; do
        balancer_stop "$lb"
        in_ns "$lb" lbd --cleanup --shm "$lb" > /dev/null
    done
    await_routes "nothing is left" 30
}
