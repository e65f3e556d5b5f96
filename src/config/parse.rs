//! x
/// x
#[derive(Debug)]
pub struct ConfigError;
