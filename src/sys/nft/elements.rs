//! Reads and writes the elements of sets and maps.

use std::{collections::BTreeMap, ffi::CStr, io};

use super::{
    messages::{
        NFT_GOTO, NFT_MSG_DELSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_NEWSETELEM, NFT_SET_ELEM_INTERVAL_END,
        NFTA_COUNTER_PACKETS, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_LIST_ELEM,
        NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY,
        NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_VERDICT_CHAIN,
        NFTA_VERDICT_CODE, names,
    },
    reader::{Ask, Reader, is_missing},
    transaction::Transaction,
};
use crate::{
    plan::elements::{Elements, ElementsDiff, Raw, SetName},
    sys::netlink::{NFPROTO_INET, Writer, attribute, attributes, number},
};

impl Reader {
    /// Returns the elements of the sets that lbd changes one by one. A missing set counts as empty.
    pub(super) fn all_elements(&mut self) -> Result<Elements, (SetName, io::Error)> {
        let mut read = Elements::default();
        for set in SetName::ALL {
            read.read(set, self.elements(set.name()).map_err(|error| (set, error))?);
        }
        Ok(read)
    }

    /// Returns the elements of one of our sets; `None` for an element that synrail cannot have added. Empty
    /// if the set is missing.
    fn elements(&mut self, set: &str) -> io::Result<Vec<Option<Raw>>> {
        self.look(|reader| {
            let mut elements = Vec::new();
            reader.dump(set, |element| elements.push(raw(element)))?;
            Ok(elements)
        })
    }

    /// Returns the elements of one of our maps from numbers to marks.
    pub(super) fn marks(&mut self, map: &str) -> io::Result<Vec<(u32, u32)>> {
        self.look(|reader| {
            let mut marks = Vec::new();
            let mut readable = true;
            reader.dump(map, |element| {
                let mark = mark(element);
                readable &= mark.is_some();
                marks.extend(mark);
            })?;
            if readable { Ok(marks) } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }

    /// Returns these elements of one of our maps from numbers to marks; `None` if not all of them exist.
    pub(super) fn some_marks(&mut self, map: &str, keys: &[u32]) -> io::Result<Option<Vec<(u32, u32)>>> {
        let mut found = Vec::new();
        let asked = self.ask_each(
            NFT_MSG_GETSETELEM,
            keys.len(),
            |request| {
                names(request, NFTA_SET_ELEM_LIST_SET, map);
                request.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    for &key in keys {
                        list.nested(NFTA_LIST_ELEM, |element| write_mark(element, (key, None)));
                    }
                });
            },
            |answer| {
                each_element(answer, |element| found.extend(mark(element)));
                Ok(())
            },
        );
        match asked {
            Err(error) if is_missing(&error) => Ok(None),
            asked => asked.map(|()| Some(found)),
        }
    }

    /// Returns how many packets the elements of one of our sets have counted, by keys that are numbers.
    pub(super) fn counts(&mut self, set: &str) -> io::Result<BTreeMap<u32, u64>> {
        self.look(|reader| {
            let mut counts = BTreeMap::new();
            reader.dump(set, |element| counts.extend(count(element)))?;
            Ok(counts)
        })
    }

    /// Passes each element of one of our sets to `each`, as a part of a look; none if the set is missing.
    pub(super) fn dump(&mut self, set: &str, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let dumped = self.ask(
            NFT_MSG_GETSETELEM,
            Ask::All(NFPROTO_INET),
            |request| names(request, NFTA_SET_ELEM_LIST_SET, set),
            |_, answer| {
                each_element(answer, &mut each);
                Ok(())
            },
        );
        dumped.or_else(|error| if is_missing(&error) { Ok(()) } else { Err(error) })
    }
}

