# shellcheck shell=bash
# Set-ups that many scenarios start from.

PORT=5001
# web_up ENCAP [LINE...]: service "web", 10.0.0.0 and 1000::, TCP and UDP port 5001, on every server; lbd in lb201.
web_up() {
    web_config lb201 "$@" > lb201.toml
    balancers_up lb201
}
# balancers_up LB...: lbd in each by its configuration LB.toml, then backends and servers of "web".
balancers_up() {
    local lb
    witness_up "$@"
    step "lbd on $*, then $SERVERS backends"
    for lb; do balancer_begin "$lb" "$lb.toml"; done
    for lb; do balancer_await "$lb"; done
    backends_up "$1" web 1 "$SERVERS"
    servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"
}
web_config() {
    local lb=$1
    shift
    config_balancer "$lb"
    web_service "$@"
}
web_service() { # ENCAP [LINE...]
    local encap=$1
    shift
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT" "$@"
    config_servers 1 "$SERVERS" "$encap"
}

# backlog PACKETS: so many may wait on the links for one emulated processor, which may not keep up with a flood, and are not dropped
# there. With --kernel host the setting is out of reach.
backlog() {
    local file=/proc/sys/net/core/netdev_max_backlog
    [[ -e $file ]] || return 0
    finally "echo $(< "$file") > $file"
    echo "$1" > "$file"
}

# connect_all CONNECTIONS [ARGUMENT...]: TCP to "web" over IPv4 and IPv6, so many each, none may fail.
connect_all() {
    local connections=$1 address
    shift
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to connect "$address" --connections "$connections" --concurrency 20 --timeout-ms 20000 "$@"
        expect_eq "TCP connections to $address, of $connections" "$(gojq .opened "$REPLY")" "$connections"
    done
}

