# shellcheck shell=bash
# shellcheck disable=SC2034 # variables for scenarios
# lbd and lbctl in a balancer's namespace, the backends set up as lbctl says, and the traffic servers on them.
#
# Each balancer has a shared memory region of its own, named like the balancer. A backend is named like the namespace
# of its server. VIP traffic comes in on eth2, or with gre_in in GRE from the router.

# --- Configuration, as text on standard output: cluster lb201, then services, each followed by its backends.

HASH_SEED=3405691582
config_balancer() { # LB [LINE...]
    local lb=$1 line
    shift
    cat <<TOML
[balancer]
name = "$lb"
address = ["192.168.1.${lb##*[!0-9]}", "fd00:0:0:1::${lb##*[!0-9]}"]
interfaces = ["eth2"]
queues = "20200-20201"
fragment_queue = 20199
hash_seed = $HASH_SEED
mark_mask = 0x0000ffff
TOML
    for line; do echo "$line"; done
}
# Top-level tables may come after the services, too: they are appended to what another function wrote.
config_table() { # NAME LINE...: as in config_table fragments 'ttl_ms = 5000'
    local name=$1 line
    shift
    printf '\n[%s]\n' "$name"
    for line; do echo "$line"; done
}
config_tier() { # LB...
    local lb
    printf '\n[tier]\n'
    for lb; do
        printf '[[tier.balancer]]\nname = "%s"\naddress = ["192.168.1.%s", "fd00:0:0:1::%s"]\n' "$lb" "${lb##*[!0-9]}" "${lb##*[!0-9]}"
    done
}
config_service() { # NAME "VIP VIP.." "PROTOCOL.." "PORT.." [LINE...]
    printf '\n[[service]]\nname = "%s"\nvips = %s\n' "$1" "$(toml_list "$2")"
    [[ -z $3 ]] || printf 'protocols = %s\n' "$(toml_list "$3")"
    [[ -z $4 ]] || printf 'ports = %s\n' "$(toml_list "$4")"
    [[ -z $STEERING ]] || printf 'steering = "%s"\n' "$STEERING"
    shift 4
    local line
    for line; do echo "$line"; done
}
config_backend() { # NAME ADDRESS ENCAP [LINE...]
    printf '[[service.backend]]\nname = "%s"\naddress = "%s"\nencap = "%s"\n' "$1" "$2" "$3"
    shift 3
    local line
    for line; do echo "$line"; done
}
# Servers FIRST to LAST as backends: by their IPv4 address, or by their IPv6 address if the encapsulation wants that;
# gue6 and direct6 stand for gue and direct by IPv6.
config_servers() { # FIRST LAST ENCAP [LINE...]
    local first=$1 last=$2 encap=$3 kind=$3 n name
    case $encap in gue6 | direct6) kind=${encap%6} ;; esac
    shift 3
    for ((n = first; n <= last; n++)); do
        server_name "$n"
        config_backend "$name" "$(underlay "$n" "$encap")" "$kind" "$@"
    done
}
underlay() { case $2 in ip6gre | ip6tnl | gue6 | direct6) echo "fd00:0:0:1::$1" ;; *) echo "192.168.1.$1" ;; esac; }
toml_list() {
    local item list=''
    for item in $1; do list+="${list:+, }\"$item\""; done
    echo "[$list]"
}

# --- lbd

