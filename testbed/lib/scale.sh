# shellcheck shell=bash
# The scale test of one load balancer: connections are held open while some servers are taken out of its service and later
# taken in again. The servers themselves go on running, so nothing needs to be lost; what a tool breaks shows what it
# remembers of connections.
#
#   all open | settle | event: out | probe, settle | event: in | probe, settle | end
#
# settle: for so long that each connection was asked once more and had its time to answer; one that reached another server has
# been reset by then, and one without an answer has been given up. Lost ones are replaced at once. probe: new connections
# of a client of its own, to see whom the tool gives them to. Clients' addresses and ports are the same in every run,
# so tools whose hash has no secret lose the same connections each time.
#
# What is left in $WORK: run.json (traffic hold), phases.json (traffic analyze), row.json (the tool's row of the table), and
# that again as proven.json if all claims held.

SCALE_PORT=5000        # of the clients; no port that a kernel chooses by itself
SCALE_TIMEOUT_MS=5000  # no answer
SCALE_MESSAGES=100     # round trips a second, on all connections together
SCALE_PROBES=100       # new connections at a time
# shellcheck source=scale-tools.sh
source "$TESTBED/lib/scale-tools.sh"

# scale_run TOOL CONNECTIONS "N..": the test, with the claims that hold for every tool. Servers N.. go out.
scale_run() {
    local tool=${1//-/_} connections=$2 names changed
    SCALE_TOOL=$1
    SCALE_SILENT_S=$((connections / SCALE_MESSAGES + 2)) # longer than any connection is silent
    read -ra SCALE_OUT <<< "$3"
    names=$(printf ' s%s' "${SCALE_OUT[@]}")
    SCALE_NAMES=$(gojq -cn '$ARGS.positional' --args "${SCALE_OUT[@]/#/s}")

    "${tool}_up"
    step "$connections connections"
    traffic_start run hold "$VIP4:$PORT" --source-port "$SCALE_PORT" --connections "$connections" --concurrency 20 \
        --timeout-ms "$SCALE_TIMEOUT_MS" --message-rate "$SCALE_MESSAGES" --reconnect --sample-ms 100 --seconds 3000 \
        --records "$((4 * connections))" --event-file events --ready-file ready --until-file until
    wait_until 120 "the connections are open" test -s ready
    expect_eq "connections open" "$(gojq .opened ready)" "$connections"
    settle "$(now_ms)"

    step "out:$names"
    echo "out:$names" >> events
    "${tool}_out" "${SCALE_OUT[@]}"
    changed=$(now_ms)
    scale_probe out
    scale_table out
    settle "$changed"

    step "in again:$names"
    echo "in:$names" >> events
    "${tool}_in" "${SCALE_OUT[@]}"
    changed=$(now_ms)
    scale_table in
    settle "$changed"
    scale_probe in
    touch until
    traffic_end run
    traffic analyze --json run.json > phases.json

    scale_row "$connections" > row.json
    scale_claims "$connections"
    cp row.json proven.json
}

# settle SINCE_MS: until it has been so long. No condition could be waited for here: what may come of it is that nothing comes.
settle() {
    local left_ms=$(($1 + SCALE_SILENT_S * 1000 + SCALE_TIMEOUT_MS - $(now_ms)))
    ((left_ms <= 0)) || sleep "$((left_ms / 1000)).$(printf %03d $((left_ms % 1000)))"
}

scale_probe() { # out|in
    traffic_to connect "$VIP4:$PORT" --connections "$SCALE_PROBES" --concurrency 10 --messages 1 --timeout-ms 20000
    mv "$REPLY" "probe-$1.json"
}

# scale_table out|in: of tools that have one, the table as it is now: which-WHEN.txt, "ADDRESS:PORT SERVER" for each client that
# there can be, as lbctl which says; show-WHEN.json, which has the whole table.
scale_table() {
    has_table || return 0
    seq 0 $((4 * $(gojq .opened ready) - 1)) |
        awk -v port="$SCALE_PORT" -v to="$VIP4 $PORT" '{ print "tcp", "50.0." int($1 / 256) "." $1 % 256, port, to }' > which.flows
    lbctl_in lb201 which --batch which.flows | gojq --raw-output .backend > which.backends
    paste -d ' ' <(awk '{ print $2 ":" $3 }' which.flows) which.backends > "which-$1.txt"
    lbctl_in lb201 show --json > "show-$1.json"
}
has_table() { [[ $SCALE_TOOL == synrail || $SCALE_TOOL == every-packet ]]; }

# scale_row CONNECTIONS: what was lost, from the report. `on_out`: connections of the servers that went out, when they did, which
# is what a balancer loses that remembers nothing, but leaves all others in their places.
scale_row() {
    local asked=0 seen
    seen=$(witness lb201 to_vip)
    ! has_table || asked=$(kernel_queued lb201)
    gojq --slurp --arg tool "$SCALE_TOOL" --argjson names "$SCALE_NAMES" --argjson servers "$SERVERS" --argjson connections "$1" \
        --argjson asked "$asked" --argjson seen "$seen" '
        .[0] as $run | .[1].files[0].phases as $phases |
        def phase($event): $phases[] | select(.name | startswith($event));
        def of_names: . as $of | [$of[$names[]] // 0] | add;
        phase("out:") as $out | phase("in:") as $in |
        (last($run.samples[] | select(.seconds <= $out.from)).servers | map_values(.open) | of_names) as $on_out |
        {
            $tool, $servers, $connections, out: ($names | length), $on_out,
            lost_before: ([$phases[] | select(.until <= $out.from) | .lost] | add),
            lost_out: $out.lost, lost_staying: ($out.lost - ($out.lost_by_server | of_names)), lost_in: $in.lost,
            times_ideal: (if $on_out > 0 then $out.lost / $on_out * 100 | round / 100 else null end),
            packets: $seen, packets_asked: $asked
        }' run.json phases.json
}
row() { field row.json ".$1"; }

scale_claims() {
    local connections=$1
    expect_eq "connections lost before anything was changed" "$(row lost_before)" 0
    expect_eq "servers with connections" "$(servers_used run.json)" "$SERVERS"
    expect_ge "connections on the servers that were taken out" "$(row on_out)" 1
    expect_eq "new connections that failed while they were out" "$(gojq '.failed + .lost' probe-out.json)" 0
    expect_eq "of $SCALE_PROBES new connections while they were out, to them" "$(of_out probe-out.json)" 0
    expect_eq "new connections that failed when they were in again" "$(gojq '.failed + .lost' probe-in.json)" 0
    expect_ge "of $SCALE_PROBES new connections when they were in again, to them" "$(of_out probe-in.json)" 1
    note "lost when they went out: $(row lost_out), of these on servers that stay: $(row lost_staying); when they came in: $(row lost_in)"
    expect_eq "connections lost, of all times" "$(field run.json .lost)" "$(($(row lost_out) + $(row lost_in)))"
    expect_eq "connections that could not be opened" "$(field run.json .failed)" 0
    expect_eq "connections held to the end" "$(field run.json .closed)" "$connections"
    expect_eq "connections opened" "$(field run.json .opened)" "$((connections + $(field run.json .lost)))"
    expect_ge "packets to the VIP that passed the balancer" "$(row packets)" "$((4 * connections))"
    expect_eq "replies that passed the balancer" "$(witness lb201 from_vip)" 0
    case $SCALE_TOOL in
        synrail) expect_fates kept ;;
        every-packet) expect_fates hashed ;;
    esac
}
of_out() { gojq --argjson names "$SCALE_NAMES" '.servers as $of | [$of[$names[]] // 0] | add' "$1"; }

