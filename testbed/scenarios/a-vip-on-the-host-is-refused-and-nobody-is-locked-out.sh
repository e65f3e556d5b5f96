# shellcheck shell=bash
# proves: VIPs that are addresses of the host are refused at start and by apply, and told when they come later; the host's own addresses in a prefix stay its own
#
# A local address is the kernel's to deliver, whatever mark a packet has: announcing daemons that put VIPs on lo take all
# traffic away. And a prefix of VIPs that has the host's address in it would keep its operator out.
# topology: dsr:servers=1
# needs: queue conntrack gre traffic
# limit_s: 300

web_up gre
start_in lb201 host.log host.log python3 -SIc 'import socket
s = socket.create_server(("192.168.2.201", 2222))
while 1:
    c, _ = s.accept(); c.sendall(b"hello"); c.close()'
reached() { [[ $(in_ns router python3 -SIc 'import socket
print(socket.create_connection(("192.168.2.201", 2222), 4).recv(9).decode())') == hello ]]; }
wait_until 30 "the host answers at its own address" reached
sed 's|"10.0.0.0/32"|"10.0.0.0/32", "192.168.2.0/24"|' lb201.toml > prefix.toml
sed 's|"10.0.0.0/32"|"10.0.0.0/32", "192.168.2.201"|' lb201.toml > exact.toml
for file in prefix exact; do
    expect_refused "lbd --check --host, $file" 'error: VIP 192.168.2.*192.168.2.201|error: VIP 192.168.2.201.* of this host' \
        in_ns lb201 lbd --config $file.toml --check --host
    expect_refused "lbctl apply, $file" 'VIP 192.168.2.* of this host' lbctl_in lb201 apply $file.toml
    expect_ok "the host answers at its own address" reached
done
sed 's|^interfaces|allow_own_addresses = true\n&|' prefix.toml > allowed.toml
change lb201 apply allowed.toml
wait_until 30 "it is in force" taken_over lb201
expect_ok "with allow_own_addresses the host answers at its own address" reached
connect_all 10
change lb201 apply lb201.toml

ip -netns lb201 addr add "$VIP4/32" dev lo
status=0
lbctl_in lb201 check > check.txt || status=$?
expect_eq "exit status of lbctl check" "$status" 2
expect_grep "lbctl check names device and way out" "VIP $VIP4/32 is an address of this host, on lo.*ip address del" check.txt
lbctl_in lb201 which tcp 50.0.0.1 4000 "$VIP4" "$PORT" > which.txt 2>&1
expect_grep "lbctl which warns" 'warning: .* of this host, on lo' which.txt
is_told() { sed 's/\x1b\[[0-9;]*m//g' lb201.lbd.log > told.log && grep -qE "$1" told.log; }
wait_until 40 "lbd tells at ERROR level" is_told "ERROR .*VIP $VIP4/32"
balancer_stop lb201
expect_refused "lbd does not start" "VIP $VIP4/32 is an address of this host, on lo" \
    in_ns lb201 timeout 60 lbd --config lb201.toml --shm lb201
ip -netns lb201 addr del "$VIP4/32" dev lo
balancer_start lb201 lb201.toml
connect_all 10
