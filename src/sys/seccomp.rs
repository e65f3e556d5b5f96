//! The system calls that lbd gives up. A list of what is denied, since the C library and the crates use others than today
//! tomorrow, and a balancer that ends for that is worse: no other program, no other process, no other namespace or user, no
//! mount, no module, no code in the kernel, and no interface that is known for faults and of no use here. They fail with EPERM.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// What lbd never does, on every processor.
const DENIED: &[libc::c_long] = &[
    // Other programs, and the memory of other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Other namespaces, file systems and users.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Those that only this processor has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_uselib,
    libc::SYS_modify_ldt,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// The same calls by the x32 interface, on kernels that have it (`arch/x86/include/uapi/asm/unistd.h`).
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;
/// Those of x32 with numbers of their own: execve, ptrace, process_vm_readv, process_vm_writev, execveat
/// (`arch/x86/entry/syscalls/syscall_64.tbl`).
#[cfg(target_arch = "x86_64")]
const OF_X32: &[libc::c_long] = &[520, 521, 539, 540, 545];

/// Denies these calls to this thread and to those that it starts from now on. They cannot be allowed again.
pub(super) fn confine() -> Result<(), seccompiler::Error> {
    let mut denied: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        DENIED.iter().chain(DENIED_HERE).map(|&call| (call, Vec::new())).collect();
    denied.insert(libc::SYS_clone, vec![other_process()?]);
    #[cfg(target_arch = "x86_64")]
    for call in DENIED.iter().chain(DENIED_HERE).chain(OF_X32).chain(&[libc::SYS_clone, libc::SYS_clone3]) {
        denied.insert(call | X32, Vec::new());
    }
    apply(denied, libc::EPERM)?;
    // Its arguments are in memory, where no filter sees them; without it the C library uses clone.
    apply([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)
}

/// clone without the flag that makes a thread.
fn other_process() -> Result<SeccompRule, seccompiler::BackendError> {
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let flags = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    SeccompRule::new(vec![flags])
}

fn apply(
    denied: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    error: libc::c_int,
) -> Result<(), seccompiler::Error> {
    let processor: TargetArch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(error.cast_unsigned());
    let filter = SeccompFilter::new(denied, SeccompAction::Allow, refuse, processor)?;
    apply_filter(&BpfProgram::try_from(filter)?)
}

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use nix::{errno::Errno, sched, unistd};

    use super::*;
    use crate::sys::program::program;

    #[test]
    fn a_thread_that_is_confined_starts_threads_and_no_process() {
        let confined = || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            confine().unwrap();
            let started = program("true").status().map_err(|error| error.kind());
            assert_eq!(started.unwrap_err(), io::ErrorKind::PermissionDenied);
            assert_eq!(unistd::execv(c"/bin/true", &[c"true"]), Err(Errno::EPERM));
            assert_eq!(sched::unshare(sched::CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
            std::fs::read("/proc/thread-self/status").unwrap()
        };
        let status = String::from_utf8(thread::spawn(confined).join().unwrap()).unwrap();
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
        assert!(program("true").status().unwrap().success(), "other threads are as before");
    }
}
