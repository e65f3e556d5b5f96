# shellcheck shell=bash
# proves: with lbd dead, or its queue full, new flows begin on the backends that lbctl which names, by the fallback tables; lbd --once changes these
#
# One backend is out of service, so that the tables are not those of the start. TCP, UDP, datagrams in fragments, pings; by all
# three kinds of hash. Flows that began with lbd go on, and those that began without it go on when it is back, where they are.
# Then a service has no table in the kernel: its new flows wait, which shows that it was the tables. In the end the kernel follows
# what lbctl has changed by lbd --once, a backend that is removed among it; no queue has a listener.
# topology: dsr:servers=4
# needs: queue conntrack gre traffic nft_hash python3
# captures: no
# limit_s: 600

NEAR4=10.0.0.1 NEAR6=1000::1 ANY4=10.0.0.2 ANY6=1000::2
{
    config_balancer lb201 | sed 's/^queues = .*/queues = "20200"/'
    web_service gre
    config_service near "$NEAR4/32 $NEAR6/128" "tcp udp" "$PORT" 'hash = "source"' 'table_size = 10007'
    config_servers 1 "$SERVERS" gre
    config_service any "$ANY4/32 $ANY6/128" "" "" 'table_size = 10007'
    config_servers 1 "$SERVERS" gre
    config_table fragments 'ttl_ms = 5000'
} > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
for service in web near any; do backends_up lb201 "$service" 1 "$SERVERS"; done
addresses=()
for vip in "$VIP4" "[$VIP6]" "$NEAR4" "[$NEAR6]" "$ANY4" "[$ANY6]"; do addresses+=("$vip:$PORT"); done
servers_up 1 "$SERVERS" "${addresses[@]}"
hold_start before4 "$VIP4:$PORT" 20 --interval-ms 3000
hold_start before6 "[$VIP6]:$PORT" 20 --interval-ms 3000
change lb201 deactivate s2
wait_until 30 "lbd has taken over the change" taken_over lb201
expect_eq "packets that the kernel decided about, with lbd" "$(ruleset_counter lb201 by_kernel)" 0

step "lbd is dead"
balancer_kill lb201
syns=$(witness lb201 syn) again=$(witness lb201 syn_again)
n=0
for address in "${addresses[@]}"; do
    n=$((n + 1))
    hold_start "tcp$n" "$address" 20 --interval-ms 3000
done
expect_eq "connections that began, in the SYNs of $((120 + $(witness lb201 syn_again) - again))" \
    "$(($(witness lb201 syn) - syns - $(witness lb201 syn_again) + again))" 120
for address in "${addresses[@]}"; do
    # Of five datagrams of each flow about half are in fragments, the first perhaps among them.
    traffic_to fragments "$address" --flows 20 --datagrams 100 --concurrency 20 --fragments 2-4 --whole 50 --timeout-ms 20000
    expect_eq "datagrams to $address, whole and in fragments, that were answered" "$(field "$REPLY" .messages)" 100
    agreed lb201 udp "$REPLY" "$address"
done
for vip in "$VIP4" "$NEAR4" "$ANY4" "$VIP6" "$NEAR6" "$ANY6"; do
    in_ns client busybox ping -c 3 -W 10 "$vip" > "ping-$vip.txt" 2>&1 || true
    expect_eq "pings to $vip that were answered" "$(sed -n 's/.* \([0-9]*\) packets received.*/\1/p' "ping-$vip.txt")" 3
done
# 120 connections, as many UDP flows, 6 hosts that ping; later packets of a flow go by its connection mark.
expect_ge "packets that the kernel decided about" "$(ruleset_counter lb201 by_kernel)" $((120 + 120 + 6))
expect_eq "packets without a decision" "$(ruleset_counter lb201 unsteered)" 0
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0

step "lbd is back"
balancer_start lb201 lb201.toml
for name in before4 before6; do hold_end "$name"; done
n=0
for address in "${addresses[@]}"; do
    n=$((n + 1))
    hold_end "tcp$n"
    agreed lb201 tcp "tcp$n.json" "$address"
