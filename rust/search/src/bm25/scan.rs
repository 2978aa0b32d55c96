//! The rows that may be among the best, without a look at every posting.
//!
//! Parts come with the largest bound first. Once the `k`-th best sum is above all that the parts that are left can add, a row
//! that no part has met cannot come in any more; if those that still can are few, they are looked up in the parts that are left.

use super::inverted::{Posting, Term};
use crate::shortlist::Shortlist;

/// A word of a query.
pub(super) struct Part<'a> {
    pub(super) term: &'a Term,
    /// Its idf, as often as the word is there.
    pub(super) weight: f64,
    /// The most that it adds to a document, floor aside.
    pub(super) bound: f32,
}

/// A look at this many sums, to see whether the postings that are left are needed, costs as much as one posting.
const LOOK: usize = 4;
/// Finding a document among postings costs as much as scanning so many.
const SEEK: usize = 16;
/// Sums that are looked at together.
const BLOCK: usize = 64;

/// The rows that may be among the best `k`.
pub(super) fn candidates(parts: &[&Part<'_>], k: usize, scale: f32, halves: &[f32], sums: &mut [f32]) -> Vec<u32> {
    let mut rest = vec![0.0; parts.len() + 1]; // what the parts from here on add at most
    for (at, part) in parts.iter().enumerate().rev() {
        rest[at] = rest[at + 1] + part.bound;
    }
    let slack = rest[0] * (parts.len() + 8) as f32 * f32::EPSILON; // of a few roundings a part, and of their sum
    let mut left: usize = parts.iter().map(|part| part.term.postings.len()).sum();
    let (mut done, mut least, mut found) = (0, 0.0, None);
    for part in parts {
        if left * LOOK > sums.len() {
            least = shortlist(sums, k, [0.0; 2], least).threshold().max(least);
            if least > rest[done] + slack {
                let few = shortlist(sums, k, [rest[done] + slack, slack], least).finish();
                if few.len() * (parts.len() - done) * SEEK < left {
                    found = Some(few);
                    break;
                }
            }
        }
        let weight = part.weight as f32 * scale;
        for [row, count] in part.term.postings.iter() {
            // In a damaged file, a document may not be there.
            if let (Some(sum), Some(half)) = (sums.get_mut(*row as usize), halves.get(*row as usize)) {
                *sum += weight * *count as f32 / (*count as f32 + half);
            }
        }
        left -= part.term.postings.len();
        done += 1;
    }
    let mut found = found.unwrap_or_else(|| shortlist(sums, k, [slack; 2], least).finish());
    for (at, part) in parts.iter().enumerate().skip(done) {
        let (mut postings, weight) = (&*part.term.postings, part.weight as f32 * scale);
        let mut list = Shortlist::new(k);
        for row in found.iter().map(|candidate| candidate.slot as usize) {
            postings = seek(postings, row as u32);
            if let Some([_, count]) = postings.first().filter(|[there, _]| *there as usize == row) {
                sums[row] += weight * *count as f32 / (*count as f32 + halves[row]);
            }
            let above = rest[at + 1] + slack;
            list.push(sums[row] + above, above + slack, row as u32);
        }
        found = list.finish();
    }
    found.into_iter().map(|candidate| candidate.slot).collect()
}

/// The rows whose sum is above zero and may be among the `k` largest, if one may lie so much above it and below, and `k` of
/// them are known to reach `least`, or it is 0.
fn shortlist(sums: &[f32], k: usize, [above, below]: [f32; 2], least: f32) -> Shortlist {
    let mut list = Shortlist::new(k);
    for (block, sums) in sums.chunks(BLOCK).enumerate() {
        let needed = (list.threshold().max(least - below) - above).max(f32::MIN_POSITIVE);
        if !sums.iter().fold(false, |any, sum| any | (*sum >= needed)) {
            continue;
        }
        for (at, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum >= needed) {
            list.push(sum + above, above + below, (BLOCK * block + at) as u32);
        }
    }
    list
}

/// The postings from a row on, which is likely near.
fn seek(postings: &[Posting], row: u32) -> &[Posting] {
    let mut reach = 1;
    while postings.get(reach).is_some_and(|[there, _]| *there < row) {
        reach *= 2;
    }
    let (low, high) = (reach / 2, reach.min(postings.len()));
    &postings[low + postings[low..high].partition_point(|[there, _]| *there < row)..]
}
