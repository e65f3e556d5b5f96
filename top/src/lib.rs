//! A terminal view of a region: what `lbtop` shows.
//!
//! ```text
//! region, kernel ─▶ read::Reader ─▶ Snapshot ─▶ History (rates) ─┐
//!                               keys ─▶ Selection ───────────────┴▶ screen::draw
//! ```
//! Only [`read`] looks at the host. Rates ([`history`]), what keys do ([`selection`]) and the screen ([`screen`]) are pure.
//!
//! It is a program of its own, since it brings a library for terminals that nothing else of synrail needs. It changes
//! nothing, and needs what `lbctl stats` and `lbctl flows` need.

mod args;
pub mod history;
pub mod read;
pub mod screen;
pub mod selection;
pub mod snapshot;

pub use args::{Arguments, command};
