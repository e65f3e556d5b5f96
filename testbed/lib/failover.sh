# shellcheck shell=bash
# Balancers that fail and come back under load, and what became of each flow, seen from outside of the balancers' own word.
#
#   tier_up LB...            lbd, backends and servers of "web"; the balancers that have routes are UP
#   flows_up N, flows_down   N flows each of TCP and UDP over IPv4 and IPv6; their reports are tcp4.json and so on
#   fails LB, returns LB     its power goes, with lbd and all that the kernel knew; it boots, and lbd starts from its file
#   cut_off LB, mended LB    its cables are pulled and put back; it runs on, and keeps what it knew
#
# Each of the four takes the router's routes along, as a routing daemon with BFD would: away after some packets have been
# sent to a balancer that is gone, back when lbd is ready. So flows move, and not only those of the balancer in question:
# Linux spreads by thresholds of the hash, and other thresholds move flows between those that stay.
#
# Files, a line a flow, sorted; a flow is a word like tcp,50.0.0.1,4000:
#   flows           those that are watched, and live        place    FLOW LB: who had it last
#   EVENT.moved     FLOW FROM TO: those that came to another balancer then
# Flows from 50.0.128.0/17 are not watched.
# The table "passages" counts the packets of each flow at each balancer, before the flowtable takes any: the one whose count grows
# has the flow.

UP=()
FLOW_KINDS=(tcp4 tcp6 udp4 udp6)

