# shellcheck shell=bash
# proves: with steering = "kernel" no new flow is queued, all begin on the backends that lbctl which names, also with lbd hung, and a drain loses none
#
# TCP, UDP and pings, IPv4 and IPv6, to a service that the kernel decides for; another on the same addresses is lbd's. Then a
# backend is drained while connections are held, lbd hangs, and at last the kernel has no room for the table.
# topology: dsr:servers=4
# needs: queue conntrack gre traffic nft_hash python3
# captures: no
# limit_s: 420

OTHER=9090 # of lbd's service
{
    config_balancer lb201
    web_service gre
    config_service other "$VIP4/32 $VIP6/128" tcp "$OTHER"
    config_servers 1 "$SERVERS" gre
    config_table fragments 'ttl_ms = 5000'
} | sed 's/^name = "web"/&\nsteering = "kernel"/' > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
for service in web other; do backends_up lb201 "$service" 1 "$SERVERS"; done
addresses=("$VIP4:$PORT" "[$VIP6]:$PORT")
servers_up 1 "$SERVERS" "${addresses[@]}" "$VIP4:$OTHER" "[$VIP6]:$OTHER"
expect_eq "who decides, by lbctl which" \
    "$(for port in "$PORT" "$OTHER"; do lbctl_in lb201 which --json tcp 50.0.0.1 1000 "$VIP4" "$port" | gojq --raw-output .decider; done | tr '\n' ' ')" "kernel lbd "

# some_of_each: new flows to "web", none of which may be lost, each where the table says.
some_of_each() {
    local address vip
    for address in "${addresses[@]}"; do
        traffic_to connect "$address" --connections 50 --messages 5 --concurrency 20 --timeout-ms 20000
        expect_eq "connections to $address" "$(gojq .opened "$REPLY")" 50
        traffic_to fragments "$address" --flows 50 --datagrams 150 --concurrency 20 --whole 100 --timeout-ms 20000
        expect_eq "datagrams to $address that were answered" "$(field "$REPLY" .messages)" 150
        agreed lb201 udp "$REPLY" "$address"
    done
    for vip in "$VIP4" "$VIP6"; do
        in_ns client busybox ping -c 3 -W 10 "$vip" > "ping-$vip.txt" 2>&1 || true
        expect_eq "pings to $vip that were answered" "$(sed -n 's/.* \([0-9]*\) packets received.*/\1/p' "ping-$vip.txt")" 3
    done
}
some_of_each
hold_start four "$VIP4:$PORT" 60
hold_start six "[$VIP6]:$PORT" 60
expect_ge "packets that the kernel decided about" "$(ruleset_counter lb201 by_kernel)" $((2 * 50 + 2 * 50 + 2 + 120))
expect_eq "packets queued" "$(kernel_queued lb201)" 0
traffic_to connect "$VIP4:$OTHER" --connections 10 --timeout-ms 20000
expect_ge "packets queued, of lbd's service" "$(kernel_queued lb201)" 10

step "a backend is drained"
queued=$(kernel_queued lb201)
change lb201 deactivate --service web s3
wait_until 30 "lbd has taken over the change" taken_over lb201
connect_all 100
expect_eq "new connections to s3" "$(gojq '.servers.s3 // 0' "$REPLY")" 0
expect_eq "packets queued since" "$(($(kernel_queued lb201) - queued))" 0

step "lbd hangs"
balancer_freeze lb201
decided=$(ruleset_counter lb201 by_kernel)
some_of_each
expect_ge "packets that the kernel decided about" "$(($(ruleset_counter lb201 by_kernel) - decided))" $((2 * 50 + 2 * 50))
expect_eq "packets queued since" "$(($(kernel_queued lb201) - queued))" 0
balancer_thaw lb201
hold_end four
hold_end six
change lb201 activate --service web s3 # as when these began
agreed lb201 tcp four.json "$VIP4:$PORT"
agreed lb201 tcp six.json "[$VIP6]:$PORT"
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
expect_eq "packets without a decision" "$(ruleset_counter lb201 unsteered)" 0

step "the kernel has no room for the table"
sed 's/^queues = .*/&\nkernel_entries = 60000/' lb201.toml > small.toml
change lb201 apply "$WORK/small.toml"
wait_until 30 "lbd has taken over the change" taken_over lb201
expect_eq "services that lbd decides for instead of the kernel, by lbctl show" \
    "$(lbctl_in lb201 show | grep -c 'steering  *lbd decides, NOT the kernel')" 1
connect_all 10
expect_ge "packets queued" "$(($(kernel_queued lb201) - queued))" 20
