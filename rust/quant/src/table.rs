//! Packed 4-bit codes to the values of a table, times a scale for each block: NF4 and E2M1.
//!
//! A table of 16 numbers is one register of AVX-512 and two of AVX2, where a permutation looks up a whole vector of codes.
//! Compilers make no such permutation of a loop over a table, so it is written out; each value is one product everywhere.

#[cfg(target_arch = "x86_64")]
use polmrs_core::simd;

/// Which code of a byte comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Low,
    High,
}

/// `x = table[code] * scale` in blocks of `block` elements (an even number; the last block may be shorter).
///
/// # Panics
/// If there is not one byte for every two elements, and one scale for every block.
pub(crate) fn look_up(table: &[f32; 16], first: First, packed: &[u8], block: usize, scales: &[f32], x: &mut [f32]) {
    assert_eq!((packed.len(), scales.len()), (x.len().div_ceil(2), x.len().div_ceil(block)));
    assert!(block > 0 && block.is_multiple_of(2), "{block} is not an even number");
    let blocks = x.chunks_mut(block).zip(packed.chunks(block / 2)).zip(scales);
    #[cfg(target_arch = "x86_64")]
    match simd::level() {
        // SAFETY: the level is what the processor has.
        simd::Level::Avx512 => return unsafe { look_up_avx512(table, first, blocks) },
        // SAFETY: likewise.
        simd::Level::Avx2 => return unsafe { look_up_avx2(table, first, blocks) },
        simd::Level::Scalar => {}
    }
    blocks.for_each(|((x, packed), scale)| one_by_one(table, first, packed, *scale, x));
}

fn one_by_one(table: &[f32; 16], first: First, packed: &[u8], scale: f32, x: &mut [f32]) {
    for (x, byte) in x.chunks_mut(2).zip(packed) {
        let codes = if first == First::Low { [byte & 15, byte >> 4] } else { [byte >> 4, byte & 15] };
        x.iter_mut().zip(codes).for_each(|(x, code)| *x = table[usize::from(code)] * scale);
    }
}

/// Blocks of elements, packed codes and scales.
trait Blocks<'a>: Iterator<Item = ((&'a mut [f32], &'a [u8]), &'a f32)> {}

impl<'a, I: Iterator<Item = ((&'a mut [f32], &'a [u8]), &'a f32)>> Blocks<'a> for I {}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn look_up_avx512<'a>(table: &[f32; 16], first: First, blocks: impl Blocks<'a>) {
    use std::arch::x86_64::{
        _mm_cvtsi64_si128, _mm_srli_epi16, _mm_unpacklo_epi8, _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_mul_ps,
        _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };
    // SAFETY: the table is 16 floats.
    let values = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    for ((x, packed), scale) in blocks {
        let (whole, rest) = x.as_chunks_mut::<16>();
        let (eights, last) = packed.split_at(8 * whole.len());
        let scales = _mm512_set1_ps(*scale);
        for (x, eight) in whole.iter_mut().zip(eights.as_chunks::<8>().0) {
            // A permutation reads the lowest four bits alone, so the other code of a byte need not be cleared.
            let low = _mm_cvtsi64_si128(i64::from_le_bytes(*eight));
            let high = _mm_srli_epi16::<4>(low);
            let codes = match first {
                First::Low => _mm_unpacklo_epi8(low, high),
                First::High => _mm_unpacklo_epi8(high, low),
            };
            let found = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), values);
            // SAFETY: `x` is 16 floats.
            unsafe { _mm512_storeu_ps(x.as_mut_ptr(), _mm512_mul_ps(found, scales)) };
        }
        one_by_one(table, first, last, *scale, rest);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn look_up_avx2<'a>(table: &[f32; 16], first: First, blocks: impl Blocks<'a>) {
    use std::arch::x86_64::{
        _mm_cvtsi32_si128, _mm_srli_epi16, _mm_unpacklo_epi8, _mm256_blendv_ps, _mm256_castsi256_ps,
        _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set1_ps,
        _mm256_slli_epi32, _mm256_storeu_ps,
    };
    // SAFETY: the table is twice 8 floats.
    let [below, above] = unsafe { [_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))] };
    for ((x, packed), scale) in blocks {
        let (whole, rest) = x.as_chunks_mut::<8>();
        let (fours, last) = packed.split_at(4 * whole.len());
        let scales = _mm256_set1_ps(*scale);
        for (x, four) in whole.iter_mut().zip(fours.as_chunks::<4>().0) {
            // As above, where the lowest three bits are read; the fourth chooses the half.
            let low = _mm_cvtsi32_si128(i32::from_le_bytes(*four));
            let high = _mm_srli_epi16::<4>(low);
            let codes = _mm256_cvtepu8_epi32(match first {
                First::Low => _mm_unpacklo_epi8(low, high),
                First::High => _mm_unpacklo_epi8(high, low),
            });
            let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
            let (below, above) = (_mm256_permutevar8x32_ps(below, codes), _mm256_permutevar8x32_ps(above, codes));
            let found = _mm256_blendv_ps(below, above, upper);
            // SAFETY: `x` is 8 floats.
            unsafe { _mm256_storeu_ps(x.as_mut_ptr(), _mm256_mul_ps(found, scales)) };
        }
        one_by_one(table, first, last, *scale, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_is_the_tables_times_the_blocks_scale(
            packed in prop::collection::vec(any::<u8>(), 1..100),
            odd: bool,
            block in (1_usize..40).prop_map(|half| 2 * half),
            high: bool,
        ) {
            let table: [f32; 16] = std::array::from_fn(|at| (at as f32 - 7.3) / 3.0);
            let first = if high { First::High } else { First::Low };
            let count = 2 * packed.len() - usize::from(odd);
            let scales: Vec<f32> = (0..count.div_ceil(block)).map(|at| 0.1 + at as f32).collect();
            let code = |at: usize| (packed[at / 2] >> if (at % 2 == 1) == high { 0 } else { 4 }) & 15;
            let plain: Vec<f32> = (0..count).map(|at| table[usize::from(code(at))] * scales[at / block]).collect();

            let mut x = vec![f32::NAN; count];
            look_up(&table, first, &packed, block, &scales, &mut x);
            prop_assert_eq!(&x, &plain);
            // What processors without AVX2 take.
            x.fill(f32::NAN);
            let blocks = x.chunks_mut(block).zip(packed.chunks(block / 2)).zip(&scales);
            blocks.for_each(|((x, packed), scale)| one_by_one(&table, first, packed, *scale, x));
            prop_assert_eq!(&x, &plain);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                x.fill(f32::NAN);
                let blocks = x.chunks_mut(block).zip(packed.chunks(block / 2)).zip(&scales);
                // SAFETY: the processor has AVX2.
                unsafe { look_up_avx2(&table, first, blocks) };
                prop_assert_eq!(&x, &plain);
            }
        }
    }
}