/// Passes each element in a message's attributes to `each`.
fn each_element(attributes_of_message: &[u8], mut each: impl FnMut(&[u8])) {
    let list = attribute(attributes_of_message, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    attributes(list).for_each(|(_, element)| each(element));
}

pub(super) fn value(element: &[u8], of: u16) -> Option<&[u8]> {
    attribute(attribute(element, of)?, NFTA_DATA_VALUE)
}

fn raw(element: &[u8]) -> Option<Raw> {
    let flags = number(element, NFTA_SET_ELEM_FLAGS).unwrap_or(0);
    let mark = data_value(element);
    let goto = match attribute(element, NFTA_SET_ELEM_DATA).filter(|_| mark.is_none()) {
        None => None,
        Some(data) => match attribute(data, NFTA_DATA_VERDICT) {
            Some(verdict) => {
                (number(verdict, NFTA_VERDICT_CODE)? == NFT_GOTO).then_some(())?;
                let chain = CStr::from_bytes_with_nul(attribute(verdict, NFTA_VERDICT_CHAIN)?).ok()?;
                Some(chain.to_str().ok()?.to_owned())
            }
            None => {
                data_value(element)?;
                None
            }
        },
    };
    Some(Raw {
        key: value(element, NFTA_SET_ELEM_KEY)?.to_vec(),
        ends_range: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        key_end: value(element, NFTA_SET_ELEM_KEY_END).map(<[u8]>::to_vec),
        goto,
        mark,
    })
}

fn data_value(element: &[u8]) -> Option<u32> {
    value(element, NFTA_SET_ELEM_DATA)?.try_into().ok().map(u32::from_ne_bytes)
}

fn mark(element: &[u8]) -> Option<(u32, u32)> {
    let number = |of| value(element, of)?.try_into().ok().map(u32::from_ne_bytes);
    Some((number(NFTA_SET_ELEM_KEY)?, number(NFTA_SET_ELEM_DATA)?))
}

fn count(element: &[u8]) -> Option<(u32, u64)> {
    let key = value(element, NFTA_SET_ELEM_KEY)?.try_into().ok().map(u32::from_ne_bytes)?;
    let data = attribute(attribute(element, NFTA_SET_ELEM_EXPR)?, NFTA_EXPR_DATA)?;
    Some((key, u64::from_be_bytes(*attribute(data, NFTA_COUNTER_PACKETS)?.first_chunk()?)))
}

/// Adds the messages that change the sets by this difference.
pub(super) fn change(diff: &ElementsDiff, transaction: &mut Transaction) {
    for set in &diff.refill {
        empty_set(transaction, set.name());
    }
    let verbs = [(NFT_MSG_DELSETELEM, "without", &diff.delete), (NFT_MSG_NEWSETELEM, "with", &diff.add)];
    for (kind, verb, elements) in verbs {
        for set in SetName::ALL {
            let what = format!("set {} {verb} some elements", set.name());
            let raw = elements.of(set).iter().flat_map(|element| element.raw(set));
            transaction.add_elements(kind, &what, set.name(), None, raw, |to, element| write(to, &element));
        }
    }
}

/// Adds the message that deletes the elements of a set or map.
pub(super) fn empty_set(transaction: &mut Transaction, set: &str) {
    transaction.add(NFT_MSG_DELSETELEM, 0, format!("the emptying of set {set}"), |message| {
        names(message, NFTA_SET_ELEM_LIST_SET, set);
    });
}

fn write(to: &mut Writer, Raw { key, ends_range, key_end, goto, mark }: &Raw) {
    to.nested(NFTA_SET_ELEM_KEY, |data| data.value(NFTA_DATA_VALUE, key));
    if let Some(end) = key_end {
        to.nested(NFTA_SET_ELEM_KEY_END, |data| data.value(NFTA_DATA_VALUE, end));
    }
    if *ends_range {
        to.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    }
    if let Some(mark) = mark {
        to.nested(NFTA_SET_ELEM_DATA, |data| data.value(NFTA_DATA_VALUE, &mark.to_ne_bytes()));
    }
    if let Some(chain) = goto {
        to.nested(NFTA_SET_ELEM_DATA, |data| {
            data.nested(NFTA_DATA_VERDICT, |verdict| {
                verdict.number(NFTA_VERDICT_CODE, NFT_GOTO);
                verdict.text(NFTA_VERDICT_CHAIN, chain);
            });
        });
    }
}

/// Writes an element of a map from numbers to marks; without the mark if the element is only named.
pub(super) fn write_mark(to: &mut Writer, (index, mark): (u32, Option<u32>)) {
    let mut number =
        |of, number: u32| to.nested(of, |data| data.value(NFTA_DATA_VALUE, &number.to_ne_bytes()));
    number(NFTA_SET_ELEM_KEY, index);
    if let Some(mark) = mark {
        number(NFTA_SET_ELEM_DATA, mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut element = Writer::default();
        fill(&mut element);
        element.bytes().to_vec()
    }

    #[test]
    fn what_is_cut_short_is_no_element() {
        let number = |writer: &mut Writer, of, number: u32| {
            writer.nested(of, |data| data.value(NFTA_DATA_VALUE, &number.to_ne_bytes()));
        };
        let data = element(|element| number(element, NFTA_SET_ELEM_DATA, 3));
        assert_eq!((raw(&data), mark(&data)), (None, None));
        let both = element(|element| {
            number(element, NFTA_SET_ELEM_DATA, 3);
            number(element, NFTA_SET_ELEM_KEY, 7);
        });
        assert_eq!(mark(&both), Some((7, 3)));
        for cut in 0..both.len() {
            assert_eq!(mark(&both[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn an_element_that_leads_elsewhere_is_none_of_ours() {
        let leads = |code, chain: Option<&str>| {
            raw(&element(|element| {
                element.nested(NFTA_SET_ELEM_KEY, |data| data.value(NFTA_DATA_VALUE, &[1; 4]));
                element.nested(NFTA_SET_ELEM_DATA, |data| {
                    data.nested(NFTA_DATA_VERDICT, |verdict| {
                        verdict.number(NFTA_VERDICT_CODE, code);
                        chain.into_iter().for_each(|chain| verdict.text(NFTA_VERDICT_CHAIN, chain));
                    });
                });
            }))
        };
        let (jump, drop) = (NFT_GOTO + 1, 0);
        let ours = Raw { key: vec![1; 4], goto: Some("web".to_owned()), ..Raw::default() };
        assert_eq!(leads(NFT_GOTO, Some("web")), Some(ours));
        assert_eq!([leads(jump, Some("web")), leads(drop, None), leads(NFT_GOTO, None)], [None, None, None]);
    }
}
