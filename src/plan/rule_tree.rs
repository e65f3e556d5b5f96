//! Policy rules that find a target's routing table by its mark. PURE.
//!
//! The kernel walks policy rules one by one, so a rule for each of a thousand targets would cost every packet a
//! thousand comparisons. These form a binary trie over the bits of the target's number instead:
//! ```text
//! 10000  fwmark 0/mask            goto END       not ours: 1 comparison
//!        fwmark bit/bit           goto RIGHT     a fork: both halves have targets
//!          ... the left half ...
//! RIGHT    ... the right half ...
//!        fwmark mark/mask         lookup TABLE   a leaf
//!        (no condition)           goto END       its exit: a mark that is nobody's
//! 22288  nop                                     END
//! 22289  iif sr-in4 fwmark 0/mask  blackhole    what came in by an entrance (routing/inbound.rs)
//! ```
//! Forks with one empty half are left out. A leaf compares the whole mark, so whatever the forks do, a packet never
//! reaches another target's table. A mark of a target takes at most [`COMPARISONS_MAX`] comparisons, and so does any
//! other.
//!
//! **Places are fixed**: each fork, leaf and exit has the priority of its place in the full trie over all
//! [`TARGETS_MAX`] numbers, so a new target moves no rule. What changes beside its own rules is where one fork jumps
//! to. [`changes`] puts additions and removals in an order that keeps every target that stays reachable after
//! each single step.

use std::{collections::BTreeSet, fmt};

use crate::ids::{MarkMask, TARGETS_MAX, TargetId};

/// The first priority in use.
pub const PRIORITY_FIRST: u32 = 10_000;
/// The last priority in use: the rule that all others leave to.
pub const PRIORITY_END: u32 = PRIORITY_FIRST + 1 + places(BITS);
/// The priority of the rules behind the tree that drop what came in by an entrance and has no mark ([`guard`]).
pub const PRIORITY_GUARD: u32 = PRIORITY_END + 1;
/// Rules of the tree looked at for any mark: the first one, a fork for each bit, a leaf, its exit, the end.
pub const COMPARISONS_MAX: u32 = 1 + BITS + 3;

/// Bits that tell targets apart. [`TARGETS_MAX`] itself has the low bits of 0, which is no target's number.
const BITS: u32 = TARGETS_MAX.ilog2();
const _: () = assert!(
    TARGETS_MAX.is_power_of_two() && PRIORITY_GUARD < 32_766,
    "must lie before the rule of table main"
);

/// Places of a full subtree over `bits` bits: `2^bits - 1` forks, `2^bits` leaves, as many exits.
const fn places(bits: u32) -> u32 {
    3 * (1 << bits) - 1
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Go on at the first rule of this priority.
    Goto(u32),
    /// Look in this routing table; go on behind if it has no route.
    Lookup(u32),
    /// Go on behind.
    Nop,
    /// Drop the packet in silence.
    Blackhole,
}

/// A policy rule: `iif DEVICE fwmark mark/mask action`. A mask of 0 matches every mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Its place in the walk.
    pub priority: u32,
    /// The only device whose packets it matches, an entrance ([`crate::plan::routing::inbound`]); `None` for all.
    pub iif: Option<&'static str>,
    /// Compared with the packet's mark under `mask`.
    pub mark: u32,
    /// Which bits are compared.
    pub mask: u32,
    /// What to do.
    pub action: Action,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, iif, mark, mask, action } = self;
        write!(f, "rule {priority}: ")?;
        if let Some(device) = iif {
            write!(f, "iif {device} ")?;
        }
        if *mask != 0 {
            write!(f, "fwmark {mark:#x}/{mask:#x} ")?;
        }
        match action {
            Action::Goto(priority) => write!(f, "goto {priority}"),
            Action::Lookup(table) => write!(f, "lookup {table}"),
            Action::Nop => f.write_str("nop"),
            Action::Blackhole => f.write_str("blackhole"),
        }
    }
}

/// The rules that lead the mark of each target to `table(target)`. None for no targets.
#[must_use]
pub fn rules(
    mask: MarkMask,
    targets: impl IntoIterator<Item = TargetId>,
    table: impl Fn(TargetId) -> u32,
) -> BTreeSet<Rule> {
    let mut keyed: Vec<(u32, TargetId)> = targets.into_iter().map(|target| (key(target), target)).collect();
    keyed.sort_unstable();
    keyed.dedup();
    let mut tree = Tree { mask, table, rules: BTreeSet::new() };
    if !keyed.is_empty() {
        tree.add(PRIORITY_FIRST, 0, mask.bits(), Action::Goto(PRIORITY_END));
        tree.grow(&keyed, BITS, PRIORITY_FIRST + 1);
        tree.add(PRIORITY_END, 0, 0, Action::Nop);
    }
    tree.rules
}

