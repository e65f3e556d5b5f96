# shellcheck shell=bash
# A cluster: several virtual machines, a process of QEMU each, on networks that exist only between these processes.
#
# The networks are Unix sockets in the directory of the run (lib/switch); nothing touches an interface of the host, and
# two clusters at once cannot meet. The machines share the kernel, the initramfs and the directory of the run; each has
# one CPU, and jobs reach it through a pipe that is its serial port (lib/node-init). All processes are children of this
# one, with their ids and start times in RUN/processes, and end with it; those of a cluster that is left running have a
# session of their own, and end by what is stored there.
#
# cluster_up and cluster_down are for the front end; node_job for it and for scenarios (lib/cluster.sh).

# shellcheck source=cluster-names.sh
source "${BASH_SOURCE[0]%/*}/cluster-names.sh"

NODE_MEMORY_MIB=${TESTBED_NODE_MEMORY_MIB:-384}
BOOT_LIMIT_S=300

# cluster_up KEEP: boot SERVERS, BALANCERS and TESTERS in RUN, wait until all are up; 125 if they are not.
# KEEP not empty: they outlive us.
cluster_up() {
    local keep=$1 node number=0 qemu launch=(setpriv --pdeathsig TERM) started
    [[ -z $keep ]] || launch=(setsid)
    started=$(now_ms)
    vm_files "$RUN"
    printf 'SERVERS=%d BALANCERS=%d TESTERS=%d RESILIENT=%s\n' "$SERVERS" "$BALANCERS" "$TESTERS" "$RESILIENT" \
        > "$RUN/cluster.sizes"
    mkdir "$RUN/nodes"
    cluster_launch switch "$TESTBED/lib/switch" net1 net2
    wait_until 20 "the switches are ready" grep -qx ready "$RUN/switch.log"
    step "booting Linux $KERNEL_VERSION in $(node_names | wc -l) machines (servers $SERVERS, balancers $BALANCERS, testers $TESTERS)"
    for node in $(node_names); do
        mkdir "$RUN/nodes/$node"
        mkfifo "$RUN/nodes/$node/jobs.in" "$RUN/nodes/$node/jobs.out"
        vm_arguments "$RUN" "$RUN/nodes/$node/console.log" 1 "$NODE_MEMORY_MIB" "TESTBED_NODE=$node"
        qemu+=(-chardev "pipe,id=jobs,path=$(qemu_path "$RUN/nodes/$node/jobs")" -device "virtserialport,name=jobs,chardev=jobs")
        for number in $(node_networks "$(node_role "$node")"); do
            qemu+=(-netdev "stream,id=net$number,server=off,addr.type=unix,addr.path=net$number"
                -device "virtio-net-pci,netdev=net$number,mac=$(node_mac "$node" "$number"),romfile=")
        done
        cluster_launch "$node" "${qemu[@]}"
    done
    local waiting
    mapfile -t waiting < <(node_names)
    wait_until "$BOOT_LIMIT_S" "all machines are up" nodes_settled || true
    if ((${#waiting[@]})); then
        cluster_complain
        return 125
    fi
    step "all machines are up after $((($(now_ms) - started) / 1000)) s"
}
# Unix sockets have short names, so the processes work in the directory of the run.
cluster_launch() { # NAME COMMAND...
    local name=$1
    shift
    (cd "$RUN" && exec "${launch[@]}" "$@") </dev/null > "$RUN/$name.log" 2>&1 {PROGRESS}>&- &
    echo "$name $! $(process_start "$!")" >> "$RUN/processes"
}
# nodes_settled: all up, or one has ended, which cannot become well. Says who came up; keeps the others in `waiting`.
nodes_settled() {
    local node left=()
    for node in "${waiting[@]}"; do
        if [[ -e $RUN/nodes/$node/ready ]]; then
            printf '    %s up, %d s\n' "$node" $((($(now_ms) - started) / 1000)) >&"$PROGRESS"
        elif process_gone "$(node_process "$node")"; then
            return 0
        else
            left+=("$node")
        fi
    done
    waiting=("${left[@]}")
    ((${#waiting[@]} == 0))
}
exec {PROGRESS}>&1
cluster_complain() {
    local node
    for node in "${waiting[@]}"; do
        complain "$node is not up; its console and QEMU say:"
        tail -n 5 "$RUN/nodes/$node/console.log" "$RUN/$node.log" >&2 || true
    done
}

# cluster_down: end what RUN/processes names, if it is still the same process.
cluster_down() {
    local name pid start
    [[ -e $RUN/processes ]] || return 0
    while read -r name pid start; do
        [[ $(process_start "$pid") != "$start" ]] || kill "$pid" 2>/dev/null || true
    done < "$RUN/processes"
    while read -r name pid start; do
        [[ $(process_start "$pid") != "$start" ]] || end_process "$pid" 5
    done < "$RUN/processes"
    rm -rf "$RUN"/{processes,nodes,net1,net2}
}
process_start() { local stat; { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 0; stat=${stat##*) }; cut -d ' ' -f 20 <<< "$stat"; }
node_process() { sed -n "s/^$1 \([0-9]*\) .*/\1/p" "$RUN/processes"; }
node_mac() { printf '52:54:00:00:%02x:%02x' "$2" "$((10#${1#vm-}))"; }

# node_job NODE OUT ERR COMMAND...: run it there and return its exit status; its output is appended to the files OUT and
# ERR, or passed on if these are empty. NODE_JOB says meanwhile what runs.
NODE_JOB=()
node_job() {
    local node=$1 out=$2 err=$3 job qemu_pid status
    shift 3
    [[ -e $RUN/nodes/$node/ready ]] || die "there is no machine $node; there are: $(node_names | tr '\n' ' ')"
    qemu_pid=$(node_process "$node")
    job=$(mktemp -d "$RUN/nodes/$node/job-XXXXXX")
    : > "$job/out"
    : > "$job/err"
    {
        printf 'cd %q 2>/dev/null || cd /\n' "$PWD"
        [[ -z $out ]] || printf 'exec >> %q 2>> %q\n' "$out" "$err"
        printf 'exec %s\n' "${*@Q}"
    } > "$job/command"
    exec {job_out}< "$job/out" {job_err}< "$job/err"
    NODE_JOB=("$node" "${job##*/}")
    # Opened for reading as well, so that it does not wait for a machine that has ended.
    echo "run ${job##*/}" 1<> "$RUN/nodes/$node/jobs.in"
    until [[ -s $job/rc ]]; do
        kill -0 "$qemu_pid" 2>/dev/null || { complain "$node ended before '$*'"; return 125; }
        sleep 0.05 # not read -t, in which bash may crash when a trap exits
        pass_on
    done
    NODE_JOB=()
    pass_on
    exec {job_out}<&- {job_err}<&-
    status=$(cat "$job/rc")
    rm -rf "$job"
    return "$status"
}
pass_on() {
    [[ ! -s $job/out ]] || cat <&"$job_out"
    [[ ! -s $job/err ]] || cat <&"$job_err" >&2
}
# job_signal NAME: to the command that runs, if one does.
job_signal() {
    ((${#NODE_JOB[@]} == 0)) || echo "signal ${NODE_JOB[1]} $1" 1<> "$RUN/nodes/${NODE_JOB[0]}/jobs.in"
}