done
expect_eq "servers of these flows" "$(sort -u servers.txt | tr '\n' ' ')" "s1 s3 s4 "
decided=$(ruleset_counter lb201 by_kernel)
connect_all 20
expect_eq "packets that the kernel decided about since" "$(($(ruleset_counter lb201 by_kernel) - decided))" 0

step "lbd is stopped, and its queue runs full: as when it is too slow, it holds its lease"
balancer_freeze lb201
in_ns lb201 nft add element inet synrail lease_flows '{ 0 timeout 300s }'
forge_syns 9500
wait "$BACKGROUND"
expect_ge "packets that wait for lbd" "$(awk '$1 == 20200 { print $3 }' <(in_ns lb201 cat /proc/net/netfilter/nfnetlink_queue))" 8000
decided=$(ruleset_counter lb201 by_kernel)
connect_all 20
expect_ge "packets that the kernel decided about" "$(($(ruleset_counter lb201 by_kernel) - decided))" 40
balancer_thaw lb201
none_waits() { in_ns lb201 cat /proc/net/netfilter/nfnetlink_queue | awk '$3 > 0 { exit 1 }'; }
wait_until 60 "lbd has answered all that waited" none_waits
connect_all 20
expect_eq "packets without a decision" "$(ruleset_counter lb201 unsteered)" 0

step "the kernel has no room for a table"
sed 's/^queues = .*/&\nkernel_entries = 60000/' lb201.toml > small.toml
change lb201 apply "$WORK/small.toml"
wait_until 30 "lbd has taken over the change" taken_over lb201
expect_eq "services with a table in the kernel" \
    "$(lbctl_in lb201 show --json | gojq --raw-output '[.services[] | select(.fallback_table) | .name] | join(" ")')" "near any"
balancer_kill lb201
in_ns client traffic connect --address "$VIP4:$PORT" --source-cidr "$CLIENTS4" --connections 5 --timeout-ms 5000 --json \
    > none.json 2>&1 || true
expect_eq "connections to web that began" "$(gojq .opened none.json)" 0
expect_ge "packets without a decision" "$(ruleset_counter lb201 unsteered)" 5
traffic_to connect "$NEAR4:$PORT" --connections 5 --timeout-ms 20000
expect_eq "connections to near that began" "$(gojq .opened "$REPLY")" 5

step "the kernel follows without lbd"
# once STATUS: the exit status of lbd --once is that; it ends with what lbctl has written, and lbctl knows it.
once() {
    local status=0 live in_force
    in_ns lb201 lbd --once --shm lb201 > once.txt 2>&1 || status=$?
    ((status == $1)) || { cat once.txt >&2; broken "exit status of lbd --once: $status"; }
    read -r live in_force < <(lbctl_in lb201 show --json | gojq --raw-output '.region | "\(.generation) \(.in_force)"')
    expect_eq "generation in force" "$in_force" "$live"
    expect_eq "generation in force by what lbd --once says" "$(sed -n 's/.*generation \([0-9]*\) is in force in the kernel.*/\1/p' once.txt)" "$live"
}
change lb201 deactivate s4
once 1
expect_eq "services without a table in the kernel that lbd --once names" \
    "$(sed -n 's/.*service "\(.*\)": the kernel has no table.*/\1/p' once.txt)" web
sed '/^\[\[service.backend\]\]/{N;/name = "s1"/{N;N;d}}' lb201.toml > other.toml
change lb201 apply "$WORK/other.toml"
change lb201 activate s4
once 0
decided=$(ruleset_counter lb201 by_kernel) unsteered=$(ruleset_counter lb201 unsteered)
hold_start once "$VIP4:$PORT" 40 --interval-ms 3000
hold_end once
agreed lb201 tcp once.json "$VIP4:$PORT"
expect_eq "servers of these" "$(cut -d ' ' -f 3 once.json.served | sort -u | tr '\n' ' ')" "s3 s4 "
expect_ge "packets that the kernel decided about" "$(($(ruleset_counter lb201 by_kernel) - decided))" 40
expect_eq "packets without a decision" "$(($(ruleset_counter lb201 unsteered) - unsteered))" 0
