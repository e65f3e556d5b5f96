//! Policy rules that find a target's routing table by its mark. PURE.
//!
//! The kernel walks policy rules one by one, so a rule for each of a thousand targets would cost every packet
//! a thousand comparisons. Instead, the rules form a binary trie over the bits of the target's number:
//! ```text
//!   900  fwmark 0/mask            goto 902       not marked: 1 comparison
//!   901  iif eth2                 goto 10000     one for each device by which packets to VIPs come in
//!   901  from ADDRESS iif lo      goto 10000     health checks through tunnels, from [balancer] address
//!   902  nop
//!          ... rules of others ...
//!  9999  (no condition)           goto END       packets of other devices go around the tree
//! 10000  fwmark 0/mask            goto END       where the tree begins
//!        fwmark bit/bit           goto RIGHT     a fork: both halves have targets
//!          ... the left half ...
//! RIGHT    ... the right half ...
//!        fwmark mark/mask         lookup TABLE   a leaf
//!          ... leaves of up to 3 neighbours ...
//!        (no condition)           goto END       their exit: a mark of no target
//! 22288  nop                                     END
//! 22289  from ADDRESS iif lo       lookup 20000  the way back for answers to checks (routing/checks.rs)
//! 22289  iif sr-in4 fwmark 0/mask  blackhole    what came in by an entrance (routing/inbound.rs)
//! ```
//! Forks with one empty half are left out. Targets whose numbers differ only in the lowest `TOGETHER_BITS`
//! bits are compared one after the other. On average that takes no more comparisons than two forks and an
//! exit for each, and half the rules. A leaf compares the whole mark, so whatever the forks do, a packet
//! never reaches another target's table. Every mark, of a target or not, takes at most [`COMPARISONS_MAX`]
//! comparisons.
//!
//! **A tree for each family**, of the targets that have a route of it: a rule that leads to an empty table
//! only costs time.
//!
//! **The way in** ([`entries`]). Only packets of these devices enter the tree. Reverse path lookups also have
//! the mark of the packet (`net.ipv4.conf.all.src_valid_mark`, a firewall's `fib saddr . mark . iif`), but
//! they come from no device, or from the tunnel. They must find the route back to the client, not the
//! target's table. What this host sends itself also comes from no device (the kernel calls that `lo`); only
//! packets from the balancer's own address enter, which health checks through tunnels have, and which no
//! reverse path lookup of a client's packet has. The entries lie before the rules of others that would catch marked packets: rules for a
//! second uplink or a VPN, or the rule of VRFs (1000). Their priority is chosen on the host
//! ([`entry_priority`]).
//!
//! **Places are fixed**: each fork, leaf and exit has the priority of its place in the full trie over all
//! [`TARGETS_MAX`] numbers, so a new target moves no rule. Apart from its own rules, only the destination of
//! one fork's jump changes. [`changes`] orders additions and removals so that every target that stays is
//! reachable after each single step, and so that thousands of them are cheap for the kernel
//! (`fib_nl_newrule`, `fib_nl_delrule`). The kernel walks its list from the front to find the place of a rule
//! that is added, to find the rule that a jump leads to and, as long as there are jumps without a
//! destination, at each addition. It also walks the list for a rule that is removed and, as long as there are
//! jumps, for the jumps that lead to this rule. So rules are added from the end, jumps are removed before
//! leaves, and leaves are removed from the front.

use std::{cmp::Reverse, collections::BTreeSet, fmt, net::IpAddr};

use crate::model::{
    InterfaceName,
    ids::{MarkMask, TARGETS_MAX, TargetId},
};

