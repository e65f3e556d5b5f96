//! The command: shows and changes what lbd follows. All it does is in [`synrail::ctl`].

use std::{
    io::{self, BufWriter},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use synrail::{
    ctl::{self, Env},
    sys::clock,
};

fn main() -> ExitCode {
    let status = ctl::run(
        std::env::args_os(),
        &mut Env {
            out: &mut BufWriter::new(io::stdout().lock()),
            err: &mut io::stderr().lock(),
            input: &mut io::stdin().lock(),
            unix_seconds: clock::unix_seconds(),
            proc: PathBuf::from("/proc"),
            adoption_wait: Duration::from_secs(2),
        },
    );
    status.into()
}
