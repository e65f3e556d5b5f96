//! A table of nf_tables in the kernel's own bytes: what the kernel has made of a text is the reference, which is compared with
//! what it has in force, and what leads from the one to the other is planned. PURE.
//!
//! Compared is all that packets can notice: whether the table is dormant, a base chain's type, hook, priority and policy,
//! every expression of every rule, what sets, maps and objects are declared as, and elements that the text names. Not
//! compared are handles, what counters have counted, comments, and the names of anonymous sets, whose elements are.
//!
//! A difference is mended in the way that loses least, in one transaction. Rules of a chain are flushed and filled again. A
//! set or an object cannot be changed, so it is made anew, which wants that no rule uses it: all chains are flushed and
//! filled, and the set keeps its elements where they are of the same kind. A base chain is only removed where another one of
//! that name, or none, is wanted: the kernel drops what waits in queues with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Of `linux/netfilter.h`.
const NF_ACCEPT: u32 = 1;

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Whether its base chains are out of force (`flags dormant`).
    pub dormant: bool,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps with names, by these.
    pub sets: BTreeMap<String, Set>,
    /// Counters, `ct timeout` and so on, and flowtables without their devices, by kind and name.
    pub objects: BTreeMap<(u32, String), Object>,
}

/// A chain.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Among all chains: those of one hook and priority are met in this order.
    pub place: usize,
    /// Type, hook and priority of a base chain.
    pub base: Option<Vec<u8>>,
    /// Of a base chain.
    pub policy: Option<u32>,
    /// In their order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// In their order.
    pub expressions: Vec<Expression>,
    /// A comment.
    pub userdata: Option<Vec<u8>>,
}

/// What a rule asks or does.
#[derive(Clone, Debug, Default)]
pub struct Expression {
    /// Its kind.
    pub name: String,
    /// Its attributes, but for the name of an anonymous set.
    pub data: Vec<u8>,
    /// What is compared of these.
    pub compared: Vec<u8>,
    /// The anonymous set that it asks.
    pub anonymous: Option<Box<Set>>,
    /// The chain, set or object that it names.
    pub names: Option<String>,
}

/// A set or map.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// Among all sets, for who lists them.
    pub place: usize,
    /// Its attributes, but for name and comment.
    pub declaration: Vec<u8>,
    /// Of these, the kind of its elements: where it is the same, one set can have the other's.
    pub kind: Vec<u8>,
    /// How many elements it takes; 0 for any number.
    pub size: u32,
    /// Whether elements have a time to live.
    pub timeout: bool,
    /// The elements that the text names; none where rules or others add them.
    pub elements: BTreeSet<Vec<u8>>,
    /// A comment, and how nft prints the elements.
    pub userdata: Option<Vec<u8>>,
}

/// A counter, `ct timeout` or another object.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Among all objects, for who lists them.
    pub place: usize,
    /// Its attributes; as it begins, if it counts.
    pub data: Vec<u8>,
    /// Whether what begins under it goes on using it: it stays when nobody wants it any more.
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

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it concerns.
    pub thing: Thing,
    text: String,
}

/// What a table is, or has, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in nf_tables")]
pub enum Thing {
    Table,
    Chain(String),
    Set(String),
    Object(String),
}

