//! Samples of the same prompt: which sample belongs to which group, and the walk over the groups that every
//! group-relative estimator shares.

use crate::float::Float;
use crate::ragged::same_length;
use crate::simd::{Kernel, at_best};
use polmrs_core::{Error, Result};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// The groups of a batch, numbered by first appearance; inside a group, samples keep their order.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Samples by group; `None` if each group's samples already stand side by side.
    order: Option<Vec<usize>>,
    bounds: Vec<usize>,
}

impl Groups {
    /// Reads one id for each sample; ids are any integers in any order.
    pub fn new<I: Copy + Ord + Into<i64>>(ids: &[I]) -> Groups {
        if ids.is_sorted() {
            let ends = (1..ids.len()).filter(|i| ids[i - 1] != ids[*i]).chain((!ids.is_empty()).then_some(ids.len()));
            return Groups { order: None, bounds: std::iter::once(0).chain(ends).collect() };
        }
        let mut numbers = Numbers::of(ids);
        let mut sizes = Vec::new();
        let mut number_of = Vec::with_capacity(ids.len());
        for id in ids {
            let number = numbers.entry((*id).into(), sizes.len());
            if number == sizes.len() {
                sizes.push(0);
            }
            sizes[number] += 1;
            number_of.push(number);
        }
        let mut bounds = vec![0];
        let mut total = 0;
        for size in &sizes {
            total += size;
            bounds.push(total);
        }
        let mut next = bounds.clone();
        let mut order = vec![0; ids.len()];
        for (sample, number) in number_of.into_iter().enumerate() {
            order[next[number]] = sample;
            next[number] += 1;
        }
        Groups { order: Some(order), bounds }
    }

    /// How many groups there are.
    pub fn count(&self) -> usize {
        self.bounds.len() - 1
    }

    /// How many samples there are.
    pub fn samples(&self) -> usize {
        self.bounds[self.count()]
    }

    /// The samples of a group, in order.
    pub(crate) fn members(&self, group: usize) -> Members<'_> {
        let places: Range<usize> = self.bounds[group]..self.bounds[group + 1];
        match &self.order {
            None => Members::Run(places),
            Some(order) => Members::Listed(&order[places]),
        }
    }
}

/// Some samples of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Members<'a> {
    /// Side by side.
    Run(Range<usize>),
    /// Anywhere.
    Listed(&'a [usize]),
}

impl Members<'_> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Members::Run(run) => run.len(),
            Members::Listed(list) => list.len(),
        }
    }

    /// The `i`-th.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize) -> usize {
        match self {
            Members::Run(run) => run.start + i,
            Members::Listed(list) => list[i],
        }
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(|i| self.at(i))
    }
}

/// Which number an id got: a table where ids are dense, a map where they are not.
enum Numbers {
    Dense { low: i64, table: Vec<usize> },
    Sparse(HashMap<i64, usize, BuildHasherDefault<Mix>>),
}

impl Numbers {
    fn of<I: Copy + Ord + Into<i64>>(ids: &[I]) -> Numbers {
        let low: i64 = ids.iter().min().map_or(0, |id| (*id).into());
        let high: i64 = ids.iter().max().map_or(0, |id| (*id).into());
        match high.checked_sub(low) {
            Some(spread) if spread < 2 * ids.len() as i64 => {
                Numbers::Dense { low, table: vec![usize::MAX; spread as usize + 1] }
            }
            _ => Numbers::Sparse(HashMap::default()),
        }
    }

    /// The number of `id`, which is `next` if it is new.
    #[inline(always)]
    fn entry(&mut self, id: i64, next: usize) -> usize {
        match self {
            Numbers::Dense { low, table } => {
                let number = &mut table[(id - *low) as usize];
                *number = (*number).min(next);
                *number
            }
            Numbers::Sparse(map) => *map.entry(id).or_insert(next),
        }
    }
}

/// Hashes one integer: multiply and fold. Ids come from the caller's own batch, so nobody chooses them to collide.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_i64(i64::from(*byte)));
    }
    fn write_i64(&mut self, id: i64) {
        let product = (self.0 ^ id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

/// What to do with NaN rewards: answers that could not be scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Leave them out of the group's statistics; their advantage is 0.
    Exclude,
    /// An error that names the first.
    Refuse,
}

/// The advantage of the only scored sample of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// 0: nothing to compare with (TRL, prime-rl).
    Zero,
    /// Its reward (verl).
    Reward,
}

