# shellcheck shell=bash
# proves: a link that goes down and comes back, flushed rulesets and rules, a deleted tunnel: each is mended when it happens, amid 200 connections a second
#
# lbd hears of it, and does not wait for its next look, which may be ten seconds away. Its log says how long after it heard of it all was
# mended. `ip rule flush` takes the host's own rules as well; those are put back here, as they are not lbd's.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# captures: no
# limit_s: 300

# An emulated machine is 10 to 20 times slower than a real one.
LIMIT_MS=3000

web_up gre
hold_start held "$VIP4:$PORT" 60 --interval-ms 500
traffic_start new connect "$VIP4:$PORT" --connections 6000 --rate 200 --concurrency 500 --messages 1 --timeout-ms 20000

mended() { grep -c 'mended, counted from its first event' lb201.lbd.log || true; }
# at_once WHAT COMMAND: what it spoils is mended soon after.
at_once() {
    local what=$1 before after_ms
    shift
    before=$(mended)
    "$@"
    is_mended() { (($(mended) > before)); }
    wait_until 30 "lbd has mended it: $what" is_mended
    after_ms=$(sed -n 's/.*mended, counted from its first event.*after_ms=\([0-9]*\).*/\1/p' lb201.lbd.log | sed -n "$((before + 1))p")
    expect_le "milliseconds after which it was mended: $what" "$after_ms" "$LIMIT_MS"
    "check_${what// /_}"
}
blink() { ip -netns lb201 link set eth1 down; ip -netns lb201 link set eth1 up; }
flush_rules() {
    local family
    for family in -4 -6; do
        ip -netns lb201 "$family" -batch - <<'RULES'
rule flush
rule add priority 32766 from all lookup main
rule add priority 32767 from all lookup default
RULES
    done
}
rules() { ip -netns lb201 -4 rule; ip -netns lb201 -6 rule; }
rules > rules.before

check_the_ruleset() { expect_grep "the ruleset is there" 'chain structure_' <(in_ns lb201 nft --terse list ruleset inet); }
check_a_tunnel() { expect_grep "the tunnel is there" 'sr-1' <(ip -netns lb201 -d link show dev sr-1); }
check_the_rules() { rules > rules.after; expect_same "rules as before" rules.before rules.after; }
check_a_link() { :; }

for round in 1 2; do
    step "round $round"
    at_once "the ruleset" in_ns lb201 nft flush ruleset
    at_once "a tunnel" ip -netns lb201 link del sr-1
    at_once "the rules" flush_rules
    at_once "a link" blink
done

traffic_end new
expect_eq "new connections that failed" "$(gojq '.failed + .lost' new.json)" 0
expect_ge "new connections" "$(gojq .opened new.json)" 6000
hold_end held
