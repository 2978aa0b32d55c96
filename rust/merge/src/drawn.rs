//! What a draw kept, a bit an element, from the pass that measures it to the pass that merges.
//!
//! Drawing by rank is dear, and rescaling to the L1 norm needs every draw twice. Blocks are remembered while they fit in
//! [`ROOM`] bytes, whatever the model; one that is not there is drawn again, and comes out the same.

use polmrs_core::philox::Key;
use polmrs_core::simd;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all blocks of a merge may take, in bytes.
const ROOM: usize = 64 << 20;

/// Where a block lies: the stream that draws it, and its first element.
type Place = (Key, u64);

/// The blocks that wait for the pass that merges them.
#[derive(Clone, Default)]
pub(crate) struct Drawn(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    blocks: HashMap<Place, Vec<u64>>,
    bytes: usize,
}

impl Drawn {
    /// Remembers which elements are not zero, where there is room.
    pub(crate) fn put(&self, place: Place, values: &[f32]) {
        let bytes = size_of::<u64>() * values.len().div_ceil(64);
        {
            let mut held = self.held();
            if held.bytes + bytes > ROOM {
                return;
            }
            held.bytes += bytes; // taken before the work, so that the lock is short
        }
        let mut bits = vec![0; values.len().div_ceil(64)];
        mark(values, &mut bits);
        let mut held = self.held();
        if let Some(former) = held.blocks.insert(place, bits) {
            held.bytes -= size_of_val(&former[..]);
        }
    }

    /// Zeroes what was not kept and forgets the block; false, and nothing done, where it is not known.
    pub(crate) fn take(&self, place: Place, values: &mut [f32]) -> bool {
        let bits = {
            let mut held = self.held();
            let Some(bits) = held.blocks.remove(&place) else { return false };
            held.bytes -= size_of_val(&bits[..]);
            bits
        };
        let known = bits.len() == values.len().div_ceil(64);
        if known {
            keep(values, &bits);
        }
        known
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

simd! {
    fn mark(values: &[f32], bits: &mut [u64]) {
        for (bits, values) in bits.iter_mut().zip(values.chunks(64)) {
            *bits = values.iter().enumerate().fold(0, |bits, (at, x)| bits | u64::from(*x != 0.0) << at);
        }
    }
}

simd! {
    fn keep(values: &mut [f32], bits: &[u64]) {
        for (bits, values) in bits.iter().zip(values.chunks_mut(64)) {
            for (at, x) in values.iter_mut().enumerate() {
                *x = if bits >> at & 1 == 1 { *x } else { 0.0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_given_back_once_as_it_was_drawn() {
        let (drawn, place) = (Drawn::default(), (Key::new(1, "w", "della:0"), 640));
        let kept: Vec<f32> = (0..1000u32).map(|at| if at % 3 == 0 { 0.0 } else { at as f32 }).collect();
        drawn.put(place, &kept);
        let mut again: Vec<f32> = (0..1000u32).map(|at| at as f32).collect();
        assert!(!drawn.take((place.0, 0), &mut again));
        assert!(drawn.take(place, &mut again));
        assert_eq!(again, kept);
        assert!(!drawn.take(place, &mut again));
        assert_eq!(drawn.held().bytes, 0);
    }

    #[test]
    fn what_does_not_fit_is_not_remembered() {
        let (drawn, key) = (Drawn::default(), Key::new(1, "w", "della:0"));
        let block = vec![1.0; 64 * 1024];
        let most = ROOM / (block.len() / 8);
        (0..most as u64 + 10).for_each(|at| drawn.put((key, at), &block));
        assert_eq!(drawn.held().blocks.len(), most);
        assert_eq!(drawn.held().bytes, ROOM);
    }

    #[test]
    fn a_block_that_comes_twice_counts_once() {
        let (drawn, place) = (Drawn::default(), (Key::new(1, "w", "della:0"), 0));
        (0..2).for_each(|_| drawn.put(place, &[1.0; 100]));
        assert_eq!(drawn.held().bytes, 16);
    }
}
