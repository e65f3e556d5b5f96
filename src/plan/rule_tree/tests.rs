//! The rules as the kernel walks them, and what it walks to make them.

use std::collections::BTreeMap;

use super::*;
use proptest::{collection::btree_set, prelude::*};

/// The kernel's walk (`fib_rules_lookup`) over rules in their order: the table found, and the comparisons
/// made.
fn walk(rules: &[Rule], mark: u32) -> (Option<u32>, u32) {
    walk_by(None, rules, mark)
}

/// The same for what came in by a device.
fn walk_by(device: Option<DeviceName>, rules: &[Rule], mark: u32) -> (Option<u32>, u32) {
    walk_from(None, device, rules, mark)
}

fn walk_from(
    from: Option<IpAddr>,
    device: Option<DeviceName>,
    rules: &[Rule],
    mark: u32,
) -> (Option<u32>, u32) {
    let (mut at, mut comparisons) = (0, 0);
    while let Some(rule) = rules.get(at) {
        comparisons += 1;
        at += 1;
        if (rule.mark ^ mark) & rule.mask != 0
            || (rule.iif.is_some() && rule.iif != device)
            || (rule.from.is_some() && rule.from != from)
        {
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
        let forks = rules.iter().filter(|rule| Part::of(rule) == Part::Tree).count() - targets.len();
        let exits = rules.iter().filter(|rule| Part::of(rule) == Part::Exit).count();
        prop_assert!(forks == exits.saturating_sub(1) && exits <= targets.len().min(1 << (BITS - TOGETHER_BITS)));
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
            prop_assert_eq!(found, mask.target(crate::model::ids::Mark(mark)).filter(|t| targets.contains(t)).map(table));
            prop_assert!(comparisons <= COMPARISONS_MAX);
        }
        if !targets.is_empty() {
            prop_assert_eq!(walk(&rules, !mask.bits()), (None, 2));
        }
    }

    #[test]
    fn targets_that_stay_are_reachable_after_every_step(
        mask in mask(), before in targets(24), after in targets(24), of_earlier_version: bool
    ) {
        let together = if of_earlier_version { 0 } else { TOGETHER_BITS };
        let now = grown(mask, before.iter().copied(), table, together);
        let desired = tree(mask, &after);
        // As the kernel keeps them: by priority, later additions behind earlier ones.
        let mut rules: Vec<Rule> = now.iter().copied().collect();
        for step in changes(&now, &desired) {
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
        prop_assert_eq!(rules, desired.into_iter().collect::<Vec<_>>());
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

fn device(name: &str) -> DeviceName {
    DeviceName::new(name).unwrap()
}

/// `set` as the kernel keeps it after these steps: by priority, later additions behind earlier ones.
fn apply(rules: &mut Vec<Rule>, step: Step) {
    match step {
        Step::Add(rule) => {
            rules.insert(rules.partition_point(|other| other.priority <= rule.priority), rule);
        }
        Step::Remove(rule) => _ = rules.remove(rules.iter().position(|other| *other == rule).unwrap()),
    }
}

fn entered(mask: MarkMask, targets: &BTreeSet<TargetId>, priority: u32, devices: &[&str]) -> BTreeSet<Rule> {
    let mut rules = tree(mask, targets);
    rules.extend(entries(mask, priority, devices.iter().map(|name| device(name)), None));
    rules
}

#[test]
fn only_what_comes_in_by_an_entry_reaches_a_table_and_no_rule_of_others_catches_it() {
    let targets: BTreeSet<TargetId> = [0, 1, 7].into_iter().filter_map(TargetId::new).collect();
    let (mask, other) = (MarkMask::DEFAULT, 77);
    let lookup = |priority, iif: Option<&str>| Rule {
        priority,
        from: None,
        iif: iif.map(device),
        mark: 0,
        mask: 0,
        action: Action::Lookup(other),
    };
    let mut rules: Vec<Rule> = entered(mask, &targets, 487, &["eth2", "sr-frag"]).into_iter().collect();
    for foreign in [lookup(500, Some("eth2")), lookup(1000, None), lookup(32_766, None)] {
        apply(&mut rules, Step::Add(foreign));
    }
    for &target in &targets {
        let mark = mask.mark(target).0;
        for name in ["eth2", "sr-frag"] {
            assert_eq!(walk_by(Some(device(name)), &rules, mark).0, Some(table(target)));
        }
        for reverse in [None, Some(device("sr-1")), Some(device("lo"))] {
            assert_eq!(walk_by(reverse, &rules, mark).0, Some(other));
        }
    }
    // What is not marked goes by the rules of others, in their order, after one comparison.
    assert_eq!(walk_by(Some(device("eth2")), &rules, 0), (Some(other), 3));
    rules.retain(|rule| rule.action != Action::Lookup(other));
    assert_eq!(walk_by(None, &rules, mask.mark(TargetId::new(0).unwrap()).0), (None, 6));
}

#[test]
fn what_the_host_sends_from_its_own_address_enters_and_no_reverse_lookup_does() {
    let target = TargetId::new(7).unwrap();
    let (mask, mark) = (MarkMask::DEFAULT, MarkMask::DEFAULT.mark(target).0);
    let (own, vip) = ("192.168.1.201".parse().ok(), "10.0.0.1".parse().ok());
    let mut rules = tree(mask, &BTreeSet::from([target]));
    rules.extend(entries(mask, 900, [device("eth2")], own));
    let rules: Vec<Rule> = rules.into_iter().collect();
    let lo = Some(device("lo"));
    assert_eq!(walk_from(own, lo, &rules, mark).0, Some(table(target)));
    // The kernel looks for the way back to a client as if the VIP sent there.
    assert_eq!(walk_from(vip, lo, &rules, mark).0, None);
    assert_eq!(walk_from(own, lo, &rules, 0).0, None);
}

#[test]
fn the_way_in_moves_and_changes_without_a_gap() {
    let targets: BTreeSet<TargetId> = (0..9).filter_map(TargetId::new).collect();
    let mask = MarkMask::DEFAULT;
    let steps = [
        // From what fafdeaa made, and back.
        (tree(mask, &targets), entered(mask, &targets, 900, &["eth2"])),
        (entered(mask, &targets, 900, &["eth2"]), tree(mask, &targets)),
        // Before a rule of others, near and far; another device.
        (entered(mask, &targets, 900, &["eth2"]), entered(mask, &targets, 898, &["eth2"])),
        (entered(mask, &targets, 900, &["eth2"]), entered(mask, &targets, 899, &["eth2"])),
        (entered(mask, &targets, 900, &["eth2"]), entered(mask, &targets, 487, &["eth2", "eth3"])),
        (entered(mask, &targets, 487, &["eth2", "eth3"]), entered(mask, &targets, 487, &["eth2"])),
    ];
    for (now, desired) in steps {
        let mut rules: Vec<Rule> = now.iter().copied().collect();
        for step in changes(&now, &desired) {
            apply(&mut rules, step);
            for &target in &targets {
                let found = walk_by(Some(device("eth2")), &rules, mask.mark(target).0).0;
                assert_eq!(found, Some(table(target)), "after {step:?}");
            }
        }
        assert_eq!(rules.into_iter().collect::<BTreeSet<_>>(), desired);
    }
}

#[test]
fn entries_lie_before_the_first_rule_that_could_catch_what_is_marked() {
    let cases = [
        (None, None, 900),
        (None, Some(903), 900),
        (None, Some(902), 889),
        (None, Some(500), 487),
        (None, Some(14), 1),
        (None, Some(10), 1),
        // No room: reported, not solved.
        (None, Some(3), 1),
        (None, Some(0), 1),
        // They stay where they are, though there would be room behind.
        (Some(487), None, 487),
        (Some(487), Some(490), 487),
        (Some(487), Some(489), 476),
    ];
    for (now, earliest, expected) in cases {
        assert_eq!(entry_priority(now, earliest), expected, "{now:?} {earliest:?}");
    }
}

#[test]
fn entries_are_distinguished_from_the_rules_of_backends_and_of_the_tree() {
    let own = "192.168.1.201".parse().ok();
    let all: BTreeSet<Rule> = entries(MarkMask::DEFAULT, 487, [device("eth2")], own).collect();
    assert!(all.len() == 5 && all.iter().all(is_entry));
    let targets = (0..9).filter_map(TargetId::new).collect();
    assert!(!tree(MarkMask::DEFAULT, &targets).iter().any(is_entry));
    let answers =
        Rule { priority: 9_876, from: own, iif: None, mark: 0, mask: 0, action: Action::Lookup(30_024) };
    assert!(!is_entry(&answers));
}

/// How many rules the kernel walks for these steps (see the head).
fn walked(now: &BTreeSet<Rule>, steps: &[Step]) -> usize {
    let mut places: Vec<u32> = now.iter().map(|rule| rule.priority).collect();
    let mut aims: BTreeMap<u32, usize> = BTreeMap::new();
    let aim = |rule: Rule| if let Action::Goto(aim) = rule.action { Some(aim) } else { None };
    now.iter().filter_map(|rule| aim(*rule)).for_each(|aim| *aims.entry(aim).or_default() += 1);
    let mut walked = 0;
    for &step in steps {
        let (Step::Add(rule) | Step::Remove(rule)) = step;
        let at = places.partition_point(|place| *place < rule.priority);
        walked += at;
        if let Step::Add(rule) = step {
            walked += aim(rule).map_or(0, |aim| places.partition_point(|place| *place < aim));
            aim(rule).into_iter().for_each(|aim| *aims.entry(aim).or_default() += 1);
            let leads_nowhere = aims.keys().any(|aim| places.binary_search(aim).is_err());
            walked += if leads_nowhere { places.len() } else { 0 };
            places.insert(at, rule.priority);
        } else {
            if let Some(aim) = aim(rule) {
                *aims.get_mut(&aim).unwrap() -= 1;
                aims.retain(|_, jumps| *jumps > 0);
            }
            walked += if aims.is_empty() { 0 } else { places.len() };
            places.remove(at);
        }
    }
    walked
}

#[test]
fn the_kernel_walks_little_for_all_targets_at_once() {
    let all: BTreeSet<TargetId> = (0..TARGETS_MAX).filter_map(TargetId::new).collect();
    let (none, rules) = (BTreeSet::new(), entered(MarkMask::DEFAULT, &all, 900, &["eth2", "sr-frag"]));
    for (now, desired) in [(&none, &rules), (&rules, &none)] {
        // In another order it is the square of the number of rules, or more.
        let walked = walked(now, &changes(now, desired)) / rules.len();
        assert!(walked < rules.len() / 2, "{walked} for each of {}", rules.len());
    }
}

#[test]
fn all_targets_fit() {
    let all: BTreeSet<TargetId> = (0..TARGETS_MAX).filter_map(TargetId::new).collect();
    let rules: Vec<Rule> = tree(MarkMask::DEFAULT, &all).into_iter().collect();
    // 1024 exits, and a fork less.
    assert_eq!(rules.len(), TARGETS_MAX + 2 * 1024 - 1 + 2);
    assert!(rules.windows(2).all(|pair| pair[0].priority < pair[1].priority));
    assert_eq!(rules.last().unwrap().priority, PRIORITY_END);
    assert_eq!(PRIORITY_END, 22_288);
}
