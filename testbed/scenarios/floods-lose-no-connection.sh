# shellcheck shell=bash
# proves: floods of forged ACKs and datagrams beyond nf_conntrack_max lose no open connection and no new one, also with a backend drained
#
# First a table that has room for all but the flood, then one that the flood alone would fill in a second. What cannot be
# tracked goes by the fallback tables; the connections of the drained backend are off-table, and need no entry.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre traffic
# captures: no
# limit_s: 300

web_up gre
before=$(conntrack_room)
finally "echo $before > $CONNTRACK_MAX_FILE"
backlog 10000
ip -netns router route add blackhole 60.0.0.0/8 # where answers to forged sources go
ip -netns router -6 route add blackhole 3000::/16
forged() { # NAME KIND PACKETS RATE SOURCES: each packet twice, since two of a flow may be worth more than one
    start_in "$CLIENT" "$1.json" "$1.err" traffic forge --address "$VIP4:$PORT" --kind "$2" --packets "$(($3 / 2))" \
        --rate "$4" --source-cidr "$5" --repeat 2
    FLOOD=$BACKGROUND
}
protected() { (($(lbctl_in lb201 show --json | gojq .flows.protected) >= $1)); }
nearly_full() { [[ $(lbctl_in lb201 show --json | gojq .flows.nearly_full) == "$1" ]]; }

echo 8192 > "$CONNTRACK_MAX_FILE"
hold_start a "$VIP4:$PORT" 50
hold_start b "[$VIP6]:$PORT" 50
wait_until 30 "the connections are protected" protected 100
forged acks ack 30000 1500 60.16.0.0/12
wait_until 60 "the flood is over" process_gone "$FLOOD"
change lb201 deactivate --service web s1
forged datagrams datagram 10000 1000 60.32.0.0/12
wait_until 60 "the flood is over" process_gone "$FLOOD"
hold_end a
hold_end b
change lb201 activate --service web s1

echo 1500 > "$CONNTRACK_MAX_FILE"
in_ns lb201 conntrack -F > /dev/null 2>&1 || true
wait_until 40 "there is room again" nearly_full false
hold_start c "$VIP4:$PORT" 50
wait_until 30 "the connections are protected" protected 50
forged more datagram 60000 1000 60.48.0.0/12
wait_until 30 "lbd says that connection tracking is nearly full" nearly_full true
expect_grep "lbd's log says what to set" 'nearly full.*nf_conntrack_max.*nf_conntrack_buckets' lb201.lbd.log
expect_grep "lbctl stats says it" '^conntrack .*NEARLY FULL' <(lbctl_in lb201 stats)
connect_all 20
change lb201 deactivate --service web s2
connect_all 20
kill_started "$FLOOD"
hold_end c
echo "$before" > "$CONNTRACK_MAX_FILE"
wait_until 40 "flows are tracked again" nearly_full false