tier_up() { # LB...
    UP=("$@")
    balancers_up "$@"
    passages_up "$@"
}
passages_up() { # LB...
    local lb
    for lb; do
        in_ns "$lb" nft -f - <<'NFT'
table netdev passages {
    set flows4 { type inet_proto . ipv4_addr . inet_service; size 65535; flags dynamic; counter; }
    set flows6 { type inet_proto . ipv6_addr . inet_service; size 65535; flags dynamic; counter; }
    chain arrive {
        type filter hook ingress device eth2 priority -500; policy accept
        meta pkttype != host accept # what is for a balancer that is gone comes to all ports
        ip saddr 50.0.128.0/17 accept
        ip daddr 10.0.0.0/24 add @flows4 { meta l4proto . ip saddr . th sport }
        ip6 daddr 1000::/112 add @flows6 { meta l4proto . ip6 saddr . th sport }
    }
}
NFT
    done
}
# passages FILE: lines LB FLOW PACKETS, of the balancers that are up
passages() {
    local lb
    for lb in "${UP[@]}"; do
        # With numbers: nft looks up the name of each element's protocol in a file, which takes longer than all the rest.
        in_ns "$lb" nft --numeric list table netdev passages |
            awk -v lb="$lb" 'BEGIN { RS = "[,{}]"; name[6] = "tcp"; name[17] = "udp" }
                $1 in name && $7 == "packets" { print lb, name[$1] "," $3 "," $5, $8 }'
    done > "$1"
}
# came BEFORE AFTER: FLOW LB, for the packets that came between two files of passages
came() { awk 'NR == FNR { n[$1, $2] = $3; next } $3 > n[$1, $2] { print $2, $1 }' "$1" "$2" | sort; }
# flows_up N: each has a round trip every six seconds. A datagram that is lost stays lost, three in a row are a lost flow.
flows_up() {
    local kind address options flows=$1
    : > events
    for kind in "${FLOW_KINDS[@]}"; do
        address=$VIP4:$PORT options=(--timeout-ms 30000)
        [[ $kind != *6 ]] || address="[$VIP6]:$PORT"
        [[ $kind != udp* ]] || options=(--udp --timeout-ms 10000)
        traffic_start "$kind" hold "$address" --connections "$flows" --concurrency 20 --interval-ms 6000 --seconds 900 \
            --ready-file "$kind.ready" --until-file flows.end --event-file events --sample-ms 500 "${options[@]}"
    done
    for kind in "${FLOW_KINDS[@]}"; do
        wait_until 90 "the flows '$kind' are open" test -s "$kind.ready"
        expect_eq "flows '$kind' that are open" "$(gojq .opened "$kind.ready")" "$flows"
    done
    passages opened
    awk '{ print $2, $1 }' opened | sort > place
    cut -d ' ' -f 1 place > flows
    expect_eq "flows that the balancers saw, each at one of them" "$(uniq flows | wc -l) $(wc -l < flows)" "$((4 * flows)) $((4 * flows))"
}
# flows_down: what became of each is in the file `ended`: FLOW SERVER EVENT, the event at which it was lost, or "-".
flows_down() {
    local kind
    touch flows.end
    for kind in "${!TRAFFIC_PID[@]}"; do
        traffic_end "$kind"
        in_ns "$CLIENT" traffic graph "$kind.json" -o "$kind.svg"
    done
    for kind in "${FLOW_KINDS[@]}"; do
        gojq --raw-output --arg protocol "${kind%[46]}" '.events as $events | .connections[] | .lost_at as $at |
            (.source | capture("^\\[?(?<address>.*?)\\]?:(?<port>[0-9]+)$")) as $from |
            (if $at then [$events[] | select(.seconds <= $at)] | last.name // "opening" else "-" end | gsub(" "; "-")) as $event |
            "\($protocol),\($from.address),\($from.port) \(.server) \($event)"' "$kind.json"
    done | sort > ended
}

fails() { # LB
    step "$1 fails, and lbd, links and connection tracking with it"
    watch_gap "$1"
    happens "$1 fails"
    balancer_kill "$1"
    power_off "$1"
    withdrawn "$1" "$1 fails"
}
returns() { # LB
    step "$1 boots, and returns"
    power_on "$1"
    witness_up "$1"
    passages_up "$1"
    balancer_start "$1" "$1.toml"
    announced "$1" "$1 returns"
}
cut_off() { # LB
    step "$1 is cut off, and runs on"
    watch_gap "$1"
    happens "$1 is cut off"
    plug_out "$1"
    withdrawn "$1" "$1 is cut off"
}
mended() { # LB
    step "$1 is reached again"
    plug_in "$1"
    announced "$1" "$1 is reached again"
}
happens() { echo "$1" >> events; }
# watch_gap LB: what the router sends to it is counted.
watch_gap() {
    in_ns router nft -f - <<NFT
add table inet gap
delete table inet gap
table inet gap {
    counter sent { }
    chain leave {
        type filter hook postrouting priority 0; policy accept
        rt ip nexthop 192.168.2.${1#lb} counter name sent
        rt ip6 nexthop fd00:0:0:2::${1#lb} counter name sent
    }
}
NFT
    passages before
}
# withdrawn LB EVENT: its routes go as soon as some packets were sent to where it was.
withdrawn() {
    local sent other staying=()
    sent=$(sent)
    wait_until 20 "packets are sent to where $1 was" sent_to_nobody $((sent + 20))
    for other in "${UP[@]}"; do [[ $other == "$1" ]] || staying+=("$other"); done
    reroutes "$2" "${staying[@]}"
    expect_ge "$2: packets sent to it before its routes were withdrawn" "$(($(sent) - sent))" 20
}
sent() { counter_of router gap sent; }
sent_to_nobody() { (($(sent) >= $1)); }
announced() { # LB EVENT
    UP+=("$1")
    passages before
    happens "$2"
    reroutes "$2" "${UP[@]}"
}

# reroutes EVENT LB...: the router spreads over these; returns when every flow has been seen since.
reroutes() {
    local event=$1
    shift
    UP=("$@")
    route_vips "$@"
    passages after
    wait_until 120 "every flow was seen again (a lost one is not)" all_seen
    mv moved "${event// /-}.moved"
    # Where it was seen since; one that broke at once was seen on its way only.
    cut -d ' ' -f 1,3 "${event// /-}.moved" | cat - seen |
        awk 'NR == FNR { at[$1] = $2; next } { print $1, ($1 in at ? at[$1] : $2) }' - place > place.new
    mv place.new place
}
all_seen() {
    passages now
    came after now | join flows - > seen
    came before now | join flows - | join place - | awk '$2 != $3' > moved
    [[ -z $(cat seen moved | cut -d ' ' -f 1 | sort -u | comm -23 flows -) ]]
}
# moved_flows EVENT [FROM [TO]]: how many
moved_flows() {
    awk -v from="${2:-}" -v to="${3:-}" '(from == "" || $2 == from) && (to == "" || $3 == to) && !seen[$1]++ { n++ } END { print n + 0 }' \
        "${1// /-}.moved"
}
