//! When lbd does what: events and the time in, effects out. PURE.
//!
//! lbd waits for events (`sys/events.rs`) until [`Controller::timeout`]. Then it does what
//! [`Controller::next`] returns, one effect after the other, the most urgent first. For events that could be
//! missed there are timers: the region is checked once a second, all of the kernel's side every ten seconds.
//! Two things cause no events and are polled instead: how full connection tracking is, and the generation of
//! nf_tables ([`GENERATION_EVERY`] says why).
//!
//! Changes that other programs make in the kernel are repaired at once. Repairs must not take the processor
//! from the workers, and another program may undo each repair. So each repair is followed by a pause, which
//! is several times as long as the repair took. While each repair finds something to do again, the pause is
//! also at least twice as long as the last one.

use std::time::Duration;

/// How often the region, the workers and the audit are checked, and a failed adoption is tried again.
pub const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often all of the kernel's side is compared with what it should be, whatever the events say.
pub const REPAIR_EVERY: Duration = Duration::from_secs(10);
/// How often the generation of nf_tables is read. While any program listens to the changes of nf_tables, the
/// kernel allocates a message of a page for each element that any program adds: 540 MB for a set of 65537
/// elements (`nft_notify_enqueue` in `net/netfilter/nf_tables_api.c`). Reading the generation takes a few
/// microseconds.
pub const GENERATION_EVERY: Duration = Duration::from_millis(50);
/// How long lbd waits for further events of the same change: when a link goes down, its routes are removed
/// with it.
pub const SETTLE: Duration = Duration::from_millis(10);
/// The shortest pause after a repair.
pub const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause after a repair.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The pause after a repair is this many times as long as the repair, within these limits.
const PAUSE_SHARE: u32 = 4;
/// A repair that comes this many pauses after the last one does not belong to its series.
const SERIES: u32 = 16;

/// Something that has happened.
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
    /// End lbd.
    Shutdown,
    /// Read the configuration file again.
    Reload,
    /// Check that the workers live, and that the region is whole and still the one of its name. Adopt what is
    /// new there. Copy all tables that the kernel lacks.
    Check,
    /// Adopt what is new in the region.
    Adopt,
    /// Copy some of the tables that the kernel lacks ([`Controller::copying`]).
    Copy,
    /// Read how full connection tracking is ([`Controller::next_fill`]).
    Fill,
    /// Read the generation of nf_tables.
    Generation,
    /// Compare the kernel's side with what it should be, and repair it ([`Controller::repaired`]).
    Repair(Cause),
}

/// The reason for a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The timer has expired.
    Timer,
    /// Something has changed; the first event came at this time.
    Event(Duration),
}

/// Determines what is due. All times are since one fixed moment.
#[derive(Debug)]
pub struct Controller {
    shutdown: bool,
    reload: bool,
    region: bool,
    copying: bool,
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
    /// The longest pause of the present series of repairs that found something to do.
    series: Option<Duration>,
}

impl Controller {
    /// Creates the controller when lbd begins to receive events. Everything is checked first, for changes
    /// before that.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            shutdown: false,
            reload: false,
            region: true,
            copying: false,
            check: now + CHECK_EVERY,
            fill: now,
            generation: now,
            repair: now + REPAIR_EVERY,
            changed: Some(now),
            repaired: now,
            pause: Duration::ZERO,
            series: None,
        }
    }

    /// Records an event.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Shutdown => self.shutdown = true,
            Event::Reload => self.reload = true,
            Event::Region => self.region = true,
            Event::Changed => _ = self.changed.get_or_insert(now),
        }
    }

    /// Returns the next effect that is due. Each effect is returned once.
    pub fn next(&mut self, now: Duration) -> Option<Effect> {
        let flag = |flag: &mut bool, effect| std::mem::take(flag).then_some(effect);
        let timer = |at: &mut Duration, every, effect| {
            let due = *at <= now;
            if due {
                *at = now + every;
            }
            due.then_some(effect)
        };
        flag(&mut self.shutdown, Effect::Shutdown)
            .or_else(|| flag(&mut self.reload, Effect::Reload))
            .or_else(|| timer(&mut self.check, CHECK_EVERY, Effect::Check))
            .or_else(|| flag(&mut self.region, Effect::Adopt))
            .or_else(|| timer(&mut self.fill, CHECK_EVERY, Effect::Fill))
            .or_else(|| timer(&mut self.generation, GENERATION_EVERY, Effect::Generation))
            .or_else(|| self.due_repair(now))
            .or_else(|| flag(&mut self.copying, Effect::Copy))
    }

    fn due_repair(&mut self, now: Duration) -> Option<Effect> {
        let (by_event, by_timer) = self.repair_times();
        let cause = match self.changed {
            Some(changed) if by_event <= now => Cause::Event(changed),
            Some(_) | None if by_timer <= now => Cause::Timer,
            Some(_) | None => return None,
        };
        self.changed = None;
        self.repair = now + REPAIR_EVERY;
        Some(Effect::Repair(cause))
    }

    fn repair_times(&self) -> (Duration, Duration) {
        let by_event =
            self.changed.map_or(Duration::MAX, |changed| (changed + SETTLE).max(self.repaired + self.pause));
        (by_event, self.repair)
    }

    /// Returns the time until something may be due.
    #[must_use]
    pub fn timeout(&self, now: Duration) -> Duration {
        if self.shutdown || self.reload || self.region || self.copying {
            return Duration::ZERO;
        }
        let (by_event, by_timer) = self.repair_times();
        let next = [self.check, self.fill, self.generation, by_event, by_timer].into_iter().min();
        next.unwrap_or(now).saturating_sub(now)
    }

    /// Records whether the kernel still lacks tables, after an adoption or [`Effect::Copy`].
    pub fn copying(&mut self, copying: bool) {
        self.copying = copying;
    }

    /// Records when to read the fill level again, after [`Effect::Fill`].
    pub fn next_fill(&mut self, at: Duration) {
        self.fill = at;
    }

    /// Records a repair: when it began and ended, and whether it found something to do.
    pub fn repaired(&mut self, began: Duration, ended: Duration, found: bool) {
        let mut pause = PAUSE_MIN;
        if found {
            let last = self.series.filter(|last| began <= self.repaired + *last * SERIES);
            pause = last.map_or(PAUSE_MIN, |last| (2 * last).min(PAUSE_MAX));
            self.series = Some(pause);
        }
        self.pause = pause.max(PAUSE_SHARE * ended.saturating_sub(began)).min(PAUSE_MAX);
        self.repaired = ended;
        self.repair = ended + REPAIR_EVERY;
    }
}

#[cfg(test)]
mod tests;