/// The first priority of the tree.
pub const PRIORITY_FIRST: u32 = 10_000;
/// The priority of the rule that leads everything else around the tree.
pub const PRIORITY_AROUND: u32 = PRIORITY_FIRST - 1;
/// Where the entries begin on a host whose own rules all come after them.
pub const ENTRY_PRIORITY_DEFAULT: u32 = 900;
/// The number of priorities that the entries take.
pub const ENTRY_PRIORITIES: u32 = 3;
/// The number of priorities left free between the entries and the rule of others before which they are put.
/// The kernel gives a rule that is added without a priority that of the second rule minus one, and the next
/// such rules should not immediately come before ours.
const ENTRY_PRIORITIES_SPARE: u32 = 10;
/// The device by which the kernel's rules know what this host sends.
pub const SENT_BY_HOST: &str = "lo";
/// The last priority in use: the rule that all others jump to at the end.
pub const PRIORITY_END: u32 = PRIORITY_FIRST + 1 + places(BITS);
/// The priority of the rules after the tree that drop packets which came in by an entrance and have no mark
/// ([`guard`]).
pub const PRIORITY_GUARD: u32 = PRIORITY_END + 1;
/// The maximum number of rules of the tree that are compared for any mark: the first one, a fork for each bit
/// above the lowest, leaves, their exit, the end.
pub const COMPARISONS_MAX: u32 = 1 + (BITS - TOGETHER_BITS) + (1 << TOGETHER_BITS) + 2;

/// The bits that distinguish targets. [`TARGETS_MAX`] itself has the low bits of 0, which is no target's
/// number.
const BITS: u32 = TARGETS_MAX.ilog2();
/// The lowest of these bits, for which there are no forks.
const TOGETHER_BITS: u32 = 2;
const _: () = assert!(
    TARGETS_MAX.is_power_of_two() && PRIORITY_GUARD < 32_766,
    "must lie before the rule of table main"
);

/// The number of places of a full subtree over `bits` bits: `2^bits - 1` forks, `2^bits` leaves, as many
/// exits.
const fn places(bits: u32) -> u32 {
    3 * (1 << bits) - 1
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Continue at the first rule of this priority.
    Goto(u32),
    /// Look up this routing table; continue at the next rule if it has no route.
    Lookup(u32),
    /// Continue at the next rule.
    Nop,
    /// Drop the packet in silence.
    Blackhole,
}

/// The name of a device, as a value that can be copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    bytes: [u8; InterfaceName::BYTES_MAX],
    len: u8,
}

