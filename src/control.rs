//! What lbd does when: events and the time in, effects out. PURE.
//!
//! lbd waits for events (`sys/events.rs`) until [`Controller::timeout`], and then does what [`Controller::next`] says, one
//! effect after the other, the most urgent first. Where an event could be missed, a timer asks again: the region once a second,
//! all of the kernel's side every ten. Two things cause no event and are polled instead: how full connection tracking is, and
//! the generation of nf_tables ([`GENERATION_EVERY`] says why).
//!
//! What other programs change in the kernel is repaired at once. Repairs must not take the processor from the workers, and a program may
//! take back each repair. So a repair is followed by a pause: some times what the repair took and, as long as one repair soon after the
//! other finds something to do or fails, twice as long as the last pause.

pub mod agent_line;
pub mod agent_reports;
pub mod announce;
pub mod health;
pub mod notices;
pub mod undelivered;

use std::time::Duration;

/// How often the region, the workers and the audit are checked, and a failed adoption is tried again.
pub const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often all of the kernel's side is compared with what it should be, whatever the events say.
pub const REPAIR_EVERY: Duration = Duration::from_secs(10);
/// How often the generation of nf_tables is read. As long as one program listens to changes of nf_tables, the kernel makes a message
/// of a page for each element that any program adds (`nf_tables_setelem_notify` in `net/netfilter/nf_tables_api.c`): for a set of 65537
/// elements SUnreclaim in /proc/meminfo rose by 540 MB on Linux 6.18, and the time from 0.13 to 0.3 to 1.3 s of CPU. Reading the
/// generation takes two system calls.
pub const GENERATION_EVERY: Duration = Duration::from_millis(50);
/// How long lbd waits for further events of the same change: a link that goes down takes its routes along.
pub const SETTLE: Duration = Duration::from_millis(10);
/// The shortest pause after a repair.
pub const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause after a repair.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A pause is so many times as long as the repair, or longer in a series.
const PAUSE_SHARE: u32 = 4;
/// A repair belongs to a series if it begins within so many pauses of the last one that found something.
const SERIES: u32 = 16;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM or SIGINT.
    Shutdown,
    /// SIGHUP.
    Reload,
    /// A state was published, or the region was removed.
    Region,
    /// Another program has changed links, addresses, routes, rules or nf_tables.
    Changed,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End.
    Shutdown,
    /// Read the configuration file again.
    Reload,
    /// Check that the workers run; bring all fallback tables up to date; then as [`Effect::Adopt`].
    Check,
    /// Make sure that the region is whole and still the one of its name; adopt what is new there.
    Adopt,
    /// Bring some of the fallback tables up to date ([`Controller::fallback_due`]).
    Fallback,
    /// Look how full connection tracking is ([`Controller::next_fill`]).
    Fill,
    /// Ask for the generation of nf_tables.
    Generation,
    /// Compare the kernel's side with what it should be, and repair it ([`Controller::repaired`]).
    Repair(Cause),
}

/// Why a repair comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was time for one.
    Timer,
    /// Something has changed; the first event of it came then.
    Event(Duration),
}

/// Knows what is due. All times are since one fixed moment.
#[derive(Debug)]
pub struct Controller {
    shutdown: bool,
    reload: bool,
    region: bool,
    fallback: bool,
    check: Duration,
    fill: Duration,
    generation: Duration,
    /// The next repair by the timer.
    repair: Duration,
    /// The first event since the last repair began.
    changed: Option<Duration>,
    /// When the last repair ended, and the pause after it.
    repaired: Duration,
    pause: Duration,
    /// The last repair that found something to do or failed: when it ended, and the pause of its series.
    series: Option<(Duration, Duration)>,
    /// There was an [`Effect::Adopt`]: all else that is due comes before the next one.
    adopted: bool,
}

