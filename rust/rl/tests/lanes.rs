//! Sequences that advance side by side give the bits of the plain loop, whatever their lengths.

use polmrs_rl::gae::Gae;
use polmrs_rl::holes::Holes;
use polmrs_rl::ragged::Ragged;
use proptest::prelude::*;

fn plain(rewards: &[f32], values: &[f32], ragged: &Ragged, mask: &[u8], settings: &Gae) -> (Vec<f32>, Vec<f32>) {
    let (mut advantages, mut returns) = (vec![0.0; rewards.len()], vec![0.0; rewards.len()]);
    for sequence in 0..ragged.sequences() {
        let (mut value, mut advantage) = (0.0f64, 0.0f64);
        for t in ragged.range(sequence).rev() {
            let here = mask[t] != 0;
            let blank = settings.holes == Holes::Decay && !here;
            let (r, v) = if blank { (0.0, 0.0) } else { (f64::from(rewards[t]), f64::from(values[t])) };
            let now = (r + settings.gamma * value - v) + settings.gamma * settings.lam * advantage;
            if here {
                (advantages[t], returns[t]) = (now as f32, (now + v) as f32);
            }
            (value, advantage) = match (here, settings.holes) {
                (false, Holes::Carry) => (value, advantage),
                (false, Holes::Reset) => (0.0, 0.0),
                _ => (v, now),
            };
        }
    }
    (advantages, returns)
}

proptest! {
    #[test]
    fn gae_is_the_plain_loop_bit_for_bit(
        lengths in prop::collection::vec(0usize..40, 0..30),
        seed in any::<u64>(),
        gamma in 0.0f64..=1.0,
        lam in 0.0f64..=1.0,
        holes in prop::sample::select(vec![Holes::Carry, Holes::Decay, Holes::Ignore, Holes::Reset]),
    ) {
        let bounds: Vec<i64> = std::iter::once(0).chain(lengths.iter().scan(0, |sum, length| {
            *sum += *length as i64;
            Some(*sum)
        })).collect();
        let n = lengths.iter().sum();
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let rewards: Vec<f32> = (0..n).map(|_| next()).collect();
        let values: Vec<f32> = (0..n).map(|_| next()).collect();
        let mask: Vec<u8> = (0..n).map(|_| u8::from(next() > -0.5)).collect();
        let ragged = Ragged::new(&bounds, n, "rewards").unwrap();
        let settings = Gae { gamma, lam, lam_value: lam, holes };
        let (mut advantages, mut returns) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        settings.run(&rewards, &values, &ragged, Some(&mask), None, &mut advantages, &mut returns).unwrap();
        prop_assert_eq!((advantages, returns), plain(&rewards, &values, &ragged, &mask, &settings));
    }
}