declare -A LBD_PID=() LBD_WAS_READY=()
balancer_start() { # LB CONFIGURATION: start lbd there, wait until it is ready
    balancer_begin "$@"
    balancer_await "$1"
}
balancer_begin() { # LB CONFIGURATION: start lbd there; several may become ready at the same time
    local lb=$1 config=$2 log=$WORK/$1.lbd.log
    printf -- '--- start\n' >> "$log"
    LBD_WAS_READY[$lb]=$(times_ready "$lb")
    start_in "$lb" "$log" "$log" lbd --config "$config" --shm "$lb"
    LBD_PID[$lb]=$BACKGROUND
}
balancer_await() { # LB: where it was begun, wait until it is ready, which takes a minute on one busy emulated CPU
    local lb=$1 log=$WORK/$1.lbd.log
    wait_until 180 "lbd in $lb is ready or has ended" lbd_ready_or_gone "$lb"
    if ! lbd_ready "$lb"; then
        tail -n 20 "$log" >&2
        broken "lbd in $lb did not become ready"
    fi
}
lbd_ready() { (($(times_ready "$1") > LBD_WAS_READY[$1])); }
times_ready() { grep -cw ready "$WORK/$1.lbd.log" || true; }
lbd_ready_or_gone() { lbd_ready "$1" || process_gone "${LBD_PID[$1]}"; }
balancer_kill() { # LB: as a crash would
    kill_started "${LBD_PID[$1]}"
}
balancer_stop() { # LB: SIGTERM; its exit status must be 0
    local status=0
    kill -TERM "${LBD_PID[$1]}"
    wait_until 20 "lbd in $1 has ended" process_gone "${LBD_PID[$1]}"
    wait "${LBD_PID[$1]}" || status=$?
    expect_eq "exit status of lbd in $1 after SIGTERM" "$status" 0
}
# balancer_freeze LB: its lbd hangs, and the kernel has begun to do without it. An lbd, and a machine that answers at once,
# need 0.9 s for that; a second is for an emulated one.
balancer_freeze() {
    local since
    since=$(now_ms)
    kill -STOP "${LBD_PID[$1]}"
    wait_until 3 "the kernel does without lbd" lease_over "$1" flows
    note "$(($(now_ms) - since)) ms until the kernel did without lbd"
}
balancer_thaw() { # LB: it goes on
    kill -CONT "${LBD_PID[$1]}"
    wait_until 20 "the kernel asks lbd again" lease_holds "$1" flows
}
lease_holds() { [[ $(in_ns "$1" nft list set inet synrail "lease_$2") == *expires* ]]; } # LB flows|fragments
lease_over() { ! lease_holds "$@"; }
lbctl_in() { # LB ARGUMENT...
    local lb=$1
    shift
    in_ns "$lb" lbctl --shm "$lb" "$@"
}

# change LB ARGUMENT...: lbctl_in, for its effect; a slow machine may need longer than lbctl waits (status 4)
change() { lbctl_in "$@" >> "$WORK/lbctl.log" || (($? == 4)); }

# taken_over LB: lbd decides by what lbctl wrote last, and the kernel would without it.
taken_over() {
    [[ $(lbctl_in "$1" stats --json | gojq '.generation as $live | .daemon | . != null and .adopted >= $live and .in_kernel >= $live') == true ]]
}

# --- What the balancer says of itself. The names of counters are known here and nowhere else.

# statistic LB NAME: NAME is a counter of lbctl stats, or one of the sums below.
statistic() {
    lbctl_in "$1" stats --json | gojq --arg name "$2" '.counters as $c |
        if $name == "queued" then $c.packets
        elif $name == "steered" then [$c | to_entries[] | select(.key | startswith("steered")) | .value] | add // 0
        elif $name == "dropped" then [$c | to_entries[] | select(.key | startswith("drop")) | .value] | add // 0
        else $c[$name] // error("lbctl stats has no counter \($name)") end'
}
# fragments_unexplained LB: fragments that came to lbd and of which no counter says what became of them. Those that are
# held were not decided about yet, and count as explained.
fragments_unexplained() {
    lbctl_in "$1" stats --json | gojq '.fragments.held_packets as $held |
        .workers[] | select(.fragments) | .counters |
        .fragments - .steered_fragment - .fragment_forwarded - .fragment_inject_failed - $held -
        ([to_entries[] | select(.key | startswith("drop")) | .value] | add)'
}
# fragment_level LB NAME: how much the fragment table has now: entries, held_packets or held_bytes.
fragment_level() {
    lbctl_in "$1" stats --json | gojq --arg name "$2" '.fragments[$name] // error("lbctl stats has no level \($name)")'
}
# counter_of NAMESPACE TABLE COUNTER: packets. nft (1.0.6) reads every element of every map before it lists a counter, or
# a table; only all tables together can be had without.
counter_of() {
    in_ns "$1" nft --terse list ruleset inet | awk -v table="$2" -v name="$3" '
        $1 == "table" { here = $3 == table }
        $1 == "counter" { found = here && $2 == name }
        found && $1 == "packets" { print $2; known = 1 }
        END { exit !known }'
}
# ruleset_counter LB NAME: packets of a named counter in lbd's own table.
ruleset_counter() { counter_of "$1" synrail "$2"; }
# kernel_decided: with --steering kernel, that it did. It is the last claim of each scenario, or one before lbd's table is removed.
kernel_decided() {
    [[ -n $STEERING && -z $KERNEL_DECIDED ]] || return 0
    expect_ge "packets that the kernel decided about" "$(ruleset_counter lb201 by_kernel)" 1
    KERNEL_DECIDED=yes
}
KERNEL_DECIDED=''
# syns_asked LB: SYNs to VIPs that lbd is asked about: all but those that go where their first one went.
syns_asked() { echo $(($(witness "$1" syn) - $(ruleset_counter "$1" syn_again))); }

