//! Every layout: its bytes by definition, in blocks as at once, and back.

mod blocks;

use super::*;
use crate::{bits, codebook};
use proptest::prelude::*;
use serde_json::json;

fn int(bits: u32, symmetric: bool, group: usize) -> Coding {
    Coding::Int { bits, symmetric, group: if group == 0 { Group::Channel } else { Group::Size(group) } }
}

fn layouts() -> impl Strategy<Value = Layout> {
    let widths = prop_oneof![Just(2_u32), Just(3), Just(4), Just(8)];
    let ints = (widths, any::<bool>(), prop_oneof![Just(0_usize), Just(32)]);
    let coded = move |format| {
        (ints.clone(), Just(format)).prop_map(|((bits, symmetric, group), format)| {
            let bits = if format == Format::Awq { 4 } else { bits };
            let coding = int(bits, symmetric || format == Format::Gptq, group);
            Layout { format, coding, dtype: Dtype::BF16, activations: false }
        })
    };
    let fixed = |format, coding, activations| Just(Layout { format, coding, dtype: Dtype::BF16, activations }).boxed();
    let ct = Format::CompressedTensors;
    prop_oneof![
        coded(ct),
        coded(Format::Gptq),
        coded(Format::GptqV2),
        coded(Format::Awq),
        fixed(ct, int(8, true, 0), true),
        fixed(ct, Coding::Fp8 { group: Group::Channel }, true),
        fixed(ct, Coding::Fp8 { group: Group::Tensor }, false),
        fixed(ct, Coding::Mxfp4, false),
        fixed(ct, Coding::Nvfp4, false),
        fixed(Format::Bnb, table(Table::Nf4, false), false),
        fixed(Format::Bnb, table(Table::Nf4, true), false),
        fixed(Format::Bnb, table(Table::Fp4, false), false),
        fixed(Format::Bnb, table(Table::Fp4, true), false),
        fixed(Format::Bnb, Coding::Int8, false),
        fixed(Format::Fp8, BLOCKS, false),
        fixed(Format::Fp8, Coding::Fp8 { group: Group::Tensor }, false),
    ]
}

/// Blocks that divide nothing here.
const BLOCKS: Coding = Coding::Fp8 { group: Group::Block { rows: 48, columns: 40 } };
const STATED: Stated = Stated { bits: None, block: Some([48, 40]) };

fn table(table: Table, nested: bool) -> Coding {
    Coding::Codebook { table, block: 64, nested }
}

/// Codes and scales of `count` rows, as a codec could have made them.
fn made(layout: &Layout, count: usize, columns: usize) -> Rows<'static> {
    let mut state = 12_345_u32;
    let mut draw = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 20) as u8
    };
    let mut block = Rows { global: 0.25, ..Rows::default() };
    let groups = columns / layout.coding.group(columns);
    let mask = (0xff_u16 >> (8 - layout.coding.bits())) as u8;
    let codes: Vec<u8> = (0..count * columns).map(|_| draw() & mask).collect();
    for row in codes.chunks_exact(columns) {
        let mut packed = vec![0; bits::packed_bytes(columns, layout.coding.bits() as usize)];
        bits::pack(layout.coding.bits() as usize, row, &mut packed);
        block.packed.to_mut().extend_from_slice(&packed);
    }
    match layout.coding {
        Coding::Mxfp4 | Coding::Nvfp4 => block.bytes = (0..count * groups).map(|_| draw() & 0x7e).collect(),
        Coding::Codebook { block: each, nested, .. } => {
            block.scales = (0..count * columns / each).map(|_| f32::from(draw()) / 64.0).collect();
            if nested {
                let stored = codebook::nest_around(&block.scales, block.global);
                block.scales = codebook::unnest(&stored);
            }
        }
        Coding::Fp8 { group: Group::Tensor } => block.scales = vec![block.global; count],
        Coding::Fp8 { group: Group::Block { rows, columns: wide } } => {
            let blocks = count.div_ceil(rows) * columns.div_ceil(wide);
            block.scales = (0..blocks).map(|_| f32::from(draw()) / 64.0).collect();
        }
        Coding::Int { bits, symmetric, .. } => {
            let middle = 1_u8 << (bits - 1);
            block.zeros = (0..count * groups).map(|_| if symmetric { middle } else { draw() & mask }).collect();
            block.scales = (0..count * groups).map(|_| f32::from(draw()) / 64.0).collect();
        }
        _ => block.scales = (0..count * groups).map(|_| f32::from(draw()) / 64.0).collect(),
    }
    block
}

