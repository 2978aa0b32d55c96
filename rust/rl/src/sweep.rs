//! Walking every sequence from its last token to its first, several sequences side by side.
//!
//! A recurrence over time is a chain: each step waits for the one before it. [`LANES`] sequences advance together, four
//! tokens at a time, so that the waiting overlaps and the lanes share vector instructions; a lane whose sequence ends
//! takes up the next one. What a step computes does not depend on its lane: the bits are those of the plain loop.

use crate::float::Float;
use crate::parallel;
use crate::ragged::Ragged;
use crate::simd::{self, Kernel};
use polmrs_core::Result;
use std::ops::Range;

const LANES: usize = 16;
const TILE: usize = 8;

/// One backward recurrence over `IN` columns, with `STATE` numbers handed from a token to the one before it, writing
/// `OUT` columns. Arrays end in the lane, so that a loop over lanes is one vector instruction.
pub(crate) trait Recurrence<const STATE: usize, const IN: usize, const OUT: usize>: Copy + Sync {
    /// Whether holes are looked for at all; if not, `here` is true throughout.
    const HOLES: bool;

    /// One token in each lane; `here` is false on a hole. Marked `#[inline(always)]`.
    fn step<T: Float, const L: usize>(
        self,
        state: &mut [[f64; L]; STATE],
        input: &[[T; L]; IN],
        here: &[bool; L],
        output: &mut [[T; L]; OUT],
    );
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
    let runs = ragged.cut(parallel::parts(ragged.tokens())?);
    let mut pieces: Vec<Vec<&mut [T]>> = runs.iter().map(|_| Vec::with_capacity(OUT)).collect();
    for output in outputs {
        let lengths = runs.iter().map(|run| ragged.span(run).len());
        for (piece, part) in pieces.iter_mut().zip(parallel::split(output, lengths)) {
            piece.push(part);
        }
    }
    let work: Vec<_> = runs.into_iter().zip(pieces).collect();
    let bad = parallel::each(work, |(sequences, outputs)| {
        let span = ragged.span(&sequences);
        let Ok(outputs) = <[&mut [T]; OUT]>::try_from(outputs) else { return None };
        let base = span.start;
        simd::at_best(Sweep {
            recurrence,
            ragged,
            sequences,
            base,
            mask: mask.map(|mask| &mask[span.clone()]),
            inputs: inputs.map(|column| &column[span.clone()]),
            outputs,
            start: &start,
        })
    })?;
    Ok(bad.into_iter().flatten().next())
}

/// A run of neighbouring sequences; the columns begin at token `base` of the batch.
struct Sweep<'a, T, R, S, const IN: usize, const OUT: usize> {
    recurrence: R,
    ragged: &'a Ragged,
    sequences: Range<usize>,
    base: usize,
    mask: Option<&'a [u8]>,
    inputs: [&'a [T]; IN],
    outputs: [&'a mut [T]; OUT],
    start: &'a S,
}

/// A sequence on its way: the tokens `first .. next` are still to do.
#[derive(Clone, Copy)]
struct Lane<const STATE: usize> {
    sequence: usize,
    first: usize,
    next: usize,
    state: [f64; STATE],
}

impl<T, R, S, const STATE: usize, const IN: usize, const OUT: usize> Kernel for Sweep<'_, T, R, S, IN, OUT>
where
    T: Float,
    R: Recurrence<STATE, IN, OUT>,
    S: Fn(usize) -> [f64; STATE],
{
    type Output = Option<usize>;

    #[inline(always)]
    fn run(mut self) -> Option<usize> {
        let (ragged, start, base) = (self.ragged, self.start, self.base);
        let mut waiting = self.sequences.clone().filter_map(move |sequence| {
            let range = ragged.range(sequence);
            (!range.is_empty()).then(|| Lane {
                sequence,
                first: range.start - base,
                next: range.end - base,
                state: start(sequence),
            })
        });
        let mut bad: Option<usize> = None;
        let mut lanes: Vec<Lane<STATE>> = waiting.by_ref().take(LANES).collect();
        while !lanes.is_empty() {
            if let Ok(full) = <&mut [Lane<STATE>; LANES]>::try_from(&mut lanes[..]) {
                self.advance(full);
            } else {
                lanes.iter_mut().for_each(|lane| self.advance(std::array::from_mut(lane)));
            }
            for slot in (0..lanes.len()).rev() {
                let lane = lanes[slot];
                if lane.next > lane.first {
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

impl<T, R, S, const IN: usize, const OUT: usize> Sweep<'_, T, R, S, IN, OUT>
where
    T: Float,
{
    /// Takes as many steps in each lane as the one nearest to its first token has left.
    #[inline(always)]
    fn advance<const L: usize, const STATE: usize>(&mut self, lanes: &mut [Lane<STATE>; L])
    where
        R: Recurrence<STATE, IN, OUT>,
    {
        let steps = lanes.iter().map(|lane| lane.next - lane.first).min().unwrap_or(0);
        let mut next = lanes.map(|lane| lane.next);
        let mut state = [[0.0; L]; STATE];
        for (l, lane) in lanes.iter().enumerate() {
            for (numbers, number) in state.iter_mut().zip(lane.state) {
                numbers[l] = number;
            }
        }
        for _ in 0..steps / TILE {
            self.tile::<L, TILE, STATE>(&mut next, &mut state);
        }
        for _ in 0..steps % TILE {
            self.tile::<L, 1, STATE>(&mut next, &mut state);
        }
        for (l, lane) in lanes.iter_mut().enumerate() {
            lane.next = next[l];
            lane.state = state.map(|numbers| numbers[l]);
        }
    }

    /// `K` tokens in each lane: columns in, transposed to time by lane, the steps, and transposed back.
    #[inline(always)]
    fn tile<const L: usize, const K: usize, const STATE: usize>(
        &mut self,
        next: &mut [usize; L],
        state: &mut [[f64; L]; STATE],
    ) where
        R: Recurrence<STATE, IN, OUT>,
    {
        let mut input = [[[T::ZERO; L]; IN]; K];
        let mut here = [[true; L]; K];
        for l in 0..L {
            next[l] -= K;
            let tokens = next[l]..next[l] + K;
            for (c, column) in self.inputs.iter().enumerate() {
                for (k, value) in column[tokens.clone()].iter().enumerate() {
                    input[k][c][l] = *value;
                }
            }
            if R::HOLES
                && let Some(mask) = self.mask
            {
                for (k, token) in mask[tokens].iter().enumerate() {
                    here[k][l] = *token != 0;
                }
            }
        }
        let mut output = [[[T::ZERO; L]; OUT]; K];
        for k in (0..K).rev() {
            self.recurrence.step(state, &input[k], &here[k], &mut output[k]);
        }
        for l in 0..L {
            for (c, column) in self.outputs.iter_mut().enumerate() {
                for (k, value) in column[next[l]..next[l] + K].iter_mut().enumerate() {
                    *value = output[k][c][l];
                }
            }
        }
    }
}
