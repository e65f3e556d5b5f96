//! The command line of `lbctl`: what there is to say, with its help.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::{
    config::TracerSettings,
    model::{Remark, TableSize, ids::TARGETS_MAX},
    status::metrics::Scope,
    sys::region::{NAME_DEFAULT, RegionName},
};

const EXAMPLES: &str = "\
Examples:
  lbctl create -i 5 100 10            a region without a file: M from 100, backends 0 to 9, 5 active
  lbctl apply lb.toml --dry-run       what would change
  lbctl apply lb.toml                 change it
  lbctl drain s1 --wait               no new flows to s1; wait until those it has are over
  lbctl disable s1                    no flows to s1: those it has go elsewhere at once
  lbctl which tcp 50.0.0.1 40000 10.0.0.0 80
  lbctl tracer send tcp 50.0.0.1 40000 10.0.0.0 80   ask real balancers, by a packet
  lbctl show --json | jq .services[].active

Exit status:
  0  done
  1  failed: the region is missing, corrupt, being changed, ...; nothing was changed
  2  the command line is wrong
  3  the answer is no: `apply --dry-run` found differences, or `which` that nothing steers
  4  written, but the lbd that follows the region has not taken it over in time, or
     overrides will not outlive a reboot, or those that were kept cannot be used; `kill`
     and `drain --wait`: also if no lbd follows the region
  5  `drain --wait` has waited for as long as it may, and flows are left
`check` has its own: 0, 1 and 2, as monitoring wants them.
   141  the reader of the output ended early, as in `lbctl show | head`
Output that cannot be written, to a full disk say, is a failure (1); a complaint that cannot is none.";

const SHOW: &str = "\
In JSON, no protocols and no ports stand for all of them. An entry of `table` is an index
into `active`; `table_digest` is XXH3 over the names in `active` and over `table`.

Examples:
  lbctl show
  lbctl show --json                   with every Maglev table
  lbctl show --json | jq -r '.services[].table_digest'
                                      equal on two balancers that steer alike";
const SERVICES: &str = "\
Examples:
  lbctl services
  lbctl services --json | jq -r '.[].name'";
const BACKENDS: &str = "\
STATE is \"enabled\"; \"draining\": no new flows; or \"disabled\": no flows. FLOWS is there if lbctl has
CAP_NET_ADMIN, and connection tracking has at most 50000 entries; `lbctl flows --count`
counts any number.

Examples:
  lbctl backends
  lbctl backends --service web --json";
const TIER: &str = "\
The balancers of the tier share the work of fragments: a table says who owns those
between two addresses, and every other balancer sends what it gets of them there.
All must agree; `table_digest` in JSON is equal on two that do.

To add one: put it into the file of every balancer with `active = false` and apply
those everywhere, so that the tunnels have both their ends; then activate it everywhere,
and take that line out again. To remove one: deactivate it everywhere, then take it out
of the files, and apply them.

Examples:
  lbctl tier
  lbctl tier --json | jq -r '.members[] | select(.active) | .name'
  lbctl tier deactivate lb202         before maintenance of lb202
  lbctl tier activate lb202";
const TIER_ACTIVATE: &str = "\
All balancers must agree, and each has a table of its own: say it to every one, also to
the one that is meant. Until all agree, fragments of one packet may go to two balancers,
and those whose first one is at the other are dropped.

One that is new must be in the file of every balancer first, with `active = false`, and
those applied: only then do all have a tunnel to it, and it to them.

Examples:
  lbctl tier activate lb202
  for lb in lb201 lb202 lb203; do ssh root@$lb lbctl tier activate lb202; done";
const TIER_DEACTIVATE: &str = "\
All balancers must agree, and each has a table of its own: say it to every one, also to
the one that is meant. Until all agree, fragments of one packet may go to two balancers,
and those whose first one is at the other are dropped.

One that is not active owns no fragments: it sends those that it gets to their owners,
and handles only what others still send it. Where none is active, every balancer handles
what it gets. To remove one, deactivate it everywhere, then take it out of the files.

Examples:
  lbctl tier deactivate lb202
  for lb in lb201 lb202 lb203; do ssh root@$lb lbctl tier deactivate lb202; done";
const BALANCER: &str = "\
With [balancer] announce_table, lbd keeps a route in that table for each VIP that this
balancer can serve, and a routing daemon announces them: docs/announcements.md. Without a
command: which VIPs have one now, and why others have none.

