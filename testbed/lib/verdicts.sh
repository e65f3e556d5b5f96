# shellcheck shell=bash
# Scenarios one after another, or divided among machines, and what became of each.
#
# All of it is in RUN/verdicts/NAME/, which the first machine to begin the scenario makes: so none is run twice, and one that was
# begun and not finished is known when its machine has ended. In it are `verdict` (exit status, milliseconds, percent of them idle),
# `claims-that-failed`, and, of a machine that is not alone, `machine` (its number) and `output`.

# each_scenario RUNNER NAME...: "RUNNER NAME" runs one, and each that has not begun is run.
each_scenario() {
    local name runner=$1 status started before after
    shift
    for name; do
        mkdir "$RUN/verdicts/$name" 2>/dev/null || continue
        started=$(now_ms)
        status=0
        read -ra before < /proc/stat
        "$runner" "$name" || status=$?
        read -ra after < /proc/stat
        echo "$status $(($(now_ms) - started)) $(idle_percent)" > "$RUN/verdicts/$name/verdict"
    done
}
# idle_percent: what part of the CPUs' time was idle between two lines of /proc/stat, `before` and `after`: in it the scenario waited.
idle_percent() {
    local n idle=0 all=0
    for n in {1..8}; do
        all=$((all + after[n] - before[n]))
        ((n != 4 && n != 5)) || idle=$((idle + after[n] - before[n]))
    done
    echo $((100 * idle / (all > 0 ? all : 1)))
}
scenario_limit_s() { local limit_s; limit_s=$(head_field "$TESTBED/scenarios/$1.sh" limit_s); echo "${limit_s:-300}"; }

# pass_on_output NAME...: of machines side by side: which scenarios have begun since the last call, and all that those
# said that have ended since; with ENDED not empty (no machine runs any more) also what the unfinished ones said.
ENDED=''
pass_on_output() {
    local name place
    for name; do
        place=$RUN/verdicts/$name
        [[ ${passed_on[$name]:-} != all && -s $place/machine ]] || continue
        [[ -n ${passed_on[$name]:-} ]] || step "machine $(< "$place/machine") begins $name"
        passed_on[$name]=beginning
        [[ -s $place/verdict || -n $ENDED ]] || continue
        [[ ! -e $place/output ]] || cat "$place/output"
        passed_on[$name]=all
    done
}
declare -A passed_on=()

# verdicts NAME...: all of them, in this order. 0: all passed; 1: one failed; 77: one could not run; 125: one lost its
# machine, or there was none for it.
verdicts() {
    local name place status ms idle verdict remark passed=0 failed=0 lacking=0 lost=0 lines=()
    for name; do
        place=$RUN/verdicts/$name
        status=125 ms='' idle='' remark=''
        if [[ -s $place/verdict ]]; then
            read -r status ms idle < "$place/verdict"
        elif [[ -s $place/machine ]]; then
            remark=": machine $(< "$place/machine") ended amid it"
        elif [[ -e $place ]]; then
            remark=": the machine ended amid it"
        else
            remark=": no machine was left to run it"
        fi
        case $status in
            0) verdict=passed passed=$((passed + 1)) ;;
            "$STATUS_LACKING") verdict=LACKING lacking=$((lacking + 1)) ;;
            *) verdict=FAILED failed=$((failed + 1)) ;;
        esac
        ((status != 125)) || lost=1
        lines+=("$(printf '%-8s %4s s %3s %% idle  %s' "$verdict" "${ms:+$((ms / 1000))}" "$idle" "$name$remark")")
    done
    if (($# > 1)); then
        say ""
        printf '%s\n' "${lines[@]}"
        for name; do [[ ! -e $RUN/verdicts/$name/claims-that-failed ]] || cat "$RUN/verdicts/$name/claims-that-failed"; done
    fi
    say "$passed passed, $failed failed, $lacking could not run for lack of kernel parts or programs"
    ((lost == 0)) || return 125
    ((failed == 0)) || return 1
    ((lacking == 0)) || return "$STATUS_LACKING"
}
