# shellcheck shell=bash
# proves: an agent on a server, as HAProxy's agent-check asks it, lowers the server's share of new flows, takes it out and gives all back
#
# The agent of s2 says what a file has. Connections that are open at the start stay through all of it. The checks of s2 succeed all the
# time, so what changes is the agent's doing. What lowers a weight comes into force within ten seconds, the rest at once.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic python3
# captures: no
# limit_s: 600

AGENT_PORT=5555 EACH=300
{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" tcp "$PORT"
    printf '[service.health]\nkind = "tcp"\ninterval_ms = 1000\ntimeout_ms = 900\nfall = 3\nagent_port = %s\nagent_send = "web\\n"\n' "$AGENT_PORT"
    config_servers 1 "$SERVERS" gre
} > lb201.toml

cat > agent.py <<'PYTHON'
import socket, sys
address, port, file, ready = sys.argv[1:]
listener = socket.create_server((address, int(port)))
open(ready, "w").write("ready")
while True:
    client, _ = listener.accept()
    client.settimeout(5)
    try:
        # Without the text of agent_send there is no answer.
        if client.makefile("rb").readline() == b"web\n":
            client.sendall(open(file, "rb").read())
    except OSError:
        pass
    client.close()
PYTHON
agent_up() {
    rm -f agent.ready
    background s2 agent python3 -SI "$WORK/agent.py" 192.168.1.2 "$AGENT_PORT" "$WORK/said" "$WORK/agent.ready"
    AGENT=$BACKGROUND
    wait_until 30 "the agent runs on s2" test -s agent.ready
}
# The file is never half written.
say() { printf '%s\r\n' "$1" > said.new; mv said.new said; }
# reported JQ-EXPRESSION: what lbctl says of the agent of s2
reported() { lbctl_in lb201 backends --json | gojq --raw-output ".[] | select(.name == \"s2\") | .reported | $1"; }
reports() { [[ $(reported '"\(.weight_percent) \(.mode) \(.health)"') == "$1" ]]; }
# in_force WORDS: they are in the region, and lbd balances by them
in_force() {
    local began
    began=$(now_ms)
    wait_until 60 "the agent of s2 is heard to say: $1" reports "$1"
    note "in force after $(($(now_ms) - began)) ms"
    wait_until 20 "lbd has taken it over" taken_over lb201
}
# of_s2: how many of 600 new connections s2 gets
of_s2() {
    local address sum=0
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        traffic_to connect "$address" --connections "$EACH" --concurrency 20 --timeout-ms 20000
        (($(gojq .opened "$REPLY") == EACH)) || broken "of $EACH connections to $address $(gojq .opened "$REPLY") were opened"
        sum=$((sum + $(gojq '.servers.s2 // 0' "$REPLY")))
    done
    echo "$sum"
}
entries_of_s2() { grep -cx s2 "$1" || true; }
metric() { lbctl_in lb201 metrics | awk -v name="$1{service=\"web\",backend=\"s2\"}" '$1 == name { print $2 }'; }
health() { lbctl_in lb201 backends --json | gojq --raw-output '[.[].observed.health // "unknown"] | unique | join(" ")'; }
all_up() { [[ $(health) == up ]]; }

say 'up ready 100%'
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
servers_up 1 "$SERVERS" "$VIP4:$PORT" "[$VIP6]:$PORT"
agent_up
wait_until 60 "all are up" all_up
in_force '100 ready up'
table_of lb201 web > whole.table
hold_start held "$VIP4:$PORT" 30
expect_ge "of $((2 * EACH)) connections s2 gets about a third" "$(of_s2)" 160

step "the agent says 50%"
say 'up 50%'
in_force '50 ready up'
table_of lb201 web > half.table
expect_ge "entries of s2, a fifth of 65537" "$(entries_of_s2 half.table)" 13000
expect_le "entries of s2, a fifth of 65537" "$(entries_of_s2 half.table)" 13200
share=$(of_s2)
expect_ge "of $((2 * EACH)) connections s2 gets about a fifth" "$share" 80
expect_le "and no more" "$share" 160
expect_eq "what the metrics say of its weight" "$(metric synrail_backend_agent_weight_ratio)" 0.5
lbctl_in lb201 show > show.txt
expect_grep "lbctl show says so" 's2: agent: 50% since' show.txt

step "it says down"
say 'down #no database'
in_force '50 ready down'
expect_eq "connections that s2 gets" "$(of_s2)" 0
expect_eq "health by checks" "$(health)" up
expect_eq "up, by the metrics" "$(metric synrail_backend_up)" 0
lbctl_in lb201 check > check.txt || true
expect_grep "lbctl check names it" 'agent on backend web/s2 is .*down.*no database' check.txt

step "it does not answer"
kill "$AGENT"
wait_until 10 "the agent has ended" process_gone "$AGENT"
silent() { [[ $(reported '.silent.reason // ""') == 'connection refused' ]]; }
wait_until 60 "lbctl says that the agent does not answer" silent
expect_eq "what it said last stays" "$(reported '"\(.weight_percent) \(.mode) \(.health): \(.reason)"')" '50 ready down: no database'
expect_eq "what the metrics say" "$(metric synrail_backend_agent_answers)" 0
expect_eq "connections that s2 gets" "$(of_s2)" 0

step "it says up, 100%"
say 'up 100%'
agent_up
in_force '100 ready up'
table_of lb201 web > again.table
expect_same "the table is that of the start" whole.table again.table
expect_ge "of $((2 * EACH)) connections s2 gets about a third" "$(of_s2)" 160

step "it says drain, and then an operator does"
say 'drain'
in_force '100 drain up'
expect_eq "connections that s2 gets" "$(of_s2)" 0
change lb201 drain s2
say 'ready up 100%'
in_force '100 ready up'
expect_eq "connections that s2 gets: the operator's word holds" "$(of_s2)" 0
change lb201 enable s2
wait_until 20 "lbd has taken it over" taken_over lb201
expect_ge "of $((2 * EACH)) connections s2 gets about a third" "$(of_s2)" 160
hold_end held
balancer_stop lb201
