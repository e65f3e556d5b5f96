//! Returns freed memory to the kernel.
//!
//! glibc keeps freed memory for later allocations. A start, a change of state and a check of all rules need
//! much memory for a moment (tables, and messages to the kernel). After that lbd needs little for hours.

#![allow(unsafe_code)]

/// Returns as much freed memory to the kernel as possible.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
