# shellcheck shell=bash
# proves: ICMP errors about tunnel packets, forged or of an absent backend, fail no connection, and lower a path MTU no further than pmtu_floor
#
# Forged ones come from the client, in whose name does not matter: they quote a packet from the balancer to a backend. Of
# the backends s1 and s2 are reached by GRE over IPv4, s3 and s4 by GRE over IPv6.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic
# limit_s: 400

{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers 1 2 gre
    for n in 3 4; do config_backend "s$n" "fd00:0:0:1::$n" gre; done
} > lb201.toml
balancers_up lb201
in_ns client nft -f - <<'NFT'
table inet told {
    counter unreachable { }
    chain arrive {
        type filter hook prerouting priority -500; policy accept
        icmp type destination-unreachable icmp code != frag-needed counter name unreachable
        icmpv6 type destination-unreachable counter name unreachable
    }
}
NFT
cat > forge.py <<'PYTHON'
import socket, struct, sys
kind, many = sys.argv[1], int(sys.argv[2])
mtu = int(kind) if kind.isdigit() else 0
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def icmp4(code, backend):
    ends = socket.inet_aton("192.168.1.201") + socket.inet_aton(f"192.168.1.{backend}")
    quoted = struct.pack(">BBHHHBBH", 0x45, 0, 1400, 0, 0x4000, 60, 47, 0) + ends + struct.pack(">HH8x", 0, 0x0800)
    message = struct.pack(">BBHHH", 3, code, 0, 0, mtu) + quoted
    message = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0)
    return head + socket.inet_aton("50.0.77.7") + socket.inet_aton("192.168.1.201") + message
def icmp6(type, backend):
    ends = [socket.inet_pton(socket.AF_INET6, f"fd00:0:0:1::{n}") for n in ("201", str(backend))]
    quoted = struct.pack(">IHBB", 6 << 28, 1400, 47, 60) + b"".join(ends) + struct.pack(">HH8x", 0, 0x86dd)
    return struct.pack(">BBHI", type, 0, 0, mtu) + quoted
for _ in range(many):
    for backend in (1, 2):
        raw.sendto(icmp4(4 if mtu else 1, backend), ("192.168.1.201", 0))
    for backend in (3, 4):
        six.sendto(icmp6(2 if mtu else 1, backend), ("fd00:0:0:1::201", 0))
PYTHON
counted_since() { (($(ruleset_counter lb201 "$1") >= $2)); }
# forge KIND MANY COUNTER: so many of them about each backend, which the ruleset has met
forge() {
    local before
    before=$(ruleset_counter lb201 "$3")
    in_ns client /usr/bin/python3 "$WORK/forge.py" "$1" "$2"
    wait_until 20 "forged errors have come" counted_since "$3" $((before + 4 * $2))
}
# learned: path MTUs that the balancer has learned, of all backends
learned() {
    local n
    for n in 1 2; do ip -netns lb201 route get "192.168.1.$n"; done | grep -o 'mtu [0-9]*' || true
    for n in 3 4; do ip -netns lb201 -6 route get "fd00:0:0:1::$n"; done | grep -o 'mtu [0-9]*' || true
}
told() { counter_of client told unreachable; }

connect_all 10
forge unreachable 30 tunnel_error
connect_all 20
for mtu in 68 552 1279; do forge "$mtu" 1 tunnel_too_big_refused; done
expect_eq "path MTUs that forged errors below the floor have lowered" "$(learned)" ""
connect_all 10 --message-bytes 1000
forge 1280 1 tunnel_too_big
expect_eq "path MTUs after errors that say the floor" "$(learned | sort | uniq -c | xargs)" "4 mtu 1280"
connect_all 10 --message-bytes 1000

# Two backends go: their neighbour entries too. A client sends on.
for n in 1 3; do ip -netns fabric link set "s$n-eth1" down; done
ip -netns lb201 -4 neigh flush dev eth1
ip -netns lb201 -6 neigh flush dev eth1
background client sender /usr/bin/python3 -c 'import socket, time
sockets = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6) for _ in range(20)]
while True:
    for s in sockets:
        try: s.sendto(b"x", ("10.0.0.0" if s.family == socket.AF_INET else "1000::", 5001))
        except OSError: pass
    time.sleep(0.3)'
sender=$BACKGROUND errors=$(ruleset_counter lb201 tunnel_error)
wait_until 60 "the kernel has told its own tunnels that neighbours are away" counted_since tunnel_error $((errors + 12))
for n in 1 3; do ip -netns fabric link set "s$n-eth1" up; done
wait_until 20 "s1 is back" ip netns exec lb201 busybox ping -c 1 -W 1 192.168.1.1
wait_until 20 "s3 is back" ip netns exec lb201 busybox ping -6 -c 1 -W 1 fd00:0:0:1::3
connect_all 40
kill_started "$sender"
expect_eq "ICMP errors that told the client that a VIP is unreachable" "$(told)" 0
