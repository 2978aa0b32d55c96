//! Generic kernels at the processor's best instruction set.
//!
//! `polmrs_core::simd!` compiles one function for three instruction sets; it takes no type parameters. A kernel here is
//! a value with a `run`, so it may be generic over `f32` and `f64`. Same dispatch, same bits: nothing is fused.

use polmrs_core::simd::{Level, level};

/// A computation to compile for every instruction set. `run` and what it calls are `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What it computes.
    type Output;
    /// Computes it.
    fn run(self) -> Self::Output;
}

/// Runs a kernel compiled for [`level`].
pub(crate) fn at_best<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2,f16c,lzcnt,popcnt")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,f16c,lzcnt,popcnt")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        match level() {
            // SAFETY: `level` answers `Avx512` only where the processor has every feature listed above.
            Level::Avx512 => return unsafe { avx512(kernel) },
            // SAFETY: likewise for `Avx2`.
            Level::Avx2 => return unsafe { avx2(kernel) },
            Level::Scalar => {}
        }
    }
    kernel.run()
}
