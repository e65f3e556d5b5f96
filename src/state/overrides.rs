//! The overrides of a state, as they are kept apart from its region, so that they outlive a reboot. PURE.
//!
//! ```json
//! {"version":1,"overrides":[{"service":"web","backend":"s1","admin":"draining","by":"root","since":"..."}]}
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{State, change::Tables};
use crate::model::{Admission, Name, Override};

/// The version of the format. One that is newer is refused.
const VERSION: u32 = 1;

/// What operators said, apart from what ends with the region. In the order of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    scope: Scope,
    /// What the file said then; a file that says something new ends the override.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configured: Option<bool>,
    #[serde(flatten)]
    order: Override,
}

/// What an override is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scope {
    /// A backend of a service.
    Backend {
        /// The service.
        service: Name,
        /// The backend.
        backend: Name,
    },
    /// A balancer of the tier.
    Tier {
        /// The balancer.
        tier: Name,
    },
    /// This balancer, whether its name is another one now or not: there is one only.
    Balancer {
        /// Its name then.
        balancer: Name,
    },
}

/// As `lbctl` names it: "web/s1", "tier/lb202" or "balancer lb201".
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { service, backend } => write!(f, "{service}/{backend}"),
            Self::Tier { tier } => write!(f, "tier/{tier}"),
            Self::Balancer { balancer } => write!(f, "balancer {balancer}"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    overrides: Vec<Entry>,
}

