//! bitsandbytes: NF4 and FP4 in blocks, plain or with quantized scales, and LLM.int8(). FP4 is read, and not written.
//!
//! | coding | tensors of a module |
//! |---|---|
//! | NF4 | `weight` u8 `[n / 2, 1]`, `weight.absmax` f32 `[n / 64]`, `weight.quant_map` f32 `[16]`, `weight.quant_state.bitsandbytes__nf4` u8: JSON |
//! | FP4 | the same, with `..bitsandbytes__fp4` |
//! | nested | the same with `weight.absmax` u8, `weight.nested_absmax` f32 `[n / 64 / 256]`, `weight.nested_quant_map` f32 `[256]` |
//! | LLM.int8() | `weight` i8 `[out, in]`, `SCB` f32 `[out]`: each row's largest magnitude, `weight_format` u8 `[]`: 0 |
//!
//! Blocks run through all rows, so a block of rows is whole only where its elements are.

use super::{Coding, Format, Held, Layout, Part, Rows, Stored, Strip, Tensor, narrow, widen};
use crate::codebook::{self, NESTED_BLOCK, Table};
use polmrs_core::{Dtype, Error, Result, dtype};
use serde_json::{Value, json};

pub(super) const CODINGS: &str = "bnb holds nf4 and fp4, nested or not, and llm-int8";

/// The state's JSON is filled up with spaces to this many bytes: its length must not depend on the mean of the scales.
const STATE_LEN: usize = 256;

/// The tensor that holds it; other writers do not fill it up.
pub(super) const fn state_of(table: Table) -> &'static str {
    match table {
        Table::Nf4 => "weight.quant_state.bitsandbytes__nf4",
        Table::Fp4 => "weight.quant_state.bitsandbytes__fp4",
    }
}

/// Whether a tensor is a state.
pub(super) fn is_state(suffix: &str) -> bool {
    [Table::Nf4, Table::Fp4].into_iter().any(|table| state_of(table) == suffix)
}

pub(super) fn tensors(layout: &Layout, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
    let floats = |suffix, len| Tensor::new(suffix, Dtype::F32, &[len], Part::Whole);
    Ok(match layout.coding {
        Coding::Codebook { table, block, nested } => {
            let (size, grain) = (rows * columns, grain(layout, columns));
            let runs = |suffix, dtype, each: usize, shape: &[usize]| {
                Tensor::new(suffix, dtype, shape, Part::Lines { rows: grain, lines: grain * columns / each })
            };
            let (blocks, dtype) = (size.div_ceil(block), if nested { Dtype::U8 } else { Dtype::F32 });
            let mut tensors = vec![
                runs("weight", Dtype::U8, 2, &[size.div_ceil(2), 1]),
                runs("weight.absmax", dtype, block, &[blocks]),
                floats("weight.quant_map", table.values().len()),
                Tensor::new(state_of(table), Dtype::U8, &[STATE_LEN], Part::Whole),
            ];
            if nested {
                let each = block * NESTED_BLOCK;
                tensors.push(runs("weight.nested_absmax", Dtype::F32, each, &[blocks.div_ceil(NESTED_BLOCK)]));
                tensors.push(floats("weight.nested_quant_map", 256));
            }
            tensors
        }
        Coding::Int8 => vec![
            Tensor::by_rows("weight", Dtype::I8, &[rows, columns]),
            Tensor::by_rows("SCB", Dtype::F32, &[rows]),
            Tensor::new("weight_format", Dtype::U8, &[], Part::Whole),
        ],
        _ => return Err(layout.unsupported()),
    })
}

pub(super) fn grain(layout: &Layout, columns: usize) -> usize {
    let unit = match layout.coding {
        Coding::Codebook { block, nested, .. } => {
            if nested {
                block * NESTED_BLOCK
            } else {
                block
            }
        }
        _ => 1,
    };
    unit / divisor(unit, columns)
}

/// The greatest common divisor.
fn divisor(a: usize, b: usize) -> usize {
    if b == 0 { a.max(1) } else { divisor(b, a % b) }
}

pub(super) fn write(layout: &Layout, block: &Rows<'_>, parts: &mut [&mut [u8]]) {
    parts[0].copy_from_slice(&block.packed);
    if let Coding::Codebook { nested: true, .. } = layout.coding {
        let nested = codebook::nest_around(&block.scales, block.global);
        parts[1].copy_from_slice(&nested.codes);
        dtype::from_f32(Dtype::F32, &nested.scales, parts[4]);
    } else {
        dtype::from_f32(Dtype::F32, &block.scales, parts[1]);
    }
}

