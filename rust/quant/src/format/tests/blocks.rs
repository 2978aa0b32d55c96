//! Weights that are decoded in many blocks, or read from any element on, are what they are as a whole.

use super::*;
use crate::source::Quantized;
use polmrs_engine::source::{MemorySource, Meta, Source};
use std::sync::Arc;

/// The tensors of a weight, and what they stand for, read at once.
struct Whole {
    layout: Layout,
    shape: [usize; 2],
    tensors: Vec<(Tensor, Vec<u8>)>,
    dense: Vec<f32>,
}

impl Whole {
    fn new(format: Format, coding: Coding, shape: [usize; 2]) -> Whole {
        let layout = Layout { format, coding, dtype: Dtype::F32, activations: coding == int(8, true, 0) };
        let [rows, columns] = shape;
        let tensors = layout.written(&made(&layout, rows, columns), rows, columns).unwrap();
        let mut whole = Whole { layout, shape, tensors, dense: Vec::new() };
        whole.read_at_once();
        whole
    }

    /// Of a GPTQ file whose columns are in groups that lie as `7 column mod columns` says.
    fn permuted(shape: [usize; 2]) -> Whole {
        let mut whole = Whole::new(Format::GptqV2, int(4, false, 32), shape);
        let groups = (0..shape[1]).map(|column| (7 * column % shape[1] / 32) as u32);
        whole.tensors[3].1 = groups.flat_map(u32::to_le_bytes).collect();
        whole.read_at_once();
        whole
    }

    fn read_at_once(&mut self) {
        let [rows, columns] = self.shape;
        let strips: Vec<Strip<'_>> = self.tensors.iter().map(|(_, bytes)| Strip::of(bytes)).collect();
        self.dense = vec![f32::NAN; rows * columns];
        let block = self.layout.read(&strips, rows, columns).unwrap();
        self.layout.coding.decode(&block, columns, &mut self.dense).unwrap();
    }

    /// A checkpoint of nothing else. Its bytes stay for as long as the tests run.
    fn source(self) -> (Quantized, Vec<f32>) {
        let tensor = |(tensor, bytes): (Tensor, Vec<u8>)| {
            let name = format!("layer.{}", tensor.suffix);
            (Meta { name, dtype: tensor.dtype, shape: tensor.shape }, &*bytes.leak())
        };
        let base = MemorySource::new("model", self.tensors.into_iter().map(tensor).collect()).unwrap();
        let config = json!({ "dtype": "float32", "quantization_config": { "weight_block_size": [48, 40] } });
        (Quantized::new(Arc::new(base), &config, self.layout.format).unwrap(), self.dense)
    }
}

/// A weight in every layout.
fn every_layout(shape: [usize; 2]) -> Vec<Whole> {
    let ct = Format::CompressedTensors;
    let codings = [
        (ct, int(4, false, 32)),
        (ct, int(3, true, 32)),
        (ct, int(8, true, 0)),
        (ct, Coding::Fp8 { group: Group::Tensor }),
        (ct, Coding::Fp8 { group: Group::Channel }),
        (ct, Coding::Mxfp4),
        (ct, Coding::Nvfp4),
        (Format::GptqV2, int(4, false, 32)),
        (Format::GptqV2, int(3, false, 0)),
        (Format::Awq, int(4, false, 32)),
        (Format::Bnb, table(Table::Nf4, false)),
        (Format::Bnb, table(Table::Nf4, true)),
        (Format::Bnb, table(Table::Fp4, true)),
        (Format::Bnb, Coding::Int8),
        (Format::Fp8, BLOCKS),
        (Format::Fp8, Coding::Fp8 { group: Group::Tensor }),
    ];
    let mut all: Vec<Whole> = codings.into_iter().map(|(format, coding)| Whole::new(format, coding, shape)).collect();
    all.push(Whole::permuted(shape));
    all
}

/// As bits: some codes of E4M3 are NaN.
fn bits_of(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn whole_tensors_are_decoded_in_blocks_as_at_once() {
    let [rows, columns] = [1088, 320];
    for whole in every_layout([rows, columns]) {
        let grain = whole.layout.grain(columns);
        assert!(rows > (BLOCK / columns).next_multiple_of(grain), "{:?} is one block", whole.layout);
        let wholes: Vec<&[u8]> = whole.tensors.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let mut dense = vec![0.0; rows * columns];
        whole.layout.decode(&wholes, rows, columns, &mut dense).unwrap();
        assert!(bits_of(&dense) == bits_of(&whole.dense), "{:?}", whole.layout);
    }
}

#[test]
fn columns_of_permuted_groups_have_their_groups_scale_and_zero_point() {
    let [rows, columns] = [32, 160];
    let whole = Whole::permuted([rows, columns]);
    let (codes, zeros) = (words(&whole.tensors[0].1), words(&whole.tensors[1].1));
    let scales = widen(Dtype::F32, &whole.tensors[2].1);
    for (at, x) in whole.dense.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        let group = 7 * column % columns / 32;
        let code = field(&codes, row, rows, 4 * column, 4);
        let zero = field(&zeros, group * rows / 8, 1, 4 * row, 4);
        assert_eq!(*x, (f32::from(code) - f32::from(zero)) * scales[group * rows + row], "[{row}, {column}]");
    }
}

/// Reads of a source from any element on: `(first, count)`.
fn pieces(elements: usize) -> Vec<(usize, usize)> {
    let mut pieces: Vec<_> =
        (0..24).map(|at| (at * 7919 * 31 % elements, 1 + at * 1013 * 17 % (elements / 3))).collect();
    pieces.extend([(0, elements), (0, 1), (elements - 1, 1)]);
    pieces.into_iter().map(|(first, count)| (first, count.min(elements - first))).collect()
}

fn is_read_from_anywhere(whole: Whole) {
    let layout = whole.layout;
    let (source, dense) = whole.source();
    assert_eq!((source.tensors()[0].dtype, source.tensors().len()), (Dtype::F32, 1));
    for (first, count) in pieces(dense.len()) {
        let mut bytes = vec![0; 4 * count];
        source.read(0, first as u64, &mut bytes).unwrap();
        let same = bytes.as_chunks::<4>().0.iter().zip(&dense[first..]).all(|(a, b)| *a == b.to_le_bytes());
        assert!(same, "{layout:?}: {count} elements from {first} on");
    }
}

#[test]
fn a_source_reads_from_any_element_on_what_the_whole_holds() {
    every_layout([544, 320]).into_iter().for_each(is_read_from_anywhere);
}

#[test]
fn permuted_columns_are_read_in_many_stripes() {
    is_read_from_anywhere(Whole::permuted([288, 8192]));
}
