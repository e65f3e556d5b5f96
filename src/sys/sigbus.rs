//! If the file of a shared mapping is truncated, the next access raises SIGBUS. A load balancer must not die
//! of that. The handler here maps anonymous memory at the address of the access and records that the mapping
//! is lost. The owner of the mapping sees the record and goes on with the state that it has.

#![allow(unsafe_code)]

use std::{
    io,
    os::raw::{c_int, c_void},
    sync::{
        Once,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// How many mappings can be guarded at a time; a further one is refused.
const GUARDS_MAX: usize = 16;

/// No Linux machine has larger pages. The replaced memory may begin a little before the access.
const PAGE_BYTES_MAX: usize = 65536;

/// One guarded mapping; the entry is free while `start` is 0.
struct Entry {
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

static ENTRIES: [Entry; GUARDS_MAX] =
    [const { Entry { start: AtomicUsize::new(0), len: AtomicUsize::new(0), lost: AtomicBool::new(false) } };
        GUARDS_MAX];

/// Guards a mapping while this value lives. Must be dropped before the mapping.
pub(super) struct Guard(&'static Entry);

impl Guard {
    /// Guards `len` bytes from `start`, which must be a mapping.
    pub(super) fn new(start: *const u8, len: usize) -> io::Result<Self> {
        install()?;
        let claim = |entry: &&Entry| {
            entry.start.compare_exchange(0, usize::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let entry =
            ENTRIES.iter().find(claim).ok_or_else(|| io::Error::other("too many regions are mapped"))?;
        entry.len.store(len, Ordering::Relaxed);
        entry.lost.store(false, Ordering::Relaxed);
        entry.start.store(start as usize, Ordering::Release);
        Ok(Self(entry))
    }

    /// Reports whether an access hit memory that was gone.
    pub(super) fn lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static FAILED: AtomicBool = AtomicBool::new(false);
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        // SAFETY: `action` is whole, and the handler only does what is async-signal-safe.
        let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
        FAILED.store(result != 0, Ordering::Relaxed);
    });
    if FAILED.load(Ordering::Relaxed) { Err(io::Error::other("no handler for SIGBUS")) } else { Ok(()) }
}

extern "C" fn handler(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo_t with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS fills the address.
    let address = unsafe { info.si_addr() } as usize;
    for entry in &ENTRIES {
        let start = entry.start.load(Ordering::Acquire);
        let end = start.saturating_add(entry.len.load(Ordering::Relaxed));
        if start == 0 || start == usize::MAX || !(start..end).contains(&address) {
            continue;
        }
        // A mapping starts on a page boundary, so this address is on one too, whatever the page size.
        let page = start + (address - start) / PAGE_BYTES_MAX * PAGE_BYTES_MAX;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the range lies in a mapping that its guard keeps alive, and that no reference points into.
        let mapped = unsafe { libc::mmap(page as *mut c_void, end - page, protection, flags, -1, 0) };
        if mapped != libc::MAP_FAILED {
            entry.lost.store(true, Ordering::Release);
            return;
        }
    }
    // The address is in no guarded mapping: the access is repeated, and ends the process as it would without
    // this handler. SAFETY: resetting a handler is async-signal-safe.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