impl Controller {
    /// lbd begins to receive events now; what came before is looked at first.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            shutdown: false,
            reload: false,
            region: true,
            fallback: false,
            check: now + CHECK_EVERY,
            fill: now,
            generation: now,
            repair: now + REPAIR_EVERY,
            changed: Some(now),
            repaired: now,
            pause: Duration::ZERO,
            series: None,
            adopted: false,
        }
    }

    /// Takes note of an event.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Shutdown => self.shutdown = true,
            Event::Reload => {
                self.reload = true;
                // The kernel's side is compared as well, and an operator need not wait for that.
                (self.changed, self.pause, self.series) = (Some(now), Duration::ZERO, None);
            }
            Event::Region => self.region = true,
            Event::Changed => _ = self.changed.get_or_insert(now),
        }
    }

    /// What is due; each effect is returned once.
    pub fn next(&mut self, now: Duration) -> Option<Effect> {
        let flag = |flag: &mut bool, effect| std::mem::take(flag).then_some(effect);
        let timer = |at: &mut Duration, every, effect| {
            let due = *at <= now;
            if due {
                *at = now + every;
            }
            due.then_some(effect)
        };
        let first = !self.adopted;
        let effect = flag(&mut self.shutdown, Effect::Shutdown)
            .or_else(|| flag(&mut self.reload, Effect::Reload))
            .or_else(|| timer(&mut self.fill, CHECK_EVERY, Effect::Fill))
            .or_else(|| timer(&mut self.check, CHECK_EVERY, Effect::Check))
            .or_else(|| first.then(|| flag(&mut self.region, Effect::Adopt)).flatten())
            .or_else(|| timer(&mut self.generation, GENERATION_EVERY, Effect::Generation))
            .or_else(|| self.due_repair(now))
            .or_else(|| flag(&mut self.fallback, Effect::Fallback))
            .or_else(|| flag(&mut self.region, Effect::Adopt));
        match effect {
            Some(Effect::Adopt) => self.adopted = true,
            None => self.adopted = false,
            Some(_) => {}
        }
        effect
    }

    fn due_repair(&mut self, now: Duration) -> Option<Effect> {
        let (by_event, by_timer) = self.repair_times();
        if by_event.min(by_timer) > now {
            return None;
        }
        let cause = self.changed.map_or(Cause::Timer, Cause::Event);
        self.changed = None;
        self.repair = now + REPAIR_EVERY;
        Some(Effect::Repair(cause))
    }

    fn repair_times(&self) -> (Duration, Duration) {
        let by_event =
            self.changed.map_or(Duration::MAX, |changed| (changed + SETTLE).max(self.repaired + self.pause));
        (by_event, self.repair)
    }

    /// How long there is nothing to do.
    #[must_use]
    pub fn timeout(&self, now: Duration) -> Duration {
        if self.shutdown || self.reload || self.region || self.fallback {
            return Duration::ZERO;
        }
        let (by_event, by_timer) = self.repair_times();
        let next = [self.check, self.fill, self.generation, by_event, by_timer].into_iter().min();
        next.unwrap_or(now).saturating_sub(now)
    }

    /// Whether fallback tables are still due, after an adoption or [`Effect::Fallback`].
    pub fn fallback_due(&mut self, due: bool) {
        self.fallback = due;
    }

    /// After [`Effect::Fill`]: when to look again.
    pub fn next_fill(&mut self, at: Duration) {
        self.fill = at;
    }

    /// After a repair, with all that goes with it: when it began and ended, and whether it found something to do or failed.
    pub fn repaired(&mut self, began: Duration, ended: Duration, found: bool) {
        let mut pause = PAUSE_MIN;
        if found {
            let series = self.series.filter(|(last, pause)| began <= *last + *pause * SERIES);
            pause = series.map_or(PAUSE_MIN, |(_, pause)| (2 * pause).min(PAUSE_MAX));
            self.series = Some((ended, pause));
        }
        self.pause = pause.max((PAUSE_SHARE * ended.saturating_sub(began)).min(PAUSE_MAX));
        self.repaired = ended;
        self.repair = ended + REPAIR_EVERY;
    }
}

#[cfg(test)]
mod tests;
