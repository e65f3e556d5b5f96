//! synrail
pub mod balance;
pub mod config;
pub mod ids;
pub mod plan;
pub mod state;
pub mod sys;
