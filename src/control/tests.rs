use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// lbd with a clock of its own. Each effect is done at once.
struct Run {
    controller: Controller,
    now: Duration,
    /// What was done, and when.
    done: Vec<(Duration, Effect)>,
    /// How long a repair takes, ...
    takes: Duration,
    /// ... and how many of the next ones find something to do.
    found: usize,
    /// So long after such a repair another program takes it back.
    taken_back: Option<Duration>,
    /// How long an adoption takes, ...
    adoption_takes: Duration,
    /// ... and whether another state is published meanwhile.
    published_meanwhile: bool,
    /// When the next events come.
    events: Vec<(Duration, Event)>,
}

impl Run {
    fn new() -> Self {
        Self {
            controller: Controller::new(Duration::ZERO),
            now: Duration::ZERO,
            done: Vec::new(),
            takes: MS,
            found: 0,
            taken_back: None,
            adoption_takes: Duration::ZERO,
            published_meanwhile: false,
            events: Vec::new(),
        }
    }

    /// Of an lbd that has begun long ago.
    fn settled() -> Self {
        let mut run = Self::new();
        // Between two looks.
        run.until(31 * S + 5 * MS);
        run.done.clear();
        run
    }

    fn at(mut self, at: Duration, event: Event) -> Self {
        self.events.push((at, event));
        self
    }

    fn until(&mut self, end: Duration) {
        // Turns are bounded: a loop that does not wait fails.
        for _ in 0..1_000_000 {
            let (come, later): (Vec<_>, Vec<_>) = self.events.iter().partition(|(at, _)| *at <= self.now);
            self.events = later;
            for (_, event) in come {
                self.controller.handle(event, self.now);
            }
            if let Some(effect) = self.controller.next(self.now) {
                self.act(effect);
                if self.now >= end {
                    return;
                }
                continue;
            }
            let next = self.events.iter().map(|(at, _)| *at).min().unwrap_or(Duration::MAX);
            let wait = self.controller.timeout(self.now);
            assert!(!wait.is_zero(), "nothing to do, and yet it does not wait");
            self.now = next.min(self.now + wait);
            if self.now >= end {
                self.now = end;
                return;
            }
        }
        panic!("it turns and turns");
    }

    fn act(&mut self, effect: Effect) {
        self.done.push((self.now, effect));
        match effect {
            Effect::Fill => self.controller.next_fill(self.now + 100 * MS),
            Effect::Repair(_) => {
                let began = self.now;
                self.now += self.takes;
                let found = self.found > 0;
                self.found = self.found.saturating_sub(1);
                self.controller.repaired(began, self.now, found);
                if let (true, Some(after)) = (found, self.taken_back) {
                    self.events.push((self.now + after, Event::Changed));
                }
            }
            Effect::Adopt => {
                self.now += self.adoption_takes;
                if self.published_meanwhile {
                    self.controller.handle(Event::Region, self.now);
                }
            }
            Effect::Shutdown | Effect::Reload | Effect::Check | Effect::Fallback | Effect::Generation => {}
        }
    }

    fn times(&self, of: impl Fn(Effect) -> bool) -> Vec<Duration> {
        self.done.iter().filter(|(_, effect)| of(*effect)).map(|(at, _)| *at).collect()
    }

    fn repairs(&self) -> Vec<Duration> {
        self.times(|effect| matches!(effect, Effect::Repair(_)))
    }
}

#[test]
fn what_happened_before_events_are_received_is_looked_at_first() {
    let mut run = Run::new();
    run.until(S / 2);
    assert_eq!(run.times(|effect| effect == Effect::Adopt), [Duration::ZERO]);
    assert_eq!(run.repairs(), [SETTLE]);
}

#[test]
fn a_change_by_others_is_repaired_at_once_and_only_once() {
    let mut run = Run::settled().at(32 * S, Event::Changed).at(32 * S + 5 * MS, Event::Changed);
    run.until(35 * S);
    assert_eq!(run.repairs(), [32 * S + SETTLE]);
    assert!(
        run.done.contains(&(32 * S + SETTLE, Effect::Repair(Cause::Event(32 * S)))),
        "by the first event"
    );
}

#[test]
fn separate_changes_are_each_repaired_at_once() {
    let mut run = Run::settled();
    run.found = usize::MAX;
    for second in 32..40 {
        run = run.at(second * S, Event::Changed);
    }
    run.until(40 * S);
    let wanted: Vec<Duration> = (32..40).map(|second| second * S + SETTLE).collect();
    assert_eq!(run.repairs(), wanted);
}

#[test]
fn without_events_all_is_looked_at_now_and_then() {
    let mut run = Run::settled();
    let last = run.controller.repaired;
    run.until(63 * S);
    let between: Vec<Duration> = run.repairs().windows(2).map(|two| two[1] - two[0]).collect();
    assert!(between.len() >= 2 && between.iter().all(|time| *time == REPAIR_EVERY + MS), "{between:?}");
    assert_eq!(run.repairs()[0] - last, REPAIR_EVERY);
    let checks = run.times(|effect| effect == Effect::Check).len();
    assert!((31..=32).contains(&checks), "{checks}");
    assert_eq!(run.times(|effect| effect == Effect::Adopt), [], "at each check, but not besides");
    let asked = run.times(|effect| effect == Effect::Generation).len();
    assert!((600..=641).contains(&asked), "{asked}");
}

