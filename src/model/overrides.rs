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
    /// The operator's word that outlives the region.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Override>,
    /// The operator's word that ends with the region. It goes before the one that outlives it.
    #[serde(default, rename = "runtime_override", skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Override>,
}

impl Admission {
    /// Returns what follows: the operator's word if there is one, else the file's.
    #[must_use]
    pub fn admin(&self) -> Admin {
        let configured = || Admin::when(self.configured.unwrap_or(true));
        self.in_force().map_or_else(configured, |order| order.admin)
    }

    /// Reports whether it gets new flows, or owns fragments.
    #[must_use]
    pub fn active(&self) -> bool {
        self.admin() == Admin::Enabled
    }

    /// Returns the operator's word that counts.
    #[must_use]
    pub fn in_force(&self) -> Option<&Override> {
        self.runtime.as_ref().or(self.lasting.as_ref())
    }

    /// Returns what is said after a file with this `active` was applied. A file that says something new ends
    /// the operator's word; one that is silent, or says what it said before, does not.
    #[must_use]
    pub fn in_file(&self, configured: Option<bool>) -> Self {
        let new = configured.is_some() && configured != self.configured;
        let before = if new { Self::default() } else { self.clone() };
        Self { configured, ..before }.tidied()
    }

    /// Returns what is said after an operator's word. A word that repeats what holds changes nothing, unless it
    /// has a reason. One that outlives the region ends one that does not.
    #[must_use]
    pub fn ordered(&self, order: &Override) -> Self {
        let repeats = self.admin() == order.admin && order.reason.is_none();
        if repeats && (order.runtime || self.runtime.is_none()) {
            return self.clone();
        }
        let order = Some(order.clone());
        if order.as_ref().is_some_and(|order| order.runtime) {
            return Self { runtime: order, ..self.clone() }.tidied();
        }
        Self { lasting: order, runtime: None, ..self.clone() }.tidied()
    }

    /// "Enabled" is no exception where all that it goes before says the same.
    fn tidied(mut self) -> Self {
        let enables = self.configured.unwrap_or(true);
        self.lasting = self.lasting.filter(|order| order.admin != Admin::Enabled || !enables);
        let enables = self.lasting.as_ref().map_or(enables, |order| order.admin == Admin::Enabled);
        self.runtime = self.runtime.filter(|order| order.admin != Admin::Enabled || !enables);
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
    /// Returns the time for `since`. What no calendar has is the epoch.
    #[must_use]
    pub fn time(unix_seconds: u64) -> Timestamp {
        let time = i64::try_from(unix_seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        time.unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Returns an override of which nothing is known but what it says.
    #[must_use]
    pub fn unattributed(admin: Admin) -> Self {
        let by = Remark("unknown".to_owned());
        Self { admin, reason: None, by, since: Timestamp::UNIX_EPOCH, runtime: false }
    }
}

/// "draining by root since 2026-11-29T12:00:00Z: disk".
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
    /// It does not. Flows that a backend has stay with it.
    Draining,
    /// As [`Admin::Draining`], and flows that a backend has are ended: the next packet of each is steered anew.
    Disabled,
}

impl Admin {
    /// Returns what `active` of a configuration file means.
    #[must_use]
    pub fn when(active: bool) -> Self {
        if active { Self::Enabled } else { Self::Draining }
    }
}

named!(Admin { Enabled = "enabled", Draining = "draining", Disabled = "disabled" });

as_text!(Admin, Admin::named, |admin: &Admin| admin.name(), "administrative state");

/// A line that a person wrote: 1 to [`Remark::BYTES_MAX`] bytes, not only blanks, without characters that control
/// how a line looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark(String);

impl Remark {
    /// The maximum length.
    pub const BYTES_MAX: usize = 200;

    /// Returns the remark, if `text` is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        // Line and paragraph separators, marks and overrides of direction, and what has no width.
        let hidden = [
            '\u{200b}'..='\u{200f}',
            '\u{2028}'..='\u{202e}',
            '\u{2060}'..='\u{206f}',
            '\u{feff}'..='\u{feff}',
        ];
        let hides = |c: char| c.is_control() || hidden.iter().any(|range| range.contains(&c));
        let valid = text.len() <= Self::BYTES_MAX && !text.trim().is_empty() && !text.contains(hides);
        valid.then(|| Self(text.to_owned()))
    }

    /// Makes a remark of what may have words of strangers: what it cannot have is a blank, and what is too long is cut
    /// off. Returns `None` if nothing is left.
    #[must_use]
    pub fn cleaned(text: &str) -> Option<Self> {
        let mut line = String::new();
        for c in text.trim().chars() {
            let c = if c.is_alphanumeric() || c.is_ascii_graphic() { c } else { ' ' };
            if line.len() + c.len_utf8() > Self::BYTES_MAX {
                break;
            }
            line.push(c);
        }
        Self::new(line.trim_end())
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
        Self::new(text).ok_or("one line, 1 to 200 bytes, not only blanks, without control characters")
    }
}

as_text!(Remark, Remark::new, Remark::as_str, "line of text");

#[cfg(test)]
mod tests {
    use super::*;

