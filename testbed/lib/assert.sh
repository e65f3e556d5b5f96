# shellcheck shell=bash
# What a scenario claims. A claim that holds is one line; the first that does not ends the scenario, with both values.

expect_eq() { # WHAT ACTUAL WANTED
    [[ $2 == "$3" ]] || broken "$1: $2, and should be $3"
    holds "$1: $2"
}
expect_ge() { # WHAT ACTUAL LEAST
    at_least "$2" "$3" || broken "$1: $2, and should be at least $3"
    holds "$1: $2 (at least $3)"
}
expect_le() { # WHAT ACTUAL MOST
    at_least "$3" "$2" || broken "$1: $2, and should be at most $3"
    holds "$1: $2 (at most $3)"
}
expect_same() { # WHAT FILE FILE
    if ! cmp -s "$2" "$3"; then
        head -n 40 <(diff -U 2 "$2" "$3") >&2
        broken "$1: $2 and $3 differ"
    fi
    holds "$1"
}
expect_ok() { # WHAT COMMAND...
    local what=$1
    shift
    "$@" || broken "$what: '$*' failed with status $?"
    holds "$what"
}
# expect_refused WHAT PATTERN COMMAND...: it fails, and says something that matches the extended regular expression.
expect_refused() {
    local what=$1 pattern=$2 output status=0
    shift 2
    output=$("$@" 2>&1) || status=$?
    ((status != 0)) || broken "$what: '$*' succeeded and should not have: $output"
    ((status < 124)) || broken "$what: '$*' ended with status $status: $output"
    grep -Eiq -- "$pattern" <<< "$output" || broken "$what: it should say something like '$pattern', and said: $output"
    holds "$what: $(grep -Ei -m 1 -- "$pattern" <<< "$output")"
}
expect_grep() { # WHAT PATTERN FILE; all of it is read, since its writer may fail when a reader leaves
    (($(grep -Eic -- "$2" "$3" || true) > 0)) || broken "$1: nothing like '$2' in $3"
    holds "$1"
}

at_least() { [[ $1 =~ ^-?[0-9]+$ && $2 =~ ^-?[0-9]+$ ]] && (($1 >= $2)); }
# To the scenario's own output, wherever the command that claims it is redirected to.
exec {CLAIMS}>&1
holds() { printf '   ok  %s\n' "$*" >&"$CLAIMS"; }
note() { printf '       %s\n' "$*" >&"$CLAIMS"; }
broken() { no "$*"; exit 1; }
# Also kept for the summary at the end of a run, which is what people see first.
no() {
    printf '   NO  %s\n' "$*" >&"$CLAIMS"
    printf '   NO  %s: %s\n' "$NAME" "$*" >> "$RUN/verdicts/$NAME/claims-that-failed"
}
