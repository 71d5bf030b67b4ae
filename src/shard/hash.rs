//! PostgreSQL's hash of a row of partition keys: `hash_bytes_extended` of each value with the seed that all
//! hash-partitioned tables have, combined.
//!
//! Bob Jenkins' lookup3 as PostgreSQL has it in `src/common/hashfn.c`, with words read as a little-endian
//! machine does: what a big-endian server computes for variable-length values differs, and pgweir follows
//! the former everywhere, so that shards do not depend on the pooler's machine.

use super::value::KeyValue;

/// `HASH_PARTITION_SEED` of PostgreSQL's `partbounds.c`.
pub(super) const PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// The hash of a row's keys, in the order of the partition key's columns; `None` is NULL and counts nothing.
/// A partition with `modulus` and `remainder` takes the row when the hash modulo the one is the other.
pub fn row_hash<'a>(values: impl IntoIterator<Item = Option<&'a KeyValue>>) -> u64 {
    let values = values.into_iter().flatten();
    values.fold(0, |hash, value| combine(hash, value.hash(PARTITION_SEED)))
}

/// `hash_combine64`.
fn combine(a: u64, b: u64) -> u64 {
    let mixed = b.wrapping_add(0x49a0_f4dd_15e5_a8e3).wrapping_add(a << 54).wrapping_add(a >> 7);
    a ^ mixed
}

/// The three registers of lookup3.
struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    fn new(len: usize, seed: u64) -> Self {
        // As PostgreSQL, the length counts modulo 2^32.
        let start = 0x9e37_79b9_u32.wrapping_add(len as u32).wrapping_add(3_923_095);
        let mut state = Self { a: start, b: start, c: start };
        if seed != 0 {
            state.a = state.a.wrapping_add((seed >> 32) as u32);
            state.b = state.b.wrapping_add(seed as u32);
            state.mix();
        }
        state
    }

    fn mix(&mut self) {
        let Self { mut a, mut b, mut c } = *self;
        for shifts in [[4, 6, 8], [16, 19, 4]] {
            a = a.wrapping_sub(c) ^ c.rotate_left(shifts[0]);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(shifts[1]);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(shifts[2]);
            b = b.wrapping_add(a);
        }
        *self = Self { a, b, c };
    }

    fn finish(self) -> u64 {
        let Self { mut a, mut b, mut c } = self;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        u64::from(b) << 32 | u64::from(c)
    }
}

/// `hash_bytes_extended`.
pub(super) fn bytes(bytes: &[u8], seed: u64) -> u64 {
    let mut state = State::new(bytes.len(), seed);
    let mut chunks = bytes.chunks_exact(12);
    for chunk in &mut chunks {
        state.a = state.a.wrapping_add(word(chunk, 0));
        state.b = state.b.wrapping_add(word(chunk, 4));
        state.c = state.c.wrapping_add(word(chunk, 8));
        state.mix();
    }
    let rest = chunks.remainder();
    state.a = state.a.wrapping_add(word(rest, 0));
    state.b = state.b.wrapping_add(word(rest, 4));
    // The lowest byte of the third word is the length's.
    state.c = state.c.wrapping_add(word(rest, 8) << 8);
    state.finish()
}

/// Four bytes from `at`, little-endian; bytes that are not there are 0.
fn word(bytes: &[u8], at: usize) -> u32 {
    let byte = |n: usize| bytes.get(at + n).map_or(0, |byte| u32::from(*byte) << (8 * n));
    byte(0) | byte(1) | byte(2) | byte(3)
}

/// `hash_bytes_uint32_extended`.
pub(super) fn u32(value: u32, seed: u64) -> u64 {
    let mut state = State::new(4, seed);
    state.a = state.a.wrapping_add(value);
    state.finish()
}

/// `hashint8extended`: equal to the hash of the same number in fewer bytes.
pub(super) fn i64(value: i64, seed: u64) -> u64 {
    let bits = value.cast_unsigned();
    let (high, low) = ((bits >> 32) as u32, bits as u32);
    u32(low ^ if value >= 0 { high } else { !high }, seed)
}