/// Chains and sets that may be there, though nobody wants them.
#[derive(Clone, Copy)]
pub struct Tolerated {
    /// Whether a chain of this name may.
    pub chain: fn(&str) -> bool,
    /// Whether a set of this name may.
    pub set: fn(&str) -> bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// There is no table yet.
    AddTable,
    /// All rules of a chain go.
    FlushChain(&'a str),
    /// A chain without rules goes.
    DeleteChain(&'a str),
    /// A set goes that no rule asks.
    DeleteSet(&'a str),
    /// An object goes that no rule uses.
    DeleteObject(u32, &'a str),
    /// A chain, without rules.
    AddChain(&'a str, &'a Chain),
    /// Of a base chain.
    SetPolicy(&'a str, u32),
    /// A set, with the elements that the text names.
    AddSet(&'a str, &'a Set),
    /// The elements that the set of this name had before the transaction.
    KeepElements(&'a str, &'a Set),
    /// The set has others than those that the text names.
    FillSet(&'a str, &'a Set),
    /// An object.
    AddObject(u32, &'a str, &'a Object),
    /// The rules of a chain that has none.
    AddRules(&'a str, &'a [Rule]),
}

/// What leads to a table.
#[derive(Clone, Debug, Default)]
pub struct Change<'a> {
    /// What is not as it should be.
    pub differences: Vec<Difference>,
    /// One transaction.
    pub steps: Vec<Step<'a>>,
    /// Another one behind it, since the kernel takes no base chains amid it: the table is no longer dormant.
    pub wake: bool,
    /// Base chains that it removes: packets that wait in queues are lost with them.
    pub removed_base_chains: Vec<String>,
    /// Sets that are new, or whose elements could not be kept.
    pub empty_sets: BTreeSet<&'a str>,
}

/// What leads from `current` (`None`: there is no table) to `wanted`. What is tolerated is left alone, and so is what its
/// rules name.
#[must_use]
pub fn change<'a>(current: Option<&'a Image>, wanted: &'a Image, tolerated: Tolerated) -> Change<'a> {
    static NOTHING: Image =
        Image { dormant: false, chains: BTreeMap::new(), sets: BTreeMap::new(), objects: BTreeMap::new() };
    let mut change = Change::default();
    if current.is_none() {
        change.tell(Thing::Table, "there is no table".to_owned());
        change.steps.push(Step::AddTable);
    }
    let current = current.unwrap_or(&NOTHING);
    if current.dormant != wanted.dormant {
        change.tell(Thing::Table, "the table is dormant".to_owned());
        change.wake = true;
    }
    let left = left_alone(current, wanted, tolerated);
    let sets_go = sets(&mut change, current, wanted, &left);
    let objects_go = objects(&mut change, current, wanted, &left);
    chains(&mut change, current, wanted, &left, sets_go || objects_go);
    change.steps.sort_by_key(|step| (step.phase(), step.place()));
    change
}

impl Step<'_> {
    /// First goes what uses others, and what is used comes first.
    fn phase(&self) -> u8 {
        match self {
            Self::AddTable => 0,
            Self::FlushChain(_) => 1,
            // Elements of maps lead to chains.
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

    /// What is added comes in the order of the text.
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

/// What is not wanted and yet not touched.
fn left_alone(current: &Image, wanted: &Image, tolerated: Tolerated) -> BTreeSet<String> {
    let chains = current.chains.keys().filter(|name| (tolerated.chain)(name));
    let chains = chains.filter(|name| !wanted.chains.contains_key(*name));
    let sets = current.sets.keys().filter(|name| (tolerated.set)(name));
    let sets = sets.filter(|name| !wanted.sets.contains_key(*name));
    let mut left: BTreeSet<String> = chains.chain(sets).cloned().collect();
    let chains = current.chains.iter().filter(|(name, _)| left.contains(*name));
    let expressions = chains.flat_map(|(_, chain)| &chain.rules).flat_map(|rule| &rule.expressions);
    let named: Vec<String> = expressions.filter_map(|expression| expression.names.clone()).collect();
    left.extend(named);
    left
}

impl Change<'_> {
    fn tell(&mut self, thing: Thing, text: String) {
        self.differences.push(Difference { thing, text });
    }
}

/// Says whether any goes, which rules may use.
fn sets<'a>(change: &mut Change<'a>, current: &'a Image, wanted: &'a Image, left: &BTreeSet<String>) -> bool {
    let mut gone = false;
    for (name, set) in &wanted.sets {
        match current.sets.get(name) {
            None => {
                change.tell(Thing::Set(name.clone()), format!("set {name} is missing"));
                change.empty_sets.insert(name);
                change.steps.push(Step::AddSet(name, set));
            }
            Some(is) if is.declaration != set.declaration => {
                change.tell(Thing::Set(name.clone()), format!("set {name} is declared otherwise"));
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
                change.tell(Thing::Set(name.clone()), format!("set {name} has other elements"));
                change.steps.push(Step::FillSet(name, set));
            }
            Some(_) => {}
        }
    }
    for name in current.sets.keys().filter(|name| !wanted.sets.contains_key(*name) && !left.contains(*name)) {
        change.tell(Thing::Set(name.clone()), format!("set {name} is not wanted"));
        gone = true;
        change.steps.push(Step::DeleteSet(name));
    }
    gone
}

/// Says whether any goes, which rules may use.
fn objects<'a>(
    change: &mut Change<'a>,
    current: &'a Image,
    wanted: &'a Image,
    left: &BTreeSet<String>,
) -> bool {
    let mut gone = false;
    for ((kind, name), object) in &wanted.objects {
        match current.objects.get(&(*kind, name.clone())) {
            Some(is) if is.data == object.data => continue,
            None => change.tell(Thing::Object(name.clone()), format!("object {name} is missing")),
            Some(_) => {
                change.tell(Thing::Object(name.clone()), format!("object {name} is declared otherwise"));
                gone = true;
                change.steps.push(Step::DeleteObject(*kind, name));
            }
        }
        change.steps.push(Step::AddObject(*kind, name, object));
    }
    for (key @ (kind, name), object) in &current.objects {
        if !wanted.objects.contains_key(key) && !object.outlives && !left.contains(name) {
            change.tell(Thing::Object(name.clone()), format!("object {name} is not wanted"));
            gone = true;
            change.steps.push(Step::DeleteObject(*kind, name));
        }
    }
    gone
}

fn chains<'a>(
    change: &mut Change<'a>,
    current: &'a Image,
    wanted: &'a Image,
    left: &BTreeSet<String>,
    uses_gone: bool,
) {
    let unwanted = || {
        let chains = current.chains.iter();
        chains.filter(|(name, _)| !wanted.chains.contains_key(*name) && !left.contains(*name))
    };
    let remade = |name: &str, is: &Chain| wanted.chains.get(name).is_some_and(|chain| chain.base != is.base);
    let refill =
        uses_gone || unwanted().next().is_some() || current.chains.iter().any(|(name, is)| remade(name, is));
    for (name, is) in &current.chains {
        let Some(chain) = wanted.chains.get(name) else { continue };
        let differs = rules_differ(name, &is.rules, &chain.rules);
        if refill || differs.is_some() {
            if !is.rules.is_empty() {
                change.steps.push(Step::FlushChain(name));
            }
            change.steps.push(Step::AddRules(name, &chain.rules));
        }
        if let Some(text) = differs {
            change.tell(Thing::Chain(name.clone()), text);
        }
        if chain.base != is.base {
            change
                .tell(Thing::Chain(name.clone()), format!("chain {name} has another type, hook or priority"));
            change.steps.extend([Step::DeleteChain(name), Step::AddChain(name, chain)]);
            if is.base.is_some() {
                change.removed_base_chains.push(name.clone());
            }
        } else if let Some(policy) = chain.policy.filter(|policy| is.policy != Some(*policy)) {
            let is = if is.policy == Some(NF_ACCEPT) { "accept" } else { "drop" };
            change.tell(Thing::Chain(name.clone()), format!("chain {name} has policy {is}"));
            change.steps.push(Step::SetPolicy(name, policy));
        }
    }
    for (name, is) in unwanted() {
        change.tell(Thing::Chain(name.clone()), format!("chain {name} is not wanted"));
        if !is.rules.is_empty() {
            change.steps.push(Step::FlushChain(name));
        }
        if is.base.is_some() {
            change.removed_base_chains.push(name.clone());
        }
    }
    change.steps.extend(unwanted().map(|(name, _)| Step::DeleteChain(name)));
    for (name, chain) in wanted.chains.iter().filter(|(name, _)| !current.chains.contains_key(*name)) {
        change.tell(Thing::Chain(name.clone()), format!("chain {name} is missing"));
        change.steps.extend([Step::AddChain(name, chain), Step::AddRules(name, &chain.rules)]);
    }
}

/// How the rules of this chain differ.
fn rules_differ(chain: &str, current: &[Rule], wanted: &[Rule]) -> Option<String> {
    if current == wanted {
        return None;
    }
    if current.len() != wanted.len() {
        return Some(format!("chain {chain} has {} rules, not {}", current.len(), wanted.len()));
    }
    let first = current.iter().zip(wanted).take_while(|(is, wanted)| is == wanted).count();
    Some(format!("chain {chain}: rule {} differs", first + 1))
}

#[cfg(test)]
mod tests;
