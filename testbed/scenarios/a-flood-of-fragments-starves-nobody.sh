# shellcheck shell=bash
# proves: fragments that never become whole, from 1 source and from 10000, fill the table to its limits; others are served
#
# All limits are small here, so that the flood, which is small too, reaches them. It consists of first and of later
# fragments. In IPv6 a source is a /64: the flood has many, the others share one. Meanwhile TCP and whole UDP
# lose nothing, and of other sources' fragmented datagrams 95 % arrive. The backends get the flood's first fragments too;
# that they can bear them is the business of their own limits, which are raised.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic tun
# captures: no
# limit_s: 600

ENTRIES=1000 ENTRIES_PER_SOURCE=150 HELD_PACKETS=400 HELD_BYTES=400000 HELD_BYTES_PER_SOURCE=60000
{
    web_config lb201 gre
    config_table fragments 'ttl_ms = 5000' "entries = $ENTRIES" "entries_per_source = $ENTRIES_PER_SOURCE" \
        "held_packets = $HELD_PACKETS" "held_bytes = $HELD_BYTES" "held_bytes_per_source = $HELD_BYTES_PER_SOURCE"
} > lb201.toml
balancers_up lb201
for ((n = 1; n <= SERVERS; n++)); do
    settings "s$n" net.ipv4.ipfrag_high_thresh=67108864 net.ipv6.ip6frag_high_thresh=67108864 \
        net.ipv4.ipfrag_time=5 net.ipv6.ip6frag_time=5
done

# A line a moment: entries, fragments held, their bytes, and lbd's memory in KiB.
memory() { sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/${LBD_PID[lb201]}/status"; }
levels() {
    printf '%s %s\n' "$(lbctl_in lb201 stats --json |
        gojq --raw-output '.fragments | "\(.entries) \(.held_packets) \(.held_bytes)"')" "$(memory)"
}
watch_levels() { until [[ -e $1.enough ]]; do levels >> "$1.levels"; sleep 0.5; done; }
most() { awk -v column="$2" '$column > most { most = $column } END { print most + 0 }' "$1.levels"; }

# flood NAME SOURCES RATE FRAGMENTS: two floods, IPv4 and IPv6, each of that rate. While they go on, and until there were
# so many fragments, others are served.
flood() {
    local name=$1 sources=$2 rate=$3 fragments=$4 family address cidr before watcher vip flood
    before=$(witness lb201 fragment)
    for vip in "4 $VIP4:$PORT 50.0.128.0/18" "6 [$VIP6]:$PORT 2000:1::/48"; do
        read -r family address cidr <<< "$vip"
        ip netns exec client traffic fragments --address "$address" --source-cidr "$cidr" --incomplete both --sources "$sources" \
            --rate "$rate" --seconds 3600 --json </dev/null > "$name-$family.json" 2> "$name-$family.err" &
        FLOODS+=($!)
    done
    STARTED+=("${FLOODS[@]}")
    watch_levels "$name" &
    watcher=$!
    STARTED+=("$watcher")
    under_way() { (($(witness lb201 fragment) >= before + 1000)); }
    wait_until 60 "the flood is under way" under_way

    connect_all 50
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to udp "$address" --flows 50 --messages 4 --concurrency 20 --timeout-ms 20000
        expect_eq "$name: UDP flows lost to $address" "$(gojq .lost "$REPLY")" 0
        # Those that are lost are counted below, so its exit status says nothing.
        traffic_start good fragments "$address" --datagrams 200 --fragments 2-6 --concurrency 20 --timeout-ms 10000
        traffic_end good
        expect_ge "$name: fragmented datagrams to $address that arrived, of 200" "$(field good.json .messages)" 190
    done
    enough() { (($(witness lb201 fragment) >= before + fragments)); }
    wait_until 120 "the flood has sent its $fragments fragments" enough
    touch "$name.enough"
    wait "$watcher"
    for flood in "${FLOODS[@]}"; do end_process "$flood"; done
    FLOODS=()
    expect_ge "$name: times that the levels were looked at" "$(wc -l < "$name.levels")" 3
    expect_le "$name: entries, at most" "$(most "$name" 1)" "$ENTRIES"
    expect_le "$name: fragments held, at most" "$(most "$name" 2)" "$HELD_PACKETS"
    expect_le "$name: bytes of them, at most" "$(most "$name" 3)" "$HELD_BYTES"
    expect_le "$name: lbd's memory in KiB, more than before, at most" $(($(most "$name" 4) - memory_before)) 65536
}
FLOODS=()
memory_before=$(memory)
connect_all 20

flood one-source 1 250 2000 # one of each family
expect_ge "fragments refused, for their source had its share" "$(statistic lb201 drop_fragment_source)" 500
expect_le "entries of the two sources and the others" "$(most one-source 1)" $((2 * ENTRIES_PER_SOURCE + 400))

flood ten-thousand-sources 5000 125 12000 # of each family; in 5 s more than there are entries, and no more than one emulated CPU bears
expect_ge "packets forgotten to make room" "$(statistic lb201 fragment_evicted)" 100
expect_ge "held fragments that made room or whose time was over" \
    $(($(statistic lb201 drop_fragment_evicted) + $(statistic lb201 drop_fragment_expired))) 1000

nothing_held() { (($(fragment_level lb201 held_packets) == 0)); }
wait_until 60 "nothing is held any more" nothing_held
explained() { (($(fragments_unexplained lb201) == 0)); }
wait_until 20 "every fragment is explained" explained || true
expect_eq "fragments that came and that no counter explains" "$(fragments_unexplained lb201)" 0
# What the queue could not take, the kernel was left with.
lost=$(($(witness lb201 fragment) - $(statistic lb201 fragments)))
expect_le "fragments that lbd did not see" "$lost" "$(ruleset_counter lb201 fragments_unanswered)"
connect_all 20
