//! Which backend gets a packet: the service that claims it ([`classifier`]), and that service's table ([`maglev`]). PURE.

pub mod classifier;
pub mod maglev;
