//! `exp`, and `exp(x) - 1 - x` without cancellation, as plain arithmetic that vectorises: the same bits on every
//! instruction set, within two units in the last place of the true value.
//!
//! `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and `exp(r) - 1 - r = r^2 q(r)` with `q` a Taylor polynomial.

const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000); // its last 21 bits are zero, so n times it is exact
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Adding it rounds to an integer, which then stands in the last bits.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// `1 / (k + 2)!`
const Q: [f64; 13] = {
    let mut q = [0.5; 13];
    let mut k = 1;
    while k < q.len() {
        q[k] = q[k - 1] / (k + 2) as f64;
        k += 1;
    }
    q
};

/// `(n, 2^n, r, r^2 q(r))`
#[inline(always)]
fn reduce(x: f64) -> (f64, f64, f64, f64) {
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut q = Q[12];
    for k in (0..12).rev() {
        q = q * r + Q[k];
    }
    (n, power, r, r * r * q)
}

/// Keeps `2^n` a normal number; NaN stays NaN.
#[inline(always)]
fn limit(x: f64) -> f64 {
    let x = if x > 709.0 { 709.0 } else { x };
    if x < -708.0 { -708.0 } else { x }
}

/// `exp(x)`; above 709 it saturates at `exp(709)`, below -708 at `exp(-708)`.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    let (_, power, r, tail) = reduce(limit(x));
    power * (1.0 + (r + tail))
}

/// `exp(x) - 1 - x`, never negative; above 709 it saturates.
#[inline(always)]
pub(crate) fn exp_minus_1_minus(x: f64) -> f64 {
    let limited = limit(x);
    let (n, power, r, tail) = reduce(limited);
    let below = if x < limited { x } else { limited };
    let apart = (power * (r + tail) + (power - 1.0)) - below;
    if n == 0.0 { tail } else { apart }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exp_is_near_the_library(x in -700f64..700.0) {
            let (ours, theirs) = (exp(x), x.exp());
            prop_assert!((ours - theirs).abs() <= 4.5e-16 * theirs, "{ours} {theirs}");
        }

        #[test]
        fn the_remainder_is_near_the_truth(x in -50f64..50.0) {
            let theirs = x.exp_m1() - x;
            prop_assert!((exp_minus_1_minus(x) - theirs).abs() <= 4.5e-16 * (x.abs() + x.exp_m1().abs()));
        }

        #[test]
        fn the_remainder_keeps_every_digit_near_zero(x in -1e-3f64..1e-3) {
            let series = x * x * (1.0 / 2.0 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x / 720.0))));
            prop_assert!((exp_minus_1_minus(x) - series).abs() <= 1e-15 * series);
        }
    }

    #[test]
    fn the_ends_saturate_and_nan_stays() {
        assert_eq!(exp(1e9), exp(709.0));
        assert!(exp(-1e9) > 0.0 && exp(-1e9) < 1e-300);
        assert_eq!((exp(0.0), exp_minus_1_minus(0.0)), (1.0, 0.0));
        assert!((exp_minus_1_minus(-1e6) - 999_999.0).abs() < 1e-9);
        assert!(exp(f64::NAN).is_nan() && exp_minus_1_minus(f64::NAN).is_nan());
    }
}
