# shellcheck shell=bash
# proves: packets that another program's rule sends to lbd's queues pass as they came, and are counted; by default nobody else has these queues
#
# Queue 0 is the default of most programs: suricata, and most examples of firewall rules. A rule whose program is not there hands its
# packets to any program that listens.
# topology: dsr:servers=1
# needs: queue nft_queue conntrack gre traffic
# limit_s: 200

web_up gre
start_in router answers.log answers.log python3 -SIc 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("192.168.2.254", 53))
while 1:
    d, a = s.recvfrom(9999); s.sendto(d, a)'
# asked BYTES: how many of 5 questions of so many bytes are answered, which lb201 itself asks
asked() { in_ns lb201 python3 -SIc 'import socket, sys
n = 0
for k in range(5):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
    s.sendto(b"q" * int(sys.argv[1]), ("192.168.2.254", 53))
    try: n += len(s.recv(9999)) == int(sys.argv[1])
    except OSError: pass
print(n)' "$1"; }
all_are() { [[ $(asked 20) == 5 ]]; }
wait_until 30 "the balancer's own questions are answered" all_are
for queue in 20200 20199; do
    before=$(statistic lb201 foreign)
    in_ns lb201 nft "table inet other { chain out { type filter hook output priority 0
        udp dport 53 meta mark set 0x3 queue flags bypass to $queue; }
        chain later { type filter hook output priority 1; udp dport 53 meta mark 0x3 counter; }; }"
    expect_eq "answered, with a rule to queue $queue" "$(asked 20)" 5
    expect_eq "answered, with 3000 bytes" "$(asked 3000)" 5
    expect_ge "counted" "$(($(statistic lb201 foreign) - before))" 10
    expect_ge "with their mark as it came" "$(in_ns lb201 nft list chain inet other later | grep -oP 'packets \K[0-9]+')" 10
    in_ns lb201 nft delete table inet other
done
expect_eq "packets dropped" "$(statistic lb201 dropped)" 0
connect_all 10
