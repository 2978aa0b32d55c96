//! compressed-tensors: what llm-compressor writes, and transformers and vLLM load.
//!
//! | format | tensors of a module |
//! |---|---|
//! | `pack-quantized` | `weight_packed` i32 `[out, ceil(in b / 32)]`, `weight_scale` `[out, groups]`, `weight_shape` i64 `[2]`; asymmetric: `weight_zero_point` i32 `[ceil(out b / 32), groups]` |
//! | `int-quantized` | `weight` i8 `[out, in]`, `weight_scale` `[out, groups]` |
//! | `float-quantized` | `weight` E4M3 `[out, in]`, `weight_scale` `[out, groups]`, or `[1]` for a tensor |
//! | `nvfp4-pack-quantized` | `weight_packed` u8 `[out, in / 2]`, `weight_scale` E4M3 `[out, in / 16]`, `weight_global_scale` f32 `[1]` |
//! | `mxfp4-pack-quantized` | `weight_packed` u8 `[out, in / 2]`, `weight_scale` u8 `[out, in / 32]` |
//!
//! Codes are packed along a row as one dense stream, zero points down a column; both as unsigned codes. (Up to version
//! 0.17 codes of 3 bits were ten to a word with two bits to spare; those files have wider rows, and are refused.)

use super::words::{pack_down, turn, unpack_down};
use super::{Coding, Format, Group, Held, Layout, Part, Rows, Stored, Strip, Tensor, narrow, widen};
use polmrs_core::{Dtype, Error, Result, dtype};
use serde_json::{Map, Value, json};

pub(super) const CODINGS: &str = "compressed-tensors holds int2, int3, int4 and int8 in channels or groups, symmetric or \
     not, fp8, nvfp4 and mxfp4";

/// The name of this layout's format in a configuration.
pub fn format_name(layout: &Layout) -> &'static str {
    match layout.coding {
        Coding::Int { .. } if layout.activations => "int-quantized",
        Coding::Int { .. } => "pack-quantized",
        Coding::Fp8 { .. } => "float-quantized",
        Coding::Mxfp4 => "mxfp4-pack-quantized",
        Coding::Nvfp4 => "nvfp4-pack-quantized",
        Coding::Codebook { .. } | Coding::Int8 => "dense",
    }
}

pub(super) fn tensors(layout: &Layout, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
    let groups = columns / layout.coding.group(columns);
    let scale = Tensor::by_rows("weight_scale", layout.dtype, &[rows, groups]);
    Ok(match layout.coding {
        Coding::Int { group: Group::Tensor | Group::Block { .. }, .. } | Coding::Fp8 { group: Group::Block { .. } } => {
            return Err(layout.unsupported());
        }
        Coding::Int { bits: 8, symmetric: true, .. } if layout.activations => {
            vec![Tensor::by_rows("weight", Dtype::I8, &[rows, columns]), scale]
        }
        Coding::Int { bits: 2 | 3 | 4 | 8, symmetric, .. } if !layout.activations => {
            let bits = layout.coding.bits() as usize;
            let words = (columns * bits).div_ceil(32);
            let mut tensors = vec![
                Tensor::by_rows("weight_packed", Dtype::I32, &[rows, words]),
                scale,
                Tensor::new("weight_shape", Dtype::I64, &[2], Part::Whole),
            ];
            if !symmetric {
                let part = Part::Lines { rows: 32, lines: bits };
                let shape = [(rows * bits).div_ceil(32), groups];
                tensors.push(Tensor::new("weight_zero_point", Dtype::I32, &shape, part));
            }
            tensors
        }
        Coding::Int { .. } => return Err(layout.unsupported()),
        Coding::Fp8 { group } => {
            let weight = Tensor::by_rows("weight", Dtype::F8E4M3, &[rows, columns]);
            let one = || Tensor::new("weight_scale", layout.dtype, &[1], Part::Whole);
            vec![weight, if group == Group::Tensor { one() } else { scale }]
        }
        Coding::Mxfp4 => vec![
            Tensor::by_rows("weight_packed", Dtype::U8, &[rows, columns / 2]),
            Tensor::by_rows("weight_scale", Dtype::U8, &[rows, groups]),
        ],
        Coding::Nvfp4 => vec![
            Tensor::by_rows("weight_packed", Dtype::U8, &[rows, columns / 2]),
            Tensor::by_rows("weight_scale", Dtype::F8E4M3, &[rows, groups]),
            Tensor::new("weight_global_scale", Dtype::F32, &[1], Part::Whole),
        ],
        Coding::Codebook { .. } | Coding::Int8 => return Err(layout.unsupported()),
    })
}

