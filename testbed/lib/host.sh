# shellcheck shell=bash
# The host's own kernel instead of a virtual machine: the job runs in namespaces of its own for mounts, network,
# processes and IPC, with its own /run and /dev/shm, so that nothing of it is left when it ends; in its /var/lib all but
# synrail is the host's. Needs root.

# host_run RUN_DIRECTORY SECONDS: run RUN_DIRECTORY/job; returns its exit status.
host_run() {
    local run=$1 seconds=$2 status=0 limit=()
    step "using this host's kernel, Linux $(uname -r), in namespaces"
    local enter=(unshare --mount --net --ipc --uts --pid --fork --kill-child --mount-proc --propagation private --
        bash -c 'mount -t tmpfs -o mode=755 run /run && mkdir -p /run/netns /run/lock &&
            mount -t tmpfs -o mode=1777 shm /dev/shm && mount -t sysfs sysfs /sys &&
            mkdir /run/lib && mount --rbind /var/lib /run/lib && mount -t tmpfs -o mode=755 lib /var/lib &&
            find /run/lib -mindepth 1 -maxdepth 1 ! -name synrail -exec ln -s -t /var/lib {} + &&
            ip link set lo up && exec bash "$1"' host-job "$run/job")
    if ((seconds == 0)); then
        "${enter[@]}" || status=$?
        return "$status"
    fi
    limit=(timeout -k 5 "$seconds")
    setpriv --pdeathsig TERM "${limit[@]}" "${enter[@]}" </dev/null & host_pid=$!
    wait "$host_pid" || status=$?
    host_pid=''
    ((status != 124)) || complain "the job did not end within $seconds s and was stopped"
    return "$status"
}

# host_stop: for the trap of the caller.
host_pid=''
host_stop() {
    [[ -z $host_pid ]] || end_process "$host_pid" 5
    host_pid=''
}
