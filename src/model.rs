//! Values that cannot be invalid: numbers, names, and what can be said of a service. PURE; everything else is built on them.

mod addresses;
mod health;
pub mod ids;
mod overrides;
mod prime;
mod reported;
mod service;
mod values;

pub use addresses::OuterAddresses;
pub use health::{
    DnsProbe, DnsRecord, ExecProbe, Health, HealthCheck, HttpProbe, HttpsProbe, Observed, OnDown, Probe,
    ProbeKind, StatusRange, UdpProbe, Via,
};
pub use overrides::{Admin, Admission, Override, Remark};
pub use prime::{TableSize, TableSizeError};
pub use reported::{AgentCheck, AgentHealth, AgentMode, Percent, Reported, Silent};
pub use service::{
    Announcing, Decider, Encap, GUE_PORT, HashMode, NoBackend, Path, Pmtu, Protocol, Protocols, Steering,
};
pub use values::{InterfaceName, Name, PortRange, QueueRange, Share, Weight};
