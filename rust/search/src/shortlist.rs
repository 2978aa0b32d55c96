//! The candidates of one query: every row whose key, at best, reaches the `k`-th best key at worst.
//!
//! A key estimates a score from above; `width` is how far below it the score may lie. With widths that hold for certain, no
//! row of the true top `k` is missed; with ones of a few standard deviations, few are. So one mechanism makes exact scans
//! exact and quantized ones accurate, and the number of candidates follows from how crowded a query's neighbourhood is, not
//! from a setting.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A row that may be among the best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The estimate at best, larger for nearer.
    pub key: f32,
    /// The estimate: half way between best and worst.
    pub estimate: f32,
    /// The row.
    pub slot: u32,
}

/// Candidates before those that a better `k`-th has made impossible are first thrown out.
const ROOM: usize = 1024;

/// Collects candidates; keys are finite.
#[derive(Debug)]
pub struct Shortlist {
    k: usize,
    best: BinaryHeap<Reverse<Ordered>>,
    threshold: f32,
    found: Vec<Candidate>,
    room: usize,
}

impl Shortlist {
    /// For the best `k >= 1`.
    pub fn new(k: usize) -> Shortlist {
        let (best, found) = (BinaryHeap::with_capacity(k.min(ROOM)), Vec::with_capacity(64));
        Shortlist { k, best, threshold: f32::NEG_INFINITY, found, room: ROOM.max(4 * k) }
    }

    /// Takes in the rows of a block whose bit in `eligible` is set: row `i` is slot `first + i` and has `keys[i]`.
    #[inline(always)]
    pub fn offer<const N: usize>(
        &mut self,
        keys: &[f32; N],
        eligible: u64,
        first: usize,
        width: impl Fn(usize) -> f32,
    ) {
        let mut any = false;
        for key in keys {
            any |= *key >= self.threshold;
        }
        if !any {
            return;
        }
        let reached = keys.iter().rev().fold(0, |bits, key| bits << 1 | u64::from(*key >= self.threshold));
        self.take(keys, reached & eligible, first, width);
    }

    /// What a key must reach to be of interest now; it only rises.
    #[inline(always)]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Takes in the rows of a block whose bit is set.
    #[inline(always)]
    pub fn take(&mut self, keys: &[f32], mut rows: u64, first: usize, width: impl Fn(usize) -> f32) {
        while rows != 0 {
            let row = rows.trailing_zeros() as usize;
            self.push(keys[row], width(row), (first + row) as u32);
            rows &= rows - 1;
        }
    }

    /// Takes in one row.
    #[inline(never)]
    pub fn push(&mut self, key: f32, width: f32, slot: u32) {
        if key < self.threshold {
            return;
        }
        let at_worst = Reverse(Ordered(key - width));
        if self.best.len() < self.k {
            self.best.push(at_worst);
        } else if let Some(mut worst) = self.best.peek_mut()
            && at_worst < *worst
        {
            *worst = at_worst;
        }
        if self.best.len() == self.k
            && let Some(Reverse(Ordered(worst))) = self.best.peek()
        {
            self.threshold = *worst;
        }
        self.found.push(Candidate { key, estimate: key - 0.5 * width, slot });
        if self.found.len() >= self.room {
            self.prune();
            self.room = self.room.max(2 * self.found.len());
        }
    }

    fn prune(&mut self) {
        let threshold = self.threshold;
        self.found.retain(|candidate| candidate.key >= threshold);
    }

    /// The candidates, by slot where rows came by slot.
    pub fn finish(mut self) -> Vec<Candidate> {
        self.prune();
        self.found
    }
}

/// Finite keys in their order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Ordered) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Ordered) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_that_may_reach_the_kth_best_is_missed(
            rows in proptest::collection::vec((-8i8..8, 0u8..4), 1..5000),
            k in 1usize..40,
        ) {
            let (keys, widths): (Vec<f32>, Vec<f32>) = rows.into_iter().map(|(a, b)| (f32::from(a), f32::from(b))).unzip();
            let mut list = Shortlist::new(k);
            for (block, keys) in keys.chunks(64).enumerate() {
                let mut padded = [100.0; 64];
                padded[..keys.len()].copy_from_slice(keys);
                let eligible = u64::MAX >> (64 - keys.len());
                list.offer(&padded, eligible, 64 * block, |row| widths[64 * block + row]);
            }
            let mut worst: Vec<f32> = keys.iter().zip(&widths).map(|(key, width)| key - width).collect();
            worst.sort_by(|a, b| b.total_cmp(a));
            let threshold = worst.get(k - 1).copied().unwrap_or(f32::NEG_INFINITY);
            let wanted: Vec<Candidate> = keys.iter().enumerate().filter(|(_, key)| **key >= threshold)
                .map(|(slot, key)| Candidate { key: *key, estimate: key - 0.5 * widths[slot], slot: slot as u32 }).collect();
            prop_assert_eq!(list.finish(), wanted);
        }
    }
}
