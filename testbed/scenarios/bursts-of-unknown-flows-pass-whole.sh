# shellcheck shell=bash
# proves: bursts of 10 packets of flows that the balancer does not know, as after a failover, pass whole: TCP and UDP, decided by lbd and by the kernel, with lbd stopped for 0.3 s and amid a flood
#
# The first packet makes the entry. Those right behind it come before that is in place, and connection tracking would drop
# TCP that is tracked then (conntrack -S: insert_failed).
# topology: dsr:servers=2
# needs: queue conntrack traffic nft_hash
# captures: no
# limit_s: 400

backlog 10000
KERNELS=9090 # of the service that the kernel decides for
{
    config_balancer lb201
    for ports in "lbd:$PORT" "kernel:$KERNELS"; do
        for family in 4 6; do
            vip=$VIP4/32 encap=direct
            [[ $family == 4 ]] || vip=$VIP6/128 encap=direct6
            config_service "${ports%:*}$family" "$vip" "tcp udp" "${ports#*:}"
            [[ $ports == lbd:* ]] || echo 'steering = "kernel"'
            config_servers 1 "$SERVERS" "$encap"
        done
    done
} > lb201.toml
balancer_start lb201 lb201.toml

# What arrives is counted and not answered.
for ((n = 1; n <= SERVERS; n++)); do
    in_ns "s$n" nft -f - <<'NFT'
table inet arrived {
    counter bursts { }
    chain from_client {
        type filter hook prerouting priority -500; policy accept
        ip saddr 61.0.0.0/8 counter name bursts
        ip6 saddr 3001::/16 counter name bursts
        ip saddr { 60.0.0.0/8, 61.0.0.0/8 } drop
        ip6 saddr 3001::/16 drop
    }
}
NFT
done
arrived() {
    local n sum=0
    for ((n = 1; n <= SERVERS; n++)); do sum=$((sum + $(counter_of "s$n" arrived bursts))); done
    echo "$sum"
}
all_arrived() { (($(arrived) >= $1)); } # MANY

# bursts WHAT [STALL]: of each kind 20 flows, and 10 packets of each. STALL is called with a command, for
# each kind.
ROUND=0
bursts() {
    local what=$1 stall=${2:-} address kind drops before sources
    drops=$(conntrack_drops lb201)
    ((++ROUND))
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT" "$VIP4:$KERNELS" "[$VIP6]:$KERNELS"; do
        sources=61.$ROUND.0.0/16
        [[ $address != \[* ]] || sources=3001:$ROUND::/32
        for kind in ack datagram; do
            before=$(arrived)
            $stall in_ns "$CLIENT" traffic forge --address "$address" --kind "$kind" --packets 20 --repeat 10 \
                --source-cidr "$sources" > forge.json
            wait_until 10 "$what: $kind to $address: all have arrived" all_arrived $((before + 200)) || true
            expect_eq "$what: $kind to $address: packets that arrived" $(($(arrived) - before)) 200
        done
    done
    expect_eq "$what: packets that connection tracking dropped" "$(($(conntrack_drops lb201) - drops))" 0
}
# stalled COMMAND...: meanwhile lbd stands still, for 0.3 s at least.
stalled() {
    local since
    since=$(now_ms)
    kill -STOP "${LBD_PID[lb201]}"
    "$@"
    while (($(now_ms) - since < 300)); do sleep 0.02; done
    kill -CONT "${LBD_PID[lb201]}"
}

for ((n = 1; n <= SERVERS; n++)); do # what waits for a neighbour's address could be dropped
    in_ns lb201 busybox ping -c 1 -W 10 "192.168.1.$n" > ping.txt
    in_ns lb201 busybox ping -c 1 -W 10 "fd00:0:0:1::$n" > ping.txt
done
bursts "at rest"
bursts "lbd stands still for 0.3 s" stalled
for kind in syn ack datagram; do
    start_in "$CLIENT" "$kind.json" "$kind.err" traffic forge --address "$VIP4:$PORT" --kind "$kind" --packets 10000000 --rate 100 \
        --source-cidr 60.0.0.0/8
done
bursts "amid 300 other new flows a second, lbd stands still for 0.3 s" stalled
balancer_kill lb201
bursts "lbd is dead, amid these"
