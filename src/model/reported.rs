//! The agent check of HAProxy (`agent-check`): how the agent on a backend is asked, and what it reports. PURE.

use std::{fmt, num::NonZero};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    overrides::Remark,
    values::{as_text, named},
};

/// How the agent on a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentCheck {
    /// The port that it listens on.
    pub port: NonZero<u16>,
    /// The time from the start of a check to the start of the next one; of the values of
    /// [`super::HealthCheck::INTERVAL_MS`].
    pub interval_ms: u32,
    /// What is sent to it first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub send: String,
}

/// What the agent on a backend reports, as far as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// How much of the backend's weight counts.
    pub weight_percent: Percent,
    /// Whether it wants new flows.
    pub mode: AgentMode,
    /// Whether the backend is well.
    pub health: AgentHealth,
    /// Since when it has been as it is.
    pub since: Timestamp,
    /// Why, in the agent's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Remark>,
    /// Set while the agent does not answer, which changes nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<Silent>,
}

/// Why an agent has no answer that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    /// Since when.
    pub since: Timestamp,
    /// What came instead.
    pub reason: Remark,
}

impl Reported {
    /// Returns what holds before an agent has reported anything.
    #[must_use]
    pub fn nothing(since: Timestamp) -> Self {
        Self {
            weight_percent: Percent::ALL,
            mode: AgentMode::Ready,
            health: AgentHealth::Up,
            since,
            reason: None,
            silent: None,
        }
    }

    /// Reports whether it keeps new flows away from the backend as an operator's drain does.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.mode != AgentMode::Ready || self.weight_percent == Percent::NONE
    }

    /// Reports whether the backend is not well.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.health != AgentHealth::Up
    }

    /// Returns why the backend is not well: "agent: down: disk full".
    #[must_use]
    pub fn why_down(&self) -> Option<String> {
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        self.is_down().then(|| format!("agent: {}{reason}", self.health))
    }

    /// Reports whether it takes something from the backend.
    #[must_use]
    pub fn lowers(&self) -> bool {
        self.is_down() || self.drains() || self.weight_percent != Percent::ALL
    }

    /// Reports whether people should be told of it: it takes something from the backend, or the agent does not answer.
    #[must_use]
    pub fn is_notable(&self) -> bool {
        self.lowers() || self.silent.is_some()
    }

    /// Returns it without times: "50%", "100%, drain", "50%, maint, down: disk full", "silent: connection refused".
    #[must_use]
    pub fn summary(&self) -> String {
        if let Some(silent) = self.silent.as_ref().filter(|_| !self.lowers()) {
            return format!("silent: {}", silent.reason);
        }
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        let silent =
            self.silent.as_ref().map_or_else(String::new, |silent| format!("; silent: {}", silent.reason));
        format!("{}{reason}{silent}", self.words())
    }

    fn words(&self) -> String {
        let mode = Some(self.mode.name()).filter(|_| self.mode != AgentMode::Ready);
        let health = Some(self.health.name()).filter(|_| self.is_down());
        let percent = self.weight_percent.to_string();
        [Some(percent.as_str()), mode, health].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// "50%, down since 2026-11-29T12:00:00Z: disk full; silent since 2026-11-29T12:01:00Z: connection refused". Of an agent that takes
/// nothing, or has never answered, only that it is silent.
impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(silent) = self.silent.as_ref().filter(|_| !self.lowers()) {
            return write!(f, "silent since {}: {}", silent.since, silent.reason);
        }
        write!(f, "{} since {}", self.words(), self.since)?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))?;
        let silent = self.silent.as_ref();
        silent.map_or(Ok(()), |silent| write!(f, "; silent since {}: {}", silent.since, silent.reason))
    }
}

