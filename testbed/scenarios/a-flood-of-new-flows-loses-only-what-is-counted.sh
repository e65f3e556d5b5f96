# shellcheck shell=bash
# proves: new flows at full speed, TCP and UDP, lbd or the kernel deciding: no open connection is lost, lbd's memory stays, and what is lost is counted
#
# A flood is as fast as one emulated processor makes it, beside lbd and the servers.
# setting: FLOOD_SECONDS=12: how long each of them lasts
# topology: dsr:servers=2
# needs: queue conntrack gre traffic nft_hash
# captures: no
# limit_s: 600

SECONDS_EACH=${FLOOD_SECONDS:-12}
web_up gre
backlog 100000
# Packets of floods are counted where they come in, and at the servers, which do not answer them.
for ns in lb201:accept s1:drop s2:drop; do
    in_ns "${ns%:*}" nft -f - <<NFT
table inet floods {
    counter came { }
    chain arrive {
        type filter hook prerouting priority -500; policy accept
        ip saddr 60.0.0.0/8 counter name came ${ns#*:}
        ip6 saddr 3000::/16 counter name came ${ns#*:}
    }
}
NFT
done
hold_start four "$VIP4:$PORT" 40
hold_start six "[$VIP6]:$PORT" 40

came() { counter_of "$1" floods came; } # NAMESPACE
arrived() { echo $(($(came s1) + $(came s2))); }
# told: packets that are counted as dropped by our rules, the queues, connection tracking, the links
told() {
    local counter sum
    sum=$(conntrack_drops lb201)
    while read -r _ counter _; do sum=$((sum + 16#$counter)); done < /proc/net/softnet_stat
    for counter in unsteered unclaimed; do sum=$((sum + $(ruleset_counter lb201 "$counter"))); done
    echo $((sum + $(in_ns lb201 awk '{ n += $6 + $7 } END { print n + 0 }' /proc/net/netfilter/nfnetlink_queue)))
}
memory() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$(lbctl_in lb201 show --json | gojq .lbd.pid)/status"; }
none_waits() { (($(in_ns lb201 awk '{ n += $3 } END { print n + 0 }' /proc/net/netfilter/nfnetlink_queue) == 0)); }

flood() { # MODE PROTOCOL ADDRESS SOURCES
    local came here counted rss
    step "$1: new $2 flows to $3, for $SECONDS_EACH s"
    came=$(came lb201) here=$(arrived) counted=$(told)
    start_in "$CLIENT" pour.json pour.err traffic pour --address "$3" --source-cidr "$4" --protocol "$2" --duration-ms $((SECONDS_EACH * 1000))
    sleep $((SECONDS_EACH / 3))
    rss=$(memory)
    wait_until $((SECONDS_EACH * 3 + 60)) "the flood is over" process_gone "$BACKGROUND"
    wait_until 60 "no packet waits in a queue" none_waits
    sleep 1
    came=$(($(came lb201) - came)) here=$(($(arrived) - here)) counted=$(($(told) - counted))
    expect_ge "packets of the flood" "$came" $((SECONDS_EACH * 500))
    expect_le "packets lost, of $came" $((came - here)) "$counted"
    # An audit keeps what it has read of connection tracking in memory; each packet of the flood would be more.
    expect_le "lbd's resident memory since, in KiB more than $rss" $(($(memory) - rss)) 8192
    connect_all 20
}
all_floods() { # MODE
    flood "$1" tcp "$VIP4:$PORT" 60.0.0.0/12
    flood "$1" udp "[$VIP6]:$PORT" 3000::/112
}
all_floods "lbd decides"
sed 's/^name = "web"/&\nsteering = "kernel"/' lb201.toml > kernel.toml
change lb201 apply "$WORK/kernel.toml"
wait_until 30 "lbd has taken over the change" taken_over lb201
all_floods "the kernel decides"
hold_end four
hold_end six
