//! Walking every sequence from its last token to its first, several sequences side by side.
//!
//! A recurrence over time is a chain: each step waits for the one before it. [`LANES`] sequences advance together, so
//! that the waiting overlaps; a lane whose sequence ends takes up the next one. What a step computes does not depend
//! on its lane: the bits are those of the plain loop.

use crate::float::Float;
use crate::parallel;
use crate::ragged::{Ragged, all_tokens};
use crate::simd::{self, Kernel};
use polmrs_core::Result;
use std::mem::take;

const LANES: usize = 2; // more would be more streams than the processor fetches ahead

/// One backward recurrence over `IN` columns, writing `OUT`, with `STATE` numbers handed from a token to the one before.
pub(crate) trait Recurrence<const STATE: usize, const IN: usize, const OUT: usize>: Copy + Sync {
    /// Whether holes are looked for at all; if not, `here` is always true.
    const HOLES: bool;

    /// One token: the state that the token after it left, its own columns, and whether it is no hole. Answers the state
    /// for the token before it, and what to write.
    fn step(self, after: [f64; STATE], input: [f64; IN], here: bool) -> ([f64; STATE], [f64; OUT]);
}

/// Runs a recurrence over a batch. `start` is the state after a sequence's last token. Answers the first sequence whose
/// state before its first token is not finite.
pub(crate) fn backward<
    T: Float,
    R: Recurrence<STATE, IN, OUT>,
    const STATE: usize,
    const IN: usize,
    const OUT: usize,
>(
    recurrence: R,
    ragged: &Ragged,
    mask: Option<&[u8]>,
    inputs: [&[T]; IN],
    outputs: [&mut [T]; OUT],
    start: impl Fn(usize) -> [f64; STATE] + Sync,
) -> Result<Option<usize>> {
    outputs.iter().try_for_each(|column| all_tokens("out", column.len(), ragged))?;
    let runs = ragged.cut(parallel::parts(ragged.tokens())?);
    let mut outputs = outputs;
    let mut work = Vec::with_capacity(runs.len());
    for run in runs {
        let tokens = ragged.span(&run).len();
        let mine = outputs.each_mut().map(|column| front(column, tokens));
        work.push((run, mine));
    }
    let bad = parallel::each(work, |(run, mut outputs)| {
        // Backward through memory, as inside a sequence: the processor then fetches ahead across sequences too.
        let waiting = run.rev().map(|sequence| Lane {
            sequence,
            tokens: Tokens {
                inputs: inputs.map(|column| &column[ragged.range(sequence)]),
                mask: mask.map_or(&[], |mask| &mask[ragged.range(sequence)]),
                outputs: outputs.each_mut().map(|column| back(column, ragged.range(sequence).len())),
            },
            state: start(sequence),
        });
        simd::at_best(SideBySide { recurrence, waiting, lanes: Vec::with_capacity(LANES) })
    })?;
    Ok(bad.into_iter().flatten().next())
}

/// The tokens of a sequence that are still to do: slices of one length.
struct Tokens<'a, T, const IN: usize, const OUT: usize> {
    inputs: [&'a [T]; IN],
    mask: &'a [u8],
    outputs: [&'a mut [T]; OUT],
}

struct Lane<'a, T, const STATE: usize, const IN: usize, const OUT: usize> {
    sequence: usize,
    tokens: Tokens<'a, T, IN, OUT>,
    state: [f64; STATE],
}

impl<'a, T, const STATE: usize, const IN: usize, const OUT: usize> Lane<'a, T, STATE, IN, OUT> {
    fn left(&self) -> usize {
        self.tokens.inputs[0].len()
    }

