//! The list of metrics, but for those of lbd's workers. docs/metrics.md is made of it.

use super::{Kind, Labels, Sample, Scope, Seen, Value};
use crate::{
    config::Balancer,
    model::{Decider, Health},
    shm::stats::QueueLine,
    state::{Service, State},
    status::{
        lbd::{DaemonView, Offload},
        stats::Packets,
        view::{BackendView, ServiceView, TargetView, backends, table_digest},
    },
};

/// A metric, and where its series come from.
pub(super) struct Spec {
    pub(super) scope: Scope,
    pub(super) kind: Kind,
    /// The name, and behind it the names of the labels, if there are any: `NAME{LABEL,LABEL}`.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) read: fn(&Seen) -> Vec<Sample>,
}

type Read = fn(&Seen) -> Vec<Sample>;

const fn gauge(scope: Scope, name: &'static str, help: &'static str, read: Read) -> Spec {
    Spec { scope, kind: Kind::Gauge, name, help, read }
}

const fn counter(scope: Scope, name: &'static str, help: &'static str, read: Read) -> Spec {
    Spec { scope, kind: Kind::Counter, name, help, read }
}

const fn info(scope: Scope, name: &'static str, help: &'static str, read: Read) -> Spec {
    Spec { scope, kind: Kind::Info, name, help, read }
}

fn one(value: impl Into<u64>) -> Vec<Sample> {
    vec![with(Vec::new(), value)]
}

fn some(value: Option<u64>) -> Vec<Sample> {
    value.map_or_else(Vec::new, one)
}

fn with(labels: Labels, value: impl Into<u64>) -> Sample {
    Sample { labels, value: Value::Whole(value.into()) }
}

fn label(name: &'static str, value: &(impl ToString + ?Sized)) -> (&'static str, String) {
    (name, value.to_string())
}

fn count<T>(of: impl Iterator<Item = T>) -> u64 {
    of.count() as u64
}

/// What the lbd says that follows the region; nothing if none does.
fn running(seen: &Seen, read: impl FnOnce(&DaemonView) -> u64) -> Vec<Sample> {
    some(seen.stats.daemon.running().map(read))
}

/// The number of services that have an active backend, or do not.
fn services_by(seen: &Seen, active: bool) -> u64 {
    let services = seen.state.services.iter();
    count(services.filter(|service| service.active().next().is_some() == active))
}

fn each_service(seen: &Seen, read: impl Fn(&Service, &ServiceView) -> u64) -> Vec<Sample> {
    let services = seen.state.services.iter().zip(&seen.services);
    services.map(|(service, view)| with(vec![label("service", &service.name)], read(service, view))).collect()
}

fn each_backend(seen: &Seen, read: impl Fn(&BackendView) -> Value) -> Vec<Sample> {
    some_backends(seen, |view| Some((Vec::new(), read(view))))
}

/// Series of those backends that `read` returns something for, with more labels.
fn some_backends(seen: &Seen, read: impl Fn(&BackendView) -> Option<(Labels, Value)>) -> Vec<Sample> {
    let views = seen.state.services.iter().flat_map(|service| backends(&seen.state, service));
    let sample = |view: BackendView| {
        let (more, value) = read(&view)?;
        let names = [label("service", &view.service), label("backend", &view.name)];
        Some(Sample { labels: names.into_iter().chain(more).collect(), value })
    };
    views.filter_map(sample).collect()
}

fn each_target(seen: &Seen, read: impl Fn(&Packets) -> Vec<(Labels, u64)>) -> Vec<Sample> {
    let of_target = |packets: &Packets| {
        let number = packets.target.number;
        let named = move |(labels, value): (Labels, u64)| {
            with([label("target", &number)].into_iter().chain(labels).collect(), value)
        };
        read(packets).into_iter().map(named).collect::<Vec<_>>()
    };
    seen.stats.backends.iter().flat_map(of_target).collect()
}

