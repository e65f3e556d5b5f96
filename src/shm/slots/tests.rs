use std::io;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Name, TableSize},
    state::Service,
};

/// A memory in which the writer dies after some words were written.
#[derive(Clone, Default)]
struct Bytes {
    bytes: Vec<u8>,
    words_left: Option<usize>,
}

impl Bytes {
    fn beyond() -> io::Error {
        io::Error::from(io::ErrorKind::UnexpectedEof)
    }

    fn spend(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.words_left {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::Interrupted)?;
        }
        Ok(())
    }
}

impl Memory for Bytes {
    fn size(&mut self) -> io::Result<usize> {
        Ok(self.bytes.len())
    }
    fn load(&mut self, offset: usize) -> io::Result<u64> {
        let word = self.bytes.get(offset..).and_then(|rest| rest.first_chunk()).ok_or_else(Self::beyond)?;
        Ok(u64::from_ne_bytes(*word))
    }
    fn store(&mut self, offset: usize, value: u64) -> io::Result<()> {
        self.write(offset, &value.to_ne_bytes())
    }
    fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        self.bytes.get(offset..offset + len).map(<[u8]>::to_vec).ok_or_else(Self::beyond)
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(8) && bytes.len().is_multiple_of(8), "{offset} {}", bytes.len());
        for (index, word) in bytes.chunks(8).enumerate() {
            self.spend()?;
            let at = offset + index * 8;
            self.bytes.get_mut(at..at + 8).ok_or_else(Self::beyond)?.copy_from_slice(word);
        }
        Ok(())
    }
    fn grow(&mut self, len: usize) -> io::Result<()> {
        self.spend()?;
        self.bytes.resize(self.bytes.len().max(len), 0);
        Ok(())
    }
}

fn state(size: u64, backends: usize, active: usize) -> State {
    State::unconfigured(TableSize::new(size).unwrap(), backends, active).unwrap()
}

fn region(state: &State) -> Bytes {
    let mut memory = Bytes::default();
    format(&mut memory, state).unwrap();
    memory
}

#[test]
fn what_is_published_is_read() {
    let mut memory = region(&state(97, 10, 5));
    assert_eq!(read(&mut memory).unwrap(), (Generation(1), state(97, 10, 5)));
    // Larger and smaller by turns: slots move and the region grows, but not without bound.
    for round in 0u64..20 {
        let next = if round % 3 == 0 { state(65537, 500, 100) } else { state(997, 10, 3) };
        let live = generation(&mut memory).unwrap();
        assert_eq!(publish(&mut memory, &next, live).unwrap().0, round + 2);
        assert_eq!(read(&mut memory).unwrap().1, next);
    }
    // The larger one has a table of 131080 bytes and a document of 40000.
    assert!(memory.bytes.len() < stats::END + 2 * 180_000, "{}", memory.bytes.len());
}

#[test]
fn what_is_no_region_is_refused_with_its_reason() {
    let good = region(&state(97, 10, 5));
    let fault = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad.bytes);
        read(&mut bad).unwrap_err().to_string()
    };
    assert!(fault(&|b| b.clear()).contains("no region"));
    assert!(fault(&|b| b[0] ^= 1).contains("wrong magic"));
    assert!(fault(&|b| b[..8].reverse()).contains("another byte order"));
    assert!(fault(&|b| b[8..12].copy_from_slice(&99u32.to_ne_bytes())).contains("layout is version 99"));
    assert!(fault(&|b| b[12..16].reverse()).contains("another byte order"));
    assert!(fault(&|b| b[33] ^= 1).contains("corrupt: its header"));
    assert!(fault(&|b| b.truncate(100)).contains("truncated: 100 bytes"));
    assert!(fault(&|b| b.truncate(20)).contains("truncated: 20 bytes"));
    assert!(fault(&|b| b.truncate(stats::END + 8)).contains("truncated"));
    assert!(fault(&|b| b[GENERATION_AT] = 2).contains("corrupt: a slot's description"));
    assert!(fault(&|b| b[SLOTS_AT[1] + 3] ^= 1).contains("corrupt: a slot's description"));
    assert!(fault(&|b| b[stats::END + 300] ^= 1).contains("corrupt: a slot's checksum"));
}

