//! Sequences into packs of at most `capacity` tokens: best-fit decreasing, first-fit, first-fit decreasing, sequential.
//!
//! Best fit keeps the packs with `r` tokens of room in a list for each `r`, and a tree of bits over the `r` in use (64
//! children a node), so the least room that suffices is found in two or three words. First fit keeps the room of every
//! pack in a tree of maxima. Decreasing orders come from counting by length; equal lengths keep their order.

use crate::permute::permutation;
use polmrs_core::{Error, Result};

/// The largest capacity: best fit keeps four bytes for each token of it.
pub const MAX_CAPACITY: usize = 1 << 24;

/// How packs are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Longest first, each into the fullest pack that has room.
    BestFitDecreasing,
    /// Longest first, each into the first pack that has room.
    FirstFitDecreasing,
    /// In the order given, each into the first pack that has room.
    FirstFit,
    /// In the order given; a new pack where the last has no room.
    Sequential,
}

/// What becomes of a sequence longer than a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// An error that names the first.
    Refuse,
    /// It is left out, and listed.
    Drop,
}

/// Sequences in groups (packs, batches or ranks): group `g` is `order[bounds[g] .. bounds[g + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grouping {
    /// Sequences, group by group.
    pub order: Vec<i64>,
    /// Where groups begin, and the end.
    pub bounds: Vec<i64>,
    /// Sequences in no group.
    pub dropped: Vec<i64>,
}

impl Grouping {
    /// From the group of each sequence of `order`; inside a group the order is kept.
    pub(crate) fn of(order: &[u32], group_of: &[u32], groups: usize) -> Grouping {
        let mut bounds = vec![0i64; groups + 1];
        for group in group_of {
            bounds[*group as usize + 1] += 1;
        }
        for group in 0..groups {
            bounds[group + 1] += bounds[group];
        }
        let mut next = bounds.clone();
        let mut placed = vec![0; order.len()];
        for (sequence, group) in order.iter().zip(group_of) {
            let place = &mut next[*group as usize];
            placed[*place as usize] = i64::from(*sequence);
            *place += 1;
        }
        Grouping { order: placed, bounds, dropped: Vec::new() }
    }

    /// The same groups in random order.
    #[must_use]
    pub(crate) fn shuffled(self, seed: u64, purpose: &str) -> Grouping {
        let groups = self.bounds.len() - 1;
        let mut shuffled = Grouping { order: Vec::with_capacity(self.order.len()), ..Grouping::default() };
        shuffled.bounds.push(0);
        for group in permutation(groups, seed, purpose) {
            let (start, end) = (self.bounds[group as usize] as usize, self.bounds[group as usize + 1] as usize);
            shuffled.order.extend_from_slice(&self.order[start..end]);
            shuffled.bounds.push(shuffled.order.len() as i64);
        }
        shuffled.dropped = self.dropped;
        shuffled
    }
}

/// Lengths as the kernels take them.
///
/// # Errors
/// [`Error::Array`] for a negative length, or for more than 2^32 - 1 sequences.
pub(crate) fn checked(name: &str, lengths: &[i64]) -> Result<()> {
    if lengths.len() >= u32::MAX as usize {
        return Err(Error::Array(format!("{name}: {} elements are more than 2^32 - 2", lengths.len())));
    }
    match lengths.iter().position(|length| *length < 0) {
        Some(at) => Err(Error::Array(format!("{name}[{at}]: {} is negative", lengths[at]))),
        None => Ok(()),
    }
}

/// Packs sequences of these lengths. With a seed, the packs come in random order.
///
/// # Errors
/// [`Error::Usage`] for a capacity outside `1 ..= MAX_CAPACITY`; [`Error::Array`] for a length that is negative or, under
/// [`TooLong::Refuse`], more than the capacity.
pub fn pack(
    lengths: &[i64],
    capacity: usize,
    strategy: Strategy,
    too_long: TooLong,
    seed: Option<u64>,
) -> Result<Grouping> {
    checked("lengths", lengths)?;
    if !(1..=MAX_CAPACITY).contains(&capacity) {
        return Err(Error::Usage(format!("capacity: {capacity} is not in [1, {MAX_CAPACITY}]")));
    }
    let fits = |length: i64| length <= capacity as i64;
    if let (TooLong::Refuse, Some(at)) = (too_long, lengths.iter().position(|length| !fits(*length))) {
        return Err(Error::Array(format!(
            "lengths[{at}]: {} is more than the capacity of {capacity}; cut it, or pass too_long='drop'",
            lengths[at]
        )));
    }
    let order = match strategy {
        Strategy::BestFitDecreasing | Strategy::FirstFitDecreasing => decreasing(lengths, capacity),
        Strategy::FirstFit | Strategy::Sequential => {
            (0..lengths.len() as u32).filter(|i| fits(lengths[*i as usize])).collect()
        }
    };
    let sizes = order.iter().map(|i| lengths[*i as usize] as usize);
    let (pack_of, packs) = match strategy {
        Strategy::BestFitDecreasing => best_fit(sizes, capacity),
        Strategy::FirstFitDecreasing | Strategy::FirstFit => first_fit(sizes, capacity),
        Strategy::Sequential => sequential(sizes, capacity),
    };
    let mut packed = Grouping::of(&order, &pack_of, packs);
    packed.dropped = (0..lengths.len() as i64).filter(|i| !fits(lengths[*i as usize])).collect();
    Ok(match seed {
        Some(seed) => packed.shuffled(seed, "packs"),
        None => packed,
    })
}

