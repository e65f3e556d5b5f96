//! HTTP: metrics, what there is, a page, and orders of operators.
//!
//! ```text
//! listeners ─▶ serve (limits, hosts) ─▶ route ─▶ Action ─┬─▶ read::Asker ─▶ the reader, a process ─▶ snapshots
//! (listen)                                               ├─▶ lbd::Link ─▶ lbd: what operators order
//!                                                        └─▶ the page, the description, counters
//! ```
//! Which request does what is decided in [`route`], which is pure. What changes anything, and what shows addresses of
//! clients, exists on the Unix socket alone, which root and the group `synrail` may open; over TCP it is refused.
//! A browser is trusted no more than others: a request must name a host that this is ([`guard`]), so that a name of
//! a stranger that leads here (DNS rebinding) gets nothing, and one that changes anything must come from the page.
//!
//! Limits ([`limits`]): connections, those of one source, requests a second over TCP; the size of headers and bodies;
//! the time of a connection and of a request. What is refused is counted, and `/api/v1/http` shows it.

pub mod guard;
pub mod limits;
pub mod listen;
pub mod orders;
mod page;
pub mod read;
pub mod route;
mod serve;

pub use listen::Opened;

/// Where a request comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// By the Unix socket.
    Unix,
    /// By TCP.
    Tcp,
}
