//! Any bytes as a region, and as a slot behind a valid checksum: refused or taken whole; never a panic.

#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use synrail::{
    balance::Forwarding,
    ids::Generation,
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
    if let Ok((generation, state)) = layout::decode(bytes) {
        // Two services may claim the same: an error, like all that is wrong.
        let _ = Forwarding::new(&state, generation);
        let again = layout::encode(&state, Generation(generation.0));
        assert_eq!(layout::decode(&again).ok(), Some((generation, state)));
    }
});