/// Counts the bytes that are read and written.
#[derive(Default)]
struct Counted {
    bytes: Bytes,
    read: usize,
    written: usize,
}

impl Memory for Counted {
    fn size(&mut self) -> io::Result<usize> {
        self.bytes.size()
    }
    fn load(&mut self, offset: usize) -> io::Result<u64> {
        self.bytes.load(offset)
    }
    fn store(&mut self, offset: usize, value: u64) -> io::Result<()> {
        self.bytes.store(offset, value)
    }
    fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        self.read += len;
        self.bytes.read(offset, len)
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.bytes.write(offset, bytes)
    }
    fn grow(&mut self, len: usize) -> io::Result<()> {
        self.bytes.grow(len)
    }
}

/// A service of its own name.
fn service(index: usize, size: u64, active: usize) -> Service {
    Service { name: Name::from_index(index), ..state(size, 50, active).services.remove(0) }
}

/// Fifty services with tables of 2000 bytes each, no two of them the same.
fn many() -> State {
    let mut state = state(997, 10, 5);
    state.services = (1..=50).map(|active| service(active - 1, 997, active)).collect();
    state.targets = self::state(997, 50, 1).targets;
    state
}

fn all(state: &State) -> Vec<usize> {
    (0..state.services.len()).collect()
}

#[test]
fn only_tables_that_are_not_known_are_read() {
    let state = many();
    let mut memory = Counted { bytes: region(&state), ..Counted::default() };
    let mut read = |known: &KnownTables, pick: &dyn Fn(&State) -> Vec<usize>| {
        memory.read = 0;
        let (_, read) = read_knowing(&mut memory, known, pick).unwrap();
        (read, memory.read / 2000)
    };
    let none = KnownTables::new();
    let (whole, tables) = read(&none, &all);
    assert_eq!((&whole, tables >= 50), (&state, true));
    let document = tables - 49;
    let (one, tables) = read(&none, &|_| vec![7]);
    assert_eq!((&one, tables), (&state, document));
    assert!(one.services.iter().enumerate().all(|(index, service)| service.table.is_read() == (index == 7)));
    assert_eq!(one.services[7].table[..], state.services[7].table[..]);
    // All but one are known.
    let known = state.services[1..].iter().map(|service| (service.table.digest(), service.table.clone()));
    let (shared, tables) = read(&known.collect(), &all);
    assert_eq!((&shared, tables), (&state, document));
    assert!(std::ptr::eq(&*shared.services[9].table, &*state.services[9].table));
}

/// So a change of one service costs what that service costs, however many there are.
#[test]
fn only_tables_that_are_new_are_written() {
    let mut memory = Counted { bytes: region(&many()), ..Counted::default() };
    let document = layout::encode(&many(), Generation(1), |_| 0).unwrap().len();
    for round in 1..10 {
        let (live, unread) = read_knowing(&mut memory, &KnownTables::new(), |_| Vec::new()).unwrap();
        let mut next = unread;
        // Any other table that its backends can have.
        next.services[7] = service(7, 997, 8);
        next.services[7].table = Table::new(vec![round % 8; 997]);
        (memory.read, memory.written) = (0, 0);
        publish(&mut memory, &next, live).unwrap();
        assert!((document..document + 1000).contains(&memory.read), "{} of {document}", memory.read);
        assert!((document..document + 3000).contains(&memory.written), "{} of {document}", memory.written);
        let (_, whole) = read(&mut memory).unwrap();
        assert_eq!(whole, next);
        assert!(whole.services.iter().all(|service| service.table.is_read()));
        assert_eq!(whole.services[7].table[..], next.services[7].table[..]);
        assert_eq!(whole.services[8].table[..], many().services[8].table[..]);
    }
}

