# shellcheck shell=bash
# proves: a link that goes down and comes back, flushed rulesets and rules, a deleted tunnel: each is mended when it happens, amid 200 connections a second
#
# lbd hears of it, and does not wait for its next look, which may be ten seconds away: its log tells one repair from the other, and how long
# it took. Times are only noted, since an emulated machine is 10 to 30 times slower. `ip rule flush` takes the host's own rules as well;
# those are put back here.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# captures: no
# limit_s: 600

{
    config_balancer lb201
    web_service gre
    config_service next 10.0.0.9/32 tcp "$PORT"
    config_servers 1 "$SERVERS" direct
} > lb201.toml
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"
hold_start held "$VIP4:$PORT" 60 --interval-ms 500

# Some of them are of a drained backend: what keeps them there goes with the ruleset, and comes back with it.
change lb201 deactivate s1
off_table() { lbctl_in lb201 flows --off-table --json | gojq length; }
moved() { (($(off_table) >= 10)); }
wait_until 30 "the connections of s1 are off-table" moved

tunnel() { ip -netns lb201 link show dev sr-1 up 2>/dev/null || true; }
rules() { ip -netns lb201 -4 rule; ip -netns lb201 -6 rule; }
routes() { ip -netns lb201 -4 route show table all proto 201 | without_expiry | sort; }
structure() { in_ns lb201 nft --terse list ruleset inet | grep -o 'chain structure_[0-9a-z]*' || true; }

for what in tunnel rules routes structure; do "$what" > "$what.before"; done
expect_grep "a backend without a tunnel has a route" 'dev eth1' routes.before
expect_grep "the tunnel is up" 'sr-1' tunnel.before
expect_grep "the ruleset is there" structure_ structure.before

# at_once WHAT COMMAND...: connections begin, the command spoils WHAT amid them, and it is there again. Of a tunnel the number may be
# another one.
at_once() {
    local what=$1 report="new$((++SPOILT))"
    shift
    traffic_start "$report" connect "$VIP4:$PORT" --connections 300 --rate 200 --concurrency 300 --messages 1 --timeout-ms 60000
    # Some have begun.
    sleep 0.5
    "$@"
    is_back() { "$what" | sed 's/^[0-9]*: //' | cmp -s - <(sed 's/^[0-9]*: //' "$what.before"); }
    wait_until 60 "lbd has mended: $what" is_back
    traffic_end "$report"
    expect_eq "$what: new connections that failed or were lost, of 300" \
        "$(gojq --raw-output '"\(.failed + .lost)\(.errors // {} | to_entries | map(", \(.key): \(.value)") | add // "")"' "$report.json")" 0
    # lbd pauses for four times what a repair took, ten seconds at most. An emulated machine needs seconds for a ruleset with its tables.
    sleep "$(by_events | awk '{ pause_s = $1 * 4 / 1000 + 1 } END { print pause_s && pause_s < 11 ? pause_s : 11 }')"
}
SPOILT=0
by_events() { sed -n 's/.*mended, counted from its first event.*after_ms=\([0-9]*\).*/\1/p' <(sed 's/\x1b\[[0-9;]*m//g' lb201.lbd.log); }
blink() { ip -netns lb201 link set eth1 down; ip -netns lb201 link set eth1 up; }
flush_rules() {
    local family
    for family in -4 -6; do
        { echo "rule flush"; echo "rule add priority 32766 from all lookup main"; } | ip -netns lb201 "$family" -batch -
    done
    ip -netns lb201 -4 rule add priority 32767 from all lookup default
}

for round in 1 2; do
    step "round $round"
    at_once structure in_ns lb201 nft flush ruleset
    at_once tunnel ip -netns lb201 link del sr-1
    at_once rules flush_rules
    at_once routes blink
done
hold_end held
# One of the eight may come at the very moment of a look.
expect_ge "repairs that an event has caused, of 8" "$(by_events | wc -l)" 7
note "milliseconds from their first events: $(by_events | paste -sd ' ')"