Examples:
  lbctl balancer
  lbctl balancer --json | jq -r '.vips[] | select(.announced | not) | .vip'
  lbctl balancer drain --reason \"kernel\"    before maintenance of this balancer
  lbctl balancer enable";
const BALANCER_DRAIN: &str = "\
All VIPs are withdrawn, so that routers send their packets to other balancers. lbd goes on
with what still comes. It lasts over a reboot, unless --runtime is given. `lbctl stats` counts
what still comes.

Examples:
  lbctl balancer drain --reason \"kernel\"
  lbctl balancer drain --runtime";
const BALANCER_ENABLE: &str = "\
VIPs are announced again, those that can be served.

Examples:
  lbctl balancer enable";
const STATS: &str = "\
`counters` in JSON are sums over all workers; what there is now of fragments, and how
much may be, is in `fragments`.

Examples:
  lbctl stats
  lbctl stats --json | jq .counters.steered_syn
  lbctl stats --json | jq .fragments.held_bytes";
const METRICS: &str = "\
For the textfile collector of node_exporter, from a timer or cron; no lbd is needed. FILE is
replaced as a whole. docs/metrics.md lists all metrics; dist/prometheus has alert rules, and
dist/grafana a dashboard. Counters of the ruleset take CAP_NET_ADMIN.

Scopes: lbd, packets, services, backends, targets. The last three grow with what there is of
them: 4096 backends are some 50000 series. The first two are some 120, whatever is configured.

If the region cannot be read, synrail_region_readable is 0, most others are missing, and the
exit status is 1.

Examples:
  lbctl metrics
  lbctl metrics --scope lbd --scope packets
  lbctl metrics --output /var/lib/prometheus/node-exporter/synrail.prom
  lbctl metrics --json | jq -r '.[] | .name + \": \" + .help'";
const FLOWS: &str = "\
Lists what is pinned where, the flows with the most packets first. PACKETS and BYTES, from
the client, are counted if net.netfilter.nf_conntrack_acct is 1, AGE is known if
nf_conntrack_timestamp is; \"-\" stands for what the kernel does not say.

STATE is \"open\", or of these: \"closing\", a FIN or RST has passed; \"promoted\", the flow is
in the kernel's flowtable; \"off-table\", see below. LEFT is how long a flow stays if nothing
more comes; the kernel does not say it of promoted ones.

A flow is off-table if its service's table names another backend than the one that it has:
that backend is draining, or the table has changed. The kernel keeps such flows in maps of
their own, so they do not depend on connection tracking. A flow that ends, or is silent for
its lifetime ([timeouts]), leaves them; one that the table names again, too, when there is
need of room. --off-table lists those alone whose table names another backend.

No more than N flows are kept in memory and printed; what is left out is told. It takes
CAP_NET_ADMIN, and the network namespace of lbd.

Examples:
  lbctl flows s1 --limit 20           the 20 largest flows of s1
  lbctl flows --count                 how many flows each backend has
  lbctl flows --off-table --count     how many flows still keep a draining backend busy
  lbctl flows --json | jq -r '.[].source' | sort | uniq -c | sort -n | tail";
const CHECK: &str = "\
Looks at the region, at the lbd that follows it, at what the kernel has of it (ruleset, sets,
fallback tables, devices, routes, rules, queues), and at this host: settings, devices,
addresses, filters of other programs. Every line says what it breaks, and what to do. lbd
looks at its start, when the host changes, and every ten seconds, and logs what differs.

--repair mends what lbd would mend, and nothing else: table inet synrail, devices sr-*, routes
and rules of protocol 201, and the file of overrides. Where an lbd runs that one does it, and
--repair waits for it; where it hangs, end it first. Comparing the kernel takes CAP_NET_ADMIN
and CAP_SYS_ADMIN; without them a note says what was not looked at.

Examples:
  lbctl check
  lbctl check --repair                also where lbd is dead
  lbctl check --json | jq -r '.findings[] | .name'

Exit status: 0 nothing, or notes only; 1 warnings; 2 errors.";
const WHICH_USAGE: &str = "\
lbctl which [OPTIONS] PROTO SRC SPORT DST DPORT
       lbctl which [OPTIONS] --batch FILE";