impl Overrides {
    /// Reads what [`Overrides::to_json`] wrote.
    ///
    /// # Errors
    /// What is wrong with the text, with line and column.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let Document { version, overrides } =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!("its format is version {version}, this program knows version {VERSION}"));
        }
        Ok(Self(overrides))
    }

    /// Returns the text that is kept, one line and its end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let document = Document { version: VERSION, overrides: self.0.clone() };
        serde_json::to_string(&document).expect("text and numbers") + "\n"
    }

    /// Reports whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of overrides.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl State {
    /// Returns the overrides that outlive the region.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let entry = |scope: &dyn Fn() -> Scope, admission: &Admission| {
            let order = admission.lasting.clone()?;
            Some(Entry { scope: scope(), configured: admission.configured, order })
        };
        let mut entries = Vec::new();
        for service in &self.services {
            for backend in &service.backends {
                let scope =
                    || Scope::Backend { service: service.name.clone(), backend: backend.name.clone() };
                entries.extend(entry(&scope, &backend.admission));
            }
        }
        for member in &self.tier {
            entries.extend(entry(&|| Scope::Tier { tier: member.name.clone() }, &member.admission));
        }
        let balancer = || Scope::Balancer { balancer: self.balancer.name.clone() };
        entries.extend(entry(&balancer, &self.admission));
        Overrides(entries)
    }

    /// Returns this state with overrides that were kept, and what of them is about nothing that there is.
    /// `renamed` has the former and the present names of services.
    #[must_use]
    pub fn with_overrides(&self, kept: &Overrides, renamed: &[(&Name, &Name)]) -> (Self, Vec<Scope>) {
        let (mut next, mut unknown) = (self.clone(), Vec::new());
        for Entry { scope, configured, order } in &kept.0 {
            let admission = match scope {
                Scope::Backend { service, backend } => next
                    .services
                    .iter_mut()
                    .find(|one| one.name == *service || renamed.contains(&(service, &one.name)))
                    .and_then(|service| service.backends.iter_mut().find(|one| one.name == *backend))
                    .map(|backend| &mut backend.admission),
                Scope::Tier { tier } => {
                    next.tier.iter_mut().find(|one| one.name == *tier).map(|member| &mut member.admission)
                }
                Scope::Balancer { .. } => Some(&mut next.admission),
            };
            match admission {
                Some(admission) => {
                    let then =
                        Admission { configured: *configured, lasting: Some(order.clone()), runtime: None };
                    *admission = then.in_file(admission.configured);
                }
                None => unknown.push(scope.clone()),
            }
        }
        if next != *self {
            Tables::of(self).give(&mut next.services, self.balancer.hash_seed);
        }
        (next, unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        model::{Admin, Remark},
    };

    fn state() -> State {
        let text = "
            balancer = { name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }
            service = [ { name = 'web', vips = ['10.0.0.1'], table_size = 97, backend = [
                { name = 's1', address = '192.168.1.1' },
                { name = 's2', address = '192.168.1.2' },
                { name = 's3', address = '192.168.1.3', active = false } ] } ]
            tier.balancer = [ { name = 'lb1', address = '192.168.1.201' }, { name = 'lb2', address = '192.168.1.202' } ]";
        State::new(&Config::parse("test", text).unwrap()).unwrap()
    }

    fn changed() -> State {
        let names = |name: &str| [name.to_owned()];
        let disk = Override { reason: Remark::new("disk"), ..Override::unattributed(Admin::Draining) };
        let state = state().set_admin(None, &names("s1"), &disk).unwrap();
        let state = state.set_admin(None, &names("s3"), &Override::unattributed(Admin::Enabled)).unwrap();
        let runtime = Override { runtime: true, ..Override::unattributed(Admin::Draining) };
        let state = state.set_admin(None, &names("s2"), &runtime).unwrap();
        let state = state.set_tier_admin(&names("lb2"), &Override::unattributed(Admin::Draining)).unwrap();
        state.set_balancer_admin(&Override::unattributed(Admin::Draining))
    }

    #[test]
    fn what_is_kept_gives_the_same_state_but_for_what_ends_with_the_region() {
        let kept = Overrides::from_json(changed().overrides().to_json().as_bytes()).unwrap();
        assert_eq!((kept.len(), kept.is_empty()), (4, false));
        let (again, unknown) = state().with_overrides(&kept, &[]);
        assert_eq!(unknown, []);
        let lasting = |state: &State| -> Vec<String> {
            state.services[0].active().map(|backend| backend.name.to_string()).collect()
        };
        assert_eq!(
            (lasting(&again), lasting(&changed())),
            (vec!["s2".into(), "s3".into()], vec!["s3".into()])
        );
        assert!(!again.tier[1].active() && !again.admission.active());
        assert_ne!(again.services[0].table, state().services[0].table);
        assert_eq!(again.overrides(), kept);
    }

    #[test]
    fn overrides_of_unknown_names_are_named() {
        let kept = changed().overrides();
        let mut other = state();
        other.services[0].backends.retain(|backend| backend.name.as_str() != "s1");
        other.tier.clear();
        let (_, unknown) = other.with_overrides(&kept, &[]);
        assert_eq!(unknown.iter().map(ToString::to_string).collect::<Vec<_>>(), ["web/s1", "tier/lb2"]);
    }

    /// As if the file had been edited and applied, and not while the region was gone.
    #[test]
    fn a_file_with_a_new_value_ends_a_kept_override_and_a_renamed_service_keeps_it() {
        let kept = changed().overrides();
        let mut edited = state();
        edited.services[0].backends[0].admission.configured = Some(true);
        assert!(edited.with_overrides(&kept, &[]).0.services[0].backends[0].enabled());
        let mut renamed = state();
        renamed.services[0].name = Name::new("www").unwrap();
        let (web, www) = (Name::new("web").unwrap(), Name::new("www").unwrap());
        let (again, unknown) = renamed.with_overrides(&kept, &[(&web, &www)]);
        assert_eq!(unknown, []);
        assert!(!again.services[0].backends[0].enabled());
    }

    #[test]
    fn text_that_was_cut_off_is_refused_at_every_byte() {
        let text = changed().overrides().to_json();
        for len in 0..text.trim_end().len() {
            assert!(Overrides::from_json(&text.as_bytes()[..len]).is_err(), "{len}");
        }
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        assert_eq!(
            Overrides::from_json(newer.as_bytes()).unwrap_err(),
            "its format is version 2, this program knows version 1"
        );
        assert_eq!(Overrides::default().to_json(), "{\"version\":1,\"overrides\":[]}\n");
    }
}
