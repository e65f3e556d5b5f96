//! synrail
pub mod balance;
pub mod config;
pub mod ids;
pub mod packet;
pub mod plan;
pub mod state;
pub mod sys;
