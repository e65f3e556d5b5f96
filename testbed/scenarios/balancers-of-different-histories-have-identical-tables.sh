# shellcheck shell=bash
# proves: two balancers that reached the same active set by different ways have the same table, and flows can move
#
# Both balancers get VIP traffic by the router's ECMP. Then the router takes one of them away: its flows reach the
# other one in mid-stream, are hashed by an equal table, and go on.
# topology: dsr:servers=5,balancers=2
# needs: queue conntrack gre traffic
# limit_s: 300

for lb in lb201 lb202; do
    web_config "$lb" gre > "$lb.toml"
done
witness_up lb201 lb202
for lb in lb201 lb202; do
    balancer_start "$lb" "$lb.toml"
done
# A backend takes packets from every balancer; to say so again changes nothing.
backends_up lb201 web 1 "$SERVERS"
backends_up lb202 web 1 1
servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"

change lb201 deactivate --service web s2
for backend in s5 s1 s2 s4; do change lb202 deactivate --service web "$backend"; done
for backend in s4 s5 s1; do change lb202 activate --service web "$backend"; done
table_of lb201 web > lb201.table
table_of lb202 web > lb202.table
expect_ge "entries of the table" "$(wc -l < lb201.table)" 65537
expect_same "the two tables are identical" lb201.table lb202.table

hold_start four "$VIP4:$PORT" 60
hold_start six "[$VIP6]:$PORT" 60
for lb in lb201 lb202; do
    expect_ge "SYNs seen by $lb" "$(witness "$lb" syn)" 10
done
ip -netns router route replace 10.0.0.0/24 via 192.168.2.202
ip -netns router -6 route delete 1000::/112
ip -netns router -6 route add 1000::/112 via fd00:0:0:2::202
before=$(witness lb201 to_vip)
connect_all 30
expect_le "packets that still came to lb201 (a few were on their way)" "$(($(witness lb201 to_vip) - before))" 20
hold_end four
hold_end six
