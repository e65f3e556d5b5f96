//! What another process may ask of lbd by its control socket, and what lbd answers: one JSON object on a line each.
//!
//! lbagent asks, which reads what strangers send; so it does not write the region, but says what it found, and
//! passes on what an operator said. Whether an operator said it lbd cannot know, so orders are accepted only if the
//! configuration has lbagent take them ([`crate::config::HttpSettings::unix`]).
//!
//! ```json
//! {"do":"observe","found":[{"service":"web","backend":"s1","health":"down","since":"...","reason":"connection refused"}]}
//! {"ok":true,"changes":[{"what":"backend web/s1","key":"health","from":"up: ...","to":"down: connection refused"}]}
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Host, OpsError, Saved, propose, update};
use crate::{
    config::Config,
    model::{Name, Override, Remark, ids::Generation},
    state::{Change, Observation, Report, State, StateError},
    sys::{
        overrides::OverridesFile,
        region::{Region, RegionName},
    },
};

/// The length of the longest request or answer, in bytes.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// How many differences are in an answer to a file: it must fit into the socket.
const CHANGES_MAX: usize = 500;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Health checks run; once a second.
    Beat {
        /// The process that runs them.
        pid: u32,
        /// How many could not be made the last time, for reasons of the host.
        #[serde(default)]
        not_made: u32,
    },
    /// What checks found.
    Observe {
        /// Of each backend that is meant.
        found: Vec<Observation>,
        /// What agents on backends report.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reported: Vec<Report>,
    },
    /// An operator's word about backends.
    Admin {
        /// Of this service, or of every service that has a backend of that name.
        #[serde(default)]
        service: Option<Name>,
        /// The backends.
        names: Vec<Name>,
        /// The word.
        order: Override,
    },
    /// An operator's order to end the flows that backends have now.
    Kill {
        /// Of this service, or of every service that has a backend of that name.
        #[serde(default)]
        service: Option<Name>,
        /// The backends.
        names: Vec<Name>,
        /// The user.
        by: Remark,
    },
    /// An operator's configuration file.
    Apply {
        /// Its text.
        text: String,
        /// Whether the differences are only told.
        #[serde(default)]
        dry_run: bool,
        /// Whether it may take away what is in use.
        #[serde(default)]
        allow_removal: bool,
        /// The user.
        by: Remark,
    },
}

