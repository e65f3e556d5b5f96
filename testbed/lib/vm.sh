# shellcheck shell=bash
# Debian's stock kernel in QEMU, by software emulation, with the host's root file system as its own, or with that of another
# release (lib/release.sh).
#
# No disk (but $vm_disk, if that names a file), no network card, no privilege on the host: the guest sees that root
# read-only over 9p with a layer in memory above it, the checkout read-only, and one directory (the run) that it can
# write. It ends with its job, at the time limit, or with this process, whichever comes first. /dev/kvm is not used unless TESTBED_ACCEL=kvm says so:
# some hosts have one on which a stock kernel hangs.
#
# Several machines may do the same job side by side, and divide its work (lib/verdicts.sh). What is a machine's own, its
# output, its exit status and its console, is in RUN_DIRECTORY/machine-N. A machine has two CPUs, but no more than the
# host has for each: emulated CPUs that have to take turns wait for each other in vain.

VM_MEMORY_MIB=${TESTBED_MEMORY_MIB:-1536}
vm_disk=''
INITRAMFS_MODULES=(virtio_pci 9pnet_virtio 9p overlay virtio_console)
VM_INIT=$TESTBED/lib/initramfs-init

# vm_run RUN_DIRECTORY SECONDS MACHINES MEANWHILE..: boot, run RUN_DIRECTORY/job inside each, pass their output on, and
# call MEANWHILE some times a second; returns the first exit status that is not 0.
# SECONDS 0: no limit, and the caller's terminal becomes the guest's.
vm_run() {
    local run=$1 seconds=$2 machines=$3 machine cpus first=0 status
    shift 3
    vm_files "$run"
    cpus=$(($(nproc) / machines))
    cpus=$((cpus < 1 ? 1 : cpus > 2 ? 2 : cpus))
    for ((machine = 1; machine <= machines; machine++)); do vm_start "$run" "$seconds" "$machine" "$cpus"; done
    while ((${#vm_pids[@]})); do
        sleep 0.2
        for machine in "${!vm_pids[@]}"; do
            ! kill -0 "${vm_pids[machine]}" 2>/dev/null || continue
            status=0
            vm_result "$run" "$seconds" "$machine" || status=$?
            first=$((first ? first : status))
        done
        "$@"
    done
    vm_restore
    return "$first"
}

vm_start() { # RUN_DIRECTORY SECONDS MACHINE CPUS
    local run=$1 seconds=$2 machine=$3 mine=$1/machine-$3 qemu ports
    mkdir "$mine"
    vm_arguments "$run" "$mine/console.log" "$4" "$VM_MEMORY_MIB" "TESTBED_MACHINE=$machine"
    if ((seconds == 0)); then
        printf '%s %s\n' "$(stty size)" "${TERM:-linux}" > "$mine/terminal"
        vm_saved_tty=$(stty -g)
        ports=(-chardev "stdio,id=tty,signal=off" -device "virtconsole,chardev=tty")
        exec 3<&0
        setpriv --pdeathsig TERM "${qemu[@]}" "${ports[@]}" <&3 & vm_pids[machine]=$!
        exec 3<&-
        return
    fi
    mkfifo "$mine/out" "$mine/err"
    setpriv --pdeathsig TERM cat "$mine/out" & vm_cats+=($!)
    setpriv --pdeathsig TERM cat "$mine/err" >&2 & vm_cats+=($!)
    ports=(-chardev "file,id=out,path=$(qemu_path "$mine/out")" -device "virtserialport,name=out,chardev=out"
        -chardev "file,id=err,path=$(qemu_path "$mine/err")" -device "virtserialport,name=err,chardev=err")
    setpriv --pdeathsig TERM timeout -k 5 "$seconds" "${qemu[@]}" "${ports[@]}" </dev/null & vm_pids[machine]=$!
}

vm_result() { # RUN_DIRECTORY SECONDS MACHINE: it has ended
    local seconds=$2 machine=$3 mine=$1/machine-$3 status=0
    wait "${vm_pids[machine]}" || status=$?
    unset "vm_pids[machine]"
    # A machine that ended before it opened them would leave the cats waiting for ever.
    [[ ! -e $mine/out ]] || : <> "$mine/out" <> "$mine/err"
    if [[ -s $mine/rc ]]; then
        return "$(cat "$mine/rc")"
    elif ((status == 124)); then
        complain "virtual machine $machine did not end within $seconds s and was stopped"
        return 124
    fi
    complain "virtual machine $machine ended without a result (QEMU's exit status $status); its console says:"
    tail -n 20 "$mine/console.log" >&2 || true
    return 125
}

# vm_files RUN_DIRECTORY: what a machine finds there when it starts.
vm_files() {
    local run=$1
    printf '%s' "$CHECKOUT" > "$run/checkout.path"
    printf '%s' "$run" > "$run/run.path"
    printf '%s' "$KERNEL_VERSION" > "$run/kernel.version"
    vm_initramfs "$run/initramfs.gz"
}

# vm_arguments RUN_DIRECTORY CONSOLE_FILE CPUS MEMORY_MIB [KERNEL_ARGUMENT...]: sets `qemu`.
vm_arguments() {
    local run=$1 console=$2 cpus=$3 memory=$4 emulation options
    shift 4
    # norandmaps: QEMU translates code again for each address at which it runs; to start a program took three times as long.
    # tsc=reliable: else the clock is the HPET, each reading of which leaves the guest. erms=off: QEMU copies byte by byte for
    # it. avx=off: each of its long accesses becomes several.
    emulation=(-cpu "max,la57=off,erms=off,avx=off,avx2=off") options="norandmaps tsc=reliable"
    case ${TESTBED_ACCEL:-tcg} in
        tcg) emulation+=(-accel "tcg,thread=multi") ;;
        # The clock goes by 1 ns an instruction, and on at once where all wait. Of several CPUs one would work at a time.
        icount) emulation+=(-accel "tcg,thread=single" -icount "shift=0,sleep=off") options+=' TESTBED_CLOCK=instructions' cpus=1 ;;
        kvm) emulation=(-accel kvm -cpu host) options='' ;;
        *) die "TESTBED_ACCEL is '$TESTBED_ACCEL'; it can be tcg (default), icount or kvm" ;;
    esac
    # no_timer_check: a host with much to do may be too slow for the kernel's test of the timer, which then panics.
    qemu=(qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -nic none -monitor none
        -smp "$cpus" -m "$memory" -device "virtio-serial-pci,max_ports=8"
        -chardev "file,id=kernel,path=$(qemu_path "$console")" -serial chardev:kernel
        -kernel "$KERNEL_ROOT/boot/vmlinuz-$KERNEL_VERSION" -initrd "$run/initramfs.gz"
        -append "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check mitigations=off nokaslr${options:+ $options}${*:+ $*}" "${emulation[@]}")
    vm_share root "$GUEST_ROOT" readonly=on
    vm_share checkout "$CHECKOUT" readonly=on
    vm_share modules "$KERNEL_ROOT/lib/modules/$KERNEL_VERSION" readonly=on
    vm_share run "$run" readonly=off
    [[ -z $vm_disk ]] || qemu+=(-drive "file=$(qemu_path "$vm_disk"),format=raw,if=virtio")
}
vm_share() {
    qemu+=(-virtfs "local,path=$(qemu_path "$2"),mount_tag=$1,security_model=none,multidevs=remap,$3")
}
# In QEMU's options a comma ends a value, and two stand for one.
qemu_path() { printf '%s' "${1//,/,,}"; }