    fn draining_for(reason: &str) -> Override {
        Override { reason: Remark::new(reason), ..Override::unattributed(Admin::Draining) }
    }

    #[test]
    fn an_override_has_precedence_over_the_file() {
        let silent = Admission::default();
        assert!(silent.active());
        let out = silent.ordered(&Override::unattributed(Admin::Draining));
        assert!(!out.active());
        assert_eq!(out.ordered(&Override::unattributed(Admin::Enabled)), silent, "nothing is left of it");
        let off = Admission { configured: Some(false), ..Admission::default() };
        assert!(!off.active());
        let on = off.ordered(&Override::unattributed(Admin::Enabled));
        assert!(on.active());
        assert_eq!(on.in_file(None), silent, "it is as the file wants it now");
        assert_eq!(on.in_file(Some(false)), on);
    }

    #[test]
    fn a_file_with_a_new_value_ends_an_override() {
        let out = Admission::default().ordered(&Override::unattributed(Admin::Draining));
        assert_eq!(out.in_file(None), out);
        assert!(out.in_file(Some(true)).active());
        let stays = Admission { configured: Some(true), ..out };
        assert!(!stays.in_file(Some(true)).active(), "it said so before");
    }

    #[test]
    fn an_override_that_repeats_another_changes_only_the_reason() {
        let out = Admission::default().ordered(&draining_for("disk"));
        assert_eq!(out.ordered(&Override::unattributed(Admin::Draining)), out);
        let other = out.ordered(&draining_for("fan"));
        assert_eq!(other.in_force(), Some(&draining_for("fan")));
        let off = Admission { configured: Some(false), ..Admission::default() };
        assert_eq!(off.ordered(&Override::unattributed(Admin::Draining)), off);
        assert!(off.ordered(&draining_for("disk")).in_force().is_some());
    }

    #[test]
    fn a_runtime_override_leaves_the_kept_one() {
        let runtime = |admin| Override { runtime: true, ..Override::unattributed(admin) };
        let out = Admission::default().ordered(&draining_for("disk"));
        let tried = out.ordered(&runtime(Admin::Enabled));
        assert!(tried.active());
        assert_eq!((&tried.lasting, tried.in_force()), (&out.lasting, Some(&runtime(Admin::Enabled))));
        assert_eq!(out.ordered(&runtime(Admin::Draining)), out, "it is so already");
        let again = tried.ordered(&draining_for("disk"));
        assert_eq!(again, out, "a lasting word ends the other");
        let briefly = Admission::default().ordered(&runtime(Admin::Draining));
        assert!(!briefly.active());
        assert_eq!(
            briefly.ordered(&runtime(Admin::Enabled)),
            Admission::default().ordered(&runtime(Admin::Enabled))
        );
        assert_eq!(briefly.ordered(&runtime(Admin::Enabled)), Admission::default());
        let lasts = briefly.ordered(&Override::unattributed(Admin::Draining));
        assert_eq!((lasts.runtime, lasts.lasting.is_some()), (None, true));
    }

    #[test]
    fn draining_and_disabled_are_different_words() {
        let order = |admin| Override::unattributed(admin);
        let off = Admission { configured: Some(false), ..Admission::default() };
        assert_eq!(off.admin(), Admin::Draining);
        let disabled = off.ordered(&order(Admin::Disabled));
        assert_eq!((disabled.admin(), disabled.active()), (Admin::Disabled, false));
        assert_eq!(disabled.ordered(&order(Admin::Draining)).admin(), Admin::Draining);
        let briefly = disabled.ordered(&Override { runtime: true, ..order(Admin::Draining) });
        assert_eq!((briefly.admin(), briefly.lasting.is_some()), (Admin::Draining, true));
        assert_eq!(briefly.ordered(&order(Admin::Disabled)), disabled, "a lasting word ends the other");
        assert_eq!(disabled.in_file(Some(true)).admin(), Admin::Enabled, "the file says something new");
        assert_eq!(
            Admission::default().ordered(&order(Admin::Disabled)).in_file(None).admin(),
            Admin::Disabled
        );
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let admission = Admission {
            configured: Some(true),
            lasting: Some(draining_for("disk \"a\" is full")),
            runtime: None,
        };
        let text = serde_json::to_string(&admission).unwrap();
        assert_eq!(
            text,
            r#"{"configured":true,"override":{"admin":"draining","reason":"disk \"a\" is full","by":"unknown","since":"1970-01-01T00:00:00Z"}}"#
        );
        assert_eq!(serde_json::from_str::<Admission>(&text).unwrap(), admission);
        for bad in ["", " ", "a\nb", "a\u{202e}b", &"x".repeat(Remark::BYTES_MAX + 1)] {
            assert_eq!(Remark::new(bad), None);
        }
    }
}
