# shellcheck shell=bash
# The topology "cluster", for a scenario that runs on the host: the same words that lib/topology.sh has for namespaces, for
# machines that are up already (lib/machines.sh). The directory $WORK is seen by all of them, at the same path.

# shellcheck source=machines.sh
source "$TESTBED/lib/machines.sh"

# shellcheck disable=SC2034 # for lib/scenario, lib/balancer.sh
WORK_IN=$RUN CLIENT=vm-221
# shellcheck disable=SC2034
server_name() { printf -v name vm-%03d "$1"; }
kernel_messages() { local node; for node in $(node_names); do cp "$RUN/nodes/$node/console.log" "$WORK/$node.console.log"; done; }

topology_up() { :; } # it is there
topology_namespaces() { node_names; }
# The machines end after the scenario, or are left running with all that runs in them.
topology_down() { { kill -9 "${STARTED[@]}"; wait "${STARTED[@]}"; } 2>/dev/null || true; }

in_ns() { local node=$1; shift; node_job "$node" '' '' "$@"; }
# start_in NODE OUT ERR COMMAND...: BACKGROUND is a process of this host that ends with the command, by its exit status, and
# that passes SIGTERM on.
start_in() {
    {
        set +e
        trap - ERR
        trap 'job_signal TERM' TERM
        trap 'job_signal KILL' USR1
        node_job "$@"
    } </dev/null &
    # shellcheck disable=SC2034
    BACKGROUND=$!
    STARTED+=($!)
}
STARTED=()
kill_started() { # ID...: the commands, at once
    local pid
    for pid; do kill -USR1 "$pid" 2>/dev/null || true; done
    for pid; do wait "$pid" || true; done
}
