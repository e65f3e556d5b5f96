# shellcheck shell=bash
# proves: a table of another program's that nft cannot read stops neither start nor change, stats, --once or --cleanup; rules that drop are told
#
# Newer versions of nft write what nft 1.0.6 cannot read: it dies then, whatever it is asked for. A container with its own
# nft is enough. lbd reads and changes its own table alone, by netlink. A base chain of another program's that drops what
# no rule accepts is named in the log.
# topology: dsr:servers=2
# needs: queue conntrack traffic python3
# limit_s: 200

{
    config_balancer lb201
    config_service web "$VIP4/32" tcp "$PORT"
    config_servers 1 "$SERVERS" direct
} > lb201.toml
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT"
in_ns lb201 nft 'add table inet fw; add chain inet fw guard { type filter hook forward priority 10; policy drop; }; add rule inet fw guard accept'
# A set whose user data, which nft prints it by, names a constant as its key (kind 4).
cat > foreign.py <<'PYTHON'
import socket, struct
def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
def message(kind, family, resource, flags, body=b""):
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, 1 | flags, 1, 0, family, 0, socket.htons(resource)) + body
number = lambda kind, value: attribute(kind, struct.pack(">I", value))
userdata = bytes([0, 4, 2, 0, 0, 0, 3, 14, 0, 4, 4, 0, 0, 0, 1, 6, 0, 4, 7, 0, 0, 0])
table = attribute(1, b"other\0")
hosts = table + attribute(2, b"hosts\0") + number(4, 7) + number(5, 4) + number(10, 1) + attribute(13, userdata)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
netlink.send(message(16, 0, 10, 0) + message(10 << 8, 2, 0, 0x400, table) +
             message(10 << 8 | 9, 2, 0, 0x404, hosts) + message(17, 0, 10, 0))
error = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
raise SystemExit(f"refused: {error}" if error else 0)
PYTHON
expect_ok "another program makes a table" in_ns lb201 python3 foreign.py
if in_ns lb201 nft list ruleset > /dev/null 2>&1; then note "this nft can read it"; else note "nft dies of it"; fi

balancer_kill lb201
balancer_start lb201 lb201.toml
traffic_to connect "$VIP4:$PORT" --connections 20 --concurrency 5 --timeout-ms 20000
expect_eq "TCP connections, of 20" "$(gojq .opened "$REPLY")" 20
expect_grep "lbd names the chain that drops" 'WARN.*chain guard of table inet fw, hook forward' lb201.lbd.log
change lb201 deactivate --service web s1
wait_until 60 "lbd has taken over the change" taken_over lb201
traffic_to connect "$VIP4:$PORT" --connections 20 --concurrency 5 --timeout-ms 20000
expect_eq "new connections to s1, which is out of service" "$(gojq '.servers.s1 // 0' "$REPLY")" 0
expect_ok "lbctl stats" lbctl_in lb201 stats > stats.txt
expect_grep "lbctl stats has the ruleset's counters" 'restored' stats.txt
expect_eq "errors in lbd's log" "$(grep -c ERROR lb201.lbd.log || true)" 0
balancer_stop lb201
change lb201 activate --service web s1
expect_ok "lbd --once" in_ns lb201 timeout 60 lbd --once --shm lb201
expect_ok "lbd --cleanup" in_ns lb201 timeout 60 lbd --cleanup --shm lb201 > cleanup.txt
expect_grep "the ruleset was removed" 'synrail' cleanup.txt
