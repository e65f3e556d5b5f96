# shellcheck shell=bash
# proves: TCP and UDP over IPv4 and IPv6 reach four backends; nothing is lost; one packet a connection is queued
#
# The first thing to look at. Ends with a summary that a person can read.
# topology: dsr:servers=4,balancers=1
# needs: queue conntrack gre traffic
# limit_s: 200

CONNECTIONS=200
web_up gre

declare -A result
declare -A queued
for kind in connect udp; do
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        before=$(kernel_queued lb201)
        many=--connections
        [[ $kind == connect ]] || many=--flows
        step "$kind: $CONNECTIONS flows to $address"
        traffic_to "$kind" "$address" $many "$CONNECTIONS" --messages 10 --concurrency 25 --timeout-ms 20000
        result["$kind $address"]=$REPLY
        queued["$kind $address"]=$(($(kernel_queued lb201) - before))
    done
done

syns=$(witness lb201 syn) again=$(witness lb201 syn_again)
say ""
printf '  %-4s  %-15s %8s %8s %8s %10s %8s\n' "" to opened failed lost "answered by" queued
for key in "connect $VIP4:$PORT" "connect [$VIP6]:$PORT" "udp $VIP4:$PORT" "udp [$VIP6]:$PORT"; do
    file=${result[$key]}
    kind=TCP
    [[ $key == connect* ]] || kind=UDP
    printf '  %-4s  %-15s %8d %8d %8d %8d/%d %9d\n' "$kind" "${key#* }" "$(jq '.opened // .flows' "$file")" \
        "$(jq '.failed // 0' "$file")" "$(jq .lost "$file")" "$(servers_used "$file")" "$SERVERS" "${queued[$key]}"
done
say ""
say "  connections and flows by backend"
bars "${result[@]}"
say ""

expect_eq "flows that failed or were lost" "$(($(total failed "${result[@]}") + $(total lost "${result[@]}")))" 0
expect_eq "backends used" "$(servers_used "${result[@]}")" "$SERVERS"
expect_eq "first SYNs at the balancer" "$((syns - again))" "$((2 * CONNECTIONS))"
expect_eq "packets queued for TCP (connections, and $again SYNs sent again)" \
    "$((queued["connect $VIP4:$PORT"] + queued["connect [$VIP6]:$PORT"]))" "$syns"
expect_eq "packets queued for UDP" "$((queued["udp $VIP4:$PORT"] + queued["udp [$VIP6]:$PORT"]))" "$((2 * CONNECTIONS))"
expect_eq "packets queued, as lbd counts them" "$(statistic lb201 queued)" "$(kernel_queued lb201)"
expect_eq "packets dropped by lbd" "$(statistic lb201 dropped)" 0
expect_eq "replies that passed the balancer" "$(witness lb201 from_vip)" 0