/// What the tunnels of targets have sent.
fn each_tunnel(seen: &Seen, read: impl Fn(&crate::sys::devices::Sent) -> u64) -> Vec<Sample> {
    each_target(seen, |packets| {
        let sent = packets.target.device.as_ref().and_then(|device| seen.sent.get(device));
        sent.map(|sent| (Vec::new(), read(sent))).into_iter().collect()
    })
}

/// A series for each user of each target, so that what a target got can be joined with names.
fn target_users(seen: &Seen) -> Vec<Sample> {
    let State { services, tier, .. } = &seen.state;
    let backends = services.iter().flat_map(|service| {
        service.backends.iter().map(|backend| (backend.target, service.name.as_str(), backend.name.as_str()))
    });
    let members = tier.iter().filter_map(|member| Some((member.target?, "", member.name.as_str())));
    let users = backends.chain(members).map(|(target, service, backend)| {
        let TargetView { number, encap, address, device, .. } = TargetView::new(&seen.state, target);
        let labels = vec![
            label("target", &number),
            label("service", service),
            label("backend", backend),
            label("encap", encap.unwrap_or("")),
            label("address", &address.map_or_else(String::new, |address| address.to_string())),
            label("device", &device.unwrap_or_default()),
        ];
        with(labels, 1u64)
    });
    users.collect()
}

fn queues(seen: &Seen, read: impl Fn(&QueueLine) -> Vec<(Labels, u64)>) -> Vec<Sample> {
    let lines = seen.stats.queues.iter().flatten();
    let of_queue = |line: &QueueLine| {
        let number = line.queue;
        let named = move |(labels, value): (Labels, u64)| {
            with([label("queue", &number)].into_iter().chain(labels).collect(), value)
        };
        read(line).into_iter().map(named).collect::<Vec<_>>()
    };
    lines.flat_map(of_queue).collect()
}

