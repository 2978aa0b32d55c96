//! What "near" means. A score is larger for what is nearer, whatever the metric.
//!
//! | metric | score |
//! |---|---|
//! | `ip` | $q \cdot x$ |
//! | `cosine` | $q \cdot x / (\lVert q \rVert \lVert x \rVert)$, 0 if either is zero |
//! | `l2` | $-\lVert q - x \rVert^2$ |
//!
//! Scores that leave this crate are computed in f64 from the stored vector and rounded once to f32, so they do not depend
//! on the kind of index, the instruction set, the number of threads, or what else is in a batch. What scans compare, a
//! [ranking](Metric::ranking) of dot products in f32, only chooses candidates; its rounding error is bounded by [`Metric::slack`].

use polmrs_core::simd;

/// How vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Inner product.
    Ip,
    /// Cosine of the angle.
    Cosine,
    /// Minus the squared Euclidean distance.
    L2,
}

impl Metric {
    /// Every metric, by the name that users write.
    pub const NAMES: [(&'static str, Metric); 3] = [("ip", Metric::Ip), ("cosine", Metric::Cosine), ("l2", Metric::L2)];

    /// The score of a stored row for a query of the same length.
    pub fn score(self, query: &[f32], row: &[f32]) -> f32 {
        match self {
            Metric::Ip => dot(query, row) as f32,
            Metric::Cosine => {
                let norms = (squared_norm(query) * squared_norm(row)).sqrt();
                if norms > 0.0 { (dot(query, row) / norms) as f32 } else { 0.0 }
            }
            Metric::L2 => -squared_distance(query, row) as f32,
        }
    }

    /// The vector as it is compared: of unit length for the cosine, and itself otherwise.
    pub(crate) fn directed(self, vector: &[f32]) -> Vec<f32> {
        let norm = squared_norm(vector).sqrt();
        match self {
            Metric::Cosine if norm > 0.0 => vector.iter().map(|x| (f64::from(*x) / norm) as f32).collect(),
            _ => vector.to_vec(),
        }
    }

    /// Scale and offset: a row of this squared norm has the key `dot * scale + offset`, larger for a larger score.
    pub fn ranking(self, squared_norm: f64) -> [f32; 2] {
        match self {
            Metric::Ip => [1.0, 0.0],
            Metric::Cosine if squared_norm > 0.0 => [(1.0 / squared_norm.sqrt()) as f32, 0.0],
            Metric::Cosine => [0.0, 0.0],
            Metric::L2 => [1.0, (-0.5 * squared_norm) as f32],
        }
    }

    /// How far apart two keys may be whose scores are in the other order: twice the error of an f32 dot product summed in
    /// any order, $\gamma_d \lVert q \rVert \lVert x \rVert$ (Higham, Accuracy and Stability, 3.5), and of the key.
    pub fn slack(self, dim: usize, query_norm: f64, largest_norm: f64) -> f32 {
        let unit = f64::from(f32::EPSILON) / 2.0;
        let products = (dim + 8) as f64 * query_norm;
        let error = match self {
            Metric::Ip => products * largest_norm,
            Metric::Cosine => products,
            Metric::L2 => products * largest_norm + 2.0 * largest_norm * largest_norm,
        };
        (2.1 * unit * error) as f32
    }
}

/// Lanes of every f64 sum: lane `i` takes elements `i`, `i + 16`, ...; then lanes are added in order.
const LANES: usize = 16;

macro_rules! lane_sum {
    ($(#[$doc:meta])* $name:ident($a:ident, $b:ident), |$x:ident, $y:ident| $term:expr) => {
        simd! {
            $(#[$doc])*
            pub fn $name($a: &[f32], $b: &[f32]) -> f64 {
                let mut lanes = [0f64; LANES];
                let ((a, a_rest), (b, b_rest)) = ($a.as_chunks::<LANES>(), $b.as_chunks::<LANES>());
                for (a, b) in a.iter().zip(b) {
                    for lane in 0..LANES {
                        let ($x, $y) = (f64::from(a[lane]), f64::from(b[lane]));
                        lanes[lane] += $term;
                    }
                }
                for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
                    let ($x, $y) = (f64::from(*a), f64::from(*b));
                    lanes[lane] += $term;
                }
                lanes.iter().sum()
            }
        }
    };
}

lane_sum! {
    /// The dot product in f64, where every product is exact.
    dot(a, b), |x, y| x * y
}

lane_sum! {
    /// The squared distance in f64.
    squared_distance(a, b), |x, y| (x - y) * (x - y)
}

/// The squared norm in f64.
pub fn squared_norm(x: &[f32]) -> f64 {
    dot(x, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(len: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-2f32..2.0, len)
    }

    proptest! {
        #[test]
        fn keys_order_rows_as_scores_do_up_to_the_slack((q, a, b) in (1usize..70).prop_flat_map(|d| (vector(d), vector(d), vector(d)))) {
            for (_, metric) in Metric::NAMES {
                let key = |x: &[f32]| {
                    let [scale, offset] = metric.ranking(squared_norm(x));
                    let dot: f32 = q.iter().zip(x).map(|(q, x)| q * x).sum();
                    dot * scale + offset
                };
                let largest = squared_norm(&a).max(squared_norm(&b)).sqrt();
                let slack = metric.slack(q.len(), squared_norm(&q).sqrt(), largest);
                if metric.score(&q, &a) > metric.score(&q, &b) {
                    prop_assert!(key(&a) >= key(&b) - slack, "{metric:?}");
                }
            }
        }
    }

    #[test]
    fn a_zero_vector_has_no_direction() {
        assert_eq!(Metric::Cosine.score(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(Metric::Cosine.score(&[1.0, 0.0], &[0.0, 0.0]), 0.0);
        assert_eq!(Metric::L2.score(&[3.0, 0.0], &[0.0, 4.0]), -25.0);
    }
}
