//! For tests against the running kernel: runs each in its own network namespace, and runs commands in it.

use std::{
    process::Command,
    sync::{Mutex, PoisonError},
};

/// A newly opened queue is found among all sockets of the process, so only one test may open queues at a
/// time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `test` on a thread with its own network namespace, which ends with the thread.
pub(crate) fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs these commands in the namespace of the calling thread.
#[expect(
    clippy::disallowed_methods,
    reason = "what a test needs of the network is said best in its own words"
)]
pub(crate) fn shell(commands: &str) {
    assert!(Command::new("sh").args(["-ec", commands]).status().unwrap().success(), "{commands}");
}

/// Runs these commands in the namespace of the calling thread. Returns what they print.
#[expect(
    clippy::disallowed_methods,
    reason = "what a test needs of the network is said best in its own words"
)]
pub(crate) fn output(commands: &str) -> String {
    let output = Command::new("sh").args(["-ec", commands]).output().unwrap();
    assert!(output.status.success(), "{commands}");
    String::from_utf8(output.stdout).unwrap()
}
