//! Configurations in a few words, for tests to which their text does not matter.

use std::fmt::Write as _;

use crate::{config::Config, state::State};

/// A configuration file in the making.
#[derive(Clone)]
pub(crate) struct Fixture(String);

/// What `[balancer]` says where a test does not.
const BALANCER: [(&str, &str); 3] =
    [("name", "'lb201'"), ("address", "['192.168.1.201', 'fd00:0:0:1::201']"), ("interfaces", "'eth2'")];

/// Begins a file with `[balancer]` and these keys of it, a line each.
pub(crate) fn balancer(keys: &str) -> Fixture {
    let says =
        |key: &str| keys.lines().any(|line| line.split_once('=').is_some_and(|(said, _)| said.trim() == key));
    let others = BALANCER.iter().filter(|(key, _)| !says(key));
    let others: String = others.map(|(key, value)| format!("{key} = {value}\n")).collect();
    Fixture(format!("[balancer]\n{others}{keys}\n"))
}

impl Fixture {
    /// Adds a service for these VIPs, between spaces, with further keys, a line each.
    pub(crate) fn service(mut self, name: &str, vips: &str, keys: &str) -> Self {
        let vips: Vec<_> = vips.split_whitespace().collect();
        let _ = write!(self.0, "[[service]]\nname = '{name}'\nvips = {vips:?}\n{keys}\n");
        self
    }

    /// Adds a backend of the service before it, with these keys, a line each.
    pub(crate) fn backend(mut self, name: &str, keys: &str) -> Self {
        let _ = write!(self.0, "[[service.backend]]\nname = '{name}'\n{keys}\n");
        self
    }

    /// Adds backends by name and address.
    pub(crate) fn backends(self, backends: &[(&str, &str)]) -> Self {
        backends
            .iter()
            .fold(self, |file, (name, address)| file.backend(name, &format!("address = '{address}'")))
    }

    /// Adds other tables, as text.
    pub(crate) fn tables(mut self, text: &str) -> Self {
        let _ = writeln!(self.0, "{text}");
        self
    }

    pub(crate) fn config(&self) -> Config {
        Config::parse("a test", &self.0).unwrap_or_else(|error| panic!("{error}\n{}", self.0))
    }

    pub(crate) fn state(&self) -> State {
        State::new(&self.config()).unwrap()
    }
}
