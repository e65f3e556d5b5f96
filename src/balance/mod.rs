//! x
pub mod service;