# The first program and the modules it needs, packed anew each time: it takes a fraction of a second.
vm_initramfs() {
    local file=$1 PATH=$PATH:/usr/sbin:/sbin tree module path number=100
    tree=$file.tree
    mkdir -p "$tree"/{bin,proc,sys,dev,modules}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    ln -s busybox "$tree/bin/sh"
    cp "$VM_INIT" "$tree/init"
    chmod 755 "$tree/init"
    for module in "${INITRAMFS_MODULES[@]}"; do
        modprobe -d "$KERNEL_ROOT" -S "$KERNEL_VERSION" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' | while read -r path; do
        number=$((number + 1))
        # busybox loads no compressed ones
        if [[ $path == *.xz ]]; then xz -dc "$path"; else cat "$path"; fi > "$tree/modules/$number-${path##*/}"
    done
    (cd "$tree" && find . -print0 | cpio --null --create --format=newc --quiet) | gzip -1 > "$file"
    rm -rf "$tree"
}

# vm_stop: for the trap of the caller; ends the machines by the ids they were started with.
vm_pids=() vm_cats=() vm_saved_tty=''
vm_stop() {
    local pid cat
    for pid in "${vm_pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${vm_pids[@]}"; do end_process "$pid" 3; done
    vm_pids=()
    for cat in "${vm_cats[@]}"; do kill "$cat" 2>/dev/null || true; done
    vm_restore
}
vm_restore() {
    [[ -z $vm_saved_tty ]] || stty "$vm_saved_tty" 2>/dev/null || true
    vm_saved_tty=''
    local cat
    for cat in "${vm_cats[@]}"; do wait "$cat" 2>/dev/null || true; done
    vm_cats=()
}
