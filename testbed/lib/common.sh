# shellcheck shell=bash
# Speaking, failing and waiting: the few words that every part of the testbed shares, on the host and inside.
#
# Progress goes to standard output as one line a step; what went wrong goes to standard error.
# Nothing here sleeps until something is "probably ready": wait_until polls a condition, with a limit.

# shellcheck disable=SC2034 # for others
STATUS_LACKING=77 # exit status of what could not run because the kernel or the host lacks something

say() { printf '%s\n' "$*"; }
step() { printf '%s %s\n' "${STEP_MARK:-==>}" "$*"; }
complain() { printf 'testbed: %s\n' "$*" >&2; }
die() { complain "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# wait_until SECONDS DESCRIPTION COMMAND...: poll COMMAND until it succeeds; 1 when the time is up. The next time is a tenth
# of a second later, or, up to two seconds, a tenth of what has passed: who waits long shall not slow down what he waits for.
wait_until() {
    local seconds=$1 description=$2 start passed_ms pause_ms
    shift 2
    start=$(now_ms)
    until "$@" >/dev/null 2>&1; do
        passed_ms=$(($(now_ms) - start))
        if ((passed_ms >= seconds * 1000)); then
            complain "waited $seconds s in vain until $description"
            return 1
        fi
        pause_ms=$((passed_ms < 1000 ? 100 : passed_ms < 20000 ? passed_ms / 10 : 2000))
        sleep "$((pause_ms / 1000)).$(printf %03d $((pause_ms % 1000)))"
    done
}

# Milliseconds of a clock that never jumps back far enough to matter; no process is started for it.
now_ms() { local us=${EPOCHREALTIME/[.,]/}; printf '%s\n' "$((us / 1000))"; }

# end_process PID [SECONDS]: ask, wait, then insist. Only ever given ids that this run started.
end_process() {
    local pid=$1 seconds=${2:-5}
    kill "$pid" 2>/dev/null || return 0
    wait_until "$seconds" "process $pid has ended" process_gone "$pid" 2>/dev/null || kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}
process_gone() { ! kill -0 "$1" 2>/dev/null || [[ $(process_state "$1") == Z ]]; }
process_state() {
    local key state
    while read -r key state _; do
        if [[ $key == State: ]]; then
            echo "$state"
            break
        fi
    done 2>/dev/null < "/proc/$1/status"
}

# head_field FILE KEY: the value of a "# KEY: value" line in a script's head.
head_field() { sed -n "/^# $2: */{s///p;q}" "$1"; }
