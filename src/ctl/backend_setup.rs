//! `backend-setup`: selects the backend, and prints the commands for it.

use serde_json::json;

use super::{Env, Status, args::BackendSetupArguments, error::CtlError};
use crate::{
    state::State,
    sys::region::{Region, RegionName},
};

/// `lbctl backend-setup`.
pub(super) fn backend_setup(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &BackendSetupArguments,
) -> Result<Status, CtlError> {
    let (_, state) = Region::open_to_read(name)?.state()?;
    let service = match &args.service {
        Some(service) => service.clone(),
        None => service_of(&state, &args.backend)?,
    };
    let commands = commands(&state, &service, &args.backend)?;
    if json {
        return env.json(&json!({ "service": service, "backend": args.backend, "commands": commands }));
    }
    env.text(&commands)
}

/// Returns the one service that has a backend of this name.
fn service_of(state: &State, backend: &str) -> Result<String, CtlError> {
    let has = |service: &&crate::state::Service| service.backends.iter().any(|b| b.name.as_str() == backend);
    let found: Vec<&str> = state.services.iter().filter(has).map(|service| service.name.as_str()).collect();
    match found[..] {
        [] => Err(CtlError::Setup(format!(
            "no service has a backend \"{backend}\"; `lbctl backends` lists them"
        ))),
        [service] => Ok(service.to_owned()),
        _ => {
            let services = found.join(", ");
            Err(CtlError::Usage(format!(
                "backend \"{backend}\" is in several services: {services}; choose one with --service"
            )))
        }
    }
}

fn commands(state: &State, service: &str, backend: &str) -> Result<String, CtlError> {
    crate::plan::backend_setup::commands(state, service, backend)
        .map_err(|error| CtlError::Setup(error.to_string()))
}