pub(super) fn whole(layout: &Layout, suffix: &str, rows: usize, columns: usize, global: f32) -> Vec<u8> {
    match (suffix, layout.coding) {
        ("weight.quant_map", Coding::Codebook { table, .. }) => narrow(Dtype::F32, table.values()),
        ("weight.nested_quant_map", _) => narrow(Dtype::F32, codebook::dynamic_map()),
        ("weight_format", _) => vec![0],
        _ => state(layout, rows, columns, global),
    }
}

/// The packed JSON of bitsandbytes' `QuantState`.
fn state(layout: &Layout, rows: usize, columns: usize, offset: f32) -> Vec<u8> {
    let Coding::Codebook { table, block, nested } = layout.coding else { return Vec::new() };
    let mut state = json!({
        "quant_type": table.name(),
        "blocksize": block,
        "dtype": layout.dtype.torch_name(),
        "shape": [rows, columns],
    });
    if nested {
        state["nested_blocksize"] = json!(NESTED_BLOCK);
        state["nested_dtype"] = json!("float32");
        state["nested_offset"] = json!(offset);
    }
    let mut text = state.to_string().into_bytes();
    text.resize(STATE_LEN, b' ');
    text
}

pub(super) fn read<'a>(layout: &Layout, parts: &[Strip<'a>]) -> Result<Rows<'a>> {
    let mut block = Rows { packed: parts[0].together(), ..Rows::default() };
    block.scales = match layout.coding {
        Coding::Codebook { nested: true, .. } => {
            block.global = offset(&parts[3].together())?;
            let scales = widen(Dtype::F32, &parts[4].together());
            codebook::unnest(&codebook::Nested {
                codes: parts[1].together().into_owned(),
                scales,
                offset: block.global,
            })
        }
        _ => widen(Dtype::F32, &parts[1].together()),
    };
    Ok(block)
}

/// What a state's bytes hold.
fn parsed(state: &[u8]) -> Result<Value> {
    serde_json::from_slice(state).map_err(|error| Error::Checkpoint(format!("quant_state: not JSON: {error}")))
}

/// The mean of the scales, from the state of a nested tensor.
fn offset(state: &[u8]) -> Result<f32> {
    let offset = parsed(state)?["nested_offset"].as_f64();
    offset
        .map(|offset| offset as f32)
        .ok_or_else(|| Error::Checkpoint("quant_state: no number in nested_offset".into()))
}

pub(super) fn recognise(held: &Held<'_>) -> Result<Stored> {
    let stored = |coding, dtype, rows, columns| Stored {
        layout: Layout { format: Format::Bnb, coding, dtype, activations: false },
        rows,
        columns,
    };
    if held.find("SCB").is_some() {
        let (rows, columns) = (held.axis("weight", 0)?, held.axis("weight", 1)?);
        return Ok(stored(Coding::Int8, Dtype::F32, rows, columns));
    }
    let table = if held.find(state_of(Table::Fp4)).is_some() { Table::Fp4 } else { Table::Nf4 };
    let state = parsed(&(held.bytes)(state_of(table))?)?;
    let wrong = |key: &str| Error::Checkpoint(format!("quant_state: {key}: {} is not what is read", state[key]));
    let nested = held.find("weight.nested_absmax").is_some();
    if nested && state["nested_blocksize"] != json!(NESTED_BLOCK) {
        return Err(wrong("nested_blocksize"));
    }
    if state["quant_type"] != table.name() {
        return Err(wrong("quant_type"));
    }
    let block = state["blocksize"].as_u64().filter(|block| (2..=1 << 20).contains(block) && block % 2 == 0);
    let dtype = state["dtype"].as_str().and_then(Dtype::from_torch_name).filter(|dtype| dtype.is_float());
    let axis =
        |at: usize| state["shape"][at].as_u64().filter(|size| (1..1 << 31).contains(size)).map(|size| size as usize);
    let (rows, columns) = axis(0).zip(axis(1)).filter(|_| state["shape"][2].is_null()).ok_or_else(|| wrong("shape"))?;
    let block = block.ok_or_else(|| wrong("blocksize"))? as usize;
    Ok(stored(Coding::Codebook { table, block, nested }, dtype.ok_or_else(|| wrong("dtype"))?, rows, columns))
}

pub(super) fn config(layouts: &[(Layout, Vec<String>)], ignore: &[String]) -> Value {
    let (layout, _) = &layouts[0];
    let (four, table) = match layout.coding {
        Coding::Codebook { table, .. } => (true, table),
        _ => (false, Table::Nf4),
    };
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": four,
        "load_in_8bit": !four,
        "bnb_4bit_quant_type": table.name(),
        "bnb_4bit_use_double_quant": matches!(layout.coding, Coding::Codebook { nested: true, .. }),
        "bnb_4bit_compute_dtype": layout.dtype.torch_name(),
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": ignore,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
    })
}