/// The sequences that fit, longest first, by counting.
fn decreasing(lengths: &[i64], capacity: usize) -> Vec<u32> {
    let fitting = || lengths.iter().enumerate().filter(|(_, length)| **length <= capacity as i64);
    let mut next = vec![0u32; capacity + 2]; // next[capacity - length + 1], then where that length goes next
    for (_, length) in fitting() {
        next[capacity - *length as usize + 1] += 1;
    }
    for at in 1..next.len() {
        next[at] += next[at - 1];
    }
    let mut order = vec![0; next[capacity + 1] as usize];
    for (sequence, length) in fitting() {
        let place = &mut next[capacity - *length as usize];
        order[*place as usize] = sequence as u32;
        *place += 1;
    }
    order
}

const NONE: u32 = u32::MAX;

fn best_fit(sizes: impl Iterator<Item = usize>, capacity: usize) -> (Vec<u32>, usize) {
    let mut used = Bits::new(capacity + 1);
    let mut first = vec![NONE; capacity + 1]; // the latest pack with so much room
    let mut other: Vec<u32> = Vec::new(); // of each pack, the next with as much room
    let mut pack_of = Vec::new();
    for size in sizes {
        let (pack, room) = match used.at_least(size) {
            Some(room) => {
                let pack = first[room];
                first[room] = other[pack as usize];
                if first[room] == NONE {
                    used.clear(room);
                }
                (pack, room)
            }
            None => {
                other.push(NONE);
                (other.len() as u32 - 1, capacity)
            }
        };
        pack_of.push(pack);
        let left = room - size;
        other[pack as usize] = first[left];
        first[left] = pack;
        used.set(left);
    }
    (pack_of, other.len())
}

/// A set of small numbers in words of 64; a bit of a level says that a word of the level below is not 0.
struct Bits {
    levels: Vec<Vec<u64>>,
}

impl Bits {
    fn new(size: usize) -> Bits {
        let mut levels = vec![vec![0; size.div_ceil(64)]];
        while levels[levels.len() - 1].len() > 1 {
            let above = levels[levels.len() - 1].len().div_ceil(64);
            levels.push(vec![0; above]);
        }
        Bits { levels }
    }

    fn set(&mut self, mut at: usize) {
        for level in &mut self.levels {
            level[at / 64] |= 1 << (at % 64);
            at /= 64;
        }
    }