const WHICH: &str = "\
PROTO is tcp, udp, sctp, icmp or a number; where there are no ports, give 0 or -.
With --batch every line of FILE is such a question (empty lines and those that begin
with # are skipped) and every answer a line of JSON; the exit status is 0 also where
nothing steers. --fragment tells besides who of the tier handles its fragments.

Examples:
  lbctl which tcp 50.0.0.1 40000 10.0.0.0 80
  lbctl which udp 2000::1 4000 1000:: 53 --json
  lbctl which icmp 50.0.0.1 - 10.0.0.0 -
  lbctl which --fragment udp 50.0.0.1 4000 10.0.0.0 53
  lbctl which --batch flows.txt | jq -r .backend | sort | uniq -c";
const TRACER: &str = "\
A probe is a packet with the header that you ask about. Routers treat it as one of that
flow; a balancer drops it, and reports to you what becomes of such packets.

Examples:
  lbctl tracer send tcp 50.0.0.1 40000 10.0.0.0 80";
const TRACER_USAGE: &str = "\
lbctl tracer send [OPTIONS] PROTO SRC SPORT DST DPORT
       lbctl tracer send [OPTIONS] --batch FILE";
const TRACER_SEND: &str = "\
PROTO is tcp, udp or sctp. SRC may be any address, as long as routers let it pass. With
--batch every line of FILE is such a header (empty lines and those that begin with # are
skipped). JSON has one line for each header, with all its reports.

It needs CAP_NET_RAW, and no region and no lbd on this host. Balancers report to the
addresses in [tracer] receivers of their configuration alone, and answer per_second
probes: keep --per-second at or below that.

A report says what the table does with a new flow, and whether connection tracking
there has the flow pinned. A host that is no balancer takes a probe for what it looks
like: trace to VIPs only.

Examples:
  lbctl tracer send tcp 50.0.0.1 40000 10.0.0.0 80
  lbctl tracer send udp 2000::1 4000 1000:: 53 --receiver 2000::221
  lbctl tracer send --batch flows.txt --json | jq -r '.reports[].backend' | sort | uniq -c

Exit status: 0 if there was a report about every header, 1 if not, with what to check.";
const CREATE: &str = "\
The region gets one service, \"default\", that claims every destination; its backends
are only marked (backend I has mark I + 1). M is lowered to the prime at or below it.

Examples:
  lbctl create 100 10                 M 97, backends 0 to 9, none active
  lbctl create -i 5 100 10            0 to 4 active
  lbctl create --shm try 65537 100    another region, for trying things out";
const CLEAN: &str = "\
A region that an lbd follows is kept: that lbd would go on with the copy it has, and
nothing could change it. A corrupt region is removed, a file that is no region is not;
--force removes either. What enable, drain and disable said is removed as well, unless
--keep-overrides is given.

Examples:
  lbctl clean
  lbctl clean --keep-overrides        a corrupt region: backends that are out stay out
  lbctl clean --shm try";
const APPLY: &str = "\
Makes the region if there is none. What enable, drain and disable said stays, unless the
file has another `active` there than before. Targets keep their marks. Where nothing
differs nothing is written.

A file that was cut off can be valid. So one that takes away what is in use is refused, unless
--allow-removal is given: a service with an active backend, more than half of the active
backends of one (or of the tier's other balancers), all interfaces, the balancer's name. What
is draining or disabled can be removed without. `loss:` lines tell what goes, also of what
`lbctl drain` has set: a service under a new name begins anew, unless the file says
renamed_from there.

Balancers of a tier must agree about who is in it. One that is new comes into every file
with `active = false`; apply those everywhere, then `lbctl tier activate` it everywhere
and take the line out again. One that goes is deactivated everywhere first, then taken
out of the files.

Examples:
  lbctl apply lb.toml --dry-run       exit status 3 if anything would change
  lbctl apply lb.toml
  generate | lbctl apply -            from standard input";
const ENABLE: &str = "\
Ends a drain or a disable, or goes before `active = false` of the file. It lasts over a
reboot, unless --runtime is given. `lbctl activate` is the same.

Examples:
  lbctl enable s1
  lbctl enable --service web s1       of this service only";
const ACTIVATE: &str = "\
The same as `lbctl enable`.

Examples:
  lbctl activate 6 7 8
  lbctl activate --service web s1     of this service only";
const DRAIN: &str = "\
Flows that a backend has stay with it; new ones go to the others. It goes before the
file, and lasts over a reboot, unless --runtime is given. `lbctl show` says who said so,
when and why. `lbctl deactivate` is the same, but for --wait.

With --wait it then waits until no flow is left, and says how many are: on a terminal every
second, else every five. It counts what connection tracking and the maps of off-table flows
hold of the backends, and connections that are being opened. A connection that its client
has closed counts until the client has been silent for 10 s: if the server still sends, the
client acknowledges. A UDP flow counts until its lifetime ends ([timeouts] udp_seconds after
its last packet; 30 s for flows of few packets), and so does a connection whose client has
gone without a word: see `lbctl flows`, and `lbctl kill` to end what is left. To count takes
CAP_NET_ADMIN, and the network namespace of lbd. Interrupted, it leaves the backend draining.

With --json a first line says what was changed, and a second one what came of waiting.

Examples:
  lbctl drain s1 --reason \"disk\"
  lbctl drain s1 --wait --timeout 10m && ssh s1 systemctl restart nginx; lbctl enable s1
  lbctl drain s1 --wait || lbctl disable s1

Exit status: 0 done, and with --wait no flow is left; 5 flows are left at the timeout;
4 done, but it cannot be kept, or no lbd has taken it over, so it is not waited for.";
const DEACTIVATE: &str = "\
The same as `lbctl drain` without --wait: no new flows, and those that a backend has stay.
Exit status 4 if it is done but cannot be kept.

Examples:
  lbctl deactivate 1
  lbctl deactivate s1 --reason \"disk\"
  lbctl deactivate --service web s1   of this service only";
const DISABLE: &str = "\
New flows go to the other backends, and so does the next packet of each flow that the backend
has: UDP goes on there, a connection is reset by the backend that it comes to. lbd does this
when it takes the change over, and whenever it starts; flows of other services on the same
host stay. It goes before the file, and lasts over a reboot, unless --runtime is given.

Examples:
  lbctl disable s1 --reason \"hangs\"
  lbctl drain s1 --wait --timeout 5m || lbctl disable s1
  lbctl disable --service web s1      of this service only
  lbctl enable s1";
const KILL: &str = "\
Ends once the flows that a backend has now, promoted and off-table ones too: the next packet
of each is steered anew. UDP goes on where the table leads; a connection that comes to
another backend is reset there. What the backend may get does not change: while it is
enabled, the table leads most of these flows to it again, where connections just go on.
To end them for good, `lbctl drain` it first, or `lbctl disable` it.

lbd does this, so it takes no capability. If none runs, the next one does, or `lbd --once`.

Examples:
  lbctl drain s1; sleep 600; lbctl kill s1
  lbctl kill --service web s1         of this service only
  lbctl kill s1 --json | jq .ended";
const BACKEND_SETUP: &str = "\
Examples:
  lbctl backend-setup s1              read it, then paste it into a shell on s1
  lbctl backend-setup s1 --service web | ssh root@s1 sh";

/// Shows and changes what the load balancer does: services, backends, and which of them are active.
///
/// All of it is in a region of shared memory, /dev/shm/NAME, that lbd follows. lbctl needs no running lbd and no
/// root for a region of its own.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, after_help = EXAMPLES, max_term_width = 110)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What goes with every command.
#[derive(Args, Debug)]
pub(super) struct Global {
    /// The region in shared memory.
    #[arg(long, global = true, value_name = "NAME", default_value = NAME_DEFAULT)]
    pub shm: RegionName,
    /// The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show everything: settings, services, backends and their shares
    #[command(after_help = SHOW)]
    Show,
    /// List the services
    #[command(after_help = SERVICES)]
    Services,
    /// List the backends
    #[command(after_help = BACKENDS)]
    Backends(BackendsArguments),
    /// Show, or change, which balancers share the work of fragments
    #[command(after_help = TIER)]
    Tier(TierArguments),
    /// Show which VIPs this balancer announces; withdraw them for maintenance
    #[command(after_help = BALANCER)]
    Balancer(BalancerArguments),
    /// Show what lbd counted
    #[command(after_help = STATS)]
    Stats,
    /// Print metrics for Prometheus
    #[command(after_help = METRICS)]
    Metrics(MetricsArguments),
    /// List flows: what is pinned where
    #[command(after_help = FLOWS)]
    Flows(FlowsArguments),
    /// Tell what is not as it should be: the region, lbd, the kernel, this host
    #[command(after_help = CHECK)]
    Check(CheckArguments),
    /// Tell where a new flow would go, and why
    #[command(after_help = WHICH, override_usage = WHICH_USAGE)]
    Which(WhichArguments),
    /// Ask the balancers on the way what becomes of a packet
    #[command(after_help = TRACER)]
    Tracer(TracerArguments),
    /// Make a region without a configuration file
    #[command(after_help = CREATE)]
    Create(CreateArguments),
    /// Make the region what a configuration file says
    #[command(after_help = APPLY)]
    Apply(ApplyArguments),
    /// Give new flows to backends
    #[command(after_help = ENABLE)]
    Enable(AdminArguments),
    /// Give no new flows to backends, and wait until those that they have are over
    #[command(after_help = DRAIN)]
    Drain(DrainArguments),
    /// Give no flows to backends: those that they have go elsewhere at once
    #[command(after_help = DISABLE)]
    Disable(AdminArguments),
    /// End the flows that backends have now
    #[command(after_help = KILL)]
    Kill(KillArguments),
    /// Give new flows to backends: the same as enable
    #[command(after_help = ACTIVATE)]
    Activate(AdminArguments),
    /// Give no new flows to backends: the same as drain
    #[command(after_help = DEACTIVATE)]
    Deactivate(AdminArguments),
    /// Print the commands that make a Linux host this backend
    #[command(after_help = BACKEND_SETUP)]
    BackendSetup(BackendSetupArguments),
    /// Remove the region
    #[command(after_help = CLEAN)]
    Clean(CleanArguments),
}

impl Command {
    /// Whether it changes the region, and does not only read.
    pub(super) fn changes(&self) -> bool {
        match self {
            Self::Create(_) | Self::Apply(_) | Self::Clean(_) => true,
            Self::Enable(_) | Self::Drain(_) | Self::Disable(_) | Self::Kill(_) => true,
            Self::Activate(_) | Self::Deactivate(_) => true,
            Self::Tier(args) => args.command.is_some(),
            Self::Balancer(args) => args.command.is_some(),
            Self::Show | Self::Services | Self::Backends(_) | Self::Stats | Self::Which(_) => false,
            Self::Flows(_) | Self::Metrics(_) => false,
            Self::Tracer(_) | Self::BackendSetup(_) | Self::Check(_) => false,
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct BackendsArguments {
    /// Of this service only.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct CheckArguments {
    /// Mend what lbd would mend.
    #[arg(long)]
    pub repair: bool,
}

#[derive(Args, Debug)]
pub(super) struct MetricsArguments {
    /// Only these metrics; may be given more than once. Else all.
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', value_parser = scope_parser())]
    pub scope: Vec<Scope>,
    /// Write them to a file, which is replaced as a whole.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print OpenMetrics, not the text format of Prometheus; node_exporter does not read it.
    #[arg(long, conflicts_with = "json")]
    pub openmetrics: bool,
}

/// Knows the names for completions.
fn scope_parser() -> impl TypedValueParser<Value = Scope> {
    let one = |name: String| Scope::named(&name).ok_or("no such scope");
    PossibleValuesParser::new(Scope::ALL.map(Scope::name)).try_map(one)
}

#[derive(Args, Debug)]
pub(super) struct FlowsArguments {
    /// Of these backends only.
    #[arg(value_name = "BACKEND")]
    pub backends: Vec<String>,
    /// Of this service only.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Those only whose table names another backend.
    #[arg(long)]
    pub off_table: bool,
    /// Count them by backend, and list none.
    #[arg(long, conflicts_with = "limit")]
    pub count: bool,
    /// List at most N, those with the most packets [default: 1000; with --off-table all]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

#[derive(Args, Debug)]
pub(super) struct WhichArguments {
    /// Protocol, source, its port, destination, its port.
    #[arg(num_args = 5, value_names = ["PROTO", "SRC", "SPORT", "DST", "DPORT"])]
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    pub flow: Vec<String>,
    /// Answer every line of a file; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
    /// Tell also which balancer of the tier handles its fragments.
    #[arg(long)]
    pub fragment: bool,
}

#[derive(Args, Debug)]
pub(super) struct TracerArguments {
    #[command(subcommand)]
    pub command: TracerCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum TracerCommand {
    /// Send probes, and print what balancers report
    #[command(after_help = TRACER_SEND, override_usage = TRACER_USAGE)]
    Send(TracerSendArguments),
}

#[derive(Args, Debug)]
pub(super) struct TracerSendArguments {
    /// Protocol, source, its port, destination, its port.
    #[arg(num_args = 5, value_names = ["PROTO", "SRC", "SPORT", "DST", "DPORT"])]
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    pub flow: Vec<String>,
    /// Send a probe for every line of a file; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
    /// The address of this host to hear reports at; else the one that it sends from to DST.
    #[arg(long, value_name = "ADDRESS")]
    pub receiver: Option<IpAddr>,
    /// How long to wait for reports after the last probe, in milliseconds; several balancers may report.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub wait: u64,
    /// How many probes to send in a second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(
        i64::from(*TracerSettings::PER_SECOND.start())..=i64::from(*TracerSettings::PER_SECOND.end())))]
    pub per_second: u32,
}

#[derive(Args, Debug)]
pub(super) struct TierArguments {
    #[command(subcommand)]
    pub command: Option<TierCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TierCommand {
    /// Let balancers own fragments
    #[command(after_help = TIER_ACTIVATE)]
    Activate(TierActivateArguments),
    /// Let balancers own no fragments
    #[command(after_help = TIER_DEACTIVATE)]
    Deactivate(TierActivateArguments),
}

#[derive(Args, Debug)]
pub(super) struct TierActivateArguments {
    #[command(flatten)]
    pub order: OrderArguments,
    /// Names of balancers.
    #[arg(value_name = "BALANCER", required = true)]
    pub balancers: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct BalancerArguments {
    #[command(subcommand)]
    pub command: Option<BalancerCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BalancerCommand {
    /// Withdraw all VIPs
    #[command(after_help = BALANCER_DRAIN)]
    Drain(OrderArguments),
    /// Announce VIPs again
    #[command(after_help = BALANCER_ENABLE)]
    Enable(OrderArguments),
}

/// The rest of an operator's word.
#[derive(Args, Debug)]
pub(super) struct OrderArguments {
    /// Why; `lbctl show` says it.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub reason: Option<Remark>,
    /// Until the region goes, such as at a reboot; else for good.
    #[arg(long)]
    pub runtime: bool,
}

#[derive(Args, Debug)]
pub(super) struct CreateArguments {
    /// How many backends are active at first.
    #[arg(short = 'i', long = "initially-active", value_name = "ACTIVE", default_value_t = 0)]
    pub active: usize,
    /// The size of the Maglev table; lowered to a prime.
    #[arg(value_name = "M", value_parser = clap::value_parser!(u64).range(u64::from(TableSize::MIN)..=u64::from(TableSize::MAX)))]
    pub m: u64,
    /// How many backends there are.
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=TARGETS_MAX as i64))]
    pub n: u32,
}

#[derive(Args, Debug)]
pub(super) struct CleanArguments {
    /// Although an lbd follows it, or the file is not ours.
    #[arg(long)]
    pub force: bool,
    /// Keep what enable, drain and disable said, for the region that is made next.
    #[arg(long)]
    pub keep_overrides: bool,
}

#[derive(Args, Debug)]
pub(super) struct ApplyArguments {
    /// The configuration file; - is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print the differences and losses, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Also if it takes away what is in use.
    #[arg(long)]
    pub allow_removal: bool,
}

#[derive(Args, Debug)]
pub(super) struct AdminArguments {
    /// Of this service only; else of every service that has a backend of the name.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    #[command(flatten)]
    pub order: OrderArguments,
    /// Names of backends.
    #[arg(value_name = "BACKEND", required = true)]
    pub backends: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct DrainArguments {
    #[command(flatten)]
    pub what: AdminArguments,
    /// Wait until no flow is left.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait: a number with s, m or h, or of seconds.
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "wait")]
    pub timeout: Patience,
}

/// A time that a person can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience(pub Duration);

impl Patience {
    /// The longest one, in seconds: a week.
    const SECONDS_MAX: u64 = 7 * 24 * 3600;
}

impl FromStr for Patience {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
            Some(number) => (number, &text[number.len()..]),
            None => (text, "s"),
        };
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let factor = match unit {
            "h" => 3600,
            "m" => 60,
            _ => 1,
        };
        let seconds = number.parse::<u64>().ok().filter(|_| digits).and_then(|n| n.checked_mul(factor));
        let seconds = seconds.filter(|seconds| (1..=Self::SECONDS_MAX).contains(seconds));
        seconds
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or("such as 30s, 5m or 1h, at most a week")
    }
}

#[derive(Args, Debug)]
pub(super) struct KillArguments {
    /// Of this service only; else of every service that has a backend of the name.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Names of backends.
    #[arg(value_name = "BACKEND", required = true)]
    pub backends: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct BackendSetupArguments {
    /// The backend's name.
    #[arg(value_name = "BACKEND")]
    pub backend: String,
    /// Its service; needed where several have a backend of this name.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
}
