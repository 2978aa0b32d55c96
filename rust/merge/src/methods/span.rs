//! Methods whose result is a linear combination of the models, with coefficients found from lengths and angles.
//!
//! ```text
//! v_i = x_i, or x_i - base                       the vectors: models, or task vectors
//! G   = (<v_i, v_j>)                             their Gram matrix, over a tensor, a row, a column or the whole model
//! c   = coefficients(G)                          the method
//! out = sum_i c_i v_i [+ base]
//! ```
//! Whatever a method does on the sphere, its result stays in the span of the vectors, so it works on G alone: one pass
//! gathers G in ordered f64 sums, a second combines in f32. (mergekit works on the vectors themselves, in f32, so the two
//! differ in the last bit.)

use super::delta::subtract;
use crate::params::Params;
use crate::spec::{Method, Spec, Tensor};
use polmrs_core::reduce::{Ordered, dot, dots_of_pair, dots_of_three};
use polmrs_core::{Result, simd};
use polmrs_engine::{Block, Grain, Later, Scope, Scratch, Stage};
use std::ops::Deref;

/// A method of the family.
pub(super) struct Span {
    pub(super) spec: Spec,
    pub(super) vectors: Vectors,
    pub(super) extent: fn(&Params) -> Extent,
    pub(super) coefficients: fn(&Gram, &Params) -> Result<Vec<f64>>,
}

/// What is combined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Vectors {
    /// All inputs as they are, the base among them.
    Inputs,
    /// Models minus the base where there is one.
    TaskVectors,
}

/// What one Gram matrix covers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Along the last dimension.
    Row,
    /// Along the first dimension.
    Column,
    Tensor,
    Model,
}

/// The dot products of n vectors.
#[derive(Clone, Debug)]
pub(super) struct Gram {
    n: usize,
    products: Vec<f64>,
}

impl Gram {
    /// How many vectors there are.
    pub(super) fn len(&self) -> usize {
        self.n
    }

    /// The dot product of two vectors.
    pub(super) fn dot(&self, i: usize, j: usize) -> f64 {
        self.products[pair(i.min(j), i.max(j))]
    }

    /// The length of a vector.
    pub(super) fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).sqrt()
    }

    /// The dot product of a vector with the combination that has these factors.
    pub(super) fn with(&self, factors: &[f64], i: usize) -> f64 {
        factors.iter().enumerate().map(|(j, factor)| factor * self.dot(i, j)).sum()
    }

    /// The length of a combination. Rounding can make a square that is zero slightly negative.
    pub(super) fn length(&self, factors: &[f64]) -> f64 {
        let square: f64 = factors.iter().enumerate().map(|(i, factor)| factor * self.with(factors, i)).sum();
        square.max(0.0).sqrt()
    }

    /// The dot products of the vectors times these factors.
    pub(super) fn scaled(&self, factor: impl Fn(usize) -> f64) -> Gram {
        let products = pairs(self.n).map(|(i, j)| factor(i) * factor(j) * self.dot(i, j)).collect();
        Gram { n: self.n, products }
    }
}

/// The place of a pair i <= j among all pairs.
fn pair(i: usize, j: usize) -> usize {
    j * (j + 1) / 2 + i
}

/// All pairs of n vectors, in the order of [`pair`].
fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(|j| (0..=j).map(move |i| (i, j)))
}

impl Method for Span {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn stages(&self, tensor: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let from_base = self.vectors == Vectors::TaskVectors && tensor.has_base;
        let (coefficients, params) = (self.coefficients, params.clone());
        let scope = match (self.extent)(&params) {
            Extent::Row => return Ok(vec![by_row(tensor, from_base, coefficients, params)]),
            Extent::Column => return Ok(vec![by_column(tensor, from_base, coefficients, params)]),
            Extent::Tensor => Scope::Tensor,
            Extent::Model => Scope::Group(0),
        };
        let n = params.models() + usize::from(tensor.has_base && !from_base);
        let found = if scope == Scope::Tensor { Later::default() } else { tensor.whole_model.share() };
        let known = found.clone();
        let measure = Stage::reduce(
            Grain::Elements,
            scope,
            move || vec![Ordered::<1>::default(); pairs(n).count()],
            move |sums, block| {
                let vectors = vectors(block, from_base);
                let products = match vectors.as_slice() {
                    [x, y] => dots_of_pair(x, y).to_vec(),
                    [x, y, z] => dots_of_three(x, y, z).to_vec(),
                    all => pairs(n).map(|(i, j)| dot(&all[i], &all[j])).collect(),
                };
                for (sums, product) in sums.iter_mut().zip(products) {
                    sums.push(block.ordinal, [product]);
                }
                Ok(())
            },
            move |sums| {
                let products = sums.into_iter().map(|sums| sums.total()[0]).collect();
                found.set(coefficients(&Gram { n, products }, &params)?);
                Ok(())
            },
        );
        let combine = Stage::map(move |block, out| {
            combine(&vectors(block, from_base), known.get()?, from_base.then(|| block.input(0)), out);
            Ok(())
        });
        Ok(vec![measure, combine])
    }
}

