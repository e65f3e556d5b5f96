# shellcheck shell=bash
# proves: SYNs that nobody completes are steered without conntrack state, and connections of others are served meanwhile
#
# 5000 bare SYNs from as many ports to a port where the servers listen. Only the handshake's third packet makes an entry.
# topology: dsr:servers=2
# needs: queue conntrack gre traffic python3
# limit_s: 240

web_up gre
cat > flood.py <<'PYTHON'
import socket, struct, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
vip = socket.inet_aton("10.0.0.0")
for n in range(5000):
    # Addresses of nobody: the client's network would answer the SYN-ACK with a reset.
    source = struct.pack(">BBBB", 50, 0, 200 + n // 2500, n % 250)
    tcp = struct.pack(">HHIIBBHHH", 1024 + n, 5001, n, 0, 5 << 4, 2, 1000, 0, 0)
    pseudo = source + vip + struct.pack(">BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
    if n % 20 == 0:
        time.sleep(0.02)  # what comes faster than it is carried on is dropped by the links between
    raw.sendto(struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + source + vip + tcp, ("10.0.0.0", 0))
PYTHON
# The client answers no SYN-ACK for those, as a forged source would not.
in_ns client nft 'add table inet forged; add chain inet forged c { type filter hook prerouting priority -500; };
    add rule inet forged c ip daddr 50.0.200.0/22 drop'
before=$(in_ns lb201 conntrack --count)
in_ns client python3 flood.py &
flood=$!
STARTED+=("$flood")
connect_all 50
wait "$flood"
expect_ge "SYNs seen" "$(witness lb201 syn)" 5100
expect_le "conntrack entries more than before, of 100 connections" "$(($(in_ns lb201 conntrack --count) - before))" 130