/// A share of a weight in steps of 10 percent: each other share is another table, which moves entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// Nothing of it.
    pub const NONE: Self = Self(0);
    /// All of it.
    pub const ALL: Self = Self(100);
    const STEP: u32 = 10;

    /// Returns the step that is nearest; never [`Percent::NONE`] for more than 0, and [`Percent::ALL`] for more than 100.
    #[must_use]
    pub fn nearest(percent: u32) -> Self {
        let steps = (percent.min(100) + Self::STEP / 2) / Self::STEP;
        let steps = if percent > 0 { steps.max(1) } else { 0 };
        // At most 100.
        Self(u8::try_from(steps * Self::STEP).unwrap_or(100))
    }

    /// Returns what follows it when an agent says so many percent: itself until they are a whole step away, so that an agent near the
    /// middle of two steps does not make a new table each time. 0 and 100 count exactly.
    #[must_use]
    pub fn followed_by(self, percent: u8) -> Self {
        let exact = percent == 0 || percent >= Self::ALL.0 || self == Self::NONE;
        let near = u32::from(self.0.abs_diff(percent)) < Self::STEP;
        if near && !exact { self } else { Self::nearest(percent.into()) }
    }

    /// Returns the number, 0 to 100.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = &'static str;

    fn try_from(percent: u8) -> Result<Self, Self::Error> {
        let step = Self::nearest(percent.into());
        if step.0 == percent { Ok(step) } else { Err("not a step of 10 percent") }
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Whether an agent wants new flows for its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentMode {
    /// It does.
    Ready,
    /// It does not.
    Drain,
    /// It does not, for there is work to do on the backend.
    Maint,
}

named!(AgentMode { Ready = "ready", Drain = "drain", Maint = "maint" });

as_text!(AgentMode, AgentMode::named, |mode: &AgentMode| mode.name(), "mode that an agent reports");

/// What an agent reports of its backend's health. All but [`AgentHealth::Up`] mean the same here; the words differ for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentHealth {
    /// It is well, if checks say so too.
    Up,
    /// It does not answer.
    Down,
    /// It answers, but not rightly. The words `fail` and `failed`.
    Fail,
    /// It was stopped on purpose.
    Stopped,
}

named!(AgentHealth { Up = "up", Down = "down", Fail = "fail", Stopped = "stopped" });

as_text!(
    AgentHealth,
    AgentHealth::named,
    |health: &AgentHealth| health.name(),
    "health that an agent reports"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_steps_of_ten() {
        let steps =
            [0, 1, 4, 14, 15, 44, 45, 50, 94, 95, 100, 101, u32::MAX].map(|n| Percent::nearest(n).get());
        assert_eq!(steps, [0, 10, 10, 10, 20, 40, 50, 50, 90, 100, 100, 100, 100]);
        assert_eq!(serde_json::from_str::<Percent>("70").unwrap().get(), 70);
        for bad in ["75", "110", "255", "256", "-10", "\"50\""] {
            assert!(serde_json::from_str::<Percent>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_step_holds_until_another_is_a_whole_step_away() {
        for (held, said, next) in [
            (40, 44, 40),
            (40, 46, 40),
            (40, 49, 40),
            (40, 50, 50),
            (40, 31, 40),
            (40, 30, 30),
            (40, 26, 30),
            (90, 99, 90),
            (90, 100, 100),
            (100, 91, 100),
            (100, 90, 90),
            (10, 1, 10),
            (10, 0, 0),
            (0, 1, 10),
            (0, 9, 10),
        ] {
            assert_eq!(Percent::nearest(held).followed_by(said).get(), next, "{held}, then {said}");
        }
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let none = Reported::nothing(Timestamp::UNIX_EPOCH);
        let text = serde_json::to_string(&none).unwrap();
        let short = r#"{"weight_percent":100,"mode":"ready","health":"up","since":"1970-01-01T00:00:00Z"}"#;
        assert_eq!(text, short);
        assert!(!none.lowers() && !none.is_notable());
        let all = Reported {
            weight_percent: Percent::nearest(50),
            mode: AgentMode::Maint,
            health: AgentHealth::Stopped,
            reason: Remark::new("new disk"),
            silent: Some(Silent {
                since: Timestamp::UNIX_EPOCH,
                reason: Remark::new("connection refused").unwrap(),
            }),
            ..none
        };
        let silent = Reported { silent: all.silent.clone(), ..none.clone() };
        assert!(!silent.lowers() && silent.is_notable());
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Reported>(&text).unwrap(), all);
        assert_eq!(all.summary(), "50%, maint, stopped: new disk; silent: connection refused");
        assert_eq!(
            all.to_string(),
            "50%, maint, stopped since 1970-01-01T00:00:00Z: new disk; silent since 1970-01-01T00:00:00Z: connection refused"
        );
        assert_eq!(none.summary(), "100%");
        assert_eq!((none.why_down(), all.why_down()), (None, Some("agent: stopped: new disk".to_owned())));
    }
}
