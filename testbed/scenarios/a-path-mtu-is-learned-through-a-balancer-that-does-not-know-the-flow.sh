# shellcheck shell=bash
# proves: "too big" errors about a download reach its server through another balancer than the flow's; pings are answered
#
# The last link to the client takes 1300 bytes. The router complains to the VIP, and all its complaints are sent to lb202,
# while the connections go through lb201. lb202 reads the quoted packet and sends the error where the flow goes. Then
# the two change places.
# topology: dsr:servers=4,balancers=2
# needs: queue conntrack gre traffic
# limit_s: 360

for lb in lb201 lb202; do web_config "$lb" gre > "$lb.toml"; done
balancers_up lb201 lb202
ip -netns router rule add pref 99 ipproto icmp table 99
ip -netns router -6 rule add pref 99 ipproto ipv6-icmp to "$VIP6/128" table 99
ip -netns router link set eth0 mtu 1300

# learned VIP CLIENT: how many servers know that answers from VIP to CLIENT may have 1300 bytes
learned() {
    local n
    for ((n = 1; n <= SERVERS; n++)); do ip -netns "s$n" route get "$2" from "$1"; done | grep -c 'mtu 1300' || true
}
download() { # ADDRESS:PORT VIP CLIENT
    traffic_to transfer "$1" --source "$3" --download 200000 --timeout-ms 30000
    expect_eq "bytes downloaded from $1" "$(gojq .bytes "$REPLY")" 200000
    expect_eq "servers that have learned 1300 bytes from $2 to $3" "$(learned "$2" "$3")" 1
}
# errors_by_another FLOWS ERRORS CLIENT4 CLIENT6: FLOWS is the number of the balancer of all traffic but ICMP, ERRORS of ICMP
errors_by_another() {
    local flows=$1 errors=$2 syns steered
    # The VIPs' own routes: more specific than those of the prefixes, which lead to both.
    ip -netns router route replace "$VIP4/32" via "192.168.2.$flows"
    ip -netns router -6 route replace "$VIP6/128" via "fd00:0:0:2::$flows"
    ip -netns router route replace table 99 "$VIP4/32" via "192.168.2.$errors"
    ip -netns router -6 route replace table 99 "$VIP6/128" via "fd00:0:0:2::$errors"
    syns=$(witness "lb$errors" syn) steered=$(statistic "lb$errors" steered_icmp_error)
    download "$VIP4:$PORT" "$VIP4" "$3"
    download "[$VIP6]:$PORT" "$VIP6" "$4"
    expect_ge "errors that lb$errors steered" $(($(statistic "lb$errors" steered_icmp_error) - steered)) 2
    expect_eq "connections of lb$errors meanwhile" $(($(witness "lb$errors" syn) - syns)) 0
}
errors_by_another 201 202 50.0.0.9 2000::9
errors_by_another 202 201 50.0.0.10 2000::10

for vip in "$VIP4" "$VIP6"; do
    expect_ok "ping $vip" in_ns client busybox ping -c 3 -W 10 "$vip"
done
expect_ge "pings that lb201 steered" "$(statistic lb201 steered_echo)" 2