    fn clear(&mut self, mut at: usize) {
        for level in &mut self.levels {
            level[at / 64] &= !(1 << (at % 64));
            if level[at / 64] != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The least member that is `low` or more.
    fn at_least(&self, low: usize) -> Option<usize> {
        let (mut at, mut height) = (low, 0);
        loop {
            let level = &self.levels[height];
            let word = *level.get(at / 64)? & (!0 << (at % 64));
            if word != 0 {
                at = at / 64 * 64 + word.trailing_zeros() as usize;
                break;
            }
            at = at / 64 + 1;
            height += 1;
            if height == self.levels.len() {
                return None;
            }
        }
        while height > 0 {
            height -= 1;
            at = at * 64 + self.levels[height][at].trailing_zeros() as usize;
        }
        Some(at)
    }
}

fn first_fit(sizes: impl Iterator<Item = usize>, capacity: usize) -> (Vec<u32>, usize) {
    let sizes: Vec<usize> = sizes.collect();
    let leaves = sizes.len().next_power_of_two();
    let mut room = vec![capacity as u32; 2 * leaves]; // node n: the most room of the packs below it
    let mut packs = 0;
    let pack_of = sizes.iter().map(|size| {
        let mut node = 1;
        while node < leaves {
            node = if room[2 * node] as usize >= *size { 2 * node } else { 2 * node + 1 };
        }
        room[node] -= *size as u32;
        packs = packs.max(node - leaves + 1);
        let pack = (node - leaves) as u32;
        while node > 1 {
            node /= 2;
            room[node] = room[2 * node].max(room[2 * node + 1]);
        }
        pack
    });
    let pack_of = pack_of.collect();
    (pack_of, packs)
}

fn sequential(sizes: impl Iterator<Item = usize>, capacity: usize) -> (Vec<u32>, usize) {
    let mut packs = 0;
    let mut room = 0;
    let pack_of = sizes.map(|size| {
        if packs == 0 || size > room {
            packs += 1;
            room = capacity;
        }
        room -= size;
        packs as u32 - 1
    });
    let pack_of = pack_of.collect();
    (pack_of, packs)
}

#[cfg(test)]
mod tests {
    use super::Strategy; // proptest has another
    use super::*;
    use proptest::prelude::*;

    const STRATEGIES: [Strategy; 4] =
        [Strategy::BestFitDecreasing, Strategy::FirstFitDecreasing, Strategy::FirstFit, Strategy::Sequential];

    /// Every pack's room, the slow way.
    fn slow(lengths: &[i64], capacity: i64, strategy: Strategy) -> Vec<i64> {
        let mut sorted: Vec<i64> = lengths.to_vec();
        if matches!(strategy, Strategy::BestFitDecreasing | Strategy::FirstFitDecreasing) {
            sorted.sort_by_key(|length| -length);
        }
        let mut rooms: Vec<i64> = Vec::new();
        for length in sorted {
            let fitting = || (0..rooms.len()).filter(|pack| rooms[*pack] >= length);
            let chosen = match strategy {
                Strategy::BestFitDecreasing => fitting().min_by_key(|pack| rooms[*pack]),
                Strategy::Sequential => rooms.len().checked_sub(1).filter(|last| rooms[*last] >= length),
                _ => fitting().next(),
            };
            let chosen = chosen.unwrap_or_else(|| {
                rooms.push(capacity);
                rooms.len() - 1
            });
            rooms[chosen] -= length;
        }
        rooms.sort_unstable();
        rooms
    }

    proptest! {
        #[test]
        fn packs_are_those_of_the_slow_search(lengths in prop::collection::vec(0i64..200, 0..120), extra in 0i64..300) {
            let capacity = lengths.iter().max().copied().unwrap_or(0).max(1) + extra;
            for strategy in STRATEGIES {
                let packed = pack(&lengths, capacity as usize, strategy, TooLong::Refuse, None).unwrap();
                let mut rooms: Vec<i64> = packed.bounds.windows(2).map(|b| {
                    let held = &packed.order[b[0] as usize..b[1] as usize];
                    capacity - held.iter().map(|i| lengths[*i as usize]).sum::<i64>()
                }).collect();
                rooms.sort_unstable();
                prop_assert_eq!(rooms, slow(&lengths, capacity, strategy));
                let mut all = packed.order.clone();
                all.sort_unstable();
                prop_assert!(all.iter().copied().eq(0..lengths.len() as i64));
                let shuffled = pack(&lengths, capacity as usize, strategy, TooLong::Refuse, Some(3)).unwrap();
                prop_assert_eq!(shuffled.bounds.len(), packed.bounds.len());
            }
        }
    }

    #[test]
    fn bits_are_found_at_every_height() {
        let mut bits = Bits::new(1 << 19);
        for at in [0, 63, 64, 4095, 262_144, (1 << 19) - 1] {
            bits.set(at);
            assert_eq!(bits.at_least(at), Some(at));
            assert!(bits.at_least(at / 2 + 1).is_some() || at == 0);
            bits.clear(at);
            assert_eq!(bits.at_least(0), None);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_or_listed() {
        let refused = pack(&[3, 9], 8, Strategy::Sequential, TooLong::Refuse, None).unwrap_err().to_string();
        assert!(refused.starts_with("lengths[1]: 9 is more than the capacity of 8"), "{refused}");
        for strategy in STRATEGIES {
            let packed = pack(&[3, 9, 5], 8, strategy, TooLong::Drop, None).unwrap();
            assert_eq!((packed.dropped, packed.bounds), (vec![1], vec![0, 2]));
        }
        assert!(pack(&[-1], 8, Strategy::FirstFit, TooLong::Drop, None).is_err());
        assert!(pack(&[1], 0, Strategy::FirstFit, TooLong::Drop, None).is_err());
    }
}
