//! `check`: whether the region is followed and in force, whether the kernel has what the region asks of it
//! ([`super::drift`]), and what on this host ([`crate::host`]) keeps packets from backends. It changes nothing;
//! what it may not look at is a finding, too.

use std::time::Duration;

use serde::Serialize;

use super::{
    Sources,
    agent::AgentView,
    drift::{Context, RULESET, not_compared},
    lbd::{DaemonView, Lbd, Offload, once_command, usable},
};
use crate::{
    daemon::{Asked, Running},
    host::{self, Finding, Severity},
    model::{self, ids::Generation},
    shm::stats,
    state::{Backend, NewFlows, State},
    sys::{
        overrides::{OverridesError, OverridesFile},
        region::{AccessError, Region, RegionName},
    },
};

/// How often it is looked again because the region changed meanwhile.
const TRIES: usize = 3;

/// The worst of some findings; notes are well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Neither warnings nor errors.
    Ok,
    /// Warnings, and no errors.
    Warning,
    /// Errors.
    Error,
}

/// What is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The worst of it.
    pub status: Health,
    /// All of it, the worst first.
    pub findings: Vec<Finding>,
    /// What a repair can be made of.
    #[serde(skip)]
    pub repair: Repair,
}

/// What may be repaired.
#[derive(Clone, Debug, Default)]
pub struct Repair {
    /// Whether an lbd follows the region: it repairs the kernel's side itself.
    pub by_lbd: bool,
    /// How the kernel differs from the region, as far as a repair changes that.
    pub kernel: Vec<Finding>,
    /// That the file of overrides differs from the region.
    pub overrides: Option<Finding>,
}

/// What a check looks at, besides the region and the host.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// Where overrides are kept.
    pub overrides: &'a OverridesFile,
    /// How long to wait until a running lbd has repaired what differs.
    pub patience: Duration,
}

impl Report {
    /// Looks at a region, at the kernel and at this host. A region that cannot be read is a finding.
    #[must_use]
    pub fn of(name: &RegionName, sources: &Sources, look: Look<'_>) -> Self {
        let (mut findings, mut repair) = (Vec::new(), Repair::default());
        match Seen::read(name, sources) {
            Ok(seen) => {
                findings.extend(seen.findings());
                repair = seen.kept(name, sources, look);
                // The comparison says the same, and more.
                let repeated = |one: &Finding| {
                    one.name == RULESET && repair.kernel.iter().any(|kept| kept.name == RULESET)
                };
                findings.retain(|one| !repeated(one));
                findings.extend(repair.kernel.iter().chain(&repair.overrides).cloned());
                findings.extend(host::judge(&seen.state, &(sources.look)(&seen.state)));
            }
            Err(error) => {
                let (name, advice) = (format!("region \"{name}\""), error.to_string());
                let wanted = "a region that lbd follows";
                findings.push(Finding::new(Severity::Error, &name, "unusable", wanted, advice));
            }
        }
        // Without the right to compare nothing differs.
        repair.kernel.retain(|finding| finding.severity != Severity::Note);
        Self::new(findings, repair)
    }

    /// Adds findings.
    pub fn add(&mut self, more: Vec<Finding>) {
        let mut findings = std::mem::take(&mut self.findings);
        findings.extend(more);
        *self = Self::new(findings, std::mem::take(&mut self.repair));
    }

    fn new(mut findings: Vec<Finding>, repair: Repair) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let status = match findings.first().map(|finding| finding.severity) {
            Some(Severity::Error) => Health::Error,
            Some(Severity::Warning) => Health::Warning,
            Some(Severity::Note) | None => Health::Ok,
        };
        Self { status, findings, repair }
    }
}

