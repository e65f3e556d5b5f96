# shellcheck shell=bash
# testbed/run scale, on the host: options, one scenario for each tool (lib/scale.sh), and what they say together: a table and
# a picture.

# shellcheck source=scale-tools.sh
source "$TESTBED/lib/scale-tools.sh"

SCALE_HELP='Usage: testbed/run scale [OPTIONS]

Holds connections open through a load balancer, takes some servers out of its service, later takes them in again, and counts the
connections that break. The servers go on running all the time. One virtual machine; each tool in a topology of its own.

Options
  --out "N N.."         which servers go out and come in again (default "1 2")
  --servers N           how many there are, 2 to 50 (default 10)
  --connections N       how many are held, at least 10 for each server, at most 2000 (default 100)
  --tool NAME           may be given several times (default synrail):
                          synrail         lbd; out: lbctl deactivate
                          every-packet    lbd with steering = "every-packet", which remembers nothing
                          ecmp            the kernel'"'"'s multipath route; out: another route
                          ecmp-resilient  a resilient next-hop group (Linux 5.13)
                          modulo          nftables: hash modulo the number of servers, no state
                          ipvs            IPVS, scheduler mh; out: weight 0
                          ipvs-delete     the same; out: the real server is deleted
  --all                 all of them
  --json                the rows of the table as JSON, on standard output; all else goes to standard error
  --help                this text

Left in target/testbed/scale/: scale.svg (the picture), table.txt, rows.json; in target/testbed/scale-TOOL/ what was measured.
Exit status: 0; 1 a claim did not hold (connections broke before anything was changed, a tool sent new ones to servers
that were out, ..); 77 a tool could not run, and why. Other kernels: testbed/run --kernel host scale.
'

scale_command() {
    local out="1 2" server_count=10 connections=100 tools=() json='' option status=0
    while (($#)); do
        option=$1
        shift
        case $option in
            --out | --servers | --connections | --tool) (($#)) || usage_error "$option needs a value" ;;&
            --out) out=$1; shift ;;
            --servers) server_count=$1; shift ;;
            --connections) connections=$1; shift ;;
            --tool) tools+=("$1"); shift ;;
            --all) tools=("${SCALE_TOOLS[@]}") ;;
            --json) json=yes ;;
            -h | --help) printf %s "$SCALE_HELP"; return 0 ;;
            *) usage_error "scale has no option '$option' (testbed/run scale --help)" ;;
        esac
    done
    ((${#tools[@]})) || tools=(synrail)
    scale_check
    if [[ -n $json ]]; then
        scale_runs >&2 || status=$?
        cat "$RUN/results/scale/rows.json"
    else
        scale_runs || status=$?
    fi
    return "$status"
}

# scale_check: the options are what can be done.
scale_check() {
    local tool n
    for tool in "${tools[@]}"; do
        scale_needs "$tool" >/dev/null || usage_error "there is no tool '$tool'; there are ${SCALE_TOOLS[*]}"
    done
    number_between "$server_count" 2 50 || usage_error "--servers is '$server_count'; it can be 2 to 50"
    number_between "$connections" "$((10 * server_count))" 2000 ||
        usage_error "--connections is '$connections'; it can be $((10 * server_count)) to 2000, 10 for each server at least"
    [[ $out =~ ^[1-9][0-9]?( [1-9][0-9]?)*$ ]] || usage_error "--out is '$out'; it can be numbers of servers, as in \"1 2\""
    for n in $out; do
        ((n <= server_count)) || usage_error "--out names server $n, and there are $server_count"
    done
    (($(tr ' ' '\n' <<< "$out" | sort -u | wc -l) == $(wc -w <<< "$out"))) || usage_error "--out names a server twice"
    (($(wc -w <<< "$out") < server_count)) || usage_error "--out names all $server_count servers; one at least has to stay"
}

number_between() { [[ $1 =~ ^[1-9][0-9]{0,5}$ ]] && (($1 >= $2 && $1 <= $3)); }

scale_runs() {
    local tool names=() status=0 limit_s=$((240 + connections / 5 + 10 * server_count))
    prepare
    [[ " ${tools[*]}" != *" ipvs"* || -n $RELEASE ]] || (deps_ipvsadm "$RUN/bin") || complain "going on without ipvsadm"
    for tool in "${tools[@]}"; do
        names+=("scale-$tool")
        cat > "$RUN/testbed/scenarios/scale-$tool.sh" <<SCENARIO
# proves: how many of $connections connections $tool breaks when server(s) $out of $server_count go out and come in again
# topology: dsr:servers=$server_count
# needs: $(scale_needs "$tool")
# captures: no
# limit_s: $limit_s
scale_run $tool $connections "$out"
SCENARIO
    done
    inside $((120 + ${#tools[@]} * (limit_s + 60))) scenarios "${names[@]}" || status=$?
    verdicts "${names[@]}" || status=$((status ? status : $?))
    scale_summary || status=$((status ? status : 1))
    return "$status"
}

# scale_summary: the table and the picture of those whose claims held.
scale_summary() {
    local tool rows=() runs=() labels=() together=$RUN/results/scale
    for tool in "${tools[@]}"; do
        [[ -s $RUN/results/scale-$tool/proven.json ]] || continue
        rows+=("$RUN/results/scale-$tool/proven.json")
        runs+=("$RUN/results/scale-$tool/run.json")
        labels+=(--name "$(scale_label "$tool")")
    done
    mkdir -p "$together"
    gojq --slurp . /dev/null "${rows[@]}" > "$together/rows.json"
    ((${#rows[@]})) || return 0
    scale_table_text "$together/rows.json" > "$together/table.txt"
    say ""
    cat "$together/table.txt"
    "$RUN/bin/traffic" graph "${runs[@]}" "${labels[@]}" --out "$together/scale.svg" \
        --title "$connections connections, $(wc -w <<< "$out") of $server_count servers out and in again" || return
    say ""
    say "the picture: $RESULTS/scale/scale.svg"
}
scale_table_text() { # ROWS
    printf '  %d connections, server(s) %s of %d out and in again\n\n' "$connections" "$out" "$server_count"
    printf '  %-15s | %7s %13s %15s %6s | %9s | %s\n' "" "lost" "of the ones" "of those that" "times" "lost when" "packets that"
    printf '  %-15s | %7s %13s %15s %6s | %9s | %s\n' tool "in all" "taken out" "stay" "ideal" "in again" "a program saw"
    gojq --raw-output '.[] | [.tool, .lost_out, "\(.lost_out - .lost_staying)/\(.on_out)", "\(.lost_staying)/\(.connections - .on_out)",
        .times_ideal // "-", .lost_in, (.packets_asked * 1000 / .packets | round / 10)] | @tsv' "$1" |
        while IFS=$'\t' read -r tool lost gone stay times again asked; do
            printf '  %-15s | %7s %13s %15s %6s | %9s | %s %%\n' "$tool" "$lost" "$gone" "$stay" "$times" "$again" "$asked"
        done
}
