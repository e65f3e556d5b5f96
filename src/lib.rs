//! synrail
pub mod balance;
pub mod config;
pub mod ids;
pub mod io;
pub mod packet;
pub mod shm;
pub mod state;
pub mod sys;
pub mod worker;