impl DeviceName {
    /// Makes a device name, or returns `None` if `name` is too long for one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; InterfaceName::BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { bytes, len: u8::try_from(name.len()).ok()? })
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A policy rule: `from ADDRESS iif DEVICE fwmark mark/mask action`. A mask of 0 matches every mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The priority of the rule.
    pub priority: u32,
    /// The only source address that the rule matches; `None` for all.
    pub from: Option<IpAddr>,
    /// The only device whose packets the rule matches; `None` for all.
    pub iif: Option<DeviceName>,
    /// The value that is compared with the packet's mark under `mask`.
    pub mark: u32,
    /// The bits that are compared.
    pub mask: u32,
    /// What is done with a matching packet.
    pub action: Action,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, from, iif, mark, mask, action } = self;
        write!(f, "rule {priority}: ")?;
        if let Some(address) = from {
            write!(f, "from {address} ")?;
        }
        if let Some(device) = iif {
            write!(f, "iif {} ", device.as_str())?;
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

/// Returns the rules that lead the mark of each target to `table(target)`. There are none if there are no
/// targets.
#[must_use]
pub fn rules(
    mask: MarkMask,
    targets: impl IntoIterator<Item = TargetId>,
    table: impl Fn(TargetId) -> u32,
) -> BTreeSet<Rule> {
    grown(mask, targets, table, TOGETHER_BITS)
}

fn grown(
    mask: MarkMask,
    targets: impl IntoIterator<Item = TargetId>,
    table: impl Fn(TargetId) -> u32,
    together_bits: u32,
) -> BTreeSet<Rule> {
    let mut keyed: Vec<(u32, TargetId)> = targets.into_iter().map(|target| (key(target), target)).collect();
    keyed.sort_unstable();
    keyed.dedup();
    let mut tree = Tree { mask, table, together_bits, rules: BTreeSet::new() };
    if !keyed.is_empty() {
        tree.add(PRIORITY_FIRST, 0, mask.bits(), Action::Goto(PRIORITY_END));
        tree.grow(&keyed, BITS, PRIORITY_FIRST + 1);
        tree.add(PRIORITY_END, 0, 0, Action::Nop);
    }
    tree.rules
}

/// Returns the rules by which marked packets that came in by one of `devices` enter the tree, beginning at
/// `priority`; those that this host sends from `own`; and the rule that leads everything else around it.
pub fn entries(
    mask: MarkMask,
    priority: u32,
    devices: impl IntoIterator<Item = DeviceName>,
    own: Option<IpAddr>,
) -> impl Iterator<Item = Rule> {
    let rule = |priority, mask, action| Rule { priority, from: None, iif: None, mark: 0, mask, action };
    let end = priority + ENTRY_PRIORITIES - 1;
    let entry =
        move |device| Rule { iif: Some(device), ..rule(priority + 1, 0, Action::Goto(PRIORITY_FIRST)) };
    let rest = [
        rule(priority, mask.bits(), Action::Goto(end)),
        rule(end, 0, Action::Nop),
        rule(PRIORITY_AROUND, 0, Action::Goto(PRIORITY_END)),
    ];
    let sent = own.zip(DeviceName::new(SENT_BY_HOST)).map(|(own, lo)| Rule { from: Some(own), ..entry(lo) });
    devices.into_iter().map(entry).chain(sent).chain(rest)
}

/// Reports whether the rule is one of [`entries`], of this or another run. It is recognized by its form,
/// since the rules of backends have our protocol too.
#[must_use]
pub fn is_entry(rule: &Rule) -> bool {
    let Rule { priority, from, iif, mark, mask, action } = *rule;
    let is_before = (1..PRIORITY_AROUND).contains(&priority);
    match action {
        Action::Goto(PRIORITY_FIRST) => is_before && mask == 0 && iif.is_some(),
        _ if from.is_some() || iif.is_some() => false,
        Action::Goto(PRIORITY_END) if priority == PRIORITY_AROUND => mask == 0,
        Action::Goto(end) => end < PRIORITY_AROUND && mark == 0 && mask != 0,
        Action::Nop => is_before && mask == 0,
        Action::Lookup(_) | Action::Blackhole => false,
    }
}

/// Returns where the entries begin. They stay where they are (`now`), or begin at the default, unless a rule
/// of others that may catch marked packets lies before their end. `earliest` is the first such rule; then the
/// entries begin before it.
#[must_use]
pub fn entry_priority(now: Option<u32>, earliest: Option<u32>) -> u32 {
    let usual = now.unwrap_or(ENTRY_PRIORITY_DEFAULT);
    match earliest {
        Some(earliest) if earliest < usual + ENTRY_PRIORITIES => {
            // Not 0, the priority of table `local`: rules that are added without a priority would get 0 too,
            // each after the last.
            earliest.saturating_sub(ENTRY_PRIORITIES + ENTRY_PRIORITIES_SPARE).max(1)
        }
        Some(_) | None => usual,
    }
}

/// Returns the rule by which the way back for answers to `own` is looked up in `table`, after the tree
/// (`routing/checks.rs`).
#[must_use]
pub fn way_back(own: IpAddr, table: u32) -> Option<Rule> {
    let action = Action::Lookup(table);
    let iif = Some(DeviceName::new(SENT_BY_HOST)?);
    Some(Rule { priority: PRIORITY_GUARD, from: Some(own), iif, mark: 0, mask: 0, action })
}

/// Returns the rule that drops packets which came in by `entrance` and have no mark under `mask`. Marked
/// packets have left by the tree before.
#[must_use]
pub fn guard(entrance: DeviceName, mask: MarkMask) -> Rule {
    Rule {
        priority: PRIORITY_GUARD,
        from: None,
        iif: Some(entrance),
        mark: 0,
        mask: mask.bits(),
        action: Action::Blackhole,
    }
}

fn key(target: TargetId) -> u32 {
    target.number() & ((1 << BITS) - 1)
}

/// Returns the place of a key's leaf in the full subtree over `bits` bits that begins at `priority`.
const fn leaf(key: u32, bits: u32, priority: u32) -> u32 {
    let Some(low) = bits.checked_sub(1) else { return priority };
    leaf(key, low, priority + 1 + if key & (1 << low) == 0 { 0 } else { places(low) })
}

struct Tree<F> {
    mask: MarkMask,
    table: F,
    /// See [`TOGETHER_BITS`].
    together_bits: u32,
    rules: BTreeSet<Rule>,
}

impl<F: Fn(TargetId) -> u32> Tree<F> {
    fn add(&mut self, priority: u32, mark: u32, mask: u32, action: Action) {
        self.rules.insert(Rule { priority, from: None, iif: None, mark, mask, action });
    }

    /// Adds the subtree of `keyed` (not empty, ascending), whose place begins at `priority`. Returns the
    /// priority of its first rule.
    fn grow(&mut self, keyed: &[(u32, TargetId)], bits: u32, priority: u32) -> u32 {
        if bits == self.together_bits {
            for &(key, target) in keyed {
                let mark = self.mask.mark(target).0;
                let action = Action::Lookup((self.table)(target));
                self.add(leaf(key, bits, priority), mark, self.mask.bits(), action);
            }
            // The exit has the place of the last leaf's exit.
            self.add(priority + places(bits) - 1, 0, 0, Action::Goto(PRIORITY_END));
            return leaf(keyed[0].0, bits, priority);
        }
        let low = bits - 1;
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
    /// Add the rule, after others of its priority.
    Add(Rule),
    /// Remove the rule.
    Remove(Rule),
}

/// Returns the steps from `now` to `desired`, in an order that keeps targets which are in both reachable all
/// the time.
///
/// Removed exits come first, and new exits are added after forks and leaves: an exit may be there only if the
/// forks that lead around it are. All other removals come last. A fork whose jump changes is replaced before
/// anything that it jumped to is removed.
#[must_use]
pub fn changes(now: &BTreeSet<Rule>, desired: &BTreeSet<Rule>) -> Vec<Step> {
    let mut added: Vec<Rule> = desired.difference(now).copied().collect();
    added.sort_by_key(|rule| (Part::of(rule), Reverse(rule.priority)));
    let places_desired: BTreeSet<u32> = desired.iter().map(|rule| rule.priority).collect();
    let (mut replaced, mut removed): (Vec<Rule>, Vec<Rule>) =
        now.difference(desired).partition(|rule| places_desired.contains(&rule.priority));
    let mut exits = Vec::new();
    for rules in [&mut replaced, &mut removed] {
        exits.extend(rules.extract_if(.., |rule| Part::of(rule) == Part::Exit));
    }
    replaced.sort_by_key(|rule| Reverse((Part::of(rule), rule.priority)));
    // If the whole tree is removed, leaves are removed when no jump is left.
    let is_leaf = |rule: &Rule| matches!(rule.action, Action::Lookup(_));
    removed.sort_by_key(|rule| {
        (Part::of(rule) == Part::End, is_leaf(rule), Reverse(Part::of(rule)), rule.priority)
    });
    let removed = replaced.into_iter().chain(removed).map(Step::Remove);
    exits.into_iter().map(Step::Remove).chain(added.into_iter().map(Step::Add)).chain(removed).collect()
}

/// The role of a rule, in the order in which rules are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Guards and the ends.
    End,
    /// The tree's first rule.
    First,
    /// A fork or a leaf.
    Tree,
    Exit,
    /// The rule that leads packets without a mark around the entries.
    Unmarked,
    Entry,
    Around,
}

impl Part {
    fn of(rule: &Rule) -> Self {
        match rule.action {
            Action::Nop | Action::Blackhole => Self::End,
            Action::Goto(_) if rule.priority == PRIORITY_FIRST => Self::First,
            Action::Goto(_) if rule.priority == PRIORITY_AROUND => Self::Around,
            Action::Goto(_) if rule.priority < PRIORITY_AROUND && rule.iif.is_none() => Self::Unmarked,
            Action::Goto(_) if rule.priority < PRIORITY_AROUND => Self::Entry,
            Action::Goto(_) if rule.mask == 0 => Self::Exit,
            Action::Goto(_) | Action::Lookup(_) => Self::Tree,
        }
    }
}

#[cfg(test)]
mod tests;
