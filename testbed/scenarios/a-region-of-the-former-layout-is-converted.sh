# shellcheck shell=bash
# proves: lbd converts a region of layout 4: the same marks and tables, two backends still out, and established flows of all four go on
#
# fixtures/region-of-layout-4.gz was made by lbctl of commit fafdeaa from the configuration below: `lbctl apply` with the
# backends s2, s4 and s9, then with s1 and s3 as well, then without s9, so that their numbers are not in order; then
# `lbctl deactivate s3 s4`. Marks and checksums of tables are what that lbctl said.
#
# The connections are begun with today's lbd. Then the kernel is made what that version's lbd would leave: its ruleset
# (fixtures/ruleset-of-layout-4.nft), connection marks that name the target and count nothing, and all flows in connection
# tracking, those of the two backends that are out as well.
# topology: dsr:servers=4
# needs: queue conntrack gre traffic
# limit_s: 300

marks_then='{"s1":4,"s2":1,"s3":5,"s4":2}'
all_then=18f4e09f6eed83a96d7924bbe6bcaa2e222c5fe5ec02d78b1fe2f35fc16f6a05
two_then=978eeedeab380a93658f5b8aa5b03167fa4d34078a426f7779adac84a90a9d9c
with_s3_then=fcd6464ca518d24c2e51aef137a952742dac3406ae9b1666899271df57d78c60
{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT" 'table_size = 4099'
    config_servers 1 4 gre
} > lb201.toml
former_region() {
    gunzip -c "$TESTBED/fixtures/region-of-layout-4.gz" > /dev/shm/lb201
    chmod 600 /dev/shm/lb201
    rm -f /var/lib/synrail/lb201.json*
}
marks() { lbctl_in lb201 backends --json | gojq -c '[.. | objects | select(has("number") and has("name")) | {(.name): .number}] | add'; }
table_sum() { table_of lb201 web | sha256sum | cut -d ' ' -f 1; }
draining() { lbctl_in lb201 show | grep -Eo 's[0-9]+: draining by .*' | paste -sd ';' || true; }
# connection_marks FAMILY: of connections to "web", each once
connection_marks() { in_ns lb201 conntrack -L -p tcp --orig-port-dst "$PORT" -f "$1" 2>/dev/null | sed -n 's/.* mark=\([0-9]*\) .*/\1/p' | sort -nu | paste -sd ' '; }

former_region
balancers_up lb201
change lb201 activate s3 s4
wait_until 20 "lbd has taken it over" taken_over lb201
expect_eq "the table with all four" "$(table_sum)" "$all_then"
hold_start four "$VIP4:$PORT" 60
hold_start six "[$VIP6]:$PORT" 60
hold_start seldom "$VIP4:$PORT" 20 --interval-ms 5000

step "the version before"
balancer_stop lb201
former_region
# As an upgrade finds it: that version's lbd had the same names for its table, sets and chains.
{ echo 'delete table inet synrail'; cat "$TESTBED/fixtures/ruleset-of-layout-4.nft"; } > former.nft
in_ns lb201 nft -f "$WORK/former.nft"
# conntrack (1.4.7) now and then ends amid the entries with "Protocol error", so it is called again.
counts_nothing() {
    in_ns lb201 conntrack -U -f "$1" -p tcp --mark 0/0xc0000000 >> conntrack.log 2>&1 || true
    [[ $(connection_marks "$1") == "1 2 4 5" ]]
}
for family in ipv4 ipv6; do
    wait_until 30 "connection marks of $family name the four targets, and count nothing" counts_nothing "$family"
done
packets=$(ruleset_counter lb201 restored)
carried() { (($(ruleset_counter lb201 restored) >= packets + 200)); }
wait_until 30 "its ruleset has carried 200 packets" carried

step "the upgrade"
sent_again=$(kernel_counter client TcpRetransSegs)
balancer_start lb201 lb201.toml
expect_eq "times that lbd said that it converted a region, with two draining" \
    "$(grep -c 'converted from the layout of the version before .*draining=2' lb201.lbd.log)" 2
expect_eq "marks" "$(marks)" "$marks_then"
expect_eq "the table" "$(table_sum)" "$two_then"
note "$(draining)"
expect_eq "draining" "$(draining | grep -o 's[0-9]: draining' | paste -sd ' ')" "s3: draining s4: draining"
expect_ok "that is kept" test -s /var/lib/synrail/lb201.json
off_table() { (($(lbctl_in lb201 flows --off-table --json | gojq length) >= 20)); }
wait_until 30 "flows of s3 and s4 are kept apart" off_table
connect_all 40
expect_eq "backends that new connections reach" "$(servers_named connect-*.json)" "s1 s2"
note "segments that the client has sent again since: $(($(kernel_counter client TcpRetransSegs) - sent_again))"
change lb201 activate s3
wait_until 20 "lbd has taken it over" taken_over lb201
expect_eq "the table with s3 again" "$(table_sum)" "$with_s3_then"
rm connect-*.json
connect_all 40
expect_eq "backends that new connections reach" "$(servers_named connect-*.json)" "s1 s2 s3"
for name in four six seldom; do
    hold_end "$name"
    expect_eq "servers of '$name'" "$(servers_named "$name.json")" "s1 s2 s3 s4"
done
