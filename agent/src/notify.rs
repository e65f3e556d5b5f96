//! Runs the operator's program for what has changed ([`synrail::control::notices`]), one after the other.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    process::Stdio,
    time::Duration,
};

use synrail::control::notices::Notice;
use tokio::{process::Command, task::JoinSet, time::timeout};
use tracing::{info, warn};

use crate::program;

/// How many notices wait at most; older ones are dropped.
pub const WAITING_MAX: usize = 256;
/// How long the program may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Notices on their way to the operator's program.
#[derive(Default)]
pub struct Notifier {
    waiting: VecDeque<(Vec<String>, Notice)>,
    running: JoinSet<Result<(), String>>,
    /// How many were dropped since the log said so, because too many waited.
    dropped: u64,
}

impl Notifier {
    /// Hands a notice to the program `words`, after those that wait.
    pub fn offer(&mut self, words: &[String], notice: Notice) {
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back((words.to_vec(), notice));
        self.start();
    }

    fn start(&mut self) {
        if self.running.is_empty()
            && let Some((words, notice)) = self.waiting.pop_front()
        {
            self.running.spawn_local(async move { run(&words, &notice).await });
        }
    }

    /// Waits until the program has ended, and starts the next; for ever if none runs.
    pub async fn next(&mut self) {
        match self.running.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => warn!("the program of `notify`: {error}"),
            Some(Err(error)) => warn!(%error, "the program of `notify` has ended without a result"),
            None => std::future::pending().await,
        }
        self.start();
        if self.waiting.is_empty() && self.dropped > 0 {
            info!(dropped = self.dropped, "notices were dropped, because more than {WAITING_MAX} waited");
            self.dropped = 0;
        }
    }
}

async fn run(words: &[String], notice: &Notice) -> Result<(), String> {
    let command = command(words, notice).map_err(|error| error.to_string())?;
    match timeout(TIMEOUT, program::run(command)).await {
        Err(_) => Err(format!("killed after {} s", TIMEOUT.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(ended)) if ended.status.success() => Ok(()),
        Ok(Ok(ended)) => Err(format!("{} ({})", ended.last_line(), ended.status)),
    }
}

/// The notice is in the environment, and as a line of JSON in standard input.
fn command(words: &[String], notice: &Notice) -> io::Result<Command> {
    let mut command = program::command(words).ok_or(io::ErrorKind::NotFound)?;
    let mut line = serde_json::to_vec(notice)?;
    line.push(b'\n');
    // Less than a pipe holds.
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(&line)?;
    command
        .stdin(Stdio::from(reader))
        .env("SYNRAIL_ABOUT", notice.about.name())
        .env("SYNRAIL_SERVICE", notice.service.as_str())
        .env("SYNRAIL_BACKEND", notice.backend.as_ref().map_or("", |backend| backend.as_str()))
        .env("SYNRAIL_FROM", notice.from)
        .env("SYNRAIL_TO", notice.to)
        .env("SYNRAIL_REASON", notice.reason.as_deref().unwrap_or(""));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use synrail::{control::notices::About, model::Name};
    use tokio::task::LocalSet;

    use super::*;

    fn notice(backend: &str) -> Notice {
        Notice {
            about: About::Health,
            service: Name::new("web").unwrap(),
            backend: Name::new(backend),
            from: "up",
            to: "down",
            reason: Some("connection refused".to_owned()),
        }
    }

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn lines(file: &Path) -> Vec<String> {
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn the_program_gets_each_notice_in_order_whatever_became_of_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("told");
        let script = format!(
            "read line; echo \"$SYNRAIL_SERVICE/$SYNRAIL_BACKEND $SYNRAIL_FROM $SYNRAIL_TO $SYNRAIL_REASON $line\" >> {}; \
             test $SYNRAIL_BACKEND != s1",
            file.display()
        );
        LocalSet::new()
            .run_until(async {
                let mut notifier = Notifier::default();
                notifier.offer(&["/nonexistent".to_owned()], notice("s0"));
                for backend in ["s1", "s2"] {
                    notifier.offer(&shell(&script), notice(backend));
                }
                for _ in 0..3 {
                    notifier.next().await;
                }
            })
            .await;
        let told = lines(&file);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("web/s1 up down connection refused {\"about\":\"health\""), "{told:?}");
        assert!(told[1].starts_with("web/s2 "), "{told:?}");
    }

    #[tokio::test]
    async fn of_more_than_fit_the_newest_are_passed_on() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("told");
        let script = format!("echo $SYNRAIL_BACKEND >> {}", file.display());
        LocalSet::new()
            .run_until(async {
                let mut notifier = Notifier::default();
                // The first is running, and two are too many.
                for n in 0..WAITING_MAX + 3 {
                    notifier.offer(&shell(&script), notice(&format!("s{n}")));
                }
                assert_eq!((notifier.dropped, notifier.waiting.len()), (2, WAITING_MAX));
                assert_eq!(notifier.waiting[0].1.backend, Name::new("s3"));
                for _ in 0..3 {
                    notifier.next().await;
                }
            })
            .await;
        assert_eq!(lines(&file), ["s0", "s3", "s4"]);
    }
}
