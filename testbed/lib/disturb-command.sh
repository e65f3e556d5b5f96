# shellcheck shell=bash
# testbed/run disturb, on the host: options, one scenario for each tool (lib/disturb.sh), and the table of what they say.

# shellcheck source=disturb-kinds.sh
source "$TESTBED/lib/disturb-kinds.sh"

DISTURB_TOOLS=(synrail ipvs every-packet)
DISTURB_SERVERS=5

disturb_help() {
    local kind
    cat <<'HELP'
Usage: testbed/run disturb [OPTIONS]

Holds connections open through a load balancer, disturbs it or its network in one way after another, and counts the
connections that break, and new ones that fail. One virtual machine; each tool in a topology of its own, with five servers.

Options
  --tool NAME           may be given several times (default synrail and ipvs):
                          synrail         lbd
                          ipvs            IPVS, scheduler mh, GRE; on a host with connection tracking where that matters
                          every-packet    lbd with steering = "every-packet", which remembers nothing
  --kind NAME           may be given several times (default all):
HELP
    for kind in "${DISTURB_KINDS[@]}"; do printf '                          %-15s %s\n' "$kind" "$(disturb_label "$kind")"; done
    cat <<'HELP'
  --connections N       how many are held, 10 to 200 (default 60; half-closed: 20)
  --json                the rows as JSON, on standard output; all else goes to standard error
  --help                this text

"Drained" kinds take two of the five servers out of service (lbctl deactivate; weight 0); the servers themselves run on.
Left in target/testbed/disturb/: table.txt, rows.json; in target/testbed/disturb-TOOL/ what was measured.
Exit status: 0; 1 synrail lost more than IPVS in some kind, or a kind could not be measured; 77 a tool could not run, and why.
HELP
}

disturb_command() {
    local connections=60 tools=() kinds=() json='' option status=0
    while (($#)); do
        option=$1
        shift
        case $option in
            --tool | --kind | --connections) (($#)) || usage_error "$option needs a value" ;;&
            --tool) tools+=("$1"); shift ;;
            --kind) kinds+=("$1"); shift ;;
            --connections) connections=$1; shift ;;
            --json) json=yes ;;
            -h | --help) disturb_help; return 0 ;;
            *) usage_error "disturb has no option '$option' (testbed/run disturb --help)" ;;
        esac
    done
    ((${#tools[@]})) || tools=(synrail ipvs)
    ((${#kinds[@]})) || kinds=("${DISTURB_KINDS[@]}")
    disturb_check
    if [[ -n $json ]]; then
        disturb_runs >&2 || status=$?
        cat "$RUN/results/disturb/rows.json"
    else
        disturb_runs || status=$?
    fi
    return "$status"
}

# disturb_check: the options are what can be done.
disturb_check() {
    local name
    # The limit of connection tracking is the machine's, not a namespace's.
    # shellcheck disable=SC2154 # it is the front end's
    [[ $kernel == stock ]] || usage_error "disturb runs in a virtual machine; --kernel host is this host"
    for name in "${tools[@]}"; do
        [[ " ${DISTURB_TOOLS[*]} " == *" $name "* ]] || usage_error "there is no tool '$name'; there are ${DISTURB_TOOLS[*]}"
    done
    for name in "${kinds[@]}"; do
        disturb_label "$name" > /dev/null || usage_error "there is no kind '$name'; there are ${DISTURB_KINDS[*]}"
    done
    [[ -z $(printf '%s\n' "${tools[@]}" | sort | uniq -d) ]] || usage_error "a tool is named twice"
    [[ -z $(printf '%s\n' "${kinds[@]}" | sort | uniq -d) ]] || usage_error "a kind is named twice"
    number_between "$connections" 10 200 || usage_error "--connections is '$connections'; it can be 10 to 200"
}

disturb_runs() {
    local tool names=() status=0 limit_s=$((300 + 150 * ${#kinds[@]}))
    prepare
    [[ " ${tools[*]} " != *" ipvs "* || -n $RELEASE ]] || (deps_ipvsadm "$RUN/bin") || complain "going on without ipvsadm"
    for tool in "${tools[@]}"; do
        names+=("disturb-$tool")
        cat > "$RUN/testbed/scenarios/disturb-$tool.sh" <<SCENARIO
# proves: how many of $connections connections break with $tool, and how many new ones fail, amid disturbances
# topology: dsr:servers=$DISTURB_SERVERS
# needs: $(scale_needs "$tool") conntrack tcpdump ethtool busybox ss
# captures: no
# limit_s: $limit_s
disturb_run $tool $connections ${kinds[*]}
SCENARIO
    done
    inside $((120 + ${#tools[@]} * (limit_s + 60))) scenarios "${names[@]}" || status=$?
    verdicts "${names[@]}" || status=$((status ? status : $?))
    disturb_summary || status=$((status ? status : 1))
    return "$status"
}

# disturb_summary: the table; 1 if synrail lost more than IPVS somewhere.
disturb_summary() {
    local tool rows=() worse together=$RUN/results/disturb
    for tool in "${tools[@]}"; do
        [[ ! -s $RUN/results/disturb-$tool/rows.json ]] || rows+=("$RUN/results/disturb-$tool/rows.json")
    done
    mkdir -p "$together"
    gojq --slurp 'add // []' /dev/null "${rows[@]}" > "$together/rows.json"
    ((${#rows[@]})) || return 0
    disturb_table_text "$together/rows.json" > "$together/table.txt"
    say ""
    cat "$together/table.txt"
    worse=$(gojq --raw-output '
        def of($tool): map(select(.tool == $tool and (.result | type) == "object") | {key: .kind, value: .result}) | from_entries;
        of("synrail") as $ours | of("ipvs") as $theirs |
        [$ours | keys[] | select($theirs[.] and ($ours[.].lost > $theirs[.].lost or $ours[.].failed > $theirs[.].failed))] |
        join(" ")' "$together/rows.json")
    [[ -z $worse ]] || { say ""; say "  synrail lost more than IPVS: $worse"; return 1; }
}
disturb_table_text() { # ROWS
    local kind tool line
    printf '  lost of those held, failed of new ones; %d servers, 2 of them drained where it says so\n\n' "$DISTURB_SERVERS"
    line=$(printf '  %-42s' '')
    for tool in "${tools[@]}"; do line+=$(printf ' | %-21s' "$tool"); done
    printf '%s\n' "$line"
    for kind in "${kinds[@]}"; do
        line=$(printf '  %-42s' "$(disturb_label "$kind")")
        for tool in "${tools[@]}"; do
            line+=$(printf ' | %-21s' "$(gojq --raw-output --arg kind "$kind" --arg tool "$tool" '
                .[] | select(.kind == $kind and .tool == $tool) | .result |
                if . == null then "n/a" elif type == "string" then .
                else "\(.lost)/\(.held)" + (if .new > 0 then ", \(.failed)/\(.new) new" else "" end) end' "$1")")
        done
        printf '%s\n' "$line"
    done
}
