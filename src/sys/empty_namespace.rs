//! A network namespace of nobody else's: a place to ask the kernel what it makes of a ruleset, with nothing in force, and
//! nothing of other programs' in the way.

use std::{io, panic::resume_unwind};

use nix::sched::{CloneFlags, unshare};

/// Runs `work` on a thread in a network namespace that is empty, and ends with it.
///
/// # Errors
/// When the kernel makes none: it takes `CAP_SYS_ADMIN`.
pub(super) fn in_empty_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
