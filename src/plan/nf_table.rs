//! A table of nf_tables in the kernel's own bytes. The reference is what the kernel makes of a text. It is
//! compared with the table in force, and the steps from the one to the other are planned. PURE.
//!
//! The comparison covers everything that can affect packets: whether the table is dormant, a base chain's
//! type, hook, priority and policy, every expression of every rule, the declarations of sets, maps and
//! objects, and elements that the text names. Handles, the values of counters, comments, and the names of
//! anonymous sets are not compared; the elements of anonymous sets are.
//!
//! A difference is repaired in the way that loses least, in one transaction. The rules of a chain are flushed
//! and added again. A set or an object cannot be changed, so it is deleted and added again. This requires
//! that no rule uses it, so all chains are flushed and refilled; the set keeps its elements if they are of
//! the same kind. A base chain is removed only if the desired table has another one of that name, or none,
//! since the kernel drops all packets that wait in queues with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// From `linux/netfilter.h`.
const NF_ACCEPT: u32 = 1;

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Whether its base chains are not in force (`flags dormant`).
    pub dormant: bool,
    /// The chains, by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps that have names, by name.
    pub sets: BTreeMap<String, Set>,
    /// Counters, `ct timeout` and so on, and flowtables without their devices, by kind and name.
    pub objects: BTreeMap<(u32, String), Object>,
}

/// A chain.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// The position among all chains. Chains of one hook and priority are traversed in this order.
    pub place: usize,
    /// Type, hook and priority of a base chain.
    pub base: Option<Vec<u8>>,
    /// The policy of a base chain.
    pub policy: Option<u32>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// The expressions, in order.
    pub expressions: Vec<Expression>,
    /// A comment.
    pub userdata: Option<Vec<u8>>,
}

/// One comparison or action of a rule.
#[derive(Clone, Debug, Default)]
pub struct Expression {
    /// The kind of the expression.
    pub name: String,
    /// The attributes, except the name of an anonymous set.
    pub data: Vec<u8>,
    /// The part of the attributes that is compared.
    pub compared: Vec<u8>,
    /// The anonymous set that the expression looks up.
    pub anonymous: Option<Box<Set>>,
    /// The chain, set or object that the expression names.
    pub names: Option<String>,
}

/// A set or map.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// The position among all sets, for listings.
    pub place: usize,
    /// The attributes, except name and comment.
    pub declaration: Vec<u8>,
    /// The part of the attributes that is the kind of the elements. Sets of the same kind can take over each
    /// other's elements.
    pub kind: Vec<u8>,
    /// The maximum number of elements; 0 if there is no limit.
    pub size: u32,
    /// Whether elements have a time to live.
    pub timeout: bool,
    /// The elements that the text names; none if rules or other programs add them.
    pub elements: BTreeSet<Vec<u8>>,
    /// A comment, and how nft prints the elements.
    pub userdata: Option<Vec<u8>>,
}

/// A counter, `ct timeout` or another object.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// The position among all objects, for listings.
    pub place: usize,
    /// The attributes; those of a counter with its initial values.
    pub data: Vec<u8>,
    /// Whether entries that were created with the object go on using it. Such an object stays when it is no
    /// longer desired.
    pub outlives: bool,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.expressions == other.expressions
    }
}

impl Eq for Rule {}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.compared, &self.anonymous) == (&other.name, &other.compared, &other.anonymous)
    }
}

impl Eq for Expression {}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        (&self.declaration, &self.elements) == (&other.declaration, &other.elements)
    }
}

impl Eq for Set {}

/// A difference between the present and the desired table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The thing that differs.
    pub thing: Thing,
    text: String,
}

/// The table, or a part of it by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in nf_tables")]
pub enum Thing {
    Table,
    Chain(String),
    Set(String),
    Object(String),
}

/// Chains and sets that may be in the table although the text does not have them.
#[derive(Clone, Copy)]
pub struct Tolerated {
    /// Reports whether a chain of this name is tolerated.
    pub chain: fn(&str) -> bool,
    /// Reports whether a set of this name is tolerated.
    pub set: fn(&str) -> bool,
}

