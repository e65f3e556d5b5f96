//! The command: shows and changes what lbd follows. All it does is in [`synrail::ctl`].

use std::{
    collections::BTreeMap,
    io::{self, BufWriter},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use synrail::{
    ctl::{self, Env},
    daemon,
    sys::{clock, nft, output, overrides, probe, tracer::Probes},
};

/// `None` without rights, or without nftables; none of them without a ruleset.
fn ruleset_counters() -> Option<BTreeMap<String, u64>> {
    Some(nft::counters().ok()?.into_iter().map(|counter| (counter.name, counter.packets)).collect())
}

fn main() -> ExitCode {
    output::prepare();
    let status = ctl::run(
        std::env::args_os(),
        &mut Env {
            out: &mut BufWriter::new(output::Out),
            err: &mut output::Complaints,
            input: &mut io::stdin().lock(),
            unix_seconds: clock::unix_seconds(),
            monotonic: clock::monotonic(),
            state_directory: overrides::DIRECTORY_DEFAULT.into(),
            user: overrides::user(),
            proc: PathBuf::from("/proc"),
            ruleset_counters,
            given: || nft::given().unwrap_or_default(),
            off_table: nft::flow_maps::off_table,
            numbers_in_kernel: || daemon::numbers_in_kernel().unwrap_or_default(),
            look: probe::look,
            adoption_wait: Duration::from_secs(2),
            prober: &mut Probes::default(),
        },
    );
    status.into()
}
