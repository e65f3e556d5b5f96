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
    for lb; do balancer_start "$lb" "$lb.toml"; done
    backends_up "$1" web 1 "$SERVERS"
    servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"
}
web_config() {
    local lb=$1 encap=$2
    shift 2
    config_balancer "$lb"
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT" "$@"
    config_servers 1 "$SERVERS" "$encap"
}

# connect_all CONNECTIONS [ARGUMENT...]: TCP to "web" over IPv4 and IPv6, so many each, none may fail.
connect_all() {
    local connections=$1 address
    shift
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to connect "$address" --connections "$connections" --concurrency 20 --timeout-ms 20000 "$@"
        expect_eq "TCP connections to $address, of $connections" "$(jq .opened "$REPLY")" "$connections"
    done
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