pub(super) fn write(layout: &Layout, block: &Rows<'_>, columns: usize, parts: &mut [&mut [u8]]) {
    parts[0].copy_from_slice(&block.packed);
    match layout.coding {
        Coding::Int { .. } if layout.activations => parts[0].iter_mut().for_each(flip),
        Coding::Int { bits, symmetric: false, group } => {
            let groups = columns / group.size(columns);
            turn(Strip::of(&pack_down(bits as usize, &block.zeros, groups)), groups, parts[3]);
        }
        _ => {}
    }
    match layout.coding {
        Coding::Fp8 { group: Group::Tensor } => {}
        Coding::Mxfp4 | Coding::Nvfp4 => parts[1].copy_from_slice(&block.bytes),
        _ => dtype::from_f32(layout.dtype, &block.scales, parts[1]),
    }
}

pub(super) fn whole(layout: &Layout, suffix: &str, rows: usize, columns: usize, global: f32) -> Vec<u8> {
    match suffix {
        "weight_shape" => [rows as i64, columns as i64].into_iter().flat_map(i64::to_le_bytes).collect(),
        "weight_scale" => narrow(layout.dtype, &[global]),
        _ => global.to_le_bytes().to_vec(),
    }
}

pub(super) fn read<'a>(
    layout: &Layout,
    parts: &[Strip<'a>],
    count: usize,
    columns: usize,
    packed: Vec<u8>,
) -> Rows<'a> {
    let mut block = Rows { packed: parts[0].together(), ..Rows::default() };
    let groups = columns / layout.coding.group(columns);
    match layout.coding {
        Coding::Mxfp4 | Coding::Nvfp4 => block.bytes = parts[1].together().into_owned(),
        _ => block.scales = widen(layout.dtype, &parts[1].together()),
    }
    match layout.coding {
        Coding::Int { .. } if layout.activations => {
            let mut codes = parts[0].copied_into(packed);
            codes.iter_mut().for_each(flip);
            block.packed = codes.into();
        }
        Coding::Int { bits, symmetric: false, .. } => {
            let mut streams = vec![0; parts[3].nbytes()];
            turn(parts[3], parts[3].nbytes() / (4 * groups), &mut streams);
            block.zeros = unpack_down(bits as usize, &streams, groups, count);
        }
        Coding::Fp8 { group: Group::Tensor } => block.share_scale(count),
        Coding::Nvfp4 => block.global = widen(Dtype::F32, &parts[2].together())[0],
        _ => {}
    }
    block
}

/// Signed bytes to unsigned codes, and back.
fn flip(code: &mut u8) {
    *code ^= 0x80;
}

pub(super) fn config(layouts: &[(Layout, Vec<String>)], ignore: &[String]) -> Value {
    let groups: Map<String, Value> = layouts
        .iter()
        .enumerate()
        .map(|(at, (layout, targets))| (format!("group_{at}"), group(layout, targets)))
        .collect();
    let mut formats: Vec<&str> = layouts.iter().map(|(layout, _)| format_name(layout)).collect();
    formats.dedup();
    json!({
        "quant_method": "compressed-tensors",
        "format": if let [format] = formats[..] { format } else { "mixed-precision" },
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": ignore,
        "config_groups": groups,
    })
}

/// One of the `config_groups`.
fn group(layout: &Layout, targets: &[String]) -> Value {
    let (kind, symmetric) = match layout.coding {
        Coding::Int { symmetric, .. } => ("int", symmetric),
        _ => ("float", true),
    };
    let (strategy, size) = match layout.coding {
        Coding::Int { group, .. } | Coding::Fp8 { group } => match group {
            Group::Tensor => ("tensor", None),
            Group::Channel => ("channel", None),
            Group::Size(size) => ("group", Some(size)),
            Group::Block { .. } => ("block", None),
        },
        Coding::Mxfp4 => ("group", Some(layout.coding.group(0))),
        Coding::Nvfp4 => ("tensor_group", Some(layout.coding.group(0))),
        Coding::Codebook { .. } | Coding::Int8 => ("tensor", None),
    };
    let mut weights = json!({
        "num_bits": layout.coding.bits(),
        "type": kind,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": size,
        "dynamic": false,
    });
    match layout.coding {
        Coding::Mxfp4 => weights["scale_dtype"] = json!("torch.uint8"),
        Coding::Nvfp4 => weights["scale_dtype"] = json!("torch.float8_e4m3fn"),
        _ => {}
    }
    let activations = json!({
        "num_bits": 8,
        "type": kind,
        "symmetric": true,
        "strategy": "token",
        "group_size": null,
        "dynamic": true,
    });
    json!({
        "targets": targets,
        "weights": weights,
        "input_activations": if layout.activations { activations } else { Value::Null },
        "output_activations": null,
        "format": format_name(layout),
    })
}

