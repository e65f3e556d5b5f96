//! What an operator has said with `lbctl` about a backend or a balancer of the tier, and what that and the file
//! come to. PURE.
//!
//! The file says whether a backend gets new flows; an operator may say otherwise, with a reason. The operator's
//! word holds until the operator takes it back, or a file says something new ([`Admission::in_file`]).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::values::{as_text, named};

/// Whether a backend gets new flows, or a balancer of the tier owns fragments: what the file says, and what an
/// operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The file's key `active`; `None` if the file does not have it, which means yes.
    #[serde(default)]
    pub configured: Option<bool>,
    /// The operator's word.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub by_operator: Option<Override>,
}

impl Admission {
    /// Returns what follows: the operator's word if there is one, else the file's.
    #[must_use]
    pub fn active(&self) -> bool {
        let admin = self.by_operator.as_ref().map(|order| order.admin);
        admin.map_or(self.configured.unwrap_or(true), |admin| admin == Admin::Enabled)
    }

    /// Returns what is said after a file with this `active` was applied. A file that says something new ends
    /// the operator's word; one that is silent, or says what it said before, does not.
    #[must_use]
    pub fn in_file(&self, configured: Option<bool>) -> Self {
        let new = configured.is_some() && configured != self.configured;
        Self { configured, by_operator: self.by_operator.clone().filter(|_| !new) }.tidied()
    }

    /// Returns what is said after an operator's word. A word that repeats what holds changes nothing, unless it
    /// has a reason or lasts for another time.
    #[must_use]
    pub fn ordered(&self, order: &Override) -> Self {
        let holds = |old: &Override| old.admin == order.admin && old.runtime == order.runtime;
        let repeated =
            self.by_operator.as_ref().map_or(self.active() == (order.admin == Admin::Enabled), holds);
        if repeated && order.reason.is_none() {
            return self.clone();
        }
        self.overridden(order)
    }

    /// Returns what is said with an override that was kept.
    #[must_use]
    pub fn overridden(&self, order: &Override) -> Self {
        Self { by_operator: Some(order.clone()), ..self.clone() }.tidied()
    }

    /// "Enabled" is no exception where the file says the same.
    fn tidied(mut self) -> Self {
        let file_enables = self.configured.unwrap_or(true);
        self.by_operator = self.by_operator.filter(|order| order.admin == Admin::Disabled || !file_enables);
        self
    }
}

/// An operator's word about a backend or a balancer of the tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// What it shall be.
    pub admin: Admin,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Remark>,
    /// The user.
    pub by: Remark,
    /// When it was said.
    pub since: Timestamp,
    /// Whether it ends with the region, such as at a reboot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub runtime: bool,
}

impl Override {
    /// Returns an override of which nothing is known but what it says.
    #[must_use]
    pub fn unattributed(admin: Admin) -> Self {
        let by = Remark("unknown".to_owned());
        Self { admin, reason: None, by, since: Timestamp::UNIX_EPOCH, runtime: false }
    }
}

/// "disabled by root since 2026-11-29T12:00:00Z: disk".
impl std::fmt::Display for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by {} since {}", self.admin, self.by, self.since)?;
        if self.runtime {
            write!(f, ", until the region goes")?;
        }
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// What an operator may want of a backend or a balancer of the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// It gets new flows, or owns fragments.
    Enabled,
    /// It does not. Flows that it has stay with it.
    Disabled,
}

impl Admin {
    /// Returns what an active or an inactive backend is meant to be.
    #[must_use]
    pub fn when(active: bool) -> Self {
        if active { Self::Enabled } else { Self::Disabled }
    }
}

named!(Admin { Enabled = "enabled", Disabled = "disabled" });

as_text!(Admin, Admin::named, |admin: &Admin| admin.name(), "administrative state");

/// A line that a person wrote: 1 to [`Remark::BYTES_MAX`] bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark(String);

impl Remark {
    /// The maximum length.
    pub const BYTES_MAX: usize = 200;

    /// Returns the remark, if `text` is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = (1..=Self::BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
        valid.then(|| Self(text.to_owned()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For the command line.
impl std::str::FromStr for Remark {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text).ok_or("one line, 1 to 200 bytes without control characters")
    }
}

as_text!(Remark, Remark::new, Remark::as_str, "line of text");

#[cfg(test)]
mod tests {
    use super::*;

    fn disabled_for(reason: &str) -> Override {
        Override { reason: Remark::new(reason), ..Override::unattributed(Admin::Disabled) }
    }

    #[test]
    fn the_operators_word_goes_before_the_files() {
        let silent = Admission::default();
        assert!(silent.active());
        let out = silent.ordered(&Override::unattributed(Admin::Disabled));
        assert!(!out.active());
        assert_eq!(out.ordered(&Override::unattributed(Admin::Enabled)), silent, "nothing is left of it");
        let off = Admission { configured: Some(false), by_operator: None };
        assert!(!off.active());
        let on = off.ordered(&Override::unattributed(Admin::Enabled));
        assert!(on.active());
        assert_eq!(on.in_file(None), silent, "it is as the file wants it now");
        assert_eq!(on.in_file(Some(false)), on);
    }

    #[test]
    fn a_file_that_says_something_new_ends_the_operators_word() {
        let out = Admission::default().ordered(&Override::unattributed(Admin::Disabled));
        assert_eq!(out.in_file(None), out);
        assert!(out.in_file(Some(true)).active());
        let stays = Admission { configured: Some(true), ..out };
        assert!(!stays.in_file(Some(true)).active(), "it said so before");
    }

    #[test]
    fn a_word_that_repeats_another_changes_nothing_but_the_reason() {
        let out = Admission::default().ordered(&disabled_for("disk"));
        assert_eq!(out.ordered(&Override::unattributed(Admin::Disabled)), out);
        let other = out.ordered(&disabled_for("fan"));
        assert_eq!(other.by_operator, Some(disabled_for("fan")));
        let runtime = Override { runtime: true, ..Override::unattributed(Admin::Disabled) };
        assert_eq!(out.ordered(&runtime).by_operator, Some(runtime));
        let off = Admission { configured: Some(false), by_operator: None };
        assert_eq!(off.ordered(&Override::unattributed(Admin::Disabled)), off);
        assert!(off.ordered(&disabled_for("disk")).by_operator.is_some());
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let admission =
            Admission { configured: Some(true), by_operator: Some(disabled_for("disk \"a\" is full")) };
        let text = serde_json::to_string(&admission).unwrap();
        assert_eq!(
            text,
            r#"{"configured":true,"override":{"admin":"disabled","reason":"disk \"a\" is full","by":"unknown","since":"1970-01-01T00:00:00Z"}}"#
        );
        assert_eq!(serde_json::from_str::<Admission>(&text).unwrap(), admission);
        for bad in ["", "a\nb", &"x".repeat(Remark::BYTES_MAX + 1)] {
            assert_eq!(Remark::new(bad), None);
        }
    }
}