impl Request {
    /// Returns the user whose order this is; `None` for what lbagent says of itself.
    #[must_use]
    pub fn by(&self) -> Option<&Remark> {
        match self {
            Self::Beat { .. } | Self::Observe { .. } => None,
            Self::Admin { order, .. } => Some(&order.by),
            Self::Kill { by, .. } | Self::Apply { by, .. } => Some(by),
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is different now; with `dry_run`, what would be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// What a file takes away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<String>,
    /// What may not be meant, or will not last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The generation that has it; `None` if nothing was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// To a beat: addresses of backends to which a packet was not delivered since the last one, as an ICMP error says
    /// that anyone can send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undelivered: Vec<IpAddr>,
}

impl Reply {
    /// Returns the answer to what cannot be done.
    #[must_use]
    pub fn failed(error: &dyn std::fmt::Display) -> Self {
        Self { error: Some(error.to_string()), ..Self::default() }
    }

    /// Returns it with no more differences than fit into the socket.
    #[must_use]
    pub fn fitting(mut self) -> Self {
        let more = |all: usize| all.saturating_sub(CHANGES_MAX);
        let more = more(self.changes.len()) + more(self.losses.len());
        self.changes.truncate(CHANGES_MAX);
        self.losses.truncate(CHANGES_MAX);
        self.warnings.extend((more > 0).then(|| format!("{more} more changes are not listed")));
        self
    }

    /// Returns the answer to what was done.
    #[must_use]
    pub fn done(changes: Vec<Change>) -> Self {
        Self { ok: true, changes, ..Self::default() }
    }
}

/// Puts what checks found, and what agents report, in the region. Returns the differences.
///
/// # Errors
/// When the region cannot be changed.
pub fn observe(
    overrides: &OverridesFile,
    unix_seconds: u64,
    region: &mut Region,
    (found, reported): (&[Observation], &[Report]),
) -> Result<(Vec<Change>, Saved), OpsError> {
    change(overrides, unix_seconds, region, |live| Ok(live.observe(found).hear(reported)))
}

/// Puts an operator's word about backends in the region. Returns the differences.
///
/// # Errors
/// When a name is not known, or the region cannot be changed.
pub fn order(
    overrides: &OverridesFile,
    unix_seconds: u64,
    region: &mut Region,
    (service, names, order): (Option<&Name>, &[Name], &Override),
) -> Result<(Vec<Change>, Saved), OpsError> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    change(overrides, unix_seconds, region, |live| live.set_admin(service.map(Name::as_str), &names, order))
}

/// Makes a region what a file says, unless others change it at the same time, or it takes away what is in use and
/// that is not allowed.
///
/// # Errors
/// When the file is not valid, or cannot be applied.
pub fn apply_text(
    host: &Host,
    region: &RegionName,
    (text, dry_run, allow_removal): (&str, bool, bool),
) -> Result<Reply, OpsError> {
    let config = match Config::parse("the file", text) {
        Ok(config) => config,
        Err(errors) => return Ok(Reply::failed(&errors)),
    };
    let proposal = propose(host, region, &config)?;
    let warnings = || proposal.own_vips.iter().map(ToString::to_string).chain(proposal.notes.iter().cloned());
    let mut reply = Reply::done(proposal.changes.clone());
    reply.losses = proposal.losses.in_use.iter().chain(&proposal.losses.forgotten).cloned().collect();
    reply.warnings = warnings().collect();
    if dry_run || proposal.is_nothing() {
        return Ok(reply);
    }
    if !proposal.own_vips.is_empty() {
        return Err(OpsError::OwnVips(proposal.own_vips));
    }
    if !proposal.losses.in_use.is_empty() && !allow_removal {
        let error = "it takes away what is in use (see losses)".to_owned();
        return Ok(Reply { ok: false, error: Some(error), ..reply });
    }
    let Some(published) = proposal.publish(host)? else {
        return Ok(Reply::failed(&"others changed the region at the same time; nothing was changed"));
    };
    reply.generation = Some(published.generation);
    reply.warnings.extend(published.warnings);
    reply.warnings.extend(published.saved.err().map(|error| error.to_string()));
    Ok(reply)
}

fn change(
    overrides: &OverridesFile,
    unix_seconds: u64,
    region: &mut Region,
    of: impl FnOnce(&State) -> Result<State, StateError>,
) -> Result<(Vec<Change>, Saved), OpsError> {
    let (_, changes, saved) = update(overrides, unix_seconds, region, |live| {
        let next = of(live)?;
        let changes = live.changes(&next);
        Ok::<_, OpsError>(((next != *live).then_some(next), changes))
    })?;
    Ok((changes, saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_are_lines_of_json() {
        let text = r#"{"do":"observe","found":[{"service":"web","backend":"s1","health":"down","since":"2026-11-29T12:00:00Z","reason":"connection refused"}]}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        let beat: Request = serde_json::from_str(r#"{"do":"beat","pid":7}"#).unwrap();
        assert_eq!(beat, Request::Beat { pid: 7, not_made: 0 });
        assert_eq!(serde_json::to_string(&Reply::done(Vec::new())).unwrap(), r#"{"ok":true}"#);
        let failed = serde_json::to_string(&Reply::failed(&"no service")).unwrap();
        assert_eq!(failed, r#"{"ok":false,"error":"no service"}"#);
        for bad in ["", "{}", r#"{"do":"format"}"#, r#"{"do":"beat","pid":-1}"#] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad:?}");
        }
    }
}