#[test]
fn a_program_that_takes_back_each_repair_does_not_keep_lbd_busy() {
    for back in [Duration::ZERO, MS, 20 * MS] {
        let mut run = Run::settled().at(32 * S, Event::Changed);
        (run.found, run.taken_back) = (usize::MAX, Some(back));
        run.until(92 * S);
        let repairs = run.repairs();
        assert!((8..=20).contains(&repairs.len()), "{back:?}: {repairs:?}");
        let pauses: Vec<Duration> = repairs.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX + SETTLE + MS), "{pauses:?}");
        // Long after that, changes are repaired at once again, also one that comes soon after another.
        (run.taken_back, run.found) = (None, 3);
        run.until(400 * S);
        run.done.clear();
        run.found = 2;
        run = run.at(401 * S, Event::Changed).at(402 * S, Event::Changed);
        run.until(403 * S);
        assert_eq!(run.repairs(), [401 * S + SETTLE, 402 * S + SETTLE], "{back:?}");
    }
}

#[test]
fn events_without_end_take_a_fifth_of_the_time_at_most() {
    let mut run = Run::settled();
    run.takes = 300 * MS;
    for ms in 0..20_000 {
        run = run.at(32 * S + ms * MS, Event::Changed);
    }
    run.until(52 * S);
    let repairs = run.repairs();
    assert!((10..=14).contains(&repairs.len()), "{repairs:?}");
}

/// Where a repair takes seconds, the next change does not wait for half a minute.
#[test]
fn a_pause_after_a_slow_repair_has_an_end() {
    let mut run = Run::settled().at(32 * S, Event::Changed).at(40 * S, Event::Changed);
    run.takes = 7 * S;
    run.until(60 * S);
    assert_eq!(run.repairs()[..2], [32 * S + SETTLE, 32 * S + SETTLE + 7 * S + PAUSE_MAX]);
}

#[test]
fn a_signal_is_handled_between_two_of_many_fallback_tables() {
    let mut run = Run::settled();
    run.controller.fallback_due(true);
    assert_eq!(run.controller.timeout(run.now), Duration::ZERO);
    run.controller.handle(Event::Shutdown, run.now);
    assert_eq!(run.controller.next(run.now), Some(Effect::Shutdown));
    assert_eq!(run.controller.next(run.now), Some(Effect::Fallback));
    assert_eq!(run.controller.next(run.now), None, "fallback_due says whether there are more");
}

#[test]
fn what_is_urgent_comes_first() {
    let mut run = Run::settled();
    let (controller, now) = (&mut run.controller, run.now + S);
    for event in [Event::Changed, Event::Region, Event::Reload, Event::Shutdown] {
        controller.handle(event, now);
    }
    controller.fallback_due(true);
    let done: Vec<Effect> = std::iter::from_fn(|| controller.next(now + SETTLE)).collect();
    let repair = Effect::Repair(Cause::Event(now));
    let (shutdown, reload, check, adopt) = (Effect::Shutdown, Effect::Reload, Effect::Check, Effect::Adopt);
    assert_eq!(
        done,
        [shutdown, reload, Effect::Fill, check, adopt, Effect::Generation, repair, Effect::Fallback]
    );
}

/// `lbctl` in a loop, while each adoption takes as long as the next publication.
#[test]
fn states_that_are_published_without_a_gap_starve_nothing() {
    let mut run = Run::settled();
    (run.adoption_takes, run.published_meanwhile) = (50 * MS, true);
    let begun = run.now;
    run = run.at(begun + MS, Event::Region).at(begun + MS, Event::Changed);
    run.until(begun + 2 * S);
    let count = |run: &Run, effect| run.times(|one| one == effect).len();
    let counts =
        [Effect::Adopt, Effect::Fill, Effect::Generation, Effect::Check].map(|effect| count(&run, effect));
    let [adopted, filled, asked, checked] = counts;
    assert!(adopted >= 30 && filled >= 10 && asked >= 15 && checked >= 1, "{counts:?}");
    assert_eq!(run.repairs().len(), 1);
    run.controller.fallback_due(true);
    run.until(run.now + S / 2);
    assert_eq!(count(&run, Effect::Fallback), 1);
}

#[test]
fn a_reload_does_not_wait_for_the_end_of_a_pause() {
    let mut run = Run::settled().at(32 * S, Event::Changed);
    (run.found, run.taken_back) = (usize::MAX, Some(MS));
    run.until(92 * S);
    // A long pause has just begun.
    run.until(run.controller.repaired + run.controller.pause + 100 * MS);
    run.done.clear();
    let asked = run.now + S;
    run = run.at(asked, Event::Reload);
    run.until(asked + S);
    assert_eq!(run.repairs().first(), Some(&(asked + SETTLE)));
}

/// A machine that slept, or a process that was stopped.
#[test]
fn a_clock_that_jumps_brings_each_thing_once() {
    let mut run = Run::settled();
    run.now += 3600 * S;
    let begun = run.now;
    run.until(begun + S / 100);
    let repairs = run.repairs();
    assert_eq!(repairs, [begun]);
    assert_eq!(run.times(|effect| effect == Effect::Check), [begun]);
}
