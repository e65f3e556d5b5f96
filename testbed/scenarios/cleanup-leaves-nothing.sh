# shellcheck shell=bash
# proves: lbd --cleanup removes devices, rules, routes and ruleset of every encapsulation, and nothing of other programs
#
# Other people's things that look alike are there before: an nft table, a rule, a route and a tunnel.
# topology: dsr:servers=2
# needs: queue conntrack gre ip6gre ipip
# limit_s: 200

{
    config_balancer lb201
    n=0
    for encap in gre ip6gre direct ipip; do
        n=$((n + 1))
        config_service "$encap" "10.0.0.$n/32" "tcp udp" "$PORT"
        config_servers 1 2 "$encap"
    done
} > lb201.toml
batch lb201 <<'IP'
link add mine type gre local 192.168.1.201 remote 192.168.1.99
link set mine up
route add 172.16.0.0/24 dev mine table 77
rule add fwmark 0x10000/0xff0000 lookup 77 priority 7777
IP
in_ns lb201 nft 'add table inet mine; add chain inet mine c { type filter hook prerouting priority 5; }; add rule inet mine c counter'
kernel_state lb201 > before.txt

balancer_start lb201 lb201.toml
kernel_state lb201 > running.txt
expect_ge "lines in which lbd differs from nothing" "$(comm -13 <(sort before.txt) <(sort running.txt) | wc -l)" 30
# A tunnel that was renamed is known by its alias. It must be down for that on Linux 6.1, and lbd may set it up again between.
rename() {
    local try
    for ((try = 0; try < 20; try++)); do
        ! printf 'link set sr-1 %s\n' down 'name astray' | batch lb201 || return 0
    done
    return 1
}
expect_ok "sr-1 is renamed" rename
made_anew() { in_ns lb201 ip link show sr-1 && ! in_ns lb201 ip link show astray; } > /dev/null 2>&1
wait_until 60 "lbd has removed it, and made sr-1 anew" made_anew
balancer_stop lb201
expect_ok "sr-1 is renamed, and no lbd is there" rename
expect_ok "lbd --cleanup" in_ns lb201 timeout 60 lbd --cleanup --config lb201.toml --shm lb201
kernel_state lb201 > after.txt
expect_same "nothing is left, and nothing of others is gone" before.txt after.txt
expect_ok "lbd --cleanup again, with nothing to do" in_ns lb201 timeout 60 lbd --cleanup --config lb201.toml --shm lb201