#[test]
fn a_table_that_is_nowhere_is_not_published() {
    let mut memory = region(&state(97, 10, 5));
    let mut next = state(97, 10, 5);
    next.services[0].table = Table::unread(1, 97, 5);
    let error = publish(&mut memory, &next, Generation(1)).unwrap_err();
    assert_eq!(error.to_string(), "it is corrupt: a table that was read from nowhere");
    assert_eq!(read(&mut memory).unwrap(), (Generation(1), state(97, 10, 5)));
}

/// A writer does not read the tables of the state that it changes, and must not build on a state that has lost them.
#[test]
fn a_region_without_its_tables_is_truncated_also_without_reading_them() {
    let mut memory = Bytes::default();
    format(&mut memory, &state(97, 10, 5)).unwrap();
    // The second table goes behind all of that, and so does the third, but its document is where the first one was.
    publish(&mut memory, &state(65537, 10, 5), Generation(1)).unwrap();
    publish(&mut memory, &state(65537, 10, 4), Generation(2)).unwrap();
    let slot: Slot = record(&mut memory, SLOTS_AT[1]).unwrap();
    assert!(slot.document().unwrap().end < stats::END + 2000);
    memory.bytes.truncate(memory.bytes.len() - 8);
    let error = read_knowing(&mut memory, &KnownTables::new(), |_| Vec::new()).unwrap_err();
    assert!(matches!(error, RegionError::Truncated { .. }), "{error}");
    assert!(matches!(
        publish(&mut memory, &state(97, 10, 4), Generation(3)),
        Err(RegionError::Truncated { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever a writer dies, a reader sees the old state or the new one, and the next writer goes on.
    #[test]
    fn a_writer_may_die_anywhere(rounds in prop::collection::vec((1usize..10, prop::sample::select(vec![97u64, 251, 997]), 0usize..400), 1..12)) {
        let mut memory = region(&state(97, 10, 5));
        let mut current = state(97, 10, 5);
        for (active, size, words) in rounds {
            let next = state(size, 10, active);
            let live = generation(&mut memory).unwrap();
            memory.words_left = Some(words);
            let published = publish(&mut memory, &next, live);
            memory.words_left = None;
            if published.is_ok() { current = next; }
            prop_assert_eq!(&read(&mut memory).unwrap().1, &current);
        }
    }

    /// Likewise where most tables stay in place and are not read; and gaps do not add up.
    #[test]
    fn a_writer_of_some_tables_may_die_anywhere(rounds in prop::collection::vec(
        (prop::collection::vec((0usize..50, prop::sample::select(vec![13u64, 97, 251, 997, 2999]), 1usize..50), 0..20), 0usize..9000), 1..12)
    ) {
        let mut memory = region(&many());
        let mut current = many();
        for (changes, words) in rounds {
            let (live, mut next) = read_knowing(&mut memory, &KnownTables::new(), |_| Vec::new()).unwrap();
            let mut after = current.clone();
            for (index, size, active) in changes {
                next.services[index] = service(index, size, active);
                after.services[index] = service(index, size, active);
            }
            memory.words_left = Some(words);
            let published = publish(&mut memory, &next, live);
            memory.words_left = None;
            if published.is_ok() { current = after; }
            let (_, found) = read(&mut memory).unwrap();
            prop_assert_eq!(&found, &current);
            for (service, expected) in found.services.iter().zip(&current.services) {
                prop_assert_eq!(&service.table[..], &expected.table[..]);
            }
        }
        // Two states of tables of 6000 bytes each, with documents of 170000.
        let largest = 2 * (50 * 6000 + 170_000);
        prop_assert!(memory.bytes.len() < stats::END + largest, "{}", memory.bytes.len() - stats::END);
    }

    #[test]
    fn a_damaged_region_is_an_error_or_the_same_state(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let good = state(97, 10, 5);
        let mut memory = region(&good);
        let at = at.index(memory.bytes.len());
        memory.bytes[at] ^= 1 << bit;
        if let Ok((_, found)) = read(&mut memory) { prop_assert_eq!(found, good); }
    }
}
