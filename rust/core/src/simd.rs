//! One kernel source, three instruction sets, the same bits.
//!
//! Rust never fuses or reorders floating-point operations, so a loop compiled for AVX-512, AVX2 or the baseline gives
//! the same bits; only the speed differs. [`simd!`](crate::simd!) compiles a function for all three and calls the best
//! one that the processor has, or the one that `POLMRS_SIMD` names.

use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the architecture has.
    Scalar,
    /// x86-64-v3: AVX2, BMI, F16C.
    Avx2,
    /// x86-64-v4: AVX-512 F, BW, DQ, VL.
    Avx512,
}

/// The level in use: the processor's best, lowered by `POLMRS_SIMD=avx512|avx2|scalar`.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let wanted = match std::env::var("POLMRS_SIMD").as_deref() {
            Ok("scalar") => Level::Scalar,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        wanted.min(best())
    })
}

#[cfg(target_arch = "x86_64")]
fn best() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx512, avx2) {
        (true, _) => Level::Avx512,
        (false, true) => Level::Avx2,
        (false, false) => Level::Scalar,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best() -> Level {
    Level::Scalar
}

/// Compiles a function for every [`Level`](crate::simd::Level) and dispatches at run time.
///
/// ```
/// polmrs_core::simd! {
///     /// Adds `x` to `y`.
///     pub fn add(y: &mut [f32], x: &[f32]) {
///         for (y, x) in y.iter_mut().zip(x) {
///             *y += x;
///         }
///     }
/// }
/// let mut y = [1.0, 2.0];
/// add(&mut y, &[10.0, 20.0]);
/// assert_eq!(y, [11.0, 22.0]);
/// ```
#[macro_export]
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,f16c,lzcnt,popcnt")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,f16c,lzcnt,popcnt")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                match $crate::simd::level() {
                    // SAFETY: `level` answers `Avx512` only where the processor has every feature listed above.
                    $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: likewise for `Avx2`.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Scalar => {}
                }
            }
            plain($($arg),*)
        }
    };
}
