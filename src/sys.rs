//! THE OS: the only module that contains unsafe code, calls libc, starts programs or reads the clock. Every
//! module here has a safe interface and owns its descriptors.

pub mod allocator;
pub mod capability;
pub mod child;
pub mod clock;
pub mod conntrack;
pub mod control_socket;
pub mod devices;
mod empty_namespace;
pub mod events;
pub mod helper;
pub mod instance_lock;
mod journal;
pub mod kernel;
#[cfg(test)]
pub(crate) mod namespace;
mod netlink;
pub mod nfqueue;
pub mod nft;
pub mod output;
pub mod overrides;
pub mod privileges;
pub mod probe;
mod program;
pub mod region;
pub mod replace;
pub mod rtnetlink;
mod seccomp;
mod sigbus;
pub mod signal;
pub mod tracer;
pub mod tun;

/// Returns the index of a device of this network namespace.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Describes a running process by number and name.
fn process(pid: u64) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim()).filter(|name| !name.is_empty()).map(|name| format!("process {pid} ({name})"))
}
