# shellcheck shell=bash
# Set-ups that many scenarios start from.

PORT=5001
# web_up ENCAP [LINE...]: service "web", 10.0.0.0 and 1000::, TCP and UDP port 5001, on every server; lbd in lb201.
web_up() {
    web_config lb201 "$@" > lb201.toml
    witness_up lb201
    balancer_start lb201 lb201.toml
    backends_up lb201 web 1 "$SERVERS"
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
