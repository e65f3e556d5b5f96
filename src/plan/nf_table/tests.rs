use super::*;

const NONE: Tolerated = Tolerated { chain: |_| false, set: |_| false };
const OLD: Tolerated =
    Tolerated { chain: |name| name.starts_with("old"), set: |name| name.starts_with("old") };

fn rule(data: u8) -> Rule {
    let expression =
        Expression { name: "x".to_owned(), data: vec![data], compared: vec![data], ..Expression::default() };
    Rule { expressions: vec![expression], userdata: None }
}

/// A rule that leads to this chain, or asks this set.
fn naming(name: &str) -> Rule {
    let mut rule = rule(9);
    rule.expressions[0].names = Some(name.to_owned());
    rule
}

fn chain(base: Option<u8>, rules: Vec<Rule>) -> Chain {
    Chain { base: base.map(|priority| vec![priority]), policy: base.map(|_| NF_ACCEPT), rules, place: 0 }
}

fn set(declaration: u8, kind: u8) -> Set {
    Set { declaration: vec![declaration], kind: vec![kind], ..Set::default() }
}

fn image() -> Image {
    let chains = [
        ("in", chain(Some(1), vec![rule(1), naming("ask")])),
        ("ask", chain(None, vec![rule(2), rule(3), naming("vip")])),
    ];
    let sets = [("vip", set(1, 1)), ("seen", set(2, 2))];
    let counter = Object { outlives: false, ..Object::default() };
    let timeout = Object { outlives: true, data: vec![1], place: 1 };
    Image {
        dormant: false,
        chains: chains.map(|(name, chain)| (name.to_owned(), chain)).into(),
        sets: sets.map(|(name, set)| (name.to_owned(), set)).into(),
        objects: [((1, "k".to_owned()), counter), ((7, "t".to_owned()), timeout)].into(),
    }
}

/// What differs, and the steps in short.
fn changed(current: Option<&Image>, desired: &Image, tolerated: Tolerated) -> (Vec<String>, Vec<String>) {
    let change = change(current, desired, tolerated);
    let step = |step: &Step<'_>| match step {
        Step::AddTable => "table".to_owned(),
        Step::FlushChain(name) => format!("flush {name}"),
        Step::DeleteChain(name) => format!("-chain {name}"),
        Step::DeleteSet(name) => format!("-set {name}"),
        Step::DeleteObject(_, name) => format!("-object {name}"),
        Step::AddChain(name, _) => format!("+chain {name}"),
        Step::SetPolicy(name, policy) => format!("policy {name} {policy}"),
        Step::AddSet(name, _) => format!("+set {name}"),
        Step::KeepElements(name, _) => format!("keep {name}"),
        Step::FillSet(name, _) => format!("fill {name}"),
        Step::AddObject(_, name, _) => format!("+object {name}"),
        Step::AddRules(name, rules) => format!("rules {name} {}", rules.len()),
    };
    (change.differences.iter().map(ToString::to_string).collect(), change.steps.iter().map(step).collect())
}

/// After this has been done to the table.
fn after(spoil: impl FnOnce(&mut Image)) -> (Vec<String>, Vec<String>) {
    let mut current = image();
    spoil(&mut current);
    changed(Some(&current), &image(), NONE)
}

fn expected(differences: &[&str], steps: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    (owned(differences), owned(steps))
}

#[test]
fn what_is_as_it_should_be_is_not_touched() {
    let listed = |current: &mut Image| {
        current.sets.get_mut("vip").unwrap().userdata = Some(vec![1]);
        current.chains.get_mut("ask").unwrap().rules[0].userdata = Some(vec![1]);
        current.chains.get_mut("ask").unwrap().rules[0].expressions[0].data = vec![2, 77];
        // Flows may still have the lifetimes of other settings.
        current.objects.insert((7, "t2".to_owned()), Object { outlives: true, ..Object::default() });
    };
    assert_eq!(after(listed), expected(&[], &[]));
}

