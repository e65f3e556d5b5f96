//! Reads our table by netlink (`plan/nf_table.rs`), and writes the messages that change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    elements::empty_set,
    messages::*,
    reader::{Ask, Reader, is_missing},
    transaction::Transaction,
};
use crate::{
    plan::{
        elements::TABLE,
        nf_table::{Chain, Expression, Image, Object, Rule, Set, Step},
    },
    sys::netlink::{
        NFPROTO_INET, NLM_F_APPEND, NLM_F_CREATE, Writer, attribute, attributes, number, text,
        whole_attributes,
    },
};

/// The kind of flowtables, which are handled as objects.
const FLOWTABLE: u32 = u32::MAX;
/// The attributes of a set that are read and written, besides its name and userdata.
const SET_ATTRIBUTES: [u16; 12] = [
    NFTA_SET_FLAGS,
    NFTA_SET_KEY_TYPE,
    NFTA_SET_KEY_LEN,
    NFTA_SET_DATA_TYPE,
    NFTA_SET_DATA_LEN,
    NFTA_SET_POLICY,
    NFTA_SET_DESC,
    NFTA_SET_TIMEOUT,
    NFTA_SET_GC_INTERVAL,
    NFTA_SET_OBJ_TYPE,
    NFTA_SET_EXPR,
    NFTA_SET_EXPRESSIONS,
];
/// Of these, the attributes that decide whether the elements of one set fit another.
const SET_KIND: [u16; 5] =
    [NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN, NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN, NFTA_SET_OBJ_TYPE];
const NFT_SET_INTERVAL: u32 = libc::NFT_SET_INTERVAL.cast_unsigned();
const NFT_SET_MAP: u32 = libc::NFT_SET_MAP.cast_unsigned();
const NFT_SET_TIMEOUT: u32 = libc::NFT_SET_TIMEOUT.cast_unsigned();
const NFT_SET_EVAL: u32 = libc::NFT_SET_EVAL.cast_unsigned();
/// The attributes of an element that are kept, besides its time to live.
const ELEMENT_ATTRIBUTES: [u16; 5] =
    [NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_OBJREF, NFTA_SET_ELEM_KEY_END];
const ELEMENT_TIMES: [u16; 2] = [NFTA_SET_ELEM_TIMEOUT, NFTA_SET_ELEM_EXPIRATION];
const OVER_MS: u64 = 50;
/// The expressions that name a set, with two attributes: the set's name, and its number in a transaction.
const NAME_A_SET: [(&str, u16, u16); 3] = [("lookup", 1, 4), ("dynset", 1, 2), ("objref", 4, 5)];
/// The attributes of expressions in which the kernel counts.
const COUNTS: [(&str, &[u16]); 3] = [("counter", &[1, 2]), ("last", &[1, 2]), ("quota", &[4])];
const NFTA_OBJREF_IMM_NAME: u16 = 2;
/// The kernel replaces "%d" by a number.
const ANONYMOUS: &str = "__set%d";

/// The sets whose elements are read, besides anonymous sets.
#[derive(Clone, Copy)]
pub(super) enum ElementsOf<'a> {
    /// All sets that rules do not fill.
    All,
    /// The sets that have elements in this image.
    These(&'a Image),
}

/// A flowtable.
pub(super) struct Flowtable {
    object: Object,
    pub(super) devices: BTreeSet<String>,
}

