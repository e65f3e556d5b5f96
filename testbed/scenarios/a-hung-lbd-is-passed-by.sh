# shellcheck shell=bash
# proves: where lbd hangs, or one worker of it, the kernel decides within 2 s by its own tables, and lbd takes over again when it goes on
#
# The queues stay nearly empty, so that a full one cannot be what lets packets by. A single thread is stopped as a debugger
# does it.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# limit_s: 200

# freeze_worker QUEUE: its thread stops until thaw_worker
freeze_worker() {
    local task
    for task in "/proc/${LBD_PID[lb201]}"/task/*; do [[ $(< "$task/comm") == "queue-$1" ]] && break; done
    background lb201 freeze /usr/bin/python3 -c 'import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
    if libc.ptrace(request, int(sys.argv[1]), 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
print("stopped", flush=True)
signal.pause()' "${task##*/}"
    FREEZER=$BACKGROUND
    wait_until 20 "the worker of queue $1 has stopped" grep -q stopped freeze.log
}
thaw_worker() { kill_started "$FREEZER"; }
hangs() { lbctl_in lb201 show --json | gojq --compact-output .hangs; }
hanging() { [[ $(hangs) == *"\"queues\":[$1]"* ]]; }
# without_lbd WHAT: connections that begin are answered, and no SYN of theirs had to wait
without_lbd() {
    local again ended
    again=$(witness lb201 syn_again) ended=$(ruleset_counter lb201 lease_ended)
    connect_all 10
    expect_eq "$1: SYNs that had to be sent again" "$(($(witness lb201 syn_again) - again))" 0
    expect_ge "$1: packets that were not queued" "$(($(ruleset_counter lb201 lease_ended) - ended))" 20
}
with_lbd() { # WHAT
    local by_kernel
    by_kernel=$(ruleset_counter lb201 by_kernel)
    connect_all 10
    expect_eq "$1: packets that the kernel decided about" "$(($(ruleset_counter lb201 by_kernel) - by_kernel))" 0
    expect_eq "$1: lbctl show says that it hangs" "$(hangs)" null
}

{ web_config lb201 gre; config_table fragments 'ttl_ms = 5000'; } > lb201.toml
balancers_up lb201
flows=$(sed -n 's/^queues = ".*-\(.*\)"/\1/p' lb201.toml) fragments=$(sed -n 's/^fragment_queue = //p' lb201.toml)
with_lbd "lbd works"
balancer_freeze lb201
without_lbd "lbd is stopped"
expect_ge "milliseconds that it hangs, as lbctl show says" "$(hangs | gojq .process_ms)" 900
fragments_all 5
balancer_thaw lb201
with_lbd "lbd goes on"
expect_grep "the log says that it was stopped" 'lbd was stopped' lb201.lbd.log

freeze_worker "$flows"
wait_until 10 "a worker of flows hangs" hanging "$flows"
wait_until 3 "the kernel does without it" lease_over lb201 flows
without_lbd "a worker is stuck"
expect_grep "the log names its queue" "worker of this queue hangs.*queue.*$flows" lb201.lbd.log
thaw_worker
wait_until 20 "the kernel asks lbd again" lease_holds lb201 flows
with_lbd "the worker goes on"

freeze_worker "$fragments"
wait_until 10 "the worker of fragments hangs" hanging "$fragments"
wait_until 3 "fragments are put together" lease_over lb201 fragments
fragments_all 5
connect_all 5
thaw_worker
wait_until 20 "fragments are queued again" lease_holds lb201 fragments
with_lbd "the worker of fragments goes on"