# agreed LB KIND REPORT ADDRESS: each flow in the report is on the server that the table names. Servers are added to servers.txt.
agreed() {
    local lb=$1 kind=$2 report=$3 address=$4 vip=${4%:*}
    vip=${vip#[} vip=${vip%]}
    if [[ $kind == tcp ]]; then
        field "$report" '.connections[] | "\(.source) \(.server)"' | sed -E 's/^\[?([^]]*)\]?:([0-9]+) /\1 \2 /'
    else
        field "$report" '.served[] | "\(.source) \(.port) \(.server)"'
    fi | sort > "$report.served"
    awk -v kind="$kind" -v vip="$vip" -v port="$PORT" '{ print kind, $1, $2, vip, port }' "$report.served" > "$report.flows"
    lbctl_in "$lb" which --batch "$report.flows" | gojq --raw-output .backend |
        paste -d ' ' <(cut -d ' ' -f 1,2 "$report.served") - > "$report.which"
    expect_same "$(wc -l < "$report.served") flows of $kind to $address, each on the server that lbctl which names" "$report.which" "$report.served"
    cut -d ' ' -f 3 "$report.served" >> servers.txt
}

# forge_syns N: N bare SYNs to "web" over IPv4, up to 10000, from as many addresses and ports without a client, in the background:
# it sets BACKGROUND. The client answers no SYN-ACK for those, as a forged source would not: it would send a reset. The
# servers do not repeat theirs, so that this is over when it is over.
forge_syns() {
    local n
    for ((n = 1; n <= SERVERS; n++)); do settings "s$n" net.ipv4.tcp_synack_retries=0; done
    in_ns "$CLIENT" nft 'add table inet forged; add chain inet forged c { type filter hook prerouting priority -500; };
        add rule inet forged c ip daddr 50.0.200.0/22 drop'
    cat > "$WORK/forge.py" <<'PYTHON'
import socket, struct, sys, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
name, port, many = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
vip = socket.inet_aton(name)
for n in range(many):
    source = struct.pack(">BBBB", 50, 0, 200 + n // 2500, n % 250)
    tcp = struct.pack(">HHIIBBHHH", 1024 + n, port, n, 0, 5 << 4, 2, 1000, 0, 0)
    pseudo = source + vip + struct.pack(">BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
    if n % 20 == 0:
        time.sleep(0.02)  # what comes faster than it is carried on is dropped by the links between
    raw.sendto(struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + source + vip + tcp, (name, 0))
PYTHON
    background "$CLIENT" forge python3 "$WORK/forge.py" "$VIP4" "$PORT" "$1"
}

# fragments_all DATAGRAMS [ARGUMENT...]: fragmented datagrams to "web" over IPv4 and IPv6, so many each, of which none may
# be lost. Their reports are in REPLIES.
fragments_all() {
    local datagrams=$1 address
    shift
    REPLIES=()
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to fragments "$address" --datagrams "$datagrams" --concurrency 20 --timeout-ms 30000 "$@"
        expect_eq "datagrams to $address, of $datagrams sent in $(field "$REPLY" .fragments) fragments, that were answered" \
            "$(field "$REPLY" .messages)" "$datagrams"
        REPLIES+=("$REPLY")
    done
}

# demo_traffic CONNECTIONS LB...: so many flows of each kind to "web", a summary that a person can read, and what must hold:
# nothing failed, every backend was used, and each flow was queued once, at one of the balancers.
demo_traffic() {
    local connections=$1 kind address many before syns again asked key file
    local -A result=() queued=()
    shift
    syns=$(sum witness syn "$@") again=$(sum witness syn_again "$@") asked=$(sum syns_asked '' "$@")
    for kind in connect udp; do
        for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
            before=$(sum kernel_queued '' "$@")
            many=--connections
            [[ $kind == connect ]] || many=--flows
            step "$kind: $connections flows to $address"
            traffic_to "$kind" "$address" $many "$connections" --messages 10 --concurrency 25 --timeout-ms 20000
            result["$kind $address"]=$REPLY
            queued["$kind $address"]=$(($(sum kernel_queued '' "$@") - before))
        done
    done
    syns=$(($(sum witness syn "$@") - syns)) again=$(($(sum witness syn_again "$@") - again))
    asked=$(($(sum syns_asked '' "$@") - asked))

    say ""
    printf '  %-4s  %-15s %8s %8s %8s %10s %8s\n' "" to opened failed lost "answered by" queued
    for key in "connect $VIP4:$PORT" "connect [$VIP6]:$PORT" "udp $VIP4:$PORT" "udp [$VIP6]:$PORT"; do
        file=${result[$key]}
        kind=TCP
        [[ $key == connect* ]] || kind=UDP
        printf '  %-4s  %-15s %8d %8d %8d %8d/%d %9d\n' "$kind" "${key#* }" "$(gojq '.opened // .flows' "$file")" \
            "$(gojq '.failed // 0' "$file")" "$(gojq .lost "$file")" "$(servers_used "$file")" "$SERVERS" "${queued[$key]}"
    done
    say ""
    say "  connections and flows by backend"
    bars "${result[@]}"
    say ""

    expect_eq "flows that failed or were lost" "$(($(total failed "${result[@]}") + $(total lost "${result[@]}")))" 0
    expect_eq "backends used" "$(servers_used "${result[@]}")" "$SERVERS"
    expect_eq "first SYNs" "$((syns - again))" "$((2 * connections))"
    expect_eq "packets queued for TCP (connections, and some of $again SYNs sent again)" \
        "$((queued["connect $VIP4:$PORT"] + queued["connect [$VIP6]:$PORT"]))" "$asked"
    expect_eq "packets queued for UDP" "$((queued["udp $VIP4:$PORT"] + queued["udp [$VIP6]:$PORT"]))" "$((2 * connections))"
    expect_eq "packets queued, as lbd counts them" "$(sum statistic queued "$@")" "$(sum kernel_queued '' "$@")"
    expect_eq "packets dropped by lbd" "$(sum statistic dropped "$@")" 0
}
# sum WHAT NAME LB...: what "WHAT LB NAME" says, added up over balancers
sum() {
    local what=$1 name=$2 lb added=0
    shift 2
    for lb; do added=$((added + $("$what" "$lb" "$name"))); done
    echo "$added"
}
