//! The command: shows and changes what lbd follows. All it does is in [`synrail::ctl`].

use std::{
    io::{self, BufWriter},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use synrail::{
    ctl::{self, Env},
    daemon,
    status::Sources,
    sys::{clock, output, overrides, tracer::Probes},
};

#[expect(clippy::disallowed_methods, reason = "the environment is an argument, and this is main")]
fn main() -> ExitCode {
    output::prepare();
    let status = ctl::run(
        std::env::args_os(),
        &mut Env {
            out: &mut BufWriter::new(output::Out),
            err: &mut output::Complaints,
            input: &mut io::stdin().lock(),
            unix_seconds: clock::unix_seconds(),
            state_directory: overrides::directory(
                std::env::var_os("XDG_STATE_HOME").map(PathBuf::from),
                std::env::var_os("HOME").map(PathBuf::from),
            ),
            user: overrides::user(std::env::var("SUDO_USER").ok()),
            sources: Sources::of_host(),
            numbers_in_kernel: || daemon::numbers_in_kernel().unwrap_or_default(),
            mend: daemon::mend,
            adoption_wait: Duration::from_secs(2),
            prober: &mut Probes::default(),
            terminal: output::errors_to_terminal(),
        },
    );
    status.into()
}