/// All metrics but those of workers.
pub(super) const SPECS: &[Spec] = &[
    // ---- the region, its lbd, the host, the tier
    info(Scope::Lbd, "synrail_balancer_info{balancer,steering}", "This balancer, by its name.", |seen| {
        let Balancer { name, steering, .. } = &seen.state.balancer;
        vec![with(vec![label("balancer", name), label("steering", steering.name())], 1u64)]
    }),
    gauge(
        Scope::Lbd,
        "synrail_balancer_enabled",
        "Whether operators let this balancer announce VIPs; 0 after `lbctl balancer drain`.",
        |seen| one(seen.announce.enabled),
    ),
    gauge(Scope::Lbd, "synrail_generation", "Generation of the state in the region.", |seen| {
        one(seen.generation.0)
    }),
    gauge(
        Scope::Lbd,
        "synrail_adopted_generation",
        "Generation that is in force: lbd decides by it, or without lbd the kernel; 0 if none is yet.",
        |seen| one(seen.stats.daemon.last.adopted),
    ),
    gauge(
        Scope::Lbd,
        "synrail_kernel_generation",
        "Last generation of which the kernel has all fallback tables.",
        |seen| one(seen.stats.daemon.last.in_kernel),
    ),
    gauge(Scope::Lbd, "synrail_lbd_up", "Whether an lbd follows the region.", |seen| {
        one(seen.stats.daemon.followed)
    }),
    gauge(
        Scope::Lbd,
        "synrail_lbd_answering",
        "Whether the lbd that follows the region gives signs of life; 0 if it hangs.",
        |seen| {
            let hangs = seen.stats.daemon.hangs.as_ref().is_some_and(|hangs| hangs.process_ms.is_some());
            running(seen, |_| u64::from(!hangs))
        },
    ),
    gauge(
        Scope::Lbd,
        "synrail_lbd_hung_workers",
        "Workers of lbd that do not answer; the kernel decides instead of them.",
        |seen| {
            let hung = seen.stats.daemon.hangs.as_ref().map_or(0, |hangs| hangs.queues.len() as u64);
            running(seen, |_| hung)
        },
    ),
    gauge(Scope::Lbd, "synrail_lbd_workers", "Workers of lbd.", |seen| running(seen, |lbd| lbd.workers)),
    gauge(
        Scope::Lbd,
        "synrail_lbd_start_time_seconds",
        "When lbd started, in seconds since 1970. Its counters begin then.",
        |seen| running(seen, |lbd| lbd.started_unix_seconds),
    ),
    gauge(
        Scope::Lbd,
        "synrail_ruleset_present",
        "Whether the kernel has the ruleset; missing if that may not be read (CAP_NET_ADMIN).",
        |seen| {
            let gone = seen.stats.daemon.ruleset_gone;
            if seen.stats.ruleset.is_some() || gone { one(!gone) } else { Vec::new() }
        },
    ),
    gauge(
        Scope::Lbd,
        "synrail_host_findings{severity}",
        "What lbd has found wrong on this host at its last look, at most ten seconds ago; lbctl check lists it.",
        |seen| {
            let Some(lbd) = seen.stats.daemon.running() else { return Vec::new() };
            let of = |severity: &str, value| with(vec![label("severity", severity)], value);
            vec![of("error", lbd.host.errors), of("warning", lbd.host.warnings)]
        },
    ),
    gauge(
        Scope::Lbd,
        "synrail_offload_on",
        "Whether long flows are promoted to the flowtable of the kernel.",
        |seen| one(seen.offload == Offload::On),
    ),
    gauge(
        Scope::Lbd,
        "synrail_services{decider}",
        "Services, by what decides about their new flows.",
        |seen| {
            let of = |decider: Decider| {
                let services = seen.state.services.iter().filter(move |service| service.decider == decider);
                with(vec![label("decider", decider.name())], count(services))
            };
            Decider::ALL.into_iter().map(of).collect()
        },
    ),
    gauge(
        Scope::Lbd,
        "synrail_services_without_backend",
        "Services that have no active backend, so that their new flows are dropped.",
        |seen| one(services_by(seen, false)),
    ),
    gauge(
        Scope::Lbd,
        "synrail_backends{state}",
        "Backends of all services: active ones get new flows, inactive ones do not.",
        |seen| {
            let of = |active: bool| {
                let backends = seen.state.services.iter().flat_map(Service::with_activity);
                let state = if active { "active" } else { "inactive" };
                with(vec![label("state", state)], count(backends.filter(move |(_, is)| *is == active)))
            };
            vec![of(true), of(false)]
        },
    ),
    gauge(
        Scope::Lbd,
        "synrail_backends_down",
        "Backends that health checks found down, or their agents report down; with too many of a service it is in panic, and they get new flows all the same.",
        |seen| {
            let backends = seen.state.services.iter().flat_map(|service| &service.backends);
            one(count(backends.filter(|backend| !backend.healthy())))
        },
    ),
    gauge(
        Scope::Lbd,
        "synrail_services_in_panic",
        "Services of which so few backends are up that all count as up.",
        |seen| one(count(seen.state.services.iter().filter(|service| service.in_panic()))),
    ),
    gauge(
        Scope::Lbd,
        "synrail_agent_running",
        "Whether health checks run; missing if no service asks for any. What they found last holds on.",
        |seen| some(seen.agent.map(|agent| agent.running.into())),
    ),
    gauge(
        Scope::Lbd,
        "synrail_checks_not_made",
        "Health checks that could not be made the last time, for reasons of this host.",
        |seen| some(seen.agent.and_then(|agent| agent.not_made)),
    ),
    gauge(
        Scope::Lbd,
        "synrail_agent_silent_seconds",
        "How long ago the process that runs health checks last said so.",
        |seen| {
            let age_ms = seen.agent.and_then(|agent| agent.age_ms);
            // Less than 2^52.
            let sample = |ms: u64| Sample { labels: Vec::new(), value: Value::Part(ms as f64 / 1000.0) };
            age_ms.map(sample).into_iter().collect()
        },
    ),
    gauge(Scope::Lbd, "synrail_targets", "Targets in use: addresses with their encapsulation.", |seen| {
        one(count(seen.state.targets_used()))
    }),
    info(
        Scope::Lbd,
        "synrail_tier_table_info{digest}",
        "Digest of the table of owners of fragments: equal on all balancers of a tier that agree.",
        |seen| {
            let digest = seen.tier.table_digest.as_ref();
            digest.map(|digest| with(vec![label("digest", digest)], 1u64)).into_iter().collect()
        },
    ),
    gauge(
        Scope::Lbd,
        "synrail_tier_member_active{member}",
        "Whether a balancer of the tier owns fragments, as this balancer has it.",
        |seen| {
            let members = seen.tier.members.iter();
            members.map(|member| with(vec![label("member", &member.name)], member.active)).collect()
        },
    ),
    // ---- packets, queues, fragments, flows, connection tracking
    counter(
        Scope::Packets,
        "synrail_ruleset_packets_total{counter}",
        "Packets that the ruleset in the kernel has counted; docs/counters.md says what each counter is. \
         lease_ended: lbd should have decided and did not; by_kernel: a fallback table has decided.",
        |seen| {
            let counters = seen.stats.ruleset.iter().flatten();
            counters.map(|(name, packets)| with(vec![label("counter", name)], *packets)).collect()
        },
    ),
    gauge(
        Scope::Packets,
        "synrail_queue_waiting_packets{queue}",
        "Packets that wait in a queue for lbd.",
        |seen| queues(seen, |line| vec![(Vec::new(), line.waiting)]),
    ),
    counter(
        Scope::Packets,
        "synrail_queue_packets_total{queue}",
        "Packets that came to a queue of lbd.",
        |seen| queues(seen, |line| vec![(Vec::new(), line.packets)]),
    ),
    counter(
        Scope::Packets,
        "synrail_queue_dropped_packets_total{queue,full}",
        "Packets that the kernel dropped because a queue, or the buffer of its socket, was full.",
        |seen| {
            let full = |what: &str, packets| (vec![label("full", what)], packets);
            queues(seen, |line| vec![full("queue", line.dropped), full("socket", line.user_dropped)])
        },
    ),
    gauge(
        Scope::Packets,
        "synrail_fragment_table_entries",
        "Fragmented packets of which lbd remembers something.",
        |seen| one(seen.stats.fragments.entries),
    ),
    gauge(Scope::Packets, "synrail_fragment_table_entries_max", "How many it may remember.", |seen| {
        one(seen.stats.fragments.entries_max)
    }),
    gauge(
        Scope::Packets,
        "synrail_fragment_held_packets",
        "Fragments that wait for the first one of their packet.",
        |seen| one(seen.stats.fragments.held_packets),
    ),
    gauge(Scope::Packets, "synrail_fragment_held_packets_max", "How many may wait.", |seen| {
        one(seen.stats.fragments.held_packets_max)
    }),
    gauge(Scope::Packets, "synrail_fragment_held_bytes", "Bytes of the fragments that wait.", |seen| {
        one(seen.stats.fragments.held_bytes)
    }),
    gauge(Scope::Packets, "synrail_fragment_held_bytes_max", "How many bytes may wait.", |seen| {
        one(seen.stats.fragments.held_bytes_max)
    }),
    gauge(
        Scope::Packets,
        "synrail_off_table_flows",
        "Open flows that stay on their backend although the table names another one.",
        |seen| one(seen.stats.flows.off_table),
    ),
    gauge(
        Scope::Packets,
        "synrail_off_table_flows_without_room",
        "Off-table flows that had no room in their map: they last as long as connection tracking keeps them.",
        |seen| one(seen.stats.flows.no_room),
    ),
    gauge(
        Scope::Packets,
        "synrail_protected_flows",
        "Flows that connection tracking does not drop in favour of others.",
        |seen| one(seen.stats.flows.protected),
    ),
    gauge(
        Scope::Packets,
        "synrail_unprotected_flows",
        "Flows that would be protected, but half of nf_conntrack_max is protected already.",
        |seen| one(seen.stats.flows.not_protected),
    ),
    gauge(
        Scope::Packets,
        "synrail_promoted_flows",
        "Flows that go by the flowtable of the kernel.",
        |seen| one(seen.stats.flows.promoted),
    ),
    gauge(
        Scope::Packets,
        "synrail_conntrack_entries",
        "Entries of connection tracking in this network namespace.",
        |seen| some(seen.stats.conntrack.as_ref().map(|conntrack| conntrack.entries)),
    ),
    gauge(
        Scope::Packets,
        "synrail_conntrack_entries_max",
        "Entries that connection tracking may have (net.netfilter.nf_conntrack_max).",
        |seen| some(seen.stats.conntrack.as_ref().map(|conntrack| conntrack.max)),
    ),
    gauge(
        Scope::Packets,
        "synrail_conntrack_nearly_full",
        "Whether connection tracking is nearly full, so that packets to VIPs go untracked.",
        |seen| one(seen.stats.flows.nearly_full),
    ),
    // ---- each service
    info(
        Scope::Services,
        "synrail_table_info{service,digest}",
        "Digest of the active backends and the Maglev table of a service: equal on balancers that steer it alike.",
        |seen| {
            let services = seen.state.services.iter();
            let labels = |one: &Service| {
                vec![label("service", &one.name), label("digest", &table_digest(&seen.state, one))]
            };
            services.map(|service| with(labels(service), 1u64)).collect()
        },
    ),
    gauge(Scope::Services, "synrail_service_backends{service}", "Backends of a service.", |seen| {
        each_service(seen, |service, _| service.backends.len() as u64)
    }),
    gauge(
        Scope::Services,
        "synrail_service_active_backends{service}",
        "Backends of a service that get new flows; without any its new flows are dropped.",
        |seen| each_service(seen, |service, _| count(service.active())),
    ),
    gauge(
        Scope::Services,
        "synrail_service_table_entries{service}",
        "Entries of the Maglev table of a service.",
        |seen| each_service(seen, |service, _| service.table_size.get().into()),
    ),
    gauge(
        Scope::Services,
        "synrail_service_kernel_table{service}",
        "Whether a service has a fallback table, by which the kernel decides when lbd does not.",
        |seen| each_service(seen, |_, view| view.fallback_table.into()),
    ),
    gauge(
        Scope::Services,
        "synrail_service_panic{service}",
        "Whether so few backends of a service with health checks are up that all count as up.",
        |seen| {
            let services = seen.state.services.iter().filter(|service| service.health.is_some());
            services.map(|service| with(vec![label("service", &service.name)], service.in_panic())).collect()
        },
    ),
    gauge(
        Scope::Services,
        "synrail_vip_announced{vip}",
        "Whether a VIP has its route in `announce_table`; missing if routes cannot be read.",
        |seen| {
            let vips = seen.announce.vips.iter();
            vips.filter_map(|vip| Some(with(vec![label("vip", &vip.vip)], vip.announced?))).collect()
        },
    ),
    // ---- each backend, and what health checks found of it
    gauge(
        Scope::Backends,
        "synrail_backend_enabled{service,backend}",
        "Whether the file and operators let a backend get new flows.",
        |seen| each_backend(seen, |backend| Value::Whole(backend.enabled.into())),
    ),
    gauge(
        Scope::Backends,
        "synrail_backend_up{service,backend}",
        "Whether a backend is up by health checks and the agent on it; missing if nothing is known yet, or there are none.",
        |seen| {
            some_backends(seen, |backend| {
                let up = backend.health()? == Health::Up;
                Some((Vec::new(), Value::Whole(up.into())))
            })
        },
    ),
    info(
        Scope::Backends,
        "synrail_backend_down_info{service,backend,reason}",
        "Why health checks found a backend down, or the agent on it reports it down.",
        |seen| {
            some_backends(seen, |backend| {
                Some((vec![label("reason", &backend.why_down()?)], Value::Whole(1)))
            })
        },
    ),
    gauge(
        Scope::Backends,
        "synrail_backend_agent_weight_ratio{service,backend}",
        "Share of its weight that the agent on a backend lets count, 0 to 1; 0 also where it reports drain or maint, 1 where it takes nothing. Missing until the agent has answered, or is known to be silent.",
        |seen| {
            some_backends(seen, |backend| {
                let reported = backend.reported.as_ref()?;
                let percent = if reported.drains() { 0 } else { reported.weight_percent.get() };
                Some((Vec::new(), Value::Part(f64::from(percent) / 100.0)))
            })
        },
    ),
    gauge(
        Scope::Backends,
        "synrail_backend_agent_answers{service,backend}",
        "Whether the agent on a backend answers; without answers what it reported last holds. Missing if it is not asked.",
        |seen| {
            some_backends(seen, |backend| {
                let answers = backend.reported.as_ref()?.silent.is_none();
                Some((Vec::new(), Value::Whole(answers.into())))
            })
        },
    ),
    gauge(
        Scope::Backends,
        "synrail_backend_active{service,backend}",
        "Whether a backend gets new flows.",
        |seen| each_backend(seen, |backend| Value::Whole(backend.active.into())),
    ),
    gauge(
        Scope::Backends,
        "synrail_backend_weight{service,backend}",
        "Configured weight of a backend.",
        |seen| each_backend(seen, |backend| Value::Whole(backend.weight.into())),
    ),
    gauge(
        Scope::Backends,
        "synrail_backend_table_entries{service,backend}",
        "Entries of the Maglev table of its service that a backend has.",
        |seen| each_backend(seen, |backend| Value::Whole(backend.entries)),
    ),
    gauge(
        Scope::Backends,
        "synrail_backend_share_ratio{service,backend}",
        "Share of new flows of its service that a backend gets, 0 to 1.",
        |seen| {
            // Table sizes are far below 2^52.
            let share = |backend: &BackendView| backend.entries as f64 / f64::from(backend.table_size);
            each_backend(seen, |backend| Value::Part(share(backend)))
        },
    ),
    // ---- each target
    info(
        Scope::Targets,
        "synrail_target_info{target,service,backend,encap,address,device}",
        "A user of a target: a backend of a service, or without service a balancer of the tier. It joins what a target got with names.",
        target_users,
    ),
    counter(
        Scope::Targets,
        "synrail_target_steered_packets_total{target,by}",
        "Packets that were steered to a target, about one for each new flow, by lbd, or by the fallback tables of the kernel.",
        |seen| {
            each_target(seen, |packets| {
                let by = |what: &str, value| (vec![label("by", what)], value);
                vec![by("lbd", packets.packets), by("kernel", packets.by_kernel)]
            })
        },
    ),
    counter(
        Scope::Targets,
        "synrail_target_sent_bytes_total{target}",
        "Bytes that the tunnel of a target has sent, without the outer header; none for encap direct.",
        |seen| each_tunnel(seen, |sent| sent.bytes),
    ),
    counter(
        Scope::Targets,
        "synrail_target_sent_packets_total{target}",
        "Packets that the tunnel of a target has sent.",
        |seen| each_tunnel(seen, |sent| sent.packets),
    ),
    counter(
        Scope::Targets,
        "synrail_target_lost_packets_total{target}",
        "Packets that the tunnel of a target could not send.",
        |seen| each_tunnel(seen, |sent| sent.lost),
    ),
];
