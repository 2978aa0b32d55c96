//! SLERP: spherical linear interpolation between two tensors, each taken as one long vector (arXiv:2403.13257).
//!
//! ```text
//! cos = <a, b> / (|a| |b|), clamped to [-1, 1]
//! |cos| > 0.9995:  out = (1-t) a + t b
//! otherwise:       out = sin((1-t) w)/sin(w) a + sin(t w)/sin(w) b,   w = acos(cos)
//! ```
//! The coefficients apply to the unnormalised vectors; a norm below 1e-8 counts as 1. As in mergekit, t = 0 gives the
//! base. Norms and the dot product are ordered f64 sums (mergekit: f32), so the two differ in the last bit, and take
//! different branches only where |cos| is within rounding of 0.9995.

use crate::params::Params;
use crate::spec::{Base, Default, Method, Param, Range, Scope, Spec, Tensor};
use polmrs_core::reduce::{Ordered, dot};
use polmrs_core::{Result, simd};
use polmrs_engine::{Grain, Later, Scope as Gather, Stage};

/// Beyond this |cosine| the interpolation is linear.
const NEARLY_PARALLEL: f64 = 0.9995;
/// A vector shorter than this has no direction.
const NO_LENGTH: f64 = 1e-8;

pub(super) struct Slerp;

static SPEC: Spec = Spec {
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
    paper_values: &[],
};

impl Method for Slerp {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn stages(&self, _: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let t = params.number("t");
        let found = Later::<(f32, f32)>::default();
        let coefficients = found.clone();
        let measure = Stage::reduce(
            Grain::Elements,
            Gather::Tensor,
            Ordered::<3>::default,
            |sums, block| {
                let (a, b) = (block.input(0), block.input(1));
                sums.push(block.ordinal, [dot(a, a), dot(b, b), dot(a, b)]);
                Ok(())
            },
            move |sums| {
                found.set(weights(sums.total(), t));
                Ok(())
            },
        );
        let interpolate = Stage::map(move |block, out| {
            let (a, b) = *coefficients.get()?;
            combine(out, block.input(0), a, block.input(1), b);
            Ok(())
        });
        Ok(vec![measure, interpolate])
    }
}

/// The factors of the two vectors, from their squared lengths and their dot product.
fn weights([aa, bb, ab]: [f64; 3], t: f64) -> (f32, f32) {
    let length = |square: f64| if square.sqrt() > NO_LENGTH { square.sqrt() } else { 1.0 };
    let cosine = (ab / (length(aa) * length(bb))).clamp(-1.0, 1.0);
    if cosine.abs() > NEARLY_PARALLEL {
        return ((1.0 - t) as f32, t as f32);
    }
    let angle = cosine.acos();
    ((((1.0 - t) * angle).sin() / angle.sin()) as f32, ((t * angle).sin() / angle.sin()) as f32)
}

simd! {
    fn combine(out: &mut [f32], a: &[f32], factor_a: f32, b: &[f32], factor_b: f32) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a * factor_a + b * factor_b;
        }
    }
}