pub(super) fn recognise(held: &Held<'_>, bits: Option<u32>) -> Result<Stored> {
    let stored = |coding, dtype, rows, columns| {
        // Whether activations are rounded too is the runtime's business, and stands in the configuration alone.
        let activations = matches!(coding, Coding::Int { .. }) && held.find("weight").is_some();
        Stored { layout: Layout { format: Format::CompressedTensors, coding, dtype, activations }, rows, columns }
    };
    let scale = held.find("weight_scale");
    let dtype = scale.map_or(Dtype::F32, |(dtype, _)| dtype);
    let group = |columns: usize| match held.axis("weight_scale", 1)? {
        1 => Ok(Group::Channel),
        groups => Ok(Group::Size(columns / groups)),
    };
    let (suffix, kind) = ["weight_packed", "weight"]
        .into_iter()
        .find_map(|suffix| held.find(suffix).map(|(dtype, _)| (suffix, dtype)))
        .ok_or_else(|| Error::Checkpoint("neither weight_packed nor weight is there".into()))?;
    let (rows, width) = (held.axis(suffix, 0)?, held.axis(suffix, 1)?);
    match (suffix, kind) {
        ("weight_packed", Dtype::I32) => {
            let columns = columns(&(held.bytes)("weight_shape")?, rows)?;
            let symmetric = held.find("weight_zero_point").is_none();
            let coding = Coding::Int { bits: width_of(columns, width, bits)?, symmetric, group: group(columns)? };
            Ok(stored(coding, dtype, rows, columns))
        }
        ("weight_packed", Dtype::U8) if held.find("weight_global_scale").is_some() => {
            Ok(stored(Coding::Nvfp4, Dtype::BF16, rows, 2 * width))
        }
        ("weight_packed", Dtype::U8) => Ok(stored(Coding::Mxfp4, Dtype::BF16, rows, 2 * width)),
        ("weight", Dtype::I8) => {
            let coding = Coding::Int { bits: 8, symmetric: true, group: group(width)? };
            Ok(stored(coding, dtype, rows, width))
        }
        ("weight", Dtype::F8E4M3) => {
            let one = scale.is_some_and(|(_, shape)| shape.len() < 2);
            let group = if one { Group::Tensor } else { group(width)? };
            Ok(stored(Coding::Fp8 { group }, dtype, rows, width))
        }
        _ => Err(Error::Checkpoint(format!("{suffix}: {} is no type of quantized weights", kind.name()))),
    }
}

/// The columns that `weight_shape` names.
fn columns(shape: &[u8], rows: usize) -> Result<usize> {
    match shape.as_chunks::<8>().0 {
        [first, columns] if i64::from_le_bytes(*first) == rows as i64 => {
            let columns = i64::from_le_bytes(*columns);
            usize::try_from(columns).ok().filter(|columns| (1..1 << 40).contains(columns))
        }
        _ => None,
    }
    .ok_or_else(|| Error::Checkpoint(format!("weight_shape: it does not hold {rows} rows and a number of columns")))
}

/// Bits of a code, from the words of a row.
fn width_of(columns: usize, words: usize, given: Option<u32>) -> Result<u32> {
    let fits = |bits: &u32| (columns * *bits as usize).div_ceil(32) == words;
    let mut all = [2, 3, 4, 8].into_iter().filter(|bits| given.is_none_or(|given| given == *bits)).filter(fits);
    match (all.next(), all.next()) {
        (Some(bits), None) => Ok(bits),
        (Some(_), Some(_)) => {
            Err(Error::Checkpoint(format!("weight_packed: {words} words for {columns} codes leave the bits open")))
        }
        (None, _) => {
            let rows = format!("weight_packed: rows of {words} words for {columns} codes");
            let padded = columns.div_ceil(10) == words && given.is_none_or(|given| given == 3);
            let hint =
                if padded { "; 3-bit codes in the padded packing of versions up to 0.17 are not read" } else { "" };
            let bits = given.map_or_else(|| "2, 3, 4 or 8".to_owned(), |bits| bits.to_string());
            Err(Error::Checkpoint(format!("{rows}, which are not of {bits} bits{hint}")))
        }
    }
}