/// What a walk over the groups saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Groups.
    pub groups: usize,
    /// Samples, scored or not.
    pub samples: usize,
    /// Samples with a NaN reward.
    pub missing: usize,
    /// Groups without a scored sample.
    pub empty: usize,
    /// Groups with one scored sample.
    pub alone: usize,
    /// Groups of two or more whose scored rewards are all equal.
    pub flat: usize,
    /// The sum of the scored rewards.
    pub sum: f64,
}

/// The scored samples of one group: their rewards, the sum of these in order, and where they stand in the batch.
pub(crate) struct Group<'a> {
    pub(crate) rewards: &'a mut [f64],
    pub(crate) sum: f64,
    pub(crate) samples: Members<'a>,
}

impl Group<'_> {
    /// The mean reward.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.rewards.len() as f64
    }
}

/// Writes an advantage for each sample. `advantages` turns the rewards of a group that has two or more different ones
/// into advantages; the other groups follow from the conventions.
pub(crate) fn each_group<T: Float>(
    rewards: &[T],
    groups: &Groups,
    (missing, alone): (Missing, Alone),
    out: &mut [T],
    advantages: impl FnMut(Group<'_>),
) -> Result<Counts> {
    same_length("groups", groups.samples(), "rewards", rewards.len())?;
    same_length("out", out.len(), "rewards", rewards.len())?;
    at_best(Walk { rewards, groups, missing, alone, out, advantages })
}

struct Walk<'a, T, F> {
    rewards: &'a [T],
    groups: &'a Groups,
    missing: Missing,
    alone: Alone,
    out: &'a mut [T],
    advantages: F,
}

impl<T: Float, F: FnMut(Group<'_>)> Kernel for Walk<'_, T, F> {
    type Output = Result<Counts>;

    #[inline(always)]
    fn run(self) -> Result<Counts> {
        let Walk { rewards, groups, missing, alone, out, mut advantages } = self;
        let mut counts = Counts { groups: groups.count(), samples: rewards.len(), ..Counts::default() };
        let (mut scored, mut kept) = (Vec::new(), Vec::new());
        for group in 0..groups.count() {
            let mut samples = groups.members(group);
            scored.clear();
            match &samples {
                Members::Run(run) => scored.extend(rewards[run.clone()].iter().map(|reward| reward.wide())),
                Members::Listed(list) => scored.extend(list.iter().map(|sample| rewards[*sample].wide())),
            }
            let mut sum: f64 = scored.iter().sum();
            if !sum.is_finite() {
                kept.clear();
                scored.clear();
                for sample in samples.iter() {
                    let reward = rewards[sample].wide();
                    if reward.is_finite() {
                        scored.push(reward);
                        kept.push(sample);
                    } else if reward.is_nan() && missing == Missing::Exclude {
                        counts.missing += 1;
                        out[sample] = T::ZERO;
                    } else {
                        return Err(Error::NonFinite(format!("rewards[{sample}]: {reward} is not a finite number")));
                    }
                }
                samples = Members::Listed(&kept);
                sum = scored.iter().sum();
            }
            counts.sum += sum;
            match scored[..] {
                [] => counts.empty += 1,
                [reward] => {
                    counts.alone += 1;
                    scored[0] = if alone == Alone::Reward { reward } else { 0.0 };
                }
                [first, ref others @ ..] if others.iter().all(|other| *other == first) => {
                    counts.flat += 1;
                    scored.fill(0.0);
                }
                _ => advantages(Group { rewards: &mut scored, sum, samples: samples.clone() }),
            }
            match samples {
                Members::Run(run) => {
                    for (out, advantage) in out[run].iter_mut().zip(&scored) {
                        *out = T::narrow(*advantage);
                    }
                }
                Members::Listed(list) => {
                    for (sample, advantage) in list.iter().zip(&scored) {
                        out[*sample] = T::narrow(*advantage);
                    }
                }
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[i64]) -> Vec<Vec<usize>> {
        let groups = Groups::new(ids);
        (0..groups.count()).map(|group| groups.members(group).iter().collect()).collect()
    }

    #[test]
    fn ids_may_stand_in_any_order() {
        assert_eq!(members(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(members(&[5]), [vec![0]]);
        assert_eq!(members(&[1, 1, 2, 9, 9, 9]), [vec![0, 1], vec![2], vec![3, 4, 5]]);
        assert_eq!(members(&[7, -3, 7, i64::MIN, -3, 7]), [vec![0, 2, 5], vec![1, 4], vec![3]]);
    }
}
