//! What another process asks of lbd by its control socket ([`ops::Request`]).

use std::net::IpAddr;

use tracing::{debug, info, warn};

use super::{Lbd, open::log_saved};
use crate::{
    ops::{self, Reply},
    shm::stats,
    sys::{clock, probe},
};

impl Lbd {
    /// Answers what was asked by the control socket.
    pub(super) fn serve(&mut self) {
        let Some(mut control) = self.control.take() else { return };
        control.serve(|line| self.answer(line));
        self.control = Some(control);
    }

    pub(super) fn answer(&mut self, line: &[u8]) -> String {
        let reply = match serde_json::from_slice(line) {
            Ok(request) => self.perform(&request),
            Err(error) => Reply::failed(&format_args!("not a request: {error}")),
        };
        serde_json::to_string(&reply.fitting()).expect("text and flags")
    }

    fn perform(&mut self, request: &ops::Request) -> Reply {
        let (overrides, now) = (&self.overrides, clock::unix_seconds());
        if let Some(by) = request.by() {
            if !self.agent.takes_orders() {
                warn!(%by, "an order by lbagent, which is to take none ([http] unix): nothing was changed");
                return Reply::failed(
                    &"lbagent is not to take orders: the file has no [http], or unix = false",
                );
            }
            // The request is in the log even where it changes nothing.
            info!(%by, "an order by HTTP");
        }
        let (done, what) = match request {
            ops::Request::Beat { pid, not_made } => {
                let said =
                    stats::Beat { pid: (*pid).into(), not_made: (*not_made).into(), at: clock::monotonic() };
                let shown = said.write(&mut self.region.mapping());
                let undelivered = self.undelivered();
                return shown.map_or_else(
                    |error| Reply::failed(&error),
                    |()| Reply { undelivered, ..Reply::done(Vec::new()) },
                );
            }
            ops::Request::Observe { found, reported } => {
                let what = match (&found[..], &reported[..]) {
                    (_, []) => "health checks",
                    ([], _) => "agents on backends",
                    _ => "health checks and agents on backends",
                };
                (ops::observe(overrides, now, &mut self.region, (found, reported)), what)
            }
            ops::Request::Admin { service, names, order } => {
                let meant = (service.as_ref(), &names[..], order);
                (ops::order(overrides, now, &mut self.region, meant), "an operator")
            }
            ops::Request::Kill { service, names, .. } => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                let service = service.as_ref().map(|name| name.as_str());
                return replied(ops::kill(&self.host(), self.region.name(), service, &names).map(|killed| {
                    let ops::Killed { published: ops::Published { generation, saved, .. }, .. } = killed;
                    info!(backends = names.join(" "), "flows are ended");
                    log_saved(saved);
                    Reply { generation: Some(generation), ..Reply::done(Vec::new()) }
                }));
            }
            ops::Request::Apply { text, dry_run, allow_removal, .. } => {
                let asked = (&text[..], *dry_run, *allow_removal);
                return replied(ops::apply_text(&self.host(), self.region.name(), asked).inspect(|reply| {
                    if reply.generation.is_some() {
                        reply.changes.iter().for_each(|change| info!("a file: {change}"));
                    }
                }));
            }
        };
        match done {
            Ok((changes, saved)) => {
                changes.iter().for_each(|change| info!("{what}: {change}"));
                log_saved(saved);
                Reply::done(changes)
            }
            Err(error) => {
                warn!(%error, "{what}: nothing was changed");
                Reply::failed(&error)
            }
        }
    }

    /// Returns the backends that lbagent is to check early.
    fn undelivered(&mut self) -> Vec<IpAddr> {
        if !self.agent.checks() {
            return Vec::new();
        }
        let now = self.now();
        match self.undelivered_sets.read() {
            Ok(seen) => self.undelivered.news(&seen, now),
            Err(error) => {
                // The next repair logs what is wrong with the ruleset. Without this no check is early.
                debug!(%error, "it cannot be read which backends were not reached");
                Vec::new()
            }
        }
    }

    /// What actions need besides the region.
    fn host(&self) -> ops::Host {
        ops::Host {
            overrides: self.overrides.clone(),
            numbers_in_kernel: || super::numbers_in_kernel().unwrap_or_default(),
            look: probe::look,
            unix_seconds: clock::unix_seconds(),
        }
    }
}

fn replied(done: Result<Reply, ops::OpsError>) -> Reply {
    done.unwrap_or_else(|error| {
        warn!(%error, "an operator: nothing was changed");
        Reply::failed(&error)
    })
}