/// The rule that drops what came in by `entrance` and has no mark under `mask`. What has one has left by the tree before.
#[must_use]
pub fn guard(entrance: &'static str, mask: MarkMask) -> Rule {
    Rule {
        priority: PRIORITY_GUARD,
        iif: Some(entrance),
        mark: 0,
        mask: mask.bits(),
        action: Action::Blackhole,
    }
}

fn key(target: TargetId) -> u32 {
    target.number() & ((1 << BITS) - 1)
}

struct Tree<F> {
    mask: MarkMask,
    table: F,
    rules: BTreeSet<Rule>,
}

impl<F: Fn(TargetId) -> u32> Tree<F> {
    fn add(&mut self, priority: u32, mark: u32, mask: u32, action: Action) {
        self.rules.insert(Rule { priority, iif: None, mark, mask, action });
    }

    /// Adds the subtree of `keyed` (not empty, ascending), whose place begins at `priority`. Returns the priority of
    /// its first rule.
    fn grow(&mut self, keyed: &[(u32, TargetId)], bits: u32, priority: u32) -> u32 {
        let Some(low) = bits.checked_sub(1) else {
            for &(_, target) in keyed {
                self.add(
                    priority,
                    self.mask.mark(target).0,
                    self.mask.bits(),
                    Action::Lookup((self.table)(target)),
                );
            }
            self.add(priority + 1, 0, 0, Action::Goto(PRIORITY_END));
            return priority;
        };
        let bit = 1 << low;
        let (left, right) = keyed.split_at(keyed.partition_point(|(key, _)| key & bit == 0));
        let (left_at, right_at) = (priority + 1, priority + 1 + places(low));
        if right.is_empty() {
            return self.grow(left, low, left_at);
        }
        let right_first = self.grow(right, low, right_at);
        if left.is_empty() {
            return right_first;
        }
        self.grow(left, low, left_at);
        let mark = bit << self.mask.shift();
        self.add(priority, mark, mark, Action::Goto(right_first));
        priority
    }
}

/// A single step from one set of rules to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add the rule, behind others of its priority.
    Add(Rule),
    /// Remove the rule.
    Remove(Rule),
}

/// The steps from `now` to `wanted`, in the order that keeps targets which are in both reachable all the way.
///
/// Additions first, and removals in their reverse order: an exit may stand only behind forks that lead around it. A
/// fork that is to jump elsewhere is replaced before anything that it jumps to goes away.
#[must_use]
pub fn changes(now: &BTreeSet<Rule>, wanted: &BTreeSet<Rule>) -> Vec<Step> {
    let mut added: Vec<Rule> = wanted.difference(now).copied().collect();
    added.sort_by_key(|rule| (stage(rule), rule.priority));
    let places_wanted: BTreeSet<u32> = wanted.iter().map(|rule| rule.priority).collect();
    let mut removed: Vec<Rule> = now.difference(wanted).copied().collect();
    removed.sort_by_key(|rule| {
        let replaced = places_wanted.contains(&rule.priority);
        (!replaced, std::cmp::Reverse((stage(rule), rule.priority)))
    });
    added.into_iter().map(Step::Add).chain(removed.into_iter().map(Step::Remove)).collect()
}