/// Returns what the kernel of a region is compared with; `None` if the live state is not in force, which is a
/// finding of its own.
///
/// # Errors
/// When the region cannot be read.
pub fn with_asked<T>(
    region: &mut Region,
    patience: Duration,
    with: impl FnOnce(&Asked<'_>) -> T,
) -> Result<Option<T>, AccessError> {
    let (generation, state) = region.state()?;
    let followed = DaemonView::of(region)?;
    let last = followed.map_or_else(|| DaemonView::last(region), Ok)?;
    if last.adopted != generation.0 {
        return Ok(None);
    }
    let running = match followed {
        None => None,
        Some(lbd) => {
            let read = stats::read(region, lbd.workers())
                .and_then(|blocks| Ok((blocks, stats::read_mark_mask(region)?)));
            let (blocks, mark_mask) = usable(region, read)?;
            let workers = blocks.into_iter().map(|block| block.identity).collect();
            Some(Running { workers, mark_mask, fills: lbd.in_kernel < lbd.adopted })
        }
    };
    Ok(Some(with(&Asked { state: &state, generation, running, patience })))
}

/// What findings about a region and its lbd are made of.
struct Seen {
    name: RegionName,
    live: Generation,
    state: State,
    lbd: Lbd,
    agent: Option<AgentView>,
    offload: Offload,
}

impl Seen {
    fn read(name: &RegionName, sources: &Sources) -> Result<Self, AccessError> {
        let mut region = Region::open_to_read(name)?;
        let (live, state) = region.state_with_tables(|_| Vec::new())?;
        let lbd = Lbd::read(&mut region, sources)?;
        let agent = AgentView::read(&mut region, &state, sources)?;
        let offload = Offload::of(&mut region, &state.balancer)?;
        Ok(Self { name: name.clone(), live, state, lbd, agent, offload })
    }

    /// Returns the findings about what lbd keeps: the kernel's side, and overrides.
    fn kept(&self, name: &RegionName, sources: &Sources, look: Look<'_>) -> Repair {
        let by_lbd = self.lbd.followed;
        Repair {
            by_lbd,
            kernel: self.drift(name, sources, look.patience),
            overrides: self.overrides(look.overrides),
        }
    }

    fn drift(&self, name: &RegionName, sources: &Sources, patience: Duration) -> Vec<Finding> {
        let mut findings = Vec::new();
        for _ in 0..TRIES {
            let compare = |asked: &Asked<'_>| {
                let context = Context { state: asked.state, running: asked.running.is_some() };
                match (sources.compare)(asked) {
                    Ok(drift) => context.findings(&drift),
                    Err(error) => vec![not_compared(&error)],
                }
            };
            let live = |region: &mut Region| region.state_with_tables(|_| Vec::new()).map(|(live, _)| live);
            let compared = Region::open_to_read(name).and_then(|mut region| {
                let before = live(&mut region)?;
                let findings = with_asked(&mut region, patience, compare)?.unwrap_or_default();
                Ok((findings, before == live(&mut region)?))
            });
            // That the region cannot be read any more is found by the next check.
            let Ok((found, stayed)) = compared else { break };
            findings = found;
            if findings.is_empty() || stayed {
                break;
            }
        }
        findings
    }

    /// Returns how the file that keeps overrides over a reboot differs from the region.
    fn overrides(&self, file: &OverridesFile) -> Option<Finding> {
        let (severity, is, advice) = match file.load() {
            Ok(kept) if kept == self.state.overrides() => return None,
            Ok(_) => {
                let breaks = "a region that is made after a reboot has other backends in or out";
                (Severity::Warning, "other than those of the region", breaks.to_owned())
            }
            Err(OverridesError::Os { error, .. }) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let advice = "it belongs to another user: run it as that user".to_owned();
                (Severity::Note, "not looked at", advice)
            }
            Err(error) => {
                let breaks = format!("they will not outlive a reboot: {error}");
                (Severity::Warning, "unusable", breaks)
            }
        };
        let advice = if severity == Severity::Note {
            advice
        } else {
            format!("{advice}; mended by `lbctl check --repair`, by the next change, and when lbd starts")
        };
        let name = format!("overrides in {}", file.path().display());
        Some(Finding::new(severity, &name, is, "those of the region", advice))
    }

    /// Returns the findings about the region and its lbd.
    fn findings(&self) -> Vec<Finding> {
        let Self { name, live, state, lbd, agent, offload } = self;
        let &Lbd { followed, last: DaemonView { adopted, in_kernel, .. }, ruleset_gone: gone, .. } = lbd;
        let once = once_command(name);
        let mut findings = Vec::new();
        let mut found = |severity, what: &str, value: &str, wanted: &str, advice: String| {
            findings.push(Finding::new(severity, what, value, wanted, advice));
        };
        if state.balancer.interfaces.is_empty() {
            let advice = "nothing is steered: give the region a configuration (lbctl apply FILE)".to_owned();
            found(Severity::Error, "interfaces", "empty", "where packets to VIPs come in", advice);
        }
        if !followed && adopted == 0 {
            let advice =
                format!("the kernel steers nothing yet: start lbd, or put it in force without one: {once}");
            found(Severity::Error, "lbd", "not running", "following this region", advice);
        } else if !followed && !gone {
            let advice =
                "the kernel goes on by itself; what others change in ruleset and routes is not mended: start lbd"
                    .to_owned();
            found(Severity::Warning, "lbd", "not running", "following this region", advice);
        }
        if gone {
            let advice = if followed {
                "nothing is steered; lbd puts it back at once, or its log says why not".to_owned()
            } else {
                format!("nothing is steered: start lbd, or put it in force without one: {once}")
            };
            found(Severity::Error, RULESET, "missing", "table inet synrail", advice);
        }
        for service in &state.services {
            let new_flows = state.new_flows(service);
            if new_flows == NewFlows::Own {
                continue;
            }
            let advice = if service.backends.iter().any(Backend::enabled) {
                format!(
                    "its new flows {new_flows} until a backend is up again, and the agent on it, if one is asked, lets it have flows"
                )
            } else {
                format!("its new flows {new_flows}: lbctl enable --service {} BACKEND", service.name)
            };
            found(
                Severity::Warning,
                &format!("service {}", service.name),
                "without an active backend",
                "with one",
                advice,
            );
        }
        if let Some(agent) = agent.filter(|agent| agent.running && agent.not_made != Some(0)) {
            let advice =
                "health goes on from what was found last; `lbagent --once` says why for each".to_owned();
            found(Severity::Warning, "health checks", &agent.value(), "all made", advice);
        }
        if let Some(order) = state.admission.in_force().filter(|_| !state.admission.active()) {
            let advice = "no VIP is announced: `lbctl balancer enable` announces them again".to_owned();
            found(Severity::Warning, "this balancer", &order.to_string(), "enabled", advice);
        }
        if let Some(agent) = agent.filter(|agent| !agent.running) {
            let advice =
                "what checks found last stays in force; lbd starts lbagent if that is installed beside it, \
                          and its log says why that ends"
                    .to_owned();
            found(Severity::Error, "health checks", &agent.value(), "running", advice);
        }
        for service in state.services.iter().filter(|service| service.in_panic()) {
            let what = format!("health of service {}", service.name);
            let advice =
                "so many failures at once are more likely a fault of the checks or of the network here: \
                          all enabled backends get new flows meanwhile"
                    .to_owned();
            found(Severity::Error, &what, "too few backends are up", "more of them up", advice);
        }
        for service in &state.services {
            for backend in &service.backends {
                let what = format!("backend {}/{}", service.name, backend.name);
                let out_until = |until: &str| {
                    if service.in_panic() && backend.admitted() {
                        "it gets new flows meanwhile, since too few backends are up".to_owned()
                    } else {
                        format!("it gets no new flows until {until}")
                    }
                };
                if let Some(observed) =
                    backend.observed.as_ref().filter(|seen| seen.health == model::Health::Down)
                {
                    let advice = out_until("its checks succeed");
                    found(Severity::Warning, &what, &observed.to_string(), "up", advice);
                }
                let Some(reported) = &backend.reported else { continue };
                let (what, value) = (format!("agent on {what}"), reported.to_string());
                if reported.is_down() {
                    found(Severity::Warning, &what, &value, "up", out_until("its agent reports `up`"));
                } else if reported.drains() {
                    let back = if reported.mode == model::AgentMode::Ready { "a weight" } else { "`ready`" };
                    let advice = out_until(&format!("its agent reports {back}"));
                    found(Severity::Note, &what, &value, "one that lets it have flows", advice);
                } else if reported.silent.is_some() {
                    let advice = "what the agent reported last stays in force".to_owned();
                    found(Severity::Warning, &what, &value, "answers of its agent", advice);
                }
            }
        }
        if let Some(hangs) = &lbd.hangs {
            let advice =
                "the fallback tables decide about new flows meanwhile; what others change is not mended: \
                          look at its log, then restart it"
                    .to_owned();
            found(Severity::Error, "lbd", &hangs.value(), "answering", advice);
        }
        if *offload == Offload::NotInKernel {
            let advice = "long flows go by the ruleset as others do".to_owned();
            found(Severity::Note, "offload", "not in this kernel", "a flowtable", advice);
        }
        if in_kernel < adopted {
            let advice =
                "it follows; should lbd end by force now, new flows go by the tables before".to_owned();
            let value = format!("of generation {in_kernel}, and {adopted} is in force");
            found(Severity::Note, "what the kernel has of the tables", &value, "the same", advice);
        }
        if adopted != 0 && adopted < live.0 {
            let advice = if followed {
                "lbd has not taken it over yet, and goes on with the last good state: its log says why"
                    .to_owned()
            } else {
                format!("start lbd, or put it in force without one: {once}")
            };
            let value = format!("generation {live}, and {adopted} is in force");
            found(Severity::Warning, "the region's state", &value, "in force", advice);
        }
        findings
    }
}
