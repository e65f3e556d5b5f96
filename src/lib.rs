//! synrail
pub mod balance;
pub mod config;
pub mod ids;
pub mod state;
