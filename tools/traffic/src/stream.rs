//! The bytes that transfers and messages consist of: a pseudo-random stream (splitmix64, eight little-endian bytes
//! a step) that both ends make from a seed, so that each byte can be checked without ever being stored. A byte
//! lost, repeated, swapped or changed anywhere shows at its offset.

/// How much is made or compared at a time.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;

/// The stream of one seed, from its start.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    /// Fills the buffer with the stream's next bytes; how the stream is cut into buffers does not matter.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == self.word.len() {
                self.word = self.word().to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// Compares what arrives with the stream of a seed.
#[derive(Debug)]
pub(crate) struct Checker {
    stream: Stream,
    offset: u64,
    mismatch: Option<u64>,
}

impl Checker {
    pub(crate) fn new(seed: u64) -> Self {
        Self { stream: Stream::new(seed), offset: 0, mismatch: None }
    }

    /// Takes the next bytes. After the first wrong one nothing more is compared.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let mut expected = [0; 1024];
        for part in bytes.chunks(expected.len()) {
            let expected = &mut expected[..part.len()];
            if self.mismatch.is_none() {
                self.stream.fill(expected);
                let wrong = part.iter().zip(expected.iter()).position(|(is, should)| is != should);
                self.mismatch = wrong.map(|at| self.offset + at as u64);
            }
            self.offset += part.len() as u64;
        }
    }

    /// The offset of the first byte that was wrong.
    pub(crate) fn mismatch(&self) -> Option<u64> {
        self.mismatch
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Stream::new(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn the_stream_is_splitmix64() {
        let known: Vec<u8> =
            [6457827717110365317_u64, 3203168211198807973].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes(1234567, 16), known);
        assert_ne!(bytes(1, 16), bytes(2, 16));
    }

    proptest! {
        #[test]
        fn how_it_is_cut_does_not_matter(seed: u64, cuts in proptest::collection::vec(0usize..3000, 0..8)) {
            let whole = bytes(seed, cuts.iter().sum());
            let mut stream = Stream::new(seed);
            let mut checker = Checker::new(seed);
            let mut at = 0;
            for cut in cuts {
                let mut part = vec![0; cut];
                stream.fill(&mut part);
                prop_assert_eq!(&part, &whole[at..at + cut]);
                checker.take(&part);
                at += cut;
            }
            prop_assert_eq!(checker.mismatch(), None);
        }

        #[test]
        fn a_changed_byte_is_found_where_it_is(seed: u64, length in 1usize..5000, at: prop::sample::Index, flip in 1u8..) {
            let mut changed = bytes(seed, length);
            let at = at.index(length);
            changed[at] ^= flip;
            let mut checker = Checker::new(seed);
            checker.take(&changed);
            prop_assert_eq!(checker.mismatch(), Some(at as u64));
        }

        #[test]
        fn a_missing_byte_is_found(seed: u64, at in 0usize..1000) {
            let mut short = bytes(seed, 2000);
            short.remove(at);
            let mut checker = Checker::new(seed);
            checker.take(&short);
            prop_assert!(checker.mismatch().is_some_and(|found| found >= at as u64));
        }
    }
}