# expect_fates kept|hashed: every connection began on the server that lbctl named then, and was kept; or it broke exactly when
# the table gave its hash to another server.
expect_fates() {
    field run.json '.connections[] | "\(.source) \(.server) \(.opened_at) \(.lost_at // "")"' |
        awk -v out="$(event_at out)" -v in_again="$(event_at in)" '{
            fate = $4 == "" ? "kept" : $4 < out ? "early" : $4 < in_again ? "out" : "in"
            print $1, $2, ($3 < out ? "before" : $3 < in_again ? "out" : "in"), fate
        }' | sort > fates.seen
    awk -v kept="$([[ $1 == hashed ]] || echo yes)" '
        FILENAME == "which-out.txt" { out[$1] = $2; next }
        FILENAME == "which-in.txt" { with[$1] = $2; next }
        {
            first = $3 == "out" ? out[$1] : with[$1]
            moves = !kept && out[$1] != with[$1]
            print $1, first, $3, moves && $3 == "before" ? "out" : moves && $3 == "out" ? "in" : "kept"
        }' which-out.txt which-in.txt fates.seen > fates.lbctl
    expect_same "$(wc -l < fates.seen) connections: each one's server and end are what lbctl which says" fates.lbctl fates.seen
}
event_at() { field run.json ".events[] | select(.name | startswith(\"$1:\")) | .seconds"; }

# table_moved: of the whole table, how much more moved than belonged to the servers that went out, in percent of that.
table_moved() {
    paste -d ' ' <(table_shown web < show-in.json) <(table_shown web < show-out.json) | awk -v names="${SCALE_OUT[*]/#/s}" '
        BEGIN { split(names, list); for (i in list) gone[list[i]] }
        $1 in gone { ideal++ }
        $1 != $2 { moved++ }
        END { printf "%d\n", (moved * 100 + ideal - 1) / ideal }'
}
