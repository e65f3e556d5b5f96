//! What `lbagent` does: health checks of a region's backends, and HTTP.
//!
//! ```text
//! region ─▶ run::Follower ─▶ State ─▶ Checks (synrail::control::health) ─▶ Job ─▶ probe ─▶ Outcome ─▶ Checks
//!                                                                                          │ observations
//! lbd ◀── socket ◀── lbd::Link ◀───────────────────────────────────────────────────────────┘
//! ```
//! What is due, and what results come to, is decided in [`synrail::control::health`], which is pure. Here are the
//! event loop ([`run`]), what is sent and what counts as an answer ([`probe`]), and the connection to lbd ([`lbd`]).
//! lbd's answers name backends that packets did not reach: these are checked early.
//!
//! By HTTP it shows what there is, and takes orders of operators ([`http`]); what it shows another process reads for it
//! ([`reader`]).
//!
//! What is news ([`synrail::control::notices`]) it tells the operator's program ([`notify`]).
//!
//! This process talks to backends, and lbd does not: what a backend sends can end or stop this process at worst. It
//! only reads the region. Without it lbd goes on with what was found last.
//!
//! Everything has a limit: checks that run at once ([`synrail::control::health::RUNNING_MAX`]), what each reads
//! ([`probe`]), and its time.

mod args;
pub mod http;
pub mod lbd;
mod notice;
pub mod notify;
pub mod once;
pub mod privileges;
pub mod probe;
pub mod program;
pub mod reader;
pub mod run;

pub use args::{Arguments, command};