    /// Cuts off the last `n` tokens.
    #[inline(always)]
    fn cut<const HOLES: bool>(&mut self, n: usize) -> Tokens<'a, T, IN, OUT> {
        let at = self.left() - n;
        Tokens {
            inputs: self.tokens.inputs.each_mut().map(|column| {
                let (head, tail) = column.split_at(at);
                *column = head;
                &tail[..n] // states the length, so that the loop needs no checks
            }),
            mask: if HOLES {
                let (head, tail) = self.tokens.mask.split_at(at);
                self.tokens.mask = head;
                &tail[..n]
            } else {
                &[]
            },
            outputs: self.tokens.outputs.each_mut().map(|column| {
                let (head, tail) = take(column).split_at_mut(at);
                *column = head;
                &mut tail[..n]
            }),
        }
    }
}

/// Takes `n` elements off the front of a slice.
fn front<'a, T>(slice: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (front, rest) = take(slice).split_at_mut(n);
    *slice = rest;
    front
}

/// Takes `n` elements off the back of a slice.
fn back<'a, T>(slice: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let all = take(slice);
    let (rest, back) = all.split_at_mut(all.len() - n);
    *slice = rest;
    back
}

/// Lanes that advance together, and the sequences that wait for one.
struct SideBySide<'a, T, R, I, const STATE: usize, const IN: usize, const OUT: usize> {
    recurrence: R,
    waiting: I,
    lanes: Vec<Lane<'a, T, STATE, IN, OUT>>,
}

impl<'a, T, R, I, const STATE: usize, const IN: usize, const OUT: usize> Kernel
    for SideBySide<'a, T, R, I, STATE, IN, OUT>
where
    T: Float,
    R: Recurrence<STATE, IN, OUT>,
    I: Iterator<Item = Lane<'a, T, STATE, IN, OUT>>,
{
    type Output = Option<usize>;

    #[inline(always)]
    fn run(self) -> Option<usize> {
        let SideBySide { recurrence, mut waiting, mut lanes } = self;
        let mut bad: Option<usize> = None;
        lanes.extend(waiting.by_ref().take(LANES));
        while !lanes.is_empty() {
            if let Ok(full) = <&mut [Lane<'a, T, STATE, IN, OUT>; LANES]>::try_from(&mut lanes[..]) {
                advance(recurrence, full);
            } else {
                lanes.iter_mut().for_each(|lane| advance(recurrence, std::array::from_mut(lane)));
            }
            for slot in (0..lanes.len()).rev() {
                let lane = &lanes[slot];
                if lane.left() > 0 {
                    continue;
                }
                if !lane.state.iter().all(|number| number.is_finite()) {
                    bad = Some(bad.map_or(lane.sequence, |sequence| sequence.min(lane.sequence)));
                }
                match waiting.next() {
                    Some(next) => lanes[slot] = next,
                    None => drop(lanes.swap_remove(slot)),
                }
            }
        }
        bad
    }
}

/// Takes as many steps in each lane as the one nearest to its first token has left.
#[inline(always)]
fn advance<T: Float, R, const L: usize, const STATE: usize, const IN: usize, const OUT: usize>(
    recurrence: R,
    lanes: &mut [Lane<'_, T, STATE, IN, OUT>; L],
) where
    R: Recurrence<STATE, IN, OUT>,
{
    let steps = lanes.iter().map(Lane::left).min().unwrap_or(0);
    let mut states = lanes.each_ref().map(|lane| lane.state);
    let mut tails =
        lanes.each_mut().map(|lane| if R::HOLES { lane.cut::<true>(steps) } else { lane.cut::<false>(steps) });
    for t in (0..steps).rev() {
        for (state, tail) in states.iter_mut().zip(&mut tails) {
            // SAFETY: `cut` made every slice of the tail `steps` long, the mask too where holes are looked for.
            unsafe {
                let here = !R::HOLES || *tail.mask.get_unchecked(t) != 0;
                let input = tail.inputs.map(|column| column.get_unchecked(t).wide());
                let (now, written) = recurrence.step(*state, input, here);
                *state = now;
                for (column, number) in tail.outputs.iter_mut().zip(written) {
                    *column.get_unchecked_mut(t) = T::narrow(number);
                }
            }
        }
    }
    for (lane, state) in lanes.iter_mut().zip(states) {
        lane.state = state;
    }
}