impl Difference {
    /// Returns a difference of this thing, in words.
    #[must_use]
    pub fn new(thing: Thing, text: String) -> Self {
        Self { thing, text }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Add the table, which does not exist yet.
    AddTable,
    /// Remove all rules of a chain.
    FlushChain(&'a str),
    /// Delete a chain that has no rules.
    DeleteChain(&'a str),
    /// Delete a set that no rule uses.
    DeleteSet(&'a str),
    /// Delete an object that no rule uses.
    DeleteObject(u32, &'a str),
    /// Add a chain, without rules.
    AddChain(&'a str, &'a Chain),
    /// Set the policy of a base chain.
    SetPolicy(&'a str, u32),
    /// Add a set, with the elements that the text names.
    AddSet(&'a str, &'a Set),
    /// Add the elements that the set of this name had before the transaction.
    KeepElements(&'a str, &'a Set),
    /// Replace the elements of a set by those that the text names.
    FillSet(&'a str, &'a Set),
    /// Add an object.
    AddObject(u32, &'a str, &'a Object),
    /// Add the rules of a chain that has none.
    AddRules(&'a str, &'a [Rule]),
}

/// The changes that turn one table into another.
#[derive(Clone, Debug, Default)]
pub struct Change<'a> {
    /// The differences.
    pub differences: Vec<Difference>,
    /// The steps of one transaction.
    pub steps: Vec<Step<'a>>,
    /// Whether a second transaction must end the dormant state of the table. The kernel does not accept that
    /// together with new base chains.
    pub wake: bool,
    /// Base chains that are removed. Packets that wait in queues are lost with them.
    pub removed_base_chains: Vec<String>,
    /// Sets that are new, or whose elements could not be kept.
    pub empty_sets: BTreeSet<&'a str>,
}

/// Returns the changes from `current` (`None`: there is no table) to `desired`. What is tolerated is left
/// alone, and so are the things that its rules name.
#[must_use]
pub fn change<'a>(current: Option<&'a Image>, desired: &'a Image, tolerated: Tolerated) -> Change<'a> {
    static NOTHING: Image =
        Image { dormant: false, chains: BTreeMap::new(), sets: BTreeMap::new(), objects: BTreeMap::new() };
    let mut change = Change::default();
    if current.is_none() {
        change.differs(Thing::Table, "there is no table".to_owned());
        change.steps.push(Step::AddTable);
    }
    let current = current.unwrap_or(&NOTHING);
    if current.dormant != desired.dormant {
        change.differs(Thing::Table, "the table is dormant".to_owned());
        change.wake = true;
    }
    let left = left_alone(current, desired, tolerated);
    let sets_go = sets(&mut change, current, desired, &left);
    let objects_go = objects(&mut change, current, desired, &left);
    chains(&mut change, current, desired, &left, sets_go || objects_go);
    change.steps.sort_by_key(|step| (step.phase(), step.place()));
    change
}

impl Step<'_> {
    /// Returns the order of the steps. What uses other things is removed first; what is used is added first.
    fn phase(&self) -> u8 {
        match self {
            Self::AddTable => 0,
            Self::FlushChain(_) => 1,
            // Elements of maps lead to chains, so sets are deleted first.
            Self::DeleteSet(_) => 2,
            Self::DeleteObject(..) => 3,
            Self::DeleteChain(_) => 4,
            Self::AddChain(..) | Self::SetPolicy(..) => 5,
            Self::AddObject(..) => 6,
            Self::AddSet(..) => 7,
            Self::KeepElements(..) | Self::FillSet(..) => 8,
            Self::AddRules(..) => 9,
        }
    }

    /// Returns the position of what is added, so that additions are in the order of the text.
    fn place(&self) -> usize {
        match self {
            Self::AddChain(_, chain) => chain.place,
            Self::AddSet(_, set) => set.place,
            Self::AddObject(_, _, object) => object.place,
            Self::AddTable
            | Self::FlushChain(_)
            | Self::DeleteSet(_)
            | Self::DeleteObject(..)
            | Self::DeleteChain(_)
            | Self::SetPolicy(..)
            | Self::KeepElements(..)
            | Self::FillSet(..)
            | Self::AddRules(..) => 0,
        }
    }
}

/// Returns the names that are not desired but are not to be touched.
fn left_alone(current: &Image, desired: &Image, tolerated: Tolerated) -> BTreeSet<String> {
    let chains = current.chains.keys().filter(|name| (tolerated.chain)(name));
    let chains = chains.filter(|name| !desired.chains.contains_key(*name));
    let sets = current.sets.keys().filter(|name| (tolerated.set)(name));
    let sets = sets.filter(|name| !desired.sets.contains_key(*name));
    let mut left: BTreeSet<String> = chains.chain(sets).cloned().collect();
    let chains = current.chains.iter().filter(|(name, _)| left.contains(*name));
    let expressions = chains.flat_map(|(_, chain)| &chain.rules).flat_map(|rule| &rule.expressions);
    let named: Vec<String> = expressions.filter_map(|expression| expression.names.clone()).collect();
    left.extend(named);
    left
}

impl Change<'_> {
    fn differs(&mut self, thing: Thing, text: String) {
        self.differences.push(Difference::new(thing, text));
    }
}

/// Adds the changes of sets. Returns whether any set is deleted, which rules may use.
fn sets<'a>(
    change: &mut Change<'a>,
    current: &'a Image,
    desired: &'a Image,
    left: &BTreeSet<String>,
) -> bool {
    let mut gone = false;
    for (name, set) in &desired.sets {
        match current.sets.get(name) {
            None => {
                change.differs(Thing::Set(name.clone()), format!("set {name} is missing"));
                change.empty_sets.insert(name);
                change.steps.push(Step::AddSet(name, set));
            }
            Some(is) if is.declaration != set.declaration => {
                change.differs(Thing::Set(name.clone()), format!("set {name} is declared otherwise"));
                gone = true;
                change.steps.push(Step::DeleteSet(name));
                change.steps.push(Step::AddSet(name, set));
                if is.kind == set.kind && set.elements.is_empty() {
                    change.steps.push(Step::KeepElements(name, set));
                } else {
                    change.empty_sets.insert(name);
                }
            }
            Some(is) if is.elements != set.elements => {
                change.differs(Thing::Set(name.clone()), format!("set {name} has other elements"));
                change.steps.push(Step::FillSet(name, set));
            }
            Some(_) => {}
        }
    }
    for name in current.sets.keys().filter(|name| !desired.sets.contains_key(*name) && !left.contains(*name))
    {
        change.differs(Thing::Set(name.clone()), format!("set {name} is not wanted"));
        gone = true;
        change.steps.push(Step::DeleteSet(name));
    }
    gone
}

/// Adds the changes of objects. Returns whether any object is deleted, which rules may use.
fn objects<'a>(
    change: &mut Change<'a>,
    current: &'a Image,
    desired: &'a Image,
    left: &BTreeSet<String>,
) -> bool {
    let mut gone = false;
    for ((kind, name), object) in &desired.objects {
        match current.objects.get(&(*kind, name.clone())) {
            Some(is) if is.data == object.data => continue,
            None => change.differs(Thing::Object(name.clone()), format!("object {name} is missing")),
            Some(_) => {
                change.differs(Thing::Object(name.clone()), format!("object {name} is declared otherwise"));
                gone = true;
                change.steps.push(Step::DeleteObject(*kind, name));
            }
        }
        change.steps.push(Step::AddObject(*kind, name, object));
    }
    for (key @ (kind, name), object) in &current.objects {
        if !desired.objects.contains_key(key) && !object.outlives && !left.contains(name) {
            change.differs(Thing::Object(name.clone()), format!("object {name} is not wanted"));
            gone = true;
            change.steps.push(Step::DeleteObject(*kind, name));
        }
    }
    gone
}

fn chains<'a>(
    change: &mut Change<'a>,
    current: &'a Image,
    desired: &'a Image,
    left: &BTreeSet<String>,
    uses_gone: bool,
) {
    let unwanted = || {
        let chains = current.chains.iter();
        chains.filter(|(name, _)| !desired.chains.contains_key(*name) && !left.contains(*name))
    };
    let remade = |name: &str, is: &Chain| desired.chains.get(name).is_some_and(|chain| chain.base != is.base);
    let refill =
        uses_gone || unwanted().next().is_some() || current.chains.iter().any(|(name, is)| remade(name, is));
    for (name, is) in &current.chains {
        let Some(chain) = desired.chains.get(name) else { continue };
        let differs = rules_differ(name, &is.rules, &chain.rules);
        if refill || differs.is_some() {
            if !is.rules.is_empty() {
                change.steps.push(Step::FlushChain(name));
            }
            change.steps.push(Step::AddRules(name, &chain.rules));
        }
        if let Some(text) = differs {
            change.differs(Thing::Chain(name.clone()), text);
        }
        if chain.base != is.base {
            change.differs(
                Thing::Chain(name.clone()),
                format!("chain {name} has another type, hook or priority"),
            );
            change.steps.extend([Step::DeleteChain(name), Step::AddChain(name, chain)]);
            if is.base.is_some() {
                change.removed_base_chains.push(name.clone());
            }
        } else if let Some(policy) = chain.policy.filter(|policy| is.policy != Some(*policy)) {
            let is = if is.policy == Some(NF_ACCEPT) { "accept" } else { "drop" };
            change.differs(Thing::Chain(name.clone()), format!("chain {name} has policy {is}"));
            change.steps.push(Step::SetPolicy(name, policy));
        }
    }
    for (name, is) in unwanted() {
        change.differs(Thing::Chain(name.clone()), format!("chain {name} is not wanted"));
        if !is.rules.is_empty() {
            change.steps.push(Step::FlushChain(name));
        }
        if is.base.is_some() {
            change.removed_base_chains.push(name.clone());
        }
    }
    change.steps.extend(unwanted().map(|(name, _)| Step::DeleteChain(name)));
    for (name, chain) in desired.chains.iter().filter(|(name, _)| !current.chains.contains_key(*name)) {
        change.differs(Thing::Chain(name.clone()), format!("chain {name} is missing"));
        change.steps.extend([Step::AddChain(name, chain), Step::AddRules(name, &chain.rules)]);
    }
}

/// Returns a description of how the rules of this chain differ, or `None` if they do not.
fn rules_differ(chain: &str, current: &[Rule], desired: &[Rule]) -> Option<String> {
    if current == desired {
        return None;
    }
    if current.len() != desired.len() {
        return Some(format!("chain {chain} has {} rules, not {}", current.len(), desired.len()));
    }
    let first = current.iter().zip(desired).take_while(|(is, desired)| is == desired).count();
    Some(format!("chain {chain}: rule {} differs", first + 1))
}

#[cfg(test)]
mod tests;
