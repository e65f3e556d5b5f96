//! Memory that was freed goes back to the kernel.
//!
//! glibc keeps what was freed for what comes next. A start, a change of state and a look at all rules take
//! much for a moment, tables and messages to the kernel, and then lbd needs little for hours.

#![allow(unsafe_code)]

/// Gives back what can be given.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
