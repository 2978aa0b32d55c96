//! NuSLERP: SLERP of two models, or of two task vectors where there is a base, with weights for `t`.
//!
//! ```text
//! t = w_1 / (w_0 + w_1), or 1/2 where |w_0 + w_1| < 1e-6
//! 1 - cos^2 <= 1e-16:  (1-t) v_0 + t v_1
//! otherwise:           sin((1-t) w)/sin(w) v_0 + sin(t w)/sin(w) v_1,   w = acos(cos)
//! ```
//! `nuslerp_flatten` takes a tensor as one vector. Without it, every row (the last dimension) is one, or, with mergekit's
//! `nuslerp_row_wise`, every column (the first dimension), which needs the whole tensor in memory. A norm below 1e-7
//! counts as 1e-7.

use super::slerp::between;
use super::span::{Extent, Gram, Span, Vectors};
use crate::params::Params;
use crate::spec::{Base, Param, Spec};
use polmrs_core::Result;

pub(super) static NUSLERP: Span = Span {
    spec: Spec {
        name: "nuslerp",
        class: "NuSLERP",
        id: "merge.nuslerp",
        in_ledger: false,
        paper: "-",
        doc: "Spherical interpolation of two models, or of their task vectors, by weights.",
        formula: r"\theta = \frac{\sin((1-t)\omega)}{\sin\omega}v_0 + \frac{\sin(t\omega)}{\sin\omega}v_1,\quad t = \frac{w_1}{w_0 + w_1}",
        base: Base::Optional,
        models: (2, 2),
        params: &[
            Param::weight("Weight of the model."),
            Param::flag("nuslerp_flatten", true, "Take the tensor as one vector instead of one a row or column."),
            Param::flag(
                "nuslerp_row_wise",
                false,
                "Where nuslerp_flatten is off: one vector along the first dimension (a column) instead of the last.",
            ),
        ],
        preset: None,
    },
    vectors: Vectors::TaskVectors,
    extent: |params| match (params.flag("nuslerp_flatten"), params.flag("nuslerp_row_wise")) {
        (true, _) => Extent::Tensor,
        (false, false) => Extent::Row,
        (false, true) => Extent::Column,
    },
    coefficients,
};

fn coefficients(gram: &Gram, params: &Params) -> Result<Vec<f64>> {
    let weights = params.each("weight");
    let total = weights[0] + weights[1];
    let t = if total.abs() < 1e-6 { 0.5 } else { weights[1] / total };
    let cosine = gram.dot(0, 1) / (gram.norm(0).max(1e-7) * gram.norm(1).max(1e-7));
    let cosine = cosine.clamp(-1.0, 1.0);
    Ok(between(t, cosine, 1.0 - cosine * cosine <= 1e-16))
}
