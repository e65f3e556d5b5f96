//! `--once`: every check once, the agents on backends too, and what was found.

use std::time::Duration;

use serde::Serialize;
use synrail::{
    control::{
        agent_line::Words,
        agent_reports::Answer,
        health::{Last, Outcome},
    },
    ctl::text::Table,
    model::{AgentHealth, HealthCheck, Name, Override},
    sys::{clock, region::AccessError},
};

use crate::run::{Ended, Follower, Runner};

/// A time at which every check is due.
const ALL_DUE: Duration = Duration::from_millis(2 * *HealthCheck::INTERVAL_MS.end() as u64);

/// The kind of a question to the agent on a backend.
const AGENT: &str = "agent";

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// The backends that it is about, as SERVICE/BACKEND.
    pub backends: Vec<String>,
    /// The kind of check; "agent" for a question to the agent on a backend.
    pub kind: &'static str,
    /// Whether it succeeded; of an agent, whether it answers and does not say that the backend is down.
    pub ok: bool,
    /// Whether it was made at all, and an agent has answered; if not, nothing was found of the backend, and `reason` says what this host
    /// lacks, or what came instead of an answer.
    pub made: bool,
    /// What it found.
    pub reason: String,
    /// How long it took.
    pub took_ms: u64,
}

/// What all checks found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Results(Vec<CheckResult>);

impl Results {
    /// Reports whether all succeeded. That an agent does not answer takes nothing from its backend, and is no failure.
    #[must_use]
    pub fn all_succeed(&self) -> bool {
        self.0.iter().all(|result| result.ok || (result.kind == AGENT && !result.made))
    }

    /// Returns the answer.
    #[must_use]
    pub fn show(&self, json: bool) -> String {
        if json {
            return serde_json::to_string(&self.0).unwrap_or_default();
        }
        if self.0.is_empty() {
            return "no service has checks ([service.health])".to_owned();
        }
        let mut table = Table::new(&["BACKENDS", "KIND", "RESULT", ">TOOK", "FOUND"]);
        for CheckResult { backends, kind, ok, made, reason, took_ms } in &self.0 {
            let result = match (ok, made) {
                (true, _) => "ok",
                (false, true) => "FAILED",
                (false, false) if *kind == AGENT => "no answer",
                (false, false) => "NOT MADE",
            };
            table.row([
                backends.join(" "),
                (*kind).to_owned(),
                result.to_owned(),
                format!("{took_ms} ms"),
                reason.clone(),
            ]);
        }
        table.render("").trim_end().to_owned()
    }
}

/// Runs every check once.
///
/// # Errors
/// When the region cannot be read.
pub async fn run(mut follower: Follower) -> Result<Results, AccessError> {
    let mut runner = Runner::default();
    let Some(state) = follower.look()? else { return Ok(Results(Vec::new())) };
    runner.checks.update(&state, Duration::ZERO);
    let began = runner.now();
    let now = |runner: &Runner| ALL_DUE + runner.now().saturating_sub(began);
    runner.agents.update(&state, Duration::ZERO);
    let mut left = runner.checks.iter().count() + runner.agents.len();
    while left > 0 {
        // A check that has ended is due again much later.
        runner.start_due(ALL_DUE);
        let ended = runner.next_result().await;
        let time = Override::time(clock::unix_seconds());
        let now = now(&runner);
        match ended {
            Ended::Check(id, outcome) => _ = runner.checks.finished(id, outcome, now, time),
            Ended::Agent(id, answer) => _ = runner.agents.finished(id, answer, now, time),
        }
        left -= 1;
    }
    let result = |names: &[(Name, Name)], kind, (ok, made, reason), took: Duration| CheckResult {
        backends: names.iter().map(|(service, backend)| format!("{service}/{backend}")).collect(),
        kind,
        ok,
        made,
        reason,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    };
    let checked = runner.checks.iter().filter_map(|(names, kind, last)| {
        let Last { outcome, took } = last?;
        let (ok, made) = (matches!(outcome, Outcome::Succeeded(_)), !matches!(outcome, Outcome::NotMade(_)));
        Some(result(names, kind, (ok, made, outcome.reason().as_str().to_owned()), *took))
    });
    let asked = runner.agents.iter().map(|(names, answer, took)| result(names, AGENT, said(answer), took));
    let mut results: Vec<CheckResult> = checked.chain(asked).collect();
    // An agent comes behind the check of its backend.
    results.sort_by(|a, b| (&a.backends, a.kind == AGENT).cmp(&(&b.backends, b.kind == AGENT)));
    Ok(Results(results))
}

/// Returns whether an answer is a success, whether it is one at all, and what came.
fn said(answer: &Answer) -> (bool, bool, String) {
    match answer {
        Answer::Words(words) => {
            (words.health.is_none_or(|health| health == AgentHealth::Up), true, spoken(words))
        }
        Answer::Nothing(reason) => (false, false, reason.as_str().to_owned()),
    }
}

/// Returns the words that count: "50% drain down: disk full".
fn spoken(words: &Words) -> String {
    let Words { weight_percent, mode, health, reason } = words;
    let percent = weight_percent.map(|percent| format!("{percent}%"));
    let known = [percent, mode.map(|mode| mode.to_string()), health.map(|health| health.to_string())];
    let known = known.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let known = if known.is_empty() { "no change".to_owned() } else { known };
    reason.as_ref().map_or_else(|| known.clone(), |reason| format!("{known}: {reason}"))
}

#[cfg(test)]
mod tests {
    use synrail::model::Remark;

    use super::*;

    /// What is shown of the answers of one agent, and whether that is a success.
    fn shown(line: &str) -> (String, bool) {
        let refused = || Answer::Nothing(Remark::new("connection refused").unwrap());
        let (ok, made, reason) = said(&Words::of(line.as_bytes()).map_or_else(refused, Answer::Words));
        let backends = vec!["web/s1".to_owned()];
        let results = Results(vec![CheckResult { backends, kind: AGENT, ok, made, reason, took_ms: 1 }]);
        let row =
            results.show(false).lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        (row, results.all_succeed())
    }

    #[test]
    fn an_agent_fails_by_what_it_says_and_not_by_silence() {
        for (line, row, succeeds) in [
            ("47% up", "web/s1 agent ok 1 ms 47% up", true),
            ("drain #work", "web/s1 agent ok 1 ms drain: work", true),
            ("maxconn:30", "web/s1 agent ok 1 ms no change", true),
            ("50% stopped #work", "web/s1 agent FAILED 1 ms 50% stopped: work", false),
            ("", "web/s1 agent no answer 1 ms connection refused", true),
        ] {
            assert_eq!(shown(line), (row.to_owned(), succeeds), "{line:?}");
        }
    }
}