# kernel_queued LB: packets that the kernel has ever put into the queues that are there now.
kernel_queued() { awk '{ sum += $8 } END { print sum + 0 }' \
    <(in_ns "$1" cat /proc/net/netfilter/nfnetlink_queue 2>/dev/null); }
# table_of LB SERVICE: the lookup table, a backend's name a line.
table_of() { lbctl_in "$1" show --json | table_shown "$2"; }
table_shown() { # SERVICE: the same from what lbctl show says; of 65537 entries gojq would take half a minute
    python3 -SIc 'import json, sys
service = next(s for s in json.load(sys.stdin)["services"] if s["name"] == sys.argv[1])
print("\n".join(service["active"][rank] for rank in service["table"]))' "$1"
}

# kernel_state LB: what lbd made in the kernel, with identities (interface indices, rule handles), without counts.
kernel_state() {
    ip -netns "$1" -json link | gojq --raw-output '.[] | "link \(.ifindex) \(.ifname)"' | without_fallback_devices
    ip -netns "$1" -4 rule
    ip -netns "$1" -6 rule
    ip -netns "$1" -4 route show table all | sort
    ip -netns "$1" -6 route show table all | without_expiry | sort
    in_ns "$1" nft --stateless --terse --handle list ruleset
}
# lasting_state LB: what of it is there whether lbd runs or not: the device of held fragments ends with lbd.
lasting_state() { kernel_state "$1" | grep -vw sr-frag; }
# Devices that a tunnel module adds to every namespace when it is loaded (gre0 and its like), and what hangs on them.
without_fallback_devices() { grep -Ev ' (gre0|gretap0|erspan0|tunl0|ip6tnl0|ip6gre0|sit0)$' || true; }
without_expiry() { sed 's/ expires [0-9]*sec//; s/[[:space:]]*$//'; }

# --- Backends and their servers

# backends_up LB SERVICE FIRST LAST: run what lbctl prints, exactly, in the namespace of each server.
backends_up() {
    local lb=$1 service=$2 n name file running=()
    for ((n = $3; n <= $4; n++)); do
        server_name "$n"
        file=$WORK/setup-$name-$service
        lbctl_in "$lb" backend-setup "$name" --service "$service" > "$file.sh"
        background "$name" "${file##*/}" sh "$file.sh"
        running[n]=$BACKGROUND
    done
    for n in "${!running[@]}"; do
        wait "${running[n]}" || {
            server_name "$n"
            cat "$WORK/setup-$name-$service".{sh,log} >&2
            broken "the commands of lbctl backend-setup $name --service $service fail there"
        }
    done
}
# servers_up FIRST LAST ADDRESS:PORT...: a traffic server on each, for TCP and UDP, that says its namespace's name.
servers_up() {
    local first=$1 last=$2 n name address listen=()
    shift 2
    for address; do listen+=(--tcp "$address" --udp "$address"); done
    for ((n = first; n <= last; n++)); do
        server_name "$n"
        background "$name" "$name.server" traffic server "${listen[@]}" --name "$name"
    done
    for ((n = first; n <= last; n++)); do
        server_name "$n"
        wait_until 30 "the traffic server of $name listens" grep -qw ready "$WORK/$name.server.log"
    done
}

# background NAMESPACE LOG COMMAND...: sets BACKGROUND to the process id; output goes to $WORK/LOG.log
background() {
    local ns=$1 log=$WORK/$2.log
    shift 2
    : > "$log"
    start_in "$ns" "$log" "$log" "$@"
}

# --- Traffic from the client

