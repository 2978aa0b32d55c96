//! SLERP: spherical linear interpolation between two tensors, each taken as one long vector (arXiv:2403.13257).
//!
//! ```text
//! cos = <a, b> / (|a| |b|), clamped to [-1, 1]
//! |cos| > 0.9995:  out = (1-t) a + t b
//! otherwise:       out = sin((1-t) w)/sin(w) a + sin(t w)/sin(w) b,   w = acos(cos)
//! ```
//! The coefficients apply to the unnormalised vectors; a norm below 1e-8 counts as 1. As in mergekit, t = 0 gives the
//! base; the two take different branches only where |cos| is within rounding of 0.9995.

use super::span::{Extent, Gram, Span, Vectors};
use crate::params::Params;
use crate::spec::{Base, Default, Param, Range, Scope, Spec};
use polmrs_core::Result;

/// Beyond this |cosine| the interpolation is linear.
const NEARLY_PARALLEL: f64 = 0.9995;
/// A vector shorter than this has no direction.
const NO_LENGTH: f64 = 1e-8;

pub(super) static SLERP: Span = Span {
    spec: Spec {
        name: "slerp",
        class: "SLERP",
        id: "merge.slerp",
        in_ledger: true,
        paper: "arXiv:2403.13257",
        doc: "Spherical interpolation from the base (t = 0) to the other model (t = 1).",
        formula: r"\theta = \frac{\sin((1-t)\omega)}{\sin\omega}\theta_0 + \frac{\sin(t\omega)}{\sin\omega}\theta_1",
        base: Base::Required,
        models: (1, 1),
        params: &[Param {
            name: "t",
            scope: Scope::Shared,
            default: Default::Required(None),
            range: Range::Finite,
            doc: "Where between the base (0) and the other model (1).",
        }],
        preset: None,
    },
    vectors: Vectors::Inputs,
    extent: |_| Extent::Tensor,
    coefficients,
};

fn coefficients(gram: &Gram, params: &Params) -> Result<Vec<f64>> {
    let t = params.number("t");
    let length = |i: usize| if gram.norm(i) > NO_LENGTH { gram.norm(i) } else { 1.0 };
    let cosine = (gram.dot(0, 1) / (length(0) * length(1))).clamp(-1.0, 1.0);
    Ok(between(t, cosine, cosine.abs() > NEARLY_PARALLEL))
}

/// The factors of two vectors at `t` between them, on the arc, or on the chord if they are parallel.
pub(super) fn between(t: f64, cosine: f64, parallel: bool) -> Vec<f64> {
    if parallel {
        return vec![1.0 - t, t];
    }
    let angle = cosine.acos();
    vec![((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
}
