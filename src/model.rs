//! Values that cannot be invalid: numbers, names, and what can be said of a service. PURE; everything else is built on them.

mod addresses;
pub mod ids;
mod overrides;
mod prime;
mod service;
mod values;

pub use addresses::OuterAddresses;
pub use overrides::{Admin, Admission, Override, Remark};
pub use prime::{TableSize, TableSizeError};
pub use service::{Decider, Encap, GUE_PORT, HashMode, Path, Pmtu, Protocol, Protocols, Steering};
pub use values::{InterfaceName, Name, PortRange, QueueRange, Weight};
