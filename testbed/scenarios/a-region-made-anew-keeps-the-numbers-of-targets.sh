# shellcheck shell=bash
# proves: a region lost or made anew, by lbd or by lbctl, moves no open flow; what was a VIP and the rest of its prefix do not loop
#
# The backends have changed in the course of time, so their numbers, which open flows carry, are not those of the file's order.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# limit_s: 200

{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_backend s0 192.168.1.9 gre
    config_servers 1 2 gre
    config_servers 3 3 direct6
} > lb201.toml
balancer_start lb201 lb201.toml
backends_up lb201 web 1 3
servers_up 1 3 "$VIP4:$PORT" "[$VIP6]:$PORT"
{
    config_balancer lb201 'blackhole = ["10.0.0.0/24", "1000::/112"]'
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers 1 2 gre
    config_servers 3 3 direct6
} > lb201.toml
change lb201 apply "$WORK/lb201.toml"
wait_until 20 "lbd has taken it over" taken_over lb201
marks() { lbctl_in lb201 backends --json | gojq -c '[.. | objects | select(has("number") and has("name")) | {(.name): .number}] | add'; }
before=$(marks)
hold_start held "$VIP4:$PORT" 60
hold_start held6 "[$VIP6]:$PORT" 60

balancer_stop lb201
lbctl_in lb201 clean > clean.log
balancer_start lb201 lb201.toml
expect_eq "marks after the region was lost" "$(marks)" "$before"
lbctl_in lb201 clean --force >> clean.log 2>&1 || rm -f /dev/shm/lb201
change lb201 apply "$WORK/lb201.toml"
wait_until 30 "lbd follows the region that lbctl made" taken_over lb201
expect_eq "marks after lbctl made the region anew" "$(marks)" "$before"
hold_end held
hold_end held6

# Each packet that comes in once is counted once; one that goes round comes again until its TTL ends.
came_in() { ip -netns lb201 -stats -json link show eth2 | gojq '.[0].stats64.rx.packets'; }
round() { # WHAT ADDRESS: ten packets
    local before
    before=$(came_in)
    in_ns client bash -c 'for ((n = 0; n < 10; n++)); do echo > "/dev/udp/$1/9"; done' round "$2"
    came_at_least() { (($(came_in) >= before + 10)); }
    wait_until 10 "ten packets came in" came_at_least
    sleep 0.5
    expect_le "packets that came in for ten to $1" "$(($(came_in) - before))" 30
}
round "an address of the routed prefix that is no VIP" 10.0.0.77
round "one in IPv6" 1000::77
# Without the configured prefixes only what was a VIP is kept.
sed -e '/^blackhole/d' -e "s|$VIP4/32|10.0.0.9/32|" lb201.toml > other.toml
change lb201 apply "$WORK/other.toml"
wait_until 20 "lbd has taken it over" taken_over lb201
round "what was a VIP" "$VIP4"
expect_eq "blackhole routes" "$(ip -netns lb201 -4 route show type blackhole | awk '{ print $2 }' | sort | paste -sd ' ')" "10.0.0.0 10.0.0.9"
expect_grep "lbd says so" 'VIPs no more' lb201.lbd.log