/// One Gram matrix a row, so that nothing has to be gathered.
fn by_row(
    tensor: &Tensor<'_>,
    from_base: bool,
    coefficients: fn(&Gram, &Params) -> Result<Vec<f64>>,
    params: Params,
) -> Stage {
    let columns = tensor.columns.max(1) as usize;
    Stage::map_at(Grain::Rows(tensor.rows()), move |block, out| {
        let vectors = vectors(block, from_base);
        for (row, out) in out.chunks_mut(columns).enumerate() {
            let at = row * columns..(row + 1) * columns;
            let rows: Vec<&[f32]> = vectors.iter().map(|vector| &vector[at.clone()]).collect();
            let products = pairs(rows.len()).map(|(i, j)| dot(rows[i], rows[j])).collect();
            let found = coefficients(&Gram { n: rows.len(), products }, &params)?;
            combine(&rows, &found, from_base.then(|| &block.input(0)[at]), out);
        }
        Ok(())
    })
}

/// Columns whose Gram matrices are gathered at a time.
const COLUMNS: usize = 1024;

/// One Gram matrix a column: the whole tensor at once, since a column runs through all of it.
fn by_column(
    tensor: &Tensor<'_>,
    from_base: bool,
    coefficients: fn(&Gram, &Params) -> Result<Vec<f64>>,
    params: Params,
) -> Stage {
    let stride = tensor.elements.checked_div(tensor.leading()).unwrap_or(0) as usize;
    Stage::map_at(Grain::Whole, move |block, out| {
        let base = from_base.then(|| block.input(0));
        let inputs = &block.inputs[usize::from(from_base)..];
        let value = |vector: usize, at: usize| inputs[vector][at] - base.map_or(0.0, |base| base[at]);
        for first in (0..stride).step_by(COLUMNS) {
            let columns = first..stride.min(first + COLUMNS);
            let mut products = vec![vec![0.0f64; pairs(inputs.len()).count()]; columns.len()];
            for row in (0..out.len()).step_by(stride) {
                for (products, column) in products.iter_mut().zip(columns.clone()) {
                    let x = |vector: usize| f64::from(value(vector, row + column));
                    for (product, (i, j)) in products.iter_mut().zip(pairs(inputs.len())) {
                        *product += x(i) * x(j);
                    }
                }
            }
            for (products, column) in products.into_iter().zip(columns) {
                let found = coefficients(&Gram { n: inputs.len(), products }, &params)?;
                for at in (column..out.len()).step_by(stride) {
                    let merged: f32 =
                        found.iter().enumerate().fold(0.0, |sum, (vector, c)| sum + value(vector, at) * *c as f32);
                    out[at] = merged + base.map_or(0.0, |base| base[at]);
                }
            }
        }
        Ok(())
    })
}

/// Elements combined at a time, so that the sum stays in the first-level cache.
const STRETCH: usize = 2048;

/// One vector of a block: an input, or a task vector in a scratch buffer.
enum Vector<'a> {
    Input(&'a [f32]),
    Task(Scratch<'a>),
}

impl Deref for Vector<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Vector::Input(values) => values,
            Vector::Task(values) => values,
        }
    }
}

fn vectors<'a>(block: &'a Block<'_>, from_base: bool) -> Vec<Vector<'a>> {
    let task = |x: &Vec<f32>| {
        let mut delta = block.scratch(x.len());
        subtract(&mut delta, x, block.input(0));
        Vector::Task(delta)
    };
    match from_base {
        true => block.inputs[1..].iter().map(task).collect(),
        false => block.inputs.iter().map(|input| Vector::Input(input)).collect(),
    }
}

/// out = sum_i c_i v_i [+ base], in the order of the vectors.
fn combine<V: Deref<Target = [f32]>>(vectors: &[V], factors: &[f64], base: Option<&[f32]>, out: &mut [f32]) {
    for (piece, out) in out.chunks_mut(STRETCH).enumerate() {
        let at = piece * STRETCH..piece * STRETCH + out.len();
        out.fill(0.0);
        for (vector, factor) in vectors.iter().zip(factors) {
            add_scaled(out, &vector[at.clone()], *factor as f32);
        }
        if let Some(base) = base {
            add_scaled(out, &base[at], 1.0);
        }
    }
}

simd! {
    fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x * factor;
        }
    }
}