VIP4=10.0.0.0 VIP6=1000::
CLIENTS4=50.0.0.0/16 CLIENTS6=2000::/112 # addresses that $CLIENT has
clients_for() { if [[ $1 == \[* ]]; then echo "$CLIENTS6"; else echo "$CLIENTS4"; fi; }

# traffic_to KIND ADDRESS:PORT ARGUMENT...: run the traffic tool in the client, its result in $WORK/KIND-*.json and REPLY
traffic_to() {
    local kind=$1 address=$2
    shift 2
    REPLY=$WORK/$kind-$((++TRAFFIC_RUNS)).json
    local sources=()
    [[ $kind == transfer ]] || sources=(--source-cidr "$(clients_for "$address")")
    # shellcheck disable=SC2153 # CLIENT is the topology's
    in_ns "$CLIENT" traffic "$kind" --address "$address" "${sources[@]}" "$@" --json > "$REPLY" 2> "$REPLY.err" || {
        cat "$REPLY" "$REPLY.err" >&2
        broken "traffic $kind to $address failed"
    }
}
TRAFFIC_RUNS=0
# traffic_start NAME KIND ADDRESS:PORT ARGUMENT...: the same in the background. traffic_end NAME waits until it is done;
# its result, whatever it says, is in $WORK/NAME.json.
declare -A TRAFFIC_PID=()
traffic_start() {
    local name=$1 kind=$2 address=$3
    shift 3
    rm -f "$WORK/$name".{json,err}
    start_in "$CLIENT" "$WORK/$name.json" "$WORK/$name.err" \
        traffic "$kind" --address "$address" --source-cidr "$(clients_for "$address")" "$@" --json
    TRAFFIC_PID[$name]=$BACKGROUND
}
traffic_end() {
    wait_until 300 "the traffic '$1' is done" process_gone "${TRAFFIC_PID[$1]}"
}
# expect_lbctl_agrees LB VIP REPORT: the server of each flow in the report is the backend that lbctl names.
expect_lbctl_agrees() {
    local lb=$1 vip=$2 report=$3
    gojq --raw-output --arg vip "$vip" --arg port "$PORT" \
        '.served[] | "udp \(.source) \(.port) \($vip) \($port)"' "$report" > "$report.flows"
    paste -d ' ' "$report.flows" <(gojq --raw-output '.served[].server' "$report") > "$report.served"
    lbctl_in "$lb" which --batch "$report.flows" > "$report.which"
    paste -d ' ' "$report.flows" <(gojq --raw-output .backend "$report.which") > "$report.lbctl"
    expect_same "$(wc -l < "$report.flows") flows to $vip, each on the server that lbctl which names" \
        "$report.lbctl" "$report.served"
}
# hold_start NAME ADDRESS:PORT CONNECTIONS [ARGUMENT...]: connections that stay open, each with a round trip a second,
# until hold_end NAME, which claims that none was lost; all are open when it returns.
declare -A HOLD_PID=()
hold_start() {
    local name=$1 address=$2 connections=$3
    shift 3
    rm -f "$WORK/$name".{ready,until,json,err}
    start_in "$CLIENT" "$WORK/$name.json" "$WORK/$name.err" \
        traffic hold --address "$address" --source-cidr "$(clients_for "$address")" \
        --connections "$connections" --concurrency 20 --timeout-ms 20000 --seconds 600 \
        --ready-file "$WORK/$name.ready" --until-file "$WORK/$name.until" --json "$@"
    HOLD_PID[$name]=$BACKGROUND
    wait_until 60 "the connections '$name' are open" test -s "$WORK/$name.ready"
    expect_eq "connections '$name' open to $address" "$(gojq .opened "$WORK/$name.ready")" "$connections"
}
hold_end() {
    local name=$1 status=0
    touch "$WORK/$name.until"
    wait_until 60 "the connections '$name' are closed" process_gone "${HOLD_PID[$name]}"
    wait "${HOLD_PID[$name]}" || status=$?
    expect_eq "connections '$name' lost" "$(gojq .lost "$WORK/$name.json")" 0
    expect_eq "connections '$name': exit status of traffic hold" "$status" 0
}

# field FILE JQ-EXPRESSION
field() { gojq --raw-output "$2" "$1"; }