/// When a rule is added, among the others: guards and the end, the first rule, forks, leaves, exits.
fn stage(rule: &Rule) -> u8 {
    match rule.action {
        Action::Nop | Action::Blackhole => 0,
        Action::Goto(_) if rule.priority == PRIORITY_FIRST => 1,
        Action::Goto(_) if rule.mask != 0 => 2,
        Action::Lookup(_) => 3,
        Action::Goto(_) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_set, prelude::*};

    /// The kernel's walk (`fib_rules_lookup`) over rules in their order: the table found, and the comparisons made.
    fn walk(rules: &[Rule], mark: u32) -> (Option<u32>, u32) {
        let (mut at, mut comparisons) = (0, 0);
        while let Some(rule) = rules.get(at) {
            comparisons += 1;
            at += 1;
            if (rule.mark ^ mark) & rule.mask != 0 {
                continue;
            }
            match rule.action {
                Action::Lookup(table) => return (Some(table), comparisons),
                Action::Goto(priority) => {
                    assert!(priority > rule.priority, "the kernel refuses jumps backwards");
                    at = rules.iter().position(|rule| rule.priority == priority).unwrap_or(at);
                }
                Action::Nop => {}
                Action::Blackhole => return (None, comparisons),
            }
        }
        (None, comparisons)
    }

    fn table(target: TargetId) -> u32 {
        20_000 + target.number()
    }

    fn tree(mask: MarkMask, targets: &BTreeSet<TargetId>) -> BTreeSet<Rule> {
        rules(mask, targets.iter().copied(), table)
    }

    fn mask() -> impl Strategy<Value = MarkMask> {
        prop_oneof![Just(0xffff), Just(0x1fff), Just(0x00ff_ff00), Just(u32::MAX), Just(0x1fff << 19)]
            .prop_map(|bits| MarkMask::new(bits).unwrap())
    }

    fn targets(most: usize) -> impl Strategy<Value = BTreeSet<TargetId>> {
        let dense = btree_set(0..40_usize, 0..most);
        let wide = btree_set(0..TARGETS_MAX, 0..most);
        let corner = btree_set(prop_oneof![0..3_usize, 2046..2050_usize, 4090..TARGETS_MAX], 0..most);
        prop_oneof![dense, wide, corner]
            .prop_map(|set| set.into_iter().map(|index| TargetId::new(index).unwrap()).collect())
    }

    proptest! {
        #[test]
        fn every_mark_reaches_its_own_table_and_no_other(
            mask in mask(), targets in targets(200), others in any::<[u32; 8]>()
        ) {
            let rules: Vec<Rule> = tree(mask, &targets).into_iter().collect();
            prop_assert!(rules.len() <= 3 * targets.len() + 1);
            for number in 1..=4096 {
                let target = TargetId::from_number(number).unwrap();
                for foreign in [0, !mask.bits()] {
                    let (found, comparisons) = walk(&rules, mask.mark(target).0 | foreign);
                    prop_assert_eq!(found, targets.contains(&target).then(|| table(target)));
                    prop_assert!(comparisons <= COMPARISONS_MAX);
                }
            }
            for mark in others {
                let (found, comparisons) = walk(&rules, mark);
                prop_assert_eq!(found, mask.target(crate::ids::Mark(mark)).filter(|t| targets.contains(t)).map(table));
                prop_assert!(comparisons <= COMPARISONS_MAX);
            }
            if !targets.is_empty() {
                prop_assert_eq!(walk(&rules, !mask.bits()), (None, 2));
            }
        }

        #[test]
        fn targets_that_stay_are_reachable_after_every_step(
            mask in mask(), before in targets(24), after in targets(24)
        ) {
            let (now, wanted) = (tree(mask, &before), tree(mask, &after));
            // As the kernel keeps them: by priority, later additions behind earlier ones.
            let mut rules: Vec<Rule> = now.iter().copied().collect();
            for step in changes(&now, &wanted) {
                match step {
                    Step::Add(rule) => {
                        let at = rules.partition_point(|other| other.priority <= rule.priority);
                        rules.insert(at, rule);
                    }
                    Step::Remove(rule) => {
                        let at = rules.iter().position(|other| *other == rule).unwrap();
                        rules.remove(at);
                    }
                }
                for &target in before.intersection(&after) {
                    prop_assert_eq!(walk(&rules, mask.mark(target).0).0, Some(table(target)));
                }
                for &target in before.symmetric_difference(&after) {
                    prop_assert!([None, Some(table(target))].contains(&walk(&rules, mask.mark(target).0).0));
                }
            }
            prop_assert_eq!(rules, wanted.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_new_target_moves_no_leaf_and_redirects_at_most_one_fork() {
        let mut targets = BTreeSet::new();
        for index in (0..TARGETS_MAX).step_by(7) {
            let before = tree(MarkMask::DEFAULT, &targets);
            targets.insert(TargetId::new((index * 1021) % TARGETS_MAX).unwrap());
            let steps = changes(&before, &tree(MarkMask::DEFAULT, &targets));
            let removed = steps.iter().filter(|step| matches!(step, Step::Remove(_))).count();
            assert!(before.is_empty() || (steps.len() <= 4 + removed && removed <= 1), "{steps:?}");
        }
    }

    #[test]
    fn all_targets_fit() {
        let all: BTreeSet<TargetId> = (0..TARGETS_MAX).filter_map(TargetId::new).collect();
        let rules: Vec<Rule> = tree(MarkMask::DEFAULT, &all).into_iter().collect();
        assert_eq!(rules.len(), 3 * TARGETS_MAX + 1);
        assert!(rules.windows(2).all(|pair| pair[0].priority < pair[1].priority));
        assert_eq!(rules.last().unwrap().priority, PRIORITY_END);
        assert_eq!(PRIORITY_END, 22_288);
    }
}
