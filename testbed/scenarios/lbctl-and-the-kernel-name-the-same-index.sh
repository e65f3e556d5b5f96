# shellcheck shell=bash
# proves: for 1000 random 5-tuples, IPv4 and IPv6, TCP and UDP, lbctl which and an nft jhash rule name the same index
#
# The client sends a packet for each tuple. In the balancer an nft rule puts jhash of the tuple, modulo the table size,
# into the packet's mark, keeps source and mark in a set, and drops the packet. No lbd runs: the table is read from the
# region, as lbctl apply made it. Sources are distinct, so that source address and port find the tuple again.
# topology: dsr:servers=1
# needs: nft_hash python3
# captures: no

M=65537
{
    config_balancer lb201
    config_service all "10.0.0.0/24 1000::/112" "tcp udp" "" "table_size = $M"
    config_servers 1 10 gre
} > lb201.toml
lbctl_in lb201 apply lb201.toml > apply.log

in_ns lb201 nft -f - <<NFT
table inet hash {
    set seen4 { typeof ip saddr . th sport . meta mark; size 65535; flags dynamic; }
    set seen6 { typeof ip6 saddr . th sport . meta mark; size 65535; flags dynamic; }
    chain arrive {
        type filter hook prerouting priority -500; policy accept
        meta l4proto != { tcp, udp } accept
        ip daddr 10.0.0.0/24 meta mark set jhash ip saddr . ip daddr . th sport . th dport . meta l4proto mod $M seed $HASH_SEED
        ip6 daddr 1000::/112 meta mark set jhash ip6 saddr . ip6 daddr . th sport . th dport . meta l4proto mod $M seed $HASH_SEED
        ip daddr 10.0.0.0/24 add @seen4 { ip saddr . th sport . meta mark } drop
        ip6 daddr 1000::/112 add @seen6 { ip6 saddr . th sport . meta mark } drop
    }
}
NFT

# tuples.txt: PROTO SRC SPORT DST DPORT. UDP by sockets, a bare SYN by raw ones.
cat > send.py <<'PYTHON'
import ipaddress, random, socket, struct
rng = random.Random(4)
def tuples(version):
    clients = ipaddress.ip_network("50.0.0.0/16" if version == 4 else "2000::/112")
    vips = ipaddress.ip_network("10.0.0.0/24" if version == 4 else "1000::/112")
    for n in rng.sample(range(2, 65534), 500):
        yield (rng.choice(["tcp", "udp"]), clients[n], rng.randrange(1024, 65536),
               vips[rng.randrange(min(vips.num_addresses, 65536))], rng.randrange(1, 65536))
raw = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
       6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)}
out = open("tuples.txt", "w")
for version in (4, 6):
    for proto, src, sport, dst, dport in tuples(version):
        number = 6 if proto == "tcp" else 17
        if number == 6:
            l4 = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 5 << 4, 2, 1000, 0, 0)
        else:
            l4 = struct.pack(">HHHH", sport, dport, 8, 0)
        if version == 4:
            ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4), 0, 0, 64, number, 0) + src.packed + dst.packed
        else:
            ip = struct.pack(">IHBB", 6 << 28, len(l4), number, 64) + src.packed + dst.packed
        raw[version].sendto(ip + l4, (str(dst), 0))
        print(proto, src, sport, dst, dport, file=out)
PYTHON
in_ns client python3 send.py
all_seen() { (($(kernel_says | wc -l) == 1000)); }
kernel_says() {
    local set
    for set in seen4 seen6; do
        in_ns lb201 nft --json --numeric list set inet hash "$set" |
            gojq --raw-output '.nftables[].set // empty | .elem[]? | (.elem.val // .) | .concat | "\(.[0]) \(.[1]) \(.[2])"'
    done | sort
}
wait_until 30 "the balancer has seen all tuples" all_seen
kernel_says > kernel.txt

lbctl_in lb201 which --batch tuples.txt > which.json
paste -d ' ' tuples.txt <(gojq .index which.json) | awk '{ print $2, $3, $6 }' | sort > lbctl.txt
expect_eq "tuples that lbctl which answered" "$(wc -l < lbctl.txt)" 1000
expect_same "1000 of 1000 indices agree" kernel.txt lbctl.txt
expect_ge "different indices among them" "$(awk '{ print $3 }' lbctl.txt | sort -u | wc -l)" 900
