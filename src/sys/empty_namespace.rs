//! An empty network namespace, in which the kernel can be asked how it represents a ruleset. Nothing in it is
//! in force, and it has nothing of other programs.

use std::{io, panic::resume_unwind};

use nix::sched::{CloneFlags, unshare};

/// Runs `work` on a thread in an empty network namespace, which ends with the thread.
///
/// # Errors
/// Returns an error if the kernel refuses to create the namespace, which requires `CAP_SYS_ADMIN`.
pub(super) fn in_empty_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
