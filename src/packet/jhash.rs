//! The kernel's flow hash: Bob Jenkins' lookup3 as in `include/linux/jhash.h`, and the index that
//! `nft ... jhash KEY mod M seed S` computes from it (`net/netfilter/nft_hash.c`).
//!
//! Because this is the kernel's hash, a fallback table, which is an nft map, sends every flow where lbd does.
//! The seed has 32 bits. It makes the balancers of a cluster agree, and differ from all others, but it is no
//! defence against a client that aims its flows at one backend.

const GOLDEN: u32 = 0xdead_beef;

/// Computes `jhash()` over a key whose length is a multiple of 4 bytes. An nft concatenation always has such
/// a length: every field starts on a word and is padded with zeros.
///
/// `words` are the key's bytes in network order, read as words in this machine's byte order.
#[must_use]
pub fn jhash(words: &[u32], seed: u32) -> u32 {
    // The kernel adds the length in bytes as a u32; keys here have at most 11 words.
    let bytes = u32::try_from(words.len() * 4).unwrap_or(u32::MAX);
    let start = GOLDEN.wrapping_add(bytes).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = words;
    while let [w0, w1, w2, tail @ ..] = rest {
        if tail.is_empty() {
            break;
        }
        a = a.wrapping_add(*w0);
        b = b.wrapping_add(*w1);
        c = c.wrapping_add(*w2);
        (a, b, c) = mix(a, b, c);
        rest = tail;
    }
    match *rest {
        [] => return c,
        [w0] => a = a.wrapping_add(w0),
        [w0, w1] => {
            a = a.wrapping_add(w0);
            b = b.wrapping_add(w1);
        }
        [w0, w1, w2, ..] => {
            a = a.wrapping_add(w0);
            b = b.wrapping_add(w1);
            c = c.wrapping_add(w2);
        }
    }
    finish(a, b, c)
}

/// Computes `reciprocal_scale()`: turns a hash into an index below `m`, by multiplication instead of
/// remainder.
#[must_use]
pub fn index(hash: u32, m: u32) -> u32 {
    // The product of two u32 shifted right by 32 is a u32.
    u32::try_from((u64::from(hash) * u64::from(m)) >> 32).unwrap_or(0)
}

/// `__jhash_mix`.
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

/// `__jhash_final`.
fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(key: &[u8]) -> Vec<u32> {
        key.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
    }

    /// Two of lookup3.c's own examples (`driver5`), whose initval is our seed. The other examples need
    /// lengths that nft's keys never have.
    #[test]
    #[cfg(target_endian = "little")]
    fn agrees_with_lookup3() {
        assert_eq!(jhash(&[], 0), 0xdead_beef);
        assert_eq!(jhash(&[], 0xdead_beef), 0xbd5b_7dde);
    }

    /// The results of
    /// `nft ... jhash ip saddr . ip daddr . th sport . th dport . meta l4proto mod 65537 seed 0xcafebabe` for
    /// UDP packets from 127.0.0.1 and ::1, port 4000, to themselves, port 80, on Linux 6.18. Keys of one to
    /// eleven words go through every branch; the testbed compares 1000 more.
    #[test]
    #[cfg(target_endian = "little")]
    fn agrees_with_the_kernel() {
        let ports = [0x0f, 0xa0, 0, 0, 0, 80, 0, 0, 17, 0, 0, 0];
        let v4 = [&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat();
        assert_eq!(index(jhash(&words(&v4), 0xcafe_babe), 65537), 0x9f);
        let mut v6 = [0; 32];
        (v6[15], v6[31]) = (1, 1);
        let v6 = [&v6[..], &ports].concat();
        assert_eq!(index(jhash(&words(&v6), 0xcafe_babe), 65537), 0x59f3);
    }

    #[test]
    fn an_index_stays_below_m() {
        assert_eq!(index(0, 65537), 0);
        assert_eq!(index(u32::MAX, 65537), 65536);
        assert_eq!(index(1 << 31, 97), 48);
    }
}