/// What a layout does not store, a reader does not know.
fn stored<'a>(layout: &Layout, mut block: Rows<'a>) -> Rows<'a> {
    let keeps_zeros = matches!(layout.format, Format::Gptq | Format::GptqV2 | Format::Awq)
        || matches!(layout.coding, Coding::Int { symmetric: false, .. });
    if !keeps_zeros {
        block.zeros.clear();
    }
    let shares = matches!(layout.coding, Coding::Nvfp4 | Coding::Codebook { nested: true, .. })
        || matches!(layout.coding, Coding::Fp8 { group: Group::Tensor });
    if !shares {
        block.global = 0.0;
    }
    block
}

fn strips(parts: &[Vec<u8>]) -> Vec<Strip<'_>> {
    parts.iter().map(|part| Strip::of(part)).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read(layout in layouts(), rows in 1_usize..4, columns in 1_usize..4) {
        let (rows, columns) = (32 * rows, 64 * columns);
        let block = made(&layout, rows, columns);
        let (tensors, parts): (Vec<_>, Vec<_>) = layout.written(&block, rows, columns).unwrap().into_iter().unzip();
        for (tensor, part) in tensors.iter().zip(&parts) {
            prop_assert_eq!(tensor.nbytes(), part.len(), "{}", tensor.suffix);
        }
        prop_assert_eq!(layout.read(&strips(&parts), rows, columns).unwrap(), stored(&layout, block.clone()));

        let bytes = |suffix: &str| Ok(parts[tensors.iter().position(|tensor| tensor.suffix == suffix).unwrap()].clone());
        let named = tensors.iter().map(|tensor| (tensor.suffix, tensor.dtype, &tensor.shape[..])).collect();
        let found = Held { tensors: named, bytes: &bytes }.recognise(layout.format, STATED).unwrap();
        prop_assert_eq!((found.rows, found.columns), (rows, columns));
        let (mut ours, mut theirs) = (vec![0.0; rows * columns], vec![1.0; rows * columns]);
        let wholes: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        found.layout.decode(&wholes, rows, columns, &mut theirs).unwrap();
        layout.coding.decode(&block, columns, &mut ours).unwrap();
        // As bits: some codes of E4M3 are NaN.
        prop_assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| ours.to_bits() == theirs.to_bits()));
    }

    #[test]
    fn blocks_of_rows_make_the_same_tensors_and_come_back(layout in layouts(), blocks in 1_usize..4, columns in 1_usize..3) {
        let columns = 64 * columns;
        let each = layout.grain(columns).max(32);
        let rows = each * blocks + if layout.format == Format::CompressedTensors { 5 } else { 0 };
        let all = made(&layout, rows, columns);
        let whole = layout.written(&all, rows, columns).unwrap();
        let mut built: Vec<Vec<u8>> = whole.iter().map(|(tensor, _)| vec![0xee; tensor.nbytes()]).collect();
        for first in (0..rows).step_by(each) {
            let range = first..rows.min(first + each);
            let slice = |x: &[u8]| x[x.len() * range.start / rows..x.len() * range.end / rows].to_vec();
            let block = Rows {
                packed: slice(&all.packed).into(),
                scales: all.scales[all.scales.len() * range.start / rows..all.scales.len() * range.end / rows].to_vec(),
                bytes: slice(&all.bytes),
                zeros: slice(&all.zeros),
                order: Vec::new(),
                global: all.global,
            };
            let sizes = layout.tensors(range.len(), columns).unwrap();
            let mut parts: Vec<Vec<u8>> = sizes.iter().map(|tensor| vec![0; tensor.nbytes()]).collect();
            layout.write(&block, columns, &mut parts.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
            let mut cut = Vec::new();
            for (((tensor, bytes), part), built) in whole.iter().zip(&parts).zip(&mut built) {
                match tensor.part {
                    Part::Whole => built.clone_from(bytes),
                    _ => tensor.place(part, range.clone(), built),
                }
                cut.push(tensor.strip(bytes, range.clone()));
            }
            prop_assert_eq!(layout.read(&cut, range.len(), columns).unwrap(), stored(&layout, block));
        }
        prop_assert_eq!(built, whole.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>());
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// `b` bits from bit `at` of a stream of words with this stride.
fn field(words: &[u32], first: usize, stride: usize, at: usize, b: usize) -> u8 {
    let bit = |at: usize| (words[first + at / 32 * stride] >> (at % 32)) & 1;
    (0..b).fold(0, |code, k| code | bit(at + k) << k) as u8
}

/// Suffixes of every format.
const SUFFIXES: [&str; 14] = [
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_scale_inv",
    "weight_global_scale",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "SCB",
    bnb::state_of(Table::Nf4),
    bnb::state_of(Table::Fp4),
];

proptest! {
    #[test]
    fn tensors_of_any_shape_are_recognised_or_refused(
        format in prop::sample::select(Format::ALL.to_vec()),
        dtypes in prop::collection::vec(prop::sample::select(Dtype::ALL.to_vec()), 14),
        axes in prop::collection::vec((prop_oneof![0_u64..70, Just(u64::MAX), Just(1 << 39)], 0_u64..70), 14),
        rank in 0_usize..3,
        shape in prop_oneof![(0_u64..70, 0_u64..70), (any::<u64>(), any::<u64>())],
        missing in 0_usize..15,
    ) {
        let shapes: Vec<[u64; 2]> = axes.into_iter().map(|(first, second)| [first, second]).collect();
        let all = SUFFIXES.into_iter().zip(dtypes).zip(&shapes).enumerate().filter(|(at, _)| *at != missing);
        let tensors = all.map(|(_, ((name, dtype), shape))| (name, dtype, &shape[..rank])).collect();
        let bytes = |suffix: &str| {
            let state = json!({ "quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [shape.0, shape.1] });
            let pair = [shape.0.to_le_bytes(), shape.1.to_le_bytes()].concat();
            Ok(if bnb::is_state(suffix) { state.to_string().into_bytes() } else { pair })
        };
        if let Err(error) = (Held { tensors, bytes: &bytes }).recognise(format, Stated::default()) {
            prop_assert!(!matches!(error, Error::Internal(_)), "{error}");
        }
    }
}

#[test]
fn gptq_packs_down_the_inputs_and_zero_points_along_the_outputs() {
    let (rows, columns) = (64, 96);
    for bits in [2, 3, 4, 8] {
        for format in [Format::Gptq, Format::GptqV2] {
            let coding = int(bits, format == Format::Gptq, 32);
            let layout = Layout { format, coding, dtype: Dtype::F32, activations: false };
            let (b, block) = (bits as usize, made(&layout, rows, columns));
            let tensors = layout.written(&block, rows, columns).unwrap();
            let (weight, zeros) = (words(&tensors[0].1), words(&tensors[1].1));
            for row in 0..rows {
                let mut codes = vec![0; columns];
                let width = bits::packed_bytes(columns, b);
                bits::unpack(b, &block.packed[row * width..(row + 1) * width], &mut codes);
                for (column, code) in codes.iter().enumerate() {
                    assert_eq!(field(&weight, row, rows, column * b, b), *code);
                }
                for group in 0..3 {
                    let stored = field(&zeros, group * rows * b / 32, 1, row * b, b);
                    let zero = block.zeros[row * 3 + group];
                    assert_eq!(stored, if format == Format::Gptq { zero - 1 } else { zero });
                }
            }
            assert_eq!(words(&tensors[3].1), (0..96).map(|column| column / 32).collect::<Vec<u32>>());
        }
    }
}

#[test]
fn awq_has_eight_outputs_in_a_word_in_its_own_order() {
    let layout = Layout { format: Format::Awq, coding: int(4, false, 32), dtype: Dtype::F32, activations: false };
    // Nibble 0 has output 0, nibble 1 output 2, and so on: output 1 is nibble 4.
    let nibble_of = [0, 4, 1, 5, 2, 6, 3, 7];
    // A tile is 128 rows of 128 columns.
    for (rows, columns) in [(160, 160), (136, 32), (8, 288), (120, 96)] {
        let (block, groups) = (made(&layout, rows, columns), columns / 32);
        let tensors = layout.written(&block, rows, columns).unwrap();
        let (weight, zeros) = (words(&tensors[0].1), words(&tensors[1].1));
        for row in 0..rows {
            let shift = 4 * nibble_of[row % 8];
            for column in 0..columns {
                let code = (block.packed[row * columns / 2 + column / 2] >> (4 * (column % 2))) & 15;
                assert_eq!((weight[column * rows / 8 + row / 8] >> shift) & 15, u32::from(code), "[{row}, {column}]");
            }
            for group in 0..groups {
                let zero = u32::from(block.zeros[row * groups + group]);
                assert_eq!((zeros[group * rows / 8 + row / 8] >> shift) & 15, zero);
            }
        }
    }
    let (rows, columns) = (160, 160);
    let block = made(&layout, rows, columns);
    let tensors = layout.written(&block, rows, columns).unwrap();
    // Stripes in the middle of the tensor, and in whole tiles.
    let middle: Vec<Strip<'_>> = tensors.iter().map(|(tensor, bytes)| tensor.strip(bytes, 16..152)).collect();
    let read = layout.read(&middle, 136, columns).unwrap();
    assert_eq!(read.packed[..], block.packed[16 * columns / 2..152 * columns / 2]);
    assert_eq!(read.zeros, block.zeros[16 * 5..152 * 5]);
}

#[test]
fn compressed_tensors_packs_zero_points_down_the_outputs() {
    let (rows, columns) = (70, 64);
    for bits in [2, 3, 4, 8] {
        let format = Format::CompressedTensors;
        let layout = Layout { format, coding: int(bits, false, 32), dtype: Dtype::F32, activations: false };
        let block = made(&layout, rows, columns);
        let tensors = layout.written(&block, rows, columns).unwrap();
        let (b, zeros) = (bits as usize, words(&tensors[3].1));
        assert_eq!(tensors[3].0.shape, [(70 * u64::from(bits)).div_ceil(32), 2]);
        for (at, zero) in block.zeros.iter().enumerate() {
            assert_eq!(field(&zeros, at % 2, 2, at / 2 * b, b), *zero);
        }
        assert_eq!(tensors[2].1, [70_i64.to_le_bytes(), 64_i64.to_le_bytes()].concat());
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_with_what_it_can() {
    let layout = |format, coding| Layout { format, coding, dtype: Dtype::F32, activations: false };
    let message = |layout: Layout, rows, columns| layout.tensors(rows, columns).unwrap_err().to_string();
    let refused = message(layout(Format::Awq, int(8, true, 32)), 64, 64);
    assert!(
        refused.starts_with("awq does not hold int8 symmetric in groups of 32; compressed-tensors holds"),
        "{refused}"
    );
    assert_eq!(
        message(layout(Format::GptqV2, int(4, true, 64)), 60, 64),
        "gptq_v2: [60, 64]: gptq files hold multiples of 32 inputs and outputs"
    );
    assert_eq!(
        message(layout(Format::CompressedTensors, int(4, true, 128)), 64, 576),
        "int4 symmetric in groups of 128: 128 does not divide rows of 576 elements; 64 does"
    );
    let asymmetric = layout(Format::Gptq, int(4, false, 32)).writable().unwrap_err().to_string();
    assert!(asymmetric.contains("use gptq_v2"), "{asymmetric}");
}

#[test]
fn corrupt_tensors_are_refused_by_name() {
    let layout = |format, coding| Layout { format, coding, dtype: Dtype::F32, activations: false };
    let parts = |layout: &Layout| -> Vec<Vec<u8>> {
        let written = layout.written(&made(layout, 64, 64), 64, 64).unwrap();
        written.into_iter().map(|(_, bytes)| bytes).collect()
    };
    let gptq = layout(Format::GptqV2, int(4, true, 32));
    let mut shuffled = parts(&gptq);
    shuffled[3][0] = 1;
    let refused = gptq.read(&strips(&shuffled), 64, 64).unwrap_err().to_string();
    assert_eq!(refused, "g_idx: column 0 is of group 1, where 2 groups of 32 columns are expected");
    let mut short = parts(&gptq);
    short[1].truncate(12);
    assert_eq!(gptq.read(&strips(&short), 64, 64).unwrap_err().to_string(), "qzeros: 64 rows are 64 bytes, not 12");
    let nested = layout(Format::Bnb, table(Table::Nf4, true));
    for state in [&b"{"[..], b"{}", b"{\"nested_offset\": \"x\"}"] {
        let mut broken = parts(&nested);
        broken[3] = state.to_vec();
        let refused = nested.read(&strips(&broken), 64, 64).unwrap_err().to_string();
        assert!(refused.starts_with("quant_state: "), "{refused}");
    }
}