impl Reader {
    /// Reads our table; `None` if it does not exist.
    pub(super) fn image(&mut self, elements_of: ElementsOf<'_>) -> io::Result<Option<Image>> {
        self.look(|reader| {
            let mut dormant = None;
            let asked = reader.ask(
                NFT_MSG_GETTABLE,
                Ask::One,
                |request| request.text(NFTA_TABLE_NAME, TABLE),
                |_, table| {
                    let flags = number(table, NFTA_TABLE_FLAGS).unwrap_or(0);
                    dormant = Some(flags & NFT_TABLE_F_DORMANT != 0);
                    Ok(())
                },
            );
            match asked {
                Err(error) if !is_missing(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let Some(dormant) = dormant else { return Ok(None) };
            let mut image = Image { dormant, ..Image::default() };
            let mut anonymous = BTreeMap::new();
            for (name, mut set, flags) in reader.sets()? {
                let is_anonymous = flags & NFT_SET_ANONYMOUS != 0;
                let read = match elements_of {
                    ElementsOf::All => flags & NFT_SET_EVAL == 0,
                    ElementsOf::These(of) => of.sets.get(&name).is_some_and(|set| !set.elements.is_empty()),
                };
                if is_anonymous || read {
                    reader.dump(&name, |element| {
                        set.elements.insert(only(element, &ELEMENT_ATTRIBUTES));
                    })?;
                }
                if is_anonymous { &mut anonymous } else { &mut image.sets }.insert(name, set);
            }
            image.objects = reader.objects()?;
            let flowtables = reader.flowtables()?.into_iter();
            image.objects.extend(flowtables.map(|(name, flowtable)| ((FLOWTABLE, name), flowtable.object)));
            image.chains = reader.chains()?;
            reader.rules(&anonymous, &mut image.chains)?;
            Ok(Some(image))
        })
    }

    /// Returns the names of our chains, and of our sets and maps.
    pub(super) fn names(&mut self) -> io::Result<(Vec<String>, Vec<String>)> {
        self.look(|reader| {
            let sets = reader.sets()?.into_iter().map(|(name, ..)| name).collect();
            Ok((reader.chains()?.into_keys().collect(), sets))
        })
    }

    /// Passes all things of one kind in our table to `each`.
    pub(super) fn all(&mut self, get: u16, mut each: impl FnMut(&[u8]) -> Option<()>) -> io::Result<()> {
        self.ask(
            get,
            Ask::All(NFPROTO_INET),
            |request| request.text(NFTA_OWN_TABLE, TABLE),
            |_, answer| {
                if text(answer, NFTA_OWN_TABLE) != Some(TABLE) {
                    return Ok(());
                }
                each(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
            },
        )
    }

    /// Reads the sets, with their flags and without elements.
    fn sets(&mut self) -> io::Result<Vec<(String, Set, u32)>> {
        let mut sets = Vec::new();
        self.all(NFT_MSG_GETSET, |set| {
            let flags = number(set, NFTA_SET_FLAGS).unwrap_or(0);
            let size = attribute(set, NFTA_SET_DESC).and_then(|desc| number(desc, NFTA_SET_DESC_SIZE));
            let mut kind = only(set, &SET_KIND);
            kind.extend((flags & (NFT_SET_INTERVAL | NFT_SET_MAP)).to_be_bytes());
            let read = Set {
                place: sets.len(),
                declaration: only(set, &SET_ATTRIBUTES),
                kind,
                size: size.unwrap_or(0),
                timeout: flags & NFT_SET_TIMEOUT != 0,
                elements: BTreeSet::new(),
                userdata: attribute(set, NFTA_SET_USERDATA).map(<[u8]>::to_vec),
            };
            sets.push((text(set, NFTA_SET_NAME)?.to_owned(), read, flags));
            Some(())
        })?;
        Ok(sets)
    }

    fn objects(&mut self) -> io::Result<BTreeMap<(u32, String), Object>> {
        let mut objects = BTreeMap::new();
        self.all(NFT_MSG_GETOBJ, |object| {
            let kind = number(object, NFTA_OBJ_TYPE)?;
            let data = if kind == NFT_OBJECT_COUNTER {
                Vec::new()
            } else {
                attribute(object, NFTA_OBJ_DATA)?.to_vec()
            };
            let read = Object { place: objects.len(), data, outlives: kind == NFT_OBJECT_CT_TIMEOUT };
            objects.insert((kind, text(object, NFTA_OBJ_NAME)?.to_owned()), read);
            Some(())
        })?;
        Ok(objects)
    }

    pub(super) fn flowtables(&mut self) -> io::Result<BTreeMap<String, Flowtable>> {
        let mut flowtables = BTreeMap::new();
        self.all(NFT_MSG_GETFLOWTABLE, |flowtable| {
            let hook = attribute(flowtable, NFTA_FLOWTABLE_HOOK)?;
            let place = only(hook, &[NFTA_FLOWTABLE_HOOK_NUM, NFTA_FLOWTABLE_HOOK_PRIORITY]);
            let mut declaration = Writer::default();
            declaration.nested(NFTA_FLOWTABLE_HOOK, |hook| hook.whole(&place));
            declaration.number(NFTA_FLOWTABLE_FLAGS, number(flowtable, NFTA_FLOWTABLE_FLAGS).unwrap_or(0));
            let data = declaration.bytes().to_vec();
            let devices = attributes(attribute(hook, NFTA_FLOWTABLE_HOOK_DEVS).unwrap_or_default());
            let name_of = |device: &[u8]| {
                str::from_utf8(device).ok().map(|name| name.trim_end_matches('\0').to_owned())
            };
            let read = Flowtable {
                object: Object { place: flowtables.len(), data, outlives: false },
                devices: devices.filter_map(|(_, device)| name_of(device)).collect(),
            };
            flowtables.insert(text(flowtable, NFTA_FLOWTABLE_NAME)?.to_owned(), read);
            Some(())
        })?;
        Ok(flowtables)
    }

    /// Reads the chains, without rules.
    fn chains(&mut self) -> io::Result<BTreeMap<String, Chain>> {
        let mut chains = BTreeMap::new();
        self.all(NFT_MSG_GETCHAIN, |chain| {
            let base = attribute(chain, NFTA_CHAIN_HOOK).is_some();
            let base = base.then(|| only(chain, &[NFTA_CHAIN_HOOK, NFTA_CHAIN_TYPE]));
            let policy = number(chain, NFTA_CHAIN_POLICY);
            let read = Chain { place: chains.len(), base, policy, rules: Vec::new() };
            chains.insert(text(chain, NFTA_CHAIN_NAME)?.to_owned(), read);
            Some(())
        })?;
        Ok(chains)
    }

    fn rules(
        &mut self,
        anonymous: &BTreeMap<String, Set>,
        chains: &mut BTreeMap<String, Chain>,
    ) -> io::Result<()> {
        self.all(NFT_MSG_GETRULE, |rule| {
            let list = attribute(rule, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
            let expressions: Option<Vec<Expression>> =
                attributes(list).map(|(_, element)| expression(element, anonymous)).collect();
            let userdata = attribute(rule, NFTA_RULE_USERDATA).map(<[u8]>::to_vec);
            // A new rule in a new chain is of another generation, and the look will be repeated.
            if let Some(chain) = chains.get_mut(text(rule, NFTA_RULE_CHAIN)?) {
                chain.rules.push(Rule { expressions: expressions?, userdata });
            }
            Some(())
        })
    }

    /// Reads the elements of a set, each in a form that can be added again.
    fn kept_elements(&mut self, set: &str, times: bool) -> io::Result<Vec<Vec<u8>>> {
        self.look(|reader| {
            let mut elements = Vec::new();
            reader.dump(set, |element| {
                let mut kept = only(element, &ELEMENT_ATTRIBUTES);
                if times {
                    let Some(times) = kept_times(element) else { return };
                    kept.extend(times);
                }
                elements.push(kept);
            })?;
            Ok(elements)
        })
    }
}

/// Returns the time to live of an element that is kept; `None` if it is over. An element with the set's own
/// time gets the remaining time as its own: the set may now be declared with a shorter time, and the kernel
/// refuses a longer remaining time than that.
fn kept_times(element: &[u8]) -> Option<Vec<u8>> {
    let Some(left) = attribute(element, NFTA_SET_ELEM_EXPIRATION) else { return Some(Vec::new()) };
    // The kernel would take a time shorter than one of its ticks as no time limit.
    let over = left.first_chunk().is_none_or(|left| u64::from_be_bytes(*left) < OVER_MS);
    if over {
        return None;
    }
    if attribute(element, NFTA_SET_ELEM_TIMEOUT).is_some() {
        return Some(only(element, &ELEMENT_TIMES));
    }
    let mut own = Writer::default();
    own.value(NFTA_SET_ELEM_TIMEOUT, left);
    Some(own.bytes().to_vec())
}

/// Returns these attributes, in the order in which the message has them.
fn only(bytes: &[u8], kinds: &[u16]) -> Vec<u8> {
    filtered(bytes, |kind| kinds.contains(&kind))
}

fn filtered(bytes: &[u8], keep: impl Fn(u16) -> bool) -> Vec<u8> {
    whole_attributes(bytes).filter(|(kind, _)| keep(*kind)).flat_map(|(_, whole)| whole).copied().collect()
}

fn expression(element: &[u8], anonymous: &BTreeMap<String, Set>) -> Option<Expression> {
    let name = text(element, NFTA_EXPR_NAME)?.to_owned();
    let all = attribute(element, NFTA_EXPR_DATA).unwrap_or_default();
    let set = NAME_A_SET.iter().find(|(expression, ..)| *expression == name);
    let set = set.and_then(|&(_, attribute, id)| Some((attribute, id, text(all, attribute)?)));
    let counts =
        COUNTS.iter().find(|(expression, _)| *expression == name).map_or(&[][..], |(_, kinds)| kinds);
    let compared = |data: &[u8]| filtered(data, |kind| !counts.contains(&kind));
    if let Some((attribute, id, set)) = set
        && let Some(set) = anonymous.get(set)
    {
        let data = filtered(all, |kind| kind != attribute && kind != id);
        let anonymous = Some(Box::new(set.clone()));
        return Some(Expression { name, compared: compared(&data), data, anonymous, names: None });
    }
    let verdict = || {
        let data = attribute(all, NFTA_IMMEDIATE_DATA).filter(|_| name == "immediate")?;
        text(attribute(data, NFTA_DATA_VERDICT)?, NFTA_VERDICT_CHAIN)
    };
    let object = || text(all, NFTA_OBJREF_IMM_NAME).filter(|_| name == "objref");
    let names = set.map(|(.., set)| set).or_else(verdict).or_else(object).map(str::to_owned);
    Some(Expression { compared: compared(all), data: all.to_vec(), anonymous: None, names, name })
}

/// How things of one kind are made and deleted.
struct Kind {
    word: &'static str,
    new: u16,
    delete: u16,
    name: u16,
}

const CHAIN: Kind =
    Kind { word: "chain", new: NFT_MSG_NEWCHAIN, delete: NFT_MSG_DELCHAIN, name: NFTA_CHAIN_NAME };
const SET: Kind = Kind { word: "set", new: NFT_MSG_NEWSET, delete: NFT_MSG_DELSET, name: NFTA_SET_NAME };
const OBJECT: Kind =
    Kind { word: "object", new: NFT_MSG_NEWOBJ, delete: NFT_MSG_DELOBJ, name: NFTA_OBJ_NAME };
const OF_FLOWTABLE: Kind = Kind {
    word: "flowtable",
    new: NFT_MSG_NEWFLOWTABLE,
    delete: NFT_MSG_DELFLOWTABLE,
    name: NFTA_FLOWTABLE_NAME,
};

impl Kind {
    fn add(&self, transaction: &mut Transaction, name: &str, fill: impl FnOnce(&mut Writer)) {
        transaction.add(self.new, NLM_F_CREATE, format!("{} {name}", self.word), |message| {
            names(message, self.name, name);
            fill(message);
        });
    }

    fn delete(&self, transaction: &mut Transaction, name: &str, fill: impl FnOnce(&mut Writer)) {
        transaction.add(self.delete, 0, format!("the removal of {} {name}", self.word), |message| {
            names(message, self.name, name);
            fill(message);
        });
    }
}

/// Adds the messages for these steps, in this order.
///
/// # Errors
/// Returns an error if elements that have to be kept cannot be read.
pub(super) fn put(steps: &[Step<'_>], transaction: &mut Transaction) -> io::Result<()> {
    let mut sets = 0;
    for step in steps {
        match *step {
            Step::AddTable => add_table(transaction),
            Step::FlushChain(name) => flush_chain(transaction, name),
            Step::DeleteChain(name) => CHAIN.delete(transaction, name, |_| {}),
            Step::DeleteSet(name) => SET.delete(transaction, name, |_| {}),
            Step::DeleteObject(FLOWTABLE, name) => OF_FLOWTABLE.delete(transaction, name, |_| {}),
            Step::DeleteObject(kind, name) => {
                OBJECT.delete(transaction, name, |message| message.number(NFTA_OBJ_TYPE, kind));
            }
            Step::AddChain(name, chain) => CHAIN.add(transaction, name, |message| {
                message.whole(chain.base.as_deref().unwrap_or_default());
                if let Some(policy) = chain.policy {
                    message.number(NFTA_CHAIN_POLICY, policy);
                }
            }),
            Step::SetPolicy(name, policy) => {
                transaction.add(NFT_MSG_NEWCHAIN, 0, format!("the policy of chain {name}"), |message| {
                    names(message, NFTA_CHAIN_NAME, name);
                    message.number(NFTA_CHAIN_POLICY, policy);
                });
            }
            Step::AddSet(name, set) => {
                sets += 1;
                add_set(transaction, name, sets, set);
                add_elements(transaction, name, None, &set.elements);
            }
            Step::KeepElements(name, set) => {
                let kept = Reader::open()?.kept_elements(name, set.timeout)?;
                let room =
                    if set.size == 0 { usize::MAX } else { usize::try_from(set.size).unwrap_or(usize::MAX) };
                add_elements(transaction, name, None, kept.iter().take(room));
            }
            Step::FillSet(name, set) => {
                empty_set(transaction, name);
                add_elements(transaction, name, None, &set.elements);
            }
            // The flowtable is added without devices (`flowtable.rs`).
            Step::AddObject(FLOWTABLE, name, object) => {
                OF_FLOWTABLE.add(transaction, name, |message| message.whole(&object.data));
            }
            Step::AddObject(kind, name, object) => OBJECT.add(transaction, name, |message| {
                message.number(NFTA_OBJ_TYPE, kind);
                message.nested(NFTA_OBJ_DATA, |data| data.whole(&object.data));
            }),
            Step::AddRules(chain, rules) => {
                for (rule, number) in rules.iter().zip(1..) {
                    add_rule(transaction, chain, number, rule, &mut sets);
                }
            }
        }
    }
    Ok(())
}

/// Adds the message that creates the table, and wakes it if it is dormant.
pub(super) fn add_table(transaction: &mut Transaction) {
    transaction.add(NFT_MSG_NEWTABLE, NLM_F_CREATE, "the table", |message| {
        message.text(NFTA_TABLE_NAME, TABLE);
        message.number(NFTA_TABLE_FLAGS, 0);
    });
}

/// Adds the message that deletes the rules of a chain.
pub(super) fn flush_chain(transaction: &mut Transaction, name: &str) {
    transaction.add(NFT_MSG_DELRULE, 0, format!("the emptying of chain {name}"), |message| {
        names(message, NFTA_RULE_CHAIN, name);
    });
}

fn add_set(transaction: &mut Transaction, name: &str, number: u32, set: &Set) {
    SET.add(transaction, name, |message| {
        message.number(NFTA_SET_ID, number);
        message.whole(&set.declaration);
        if let Some(userdata) = &set.userdata {
            message.value(NFTA_SET_USERDATA, userdata);
        }
    });
}

fn add_elements<'a>(
    transaction: &mut Transaction,
    name: &str,
    number: Option<u32>,
    elements: impl IntoIterator<Item = &'a Vec<u8>>,
) {
    let what = format!("elements of set {name}");
    transaction
        .add_elements(NFT_MSG_NEWSETELEM, &what, name, number, elements, |to, element| to.whole(element));
}

fn add_rule(transaction: &mut Transaction, chain: &str, number: u32, rule: &Rule, sets: &mut u32) {
    let what = format!("rule {number} of chain {chain}");
    let mut numbers = Vec::new();
    for expression in &rule.expressions {
        numbers.push(expression.anonymous.as_ref().map(|set| {
            *sets += 1;
            add_set(transaction, ANONYMOUS, *sets, set);
            add_elements(transaction, ANONYMOUS, Some(*sets), &set.elements);
            *sets
        }));
    }
    transaction.add(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, what, |message| {
        names(message, NFTA_RULE_CHAIN, chain);
        message.nested(NFTA_RULE_EXPRESSIONS, |list| {
            for (Expression { name, data, .. }, number) in rule.expressions.iter().zip(&numbers) {
                list.nested(NFTA_LIST_ELEM, |element| {
                    element.text(NFTA_EXPR_NAME, name);
                    element.nested(NFTA_EXPR_DATA, |attributes| {
                        attributes.whole(data);
                        let set = NAME_A_SET.iter().find(|(expression, ..)| expression == name);
                        if let (Some(number), Some((_, set, id))) = (number, set) {
                            attributes.text(*set, ANONYMOUS);
                            attributes.number(*id, *number);
                        }
                    });
                });
            }
        });
        if let Some(userdata) = &rule.userdata {
            message.value(NFTA_RULE_USERDATA, userdata);
        }
    });
}
