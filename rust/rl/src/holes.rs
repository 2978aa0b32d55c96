//! What a masked token means to a recurrence over time.

use std::hint::select_unpredictable;

/// The convention for holes: tokens in the middle of a sequence that the policy did not choose (tool output, say).
///
/// A recurrence hands a state from a token to the one before it. At a hole:
///
/// | holes | the state after the hole | the hole's own reward and value |
/// |---|---|---|
/// | `Carry` | passes through unchanged: time stands still | are not looked at |
/// | `Decay` | is discounted by a step | count as 0 |
/// | `Ignore` | is discounted by a step | count as if the token were no hole |
/// | `Reset` | is forgotten: each run between holes is a sequence of its own, ending there | are not looked at |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Holes {
    /// verl, NeMo-RL, AReaL.
    Carry,
    /// OpenRLHF.
    Decay,
    /// TRL (to 1.12), ROLL.
    Ignore,
    /// open-instruct, where what stands in the hole is zero.
    Reset,
}

/// No mask was given.
pub(crate) const NONE: u8 = u8::MAX;
pub(crate) const CARRY: u8 = Holes::Carry as u8;
pub(crate) const DECAY: u8 = Holes::Decay as u8;
pub(crate) const IGNORE: u8 = Holes::Ignore as u8;
pub(crate) const RESET: u8 = Holes::Reset as u8;

/// The state for the token before: `now`, or what a hole hands on of what it was handed, `after`.
#[inline(always)]
pub(crate) fn state<const HOLES: u8, const N: usize>(here: bool, after: [f64; N], now: [f64; N]) -> [f64; N] {
    let mut state = now;
    for (state, after) in state.iter_mut().zip(after) {
        *state = match HOLES {
            CARRY => select_unpredictable(here, *state, after),
            RESET => select_unpredictable(here, *state, after * 0.0), // not 0: a NaN must be seen at the first token
            _ => *state,
        };
    }
    state
}

/// The numbers, or zeros on a hole. Holes come as they like: no branch is taken.
#[inline(always)]
pub(crate) fn or_zero<const N: usize>(here: bool, numbers: [f64; N]) -> [f64; N] {
    numbers.map(|number| select_unpredictable(here, number, 0.0))
}
