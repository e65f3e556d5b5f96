# shellcheck shell=bash
# Scenarios one after another, and what became of each.

# each_scenario RUNNER NAME...: "RUNNER NAME" runs one. 0: all passed; 1: one failed; 77: one could not run.
each_scenario() {
    local name runner=$1 status verdict passed=0 failed=0 lacking=0 started lines=()
    shift
    for name; do
        started=$(now_ms)
        status=0
        "$runner" "$name" || status=$?
        case $status in
            0) verdict=passed passed=$((passed + 1)) ;;
            "$STATUS_LACKING") verdict=LACKING lacking=$((lacking + 1)) ;;
            *) verdict=FAILED failed=$((failed + 1)) ;;
        esac
        lines+=("$(printf '%-8s %4d s  %s' "$verdict" $((($(now_ms) - started) / 1000)) "$name")")
    done
    if (($# > 1)); then
        say ""
        printf '%s\n' "${lines[@]}"
        [[ ! -e $RUN/claims-that-failed ]] || cat "$RUN/claims-that-failed"
    fi
    say "$passed passed, $failed failed, $lacking could not run for lack of kernel parts or programs"
    ((failed == 0)) || return 1
    ((lacking == 0)) || return "$STATUS_LACKING"
}
scenario_limit_s() { local limit_s; limit_s=$(head_field "$TESTBED/scenarios/$1.sh" limit_s); echo "${limit_s:-300}"; }
