//! Sequences over ranks so that the largest sum is small: longest first to the least loaded (Graham, 1969), or the
//! differencing of Karmarkar and Karp (1982) for several parts.
//!
//! Differencing starts from one partition a sequence, which has it in one part and nothing in the others. The two
//! partitions of the largest spread become one, the largest part of one joining the smallest of the other, until one is
//! left. Only parts that hold something are kept, so a step costs what the two hold.

use crate::pack::{Grouping, checked};
use polmrs_core::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How sequences are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Largest differencing.
    KarmarkarKarp,
    /// Longest first, to the rank that has the least.
    Greedy,
}

/// Spreads sequences of these costs over `ranks`; inside a rank they keep their order. `equal`: as many to each.
///
/// # Errors
/// [`Error::Usage`] for no ranks, or if `equal` does not come out even; [`Error::Array`] for a negative cost.
pub fn balance(costs: &[i64], ranks: usize, method: Method, equal: bool) -> Result<Grouping> {
    checked("costs", costs)?;
    let n = costs.len();
    if ranks == 0 || ranks > u32::MAX as usize {
        return Err(Error::Usage(format!("ranks: {ranks} is not in [1, 2^32)")));
    }
    if equal && !n.is_multiple_of(ranks) {
        return Err(Error::Usage(format!("ranks: {n} sequences do not come out even over {ranks}; pass equal=False")));
    }
    if costs.iter().try_fold(0i64, |sum, cost| sum.checked_add(*cost)).is_none() {
        return Err(Error::Array("costs: their sum is more than 2^63".into()));
    }
    let rank_of = match method {
        Method::KarmarkarKarp => karmarkar_karp(costs, ranks, equal),
        Method::Greedy => greedy(costs, ranks, equal),
    };
    let order: Vec<u32> = (0..n as u32).collect();
    Ok(Grouping::of(&order, &rank_of, ranks))
}

/// The sequences, longest first; of equals, the first first.
fn longest_first(costs: &[i64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..costs.len() as u32).collect();
    order.sort_by_key(|i| Reverse(costs[*i as usize]));
    order
}

fn greedy(costs: &[i64], ranks: usize, equal: bool) -> Vec<u32> {
    let most = if equal { costs.len() / ranks } else { usize::MAX };
    let mut loads: BinaryHeap<Reverse<(i64, usize, u32)>> =
        (0..ranks as u32).map(|rank| Reverse((0, 0, rank))).collect(); // least load, then fewest, then first
    let mut rank_of = vec![0; costs.len()];
    for sequence in longest_first(costs) {
        let Some(Reverse((load, held, rank))) = loads.pop() else { break };
        rank_of[sequence as usize] = rank;
        if held + 1 < most {
            loads.push(Reverse((load + costs[sequence as usize], held + 1, rank)));
        }
    }
    rank_of
}

const NONE: u32 = u32::MAX;

/// A part of a partition: what it sums to, and its sequences as a chain.
#[derive(Clone, Copy, Debug)]
struct Part {
    sum: i64,
    first: u32,
    last: u32,
}

fn karmarkar_karp(costs: &[i64], ranks: usize, equal: bool) -> Vec<u32> {
    let order = longest_first(costs);
    let mut next = vec![NONE; costs.len()];
    let single = |i: u32| Part { sum: costs[i as usize], first: i, last: i };
    let mut partitions: Vec<Vec<Part>> =
        order.chunks(if equal { ranks } else { 1 }).map(|chunk| chunk.iter().map(|i| single(*i)).collect()).collect();
    let spread = |parts: &[Part]| {
        let least = if parts.len() < ranks { 0 } else { parts[ranks - 1].sum };
        parts.first().map_or(0, |most| most.sum - least)
    };
    let mut heap: BinaryHeap<(i64, Reverse<usize>)> =
        partitions.iter().enumerate().map(|(at, parts)| (spread(parts), Reverse(at))).collect();
    while heap.len() > 1 {
        let (Some((_, Reverse(a))), Some((_, Reverse(b)))) = (heap.pop(), heap.pop()) else { break };
        let merged = merge(std::mem::take(&mut partitions[a]), &std::mem::take(&mut partitions[b]), ranks, &mut next);
        heap.push((spread(&merged), Reverse(partitions.len())));
        partitions.push(merged);
    }
    let mut rank_of = vec![0; costs.len()];
    for (rank, part) in partitions.last().into_iter().flatten().enumerate() {
        let mut at = part.first;
        while at != NONE {
            rank_of[at as usize] = rank as u32;
            at = next[at as usize];
        }
    }
    rank_of
}

/// Part `i` of `a` joins part `ranks - 1 - i` of `b`; parts come largest first, and those beyond the end are empty.
fn merge(mut a: Vec<Part>, b: &[Part], ranks: usize, next: &mut [u32]) -> Vec<Part> {
    for (i, theirs) in b.iter().enumerate().rev() {
        match a.get_mut(ranks - 1 - i) {
            Some(mine) => {
                next[mine.last as usize] = theirs.first;
                *mine = Part { sum: mine.sum + theirs.sum, first: mine.first, last: theirs.last };
            }
            None => a.push(*theirs),
        }
    }
    a.sort_by_key(|part| Reverse(part.sum)); // stable, so the result does not depend on how sorting works
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loads(costs: &[i64], spread: &Grouping) -> Vec<i64> {
        let held = spread.bounds.windows(2).map(|b| &spread.order[b[0] as usize..b[1] as usize]);
        held.map(|held| held.iter().map(|i| costs[*i as usize]).sum()).collect()
    }

    #[test]
    fn the_textbook_example_is_split_as_in_the_textbook() {
        let spread = balance(&[8, 7, 6, 5, 4], 2, Method::KarmarkarKarp, false).unwrap();
        let mut sums = loads(&[8, 7, 6, 5, 4], &spread);
        sums.sort_unstable();
        assert_eq!(sums, [14, 16]);
    }

    proptest! {
        #[test]
        fn everything_is_spread_once_and_within_the_known_bound(
            costs in prop::collection::vec(0i64..1000, 0..80), ranks in 1usize..9, equal: bool
        ) {
            let costs = if equal { costs[..costs.len() / ranks * ranks].to_vec() } else { costs };
            for method in [Method::KarmarkarKarp, Method::Greedy] {
                let spread = balance(&costs, ranks, method, equal).unwrap();
                let mut all = spread.order.clone();
                all.sort_unstable();
                prop_assert!(all.iter().copied().eq(0..costs.len() as i64));
                prop_assert_eq!(spread.bounds.len(), ranks + 1);
                if equal {
                    prop_assert!(spread.bounds.windows(2).all(|b| (b[1] - b[0]) as usize == costs.len() / ranks));
                } else {
                    let most = loads(&costs, &spread).into_iter().max().unwrap();
                    let average = costs.iter().sum::<i64>() / ranks as i64;
                    prop_assert!(most <= average + costs.iter().max().copied().unwrap_or(0) + 1);
                }
            }
        }
    }
}
