//! The two element types of the kernels. All arithmetic is `f64`; a result is rounded once, when it is stored.

/// `f32` or `f64`.
pub trait Float: Copy + Send + Sync + PartialEq + 'static {
    /// Zero.
    const ZERO: Self;
    /// The value, exactly.
    fn wide(self) -> f64;
    /// The nearest value of this type.
    fn narrow(wide: f64) -> Self;
}

impl Float for f32 {
    const ZERO: f32 = 0.0;
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn narrow(wide: f64) -> f32 {
        wide as f32
    }
}

impl Float for f64 {
    const ZERO: f64 = 0.0;
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
    #[inline(always)]
    fn narrow(wide: f64) -> f64 {
        wide
    }
}