#[test]
fn a_table_is_made_of_what_is_used_first() {
    let (differences, steps) = changed(None, &image(), NONE);
    assert_eq!(differences[0], "there is no table");
    let expected = [
        "table",
        "+chain ask",
        "+chain in",
        "+object k",
        "+object t",
        "+set seen",
        "+set vip",
        "rules ask 3",
        "rules in 2",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn rules_are_filled_again_in_their_chain_alone() {
    let rules =
        |change: fn(&mut Vec<Rule>)| after(|image| change(&mut image.chains.get_mut("ask").unwrap().rules));
    let refill = ["flush ask", "rules ask 3"];
    assert_eq!(rules(|rules| rules[1] = rule(7)), expected(&["chain ask: rule 2 differs"], &refill));
    assert_eq!(rules(|rules| rules.swap(0, 1)), expected(&["chain ask: rule 1 differs"], &refill));
    assert_eq!(rules(|rules| rules.push(rule(7))), expected(&["chain ask has 4 rules, not 3"], &refill));
    assert_eq!(rules(Vec::clear), expected(&["chain ask has 0 rules, not 3"], &["rules ask 3"]));
    let anonymous = |rules: &mut Vec<Rule>| rules[2].expressions[0].anonymous = Some(Box::new(set(1, 1)));
    assert_eq!(rules(anonymous), expected(&["chain ask: rule 3 differs"], &refill));
}

#[test]
fn a_policy_is_set_and_a_dormant_table_wakes() {
    let drop = after(|image| image.chains.get_mut("in").unwrap().policy = Some(0));
    assert_eq!(drop, expected(&["chain in has policy drop"], &["policy in 1"]));
    let mut dormant = image();
    dormant.dormant = true;
    let desired = image();
    let change = change(Some(&dormant), &desired, NONE);
    assert!(change.wake && change.steps.is_empty() && change.removed_base_chains.is_empty());
    assert_eq!(change.differences[0].to_string(), "the table is dormant");
}

#[test]
fn what_cannot_be_changed_is_made_anew_while_no_rule_uses_it() {
    let all = |more: &[&str], last: &[&str]| {
        let steps = [&["flush ask", "flush in"], more, &["rules ask 3", "rules in 2"], last].concat();
        steps.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let (differences, steps) = after(|image| image.sets.get_mut("seen").unwrap().declaration = vec![9]);
    assert_eq!(differences, ["set seen is declared otherwise"]);
    assert_eq!(steps, all(&["-set seen", "+set seen", "keep seen"], &[]));
    let (_, steps) = after(|image| *image.sets.get_mut("seen").unwrap() = set(9, 9));
    assert_eq!(steps, all(&["-set seen", "+set seen"], &[]), "elements of another kind");
    let (differences, steps) =
        after(|image| image.objects.get_mut(&(7, "t".to_owned())).unwrap().data = vec![2]);
    assert_eq!(
        (differences, steps),
        (vec!["object t is declared otherwise".to_owned()], all(&["-object t", "+object t"], &[]))
    );
    let (differences, steps) = after(|image| image.chains.get_mut("in").unwrap().base = Some(vec![2]));
    assert_eq!(differences, ["chain in has another type, hook or priority"]);
    assert_eq!(steps, all(&["-chain in", "+chain in"], &[]));
    let mut current = image();
    current.chains.get_mut("in").unwrap().base = Some(vec![2]);
    assert_eq!(change(Some(&current), &image(), NONE).removed_base_chains, ["in"]);
}

#[test]
fn what_is_missing_is_added_and_what_is_not_desired_is_removed() {
    let (differences, steps) = after(|image| {
        image.sets.remove("seen");
        image.objects.remove(&(1, "k".to_owned()));
    });
    assert_eq!(
        (differences, steps),
        expected(&["set seen is missing", "object k is missing"], &["+object k", "+set seen"])
    );
    let (differences, steps) = after(|image| {
        image.chains.insert("more".to_owned(), chain(Some(7), vec![rule(1)]));
        image.sets.insert("list".to_owned(), set(5, 5));
        image.objects.insert((1, "k2".to_owned()), Object::default());
    });
    let expected = ["set list is not wanted", "object k2 is not wanted", "chain more is not wanted"];
    assert_eq!(differences, expected);
    let expected = [
        "flush ask",
        "flush in",
        "flush more",
        "-set list",
        "-object k2",
        "-chain more",
        "rules ask 3",
        "rules in 2",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn what_is_tolerated_keeps_what_it_uses() {
    let mut current = image();
    current.chains.insert("old1".to_owned(), chain(None, vec![naming("gone"), naming("old_map")]));
    current.chains.insert("gone".to_owned(), chain(None, vec![rule(1)]));
    current.sets.insert("old_map".to_owned(), set(5, 5));
    assert_eq!(changed(Some(&current), &image(), OLD), expected(&[], &[]));
    // No chain leads there any more.
    current.chains.remove("old1");
    let (differences, steps) = changed(Some(&current), &image(), OLD);
    assert_eq!(differences, ["chain gone is not wanted"]);
    assert!(steps.contains(&"-chain gone".to_owned()), "{steps:?}");
}
