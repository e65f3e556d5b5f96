//! Any bytes as a region, and as a slot behind a valid checksum: refused or taken whole; never a panic.

#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use synrail::{
    balance::Forwarding,
    lookup::maglev::Table,
    shm::{Memory, layout, slots},
};

struct Bytes(Vec<u8>);

fn beyond() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl Memory for Bytes {
    fn size(&mut self) -> io::Result<usize> {
        Ok(self.0.len())
    }
    fn load(&mut self, offset: usize) -> io::Result<u64> {
        let word = self.0.get(offset..).and_then(|rest| rest.first_chunk()).ok_or_else(beyond)?;
        Ok(u64::from_ne_bytes(*word))
    }
    fn store(&mut self, _offset: usize, _value: u64) -> io::Result<()> {
        unreachable!("a reader does not write")
    }
    fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(len).ok_or_else(beyond)?;
        self.0.get(offset..end).map(<[u8]>::to_vec).ok_or_else(beyond)
    }
    fn write(&mut self, _offset: usize, _bytes: &[u8]) -> io::Result<()> {
        unreachable!("a reader does not write")
    }
    fn grow(&mut self, _len: usize) -> io::Result<()> {
        unreachable!("a reader does not write")
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = slots::read(&mut Bytes(bytes.to_vec()));
    if let Ok((generation, mut state, places)) = layout::decode(bytes) {
        // Tables that name the first backend alone; large ones take long.
        let entries: usize = state.services.iter().map(|service| service.table_size.entries()).sum();
        if entries > 1 << 16 {
            return;
        }
        for (service, _) in state.services.iter_mut().zip(&places).filter(|(_, place)| place.is_some()) {
            service.table = Table::new(vec![0; service.table_size.entries()]);
        }
        // Two services may claim the same: an error, like all that is wrong.
        let _ = Forwarding::new(&state, generation);
        let document = layout::encode(&state, generation, |_| 0).expect("text and numbers");
        let (again, without, places) = layout::decode(&document).expect("what was encoded");
        assert_eq!((again, without.services.len()), (generation, state.services.len()));
        for (service, place) in state.services.iter().zip(places) {
            let table = place.map(|place| place.checked(&service.table).expect("its table"));
            assert_eq!(table.unwrap_or_default(), service.table);
        }
    }
});
