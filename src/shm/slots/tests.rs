use std::io;

use proptest::prelude::*;

use super::*;
use crate::config::TableSize;

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
    let largest = layout::encode(&state(65537, 500, 100), Generation(1)).length;
    assert!(memory.bytes.len() < stats::END + 3 * largest, "{}", memory.bytes.len());
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

#[test]
fn only_tables_that_are_not_known_are_read() {
    /// Counts what is read.
    struct Counted(Bytes, usize);
    impl Memory for Counted {
        fn size(&mut self) -> io::Result<usize> {
            self.0.size()
        }
        fn load(&mut self, offset: usize) -> io::Result<u64> {
            self.0.load(offset)
        }
        fn store(&mut self, offset: usize, value: u64) -> io::Result<()> {
            self.0.store(offset, value)
        }
        fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
            self.1 += len;
            self.0.read(offset, len)
        }
        fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
            self.0.write(offset, bytes)
        }
        fn grow(&mut self, len: usize) -> io::Result<()> {
            self.0.grow(len)
        }
    }
    let mut state = state(997, 10, 5);
    state.services = (1..=50).map(|active| self::state(997, 50, active).services.remove(0)).collect();
    state.targets = self::state(997, 50, 1).targets;
    let mut memory = Counted(region(&state), 0);
    let all = |state: &State| (0..state.services.len()).collect();
    let mut read = |known: &KnownTables, pick: &dyn Fn(&State) -> Vec<usize>| {
        memory.1 = 0;
        let (_, read) = read_knowing(&mut memory, known, pick).unwrap();
        (read, memory.1 / 2000)
    };
    let none = KnownTables::new();
    let (whole, tables) = read(&none, &all);
    assert_eq!((&whole, tables >= 50), (&state, true));
    let records = tables - 49;
    let (one, tables) = read(&none, &|_| vec![7]);
    assert_eq!((&one.services[7], tables), (&state.services[7], records));
    assert!(one.services.iter().enumerate().all(|(index, service)| service.table.is_empty() == (index != 7)));
    // All but one are known.
    let known = state.services[1..].iter().map(|service| (service.table.digest(), service.table.clone()));
    let (shared, tables) = read(&known.collect(), &all);
    assert_eq!((&shared, tables), (&state, records));
    assert!(std::ptr::eq(&*shared.services[9].table, &*state.services[9].table));
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

    #[test]
    fn damage_is_never_taken_for_a_state(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let good = state(97, 10, 5);
        let mut memory = region(&good);
        let at = at.index(memory.bytes.len());
        memory.bytes[at] ^= 1 << bit;
        if let Ok((_, found)) = read(&mut memory) { prop_assert_eq!(found, good); }
    }
}
