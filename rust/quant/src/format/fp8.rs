//! FP8 with a scale for each block: DeepSeek-V3's own layout, which Qwen3 and many others are released in.
//!
//! | tensor of a module | holds |
//! |---|---|
//! | `weight` E4M3 `[out, in]` | codes |
//! | `weight_scale_inv` `[out / 128, in / 128]`, rounded up | f32 (others write bf16): what codes are multiplied with, whatever its name; one number where `weight_block_size` is null |
//!
//! `w = q s`, one product in f32. Blocks are counted from the first row and column, so those at the far edges may be smaller, as
//! DeepSeek's kernels have them. (Where transformers 5.24 dequantizes on loading, it cuts such sides into equal blocks, or
//! refuses them; its own kernels do not.)

use super::{
    Coding, Format, Group, Held, Layout, Part, Rows, Stored, Strip, Tensor, compressed_tensors, narrow, widen,
};
use polmrs_core::{Dtype, Error, Result, dtype};
use serde_json::{Value, json};

pub(super) const CODINGS: &str = "fp8 holds fp8 in blocks or under one scale";

const SCALE: &str = "weight_scale_inv";

/// Rows and columns of a block, if a configuration does not say.
const BLOCK: [usize; 2] = [128, 128];

pub(super) fn tensors(layout: &Layout, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
    let scale = match layout.coding {
        Coding::Fp8 { group: Group::Tensor } => Tensor::new(SCALE, layout.dtype, &[], Part::Whole),
        Coding::Fp8 { group: Group::Block { rows: high, columns: wide } } => {
            let shape = [rows.div_ceil(high), columns.div_ceil(wide)];
            Tensor::new(SCALE, layout.dtype, &shape, Part::Lines { rows: high, lines: 1 })
        }
        _ => return Err(layout.unsupported()),
    };
    Ok(vec![Tensor::by_rows("weight", Dtype::F8E4M3, &[rows, columns]), scale])
}

pub(super) fn write(layout: &Layout, block: &Rows<'_>, parts: &mut [&mut [u8]]) {
    parts[0].copy_from_slice(&block.packed);
    if let Coding::Fp8 { group: Group::Block { .. } } = layout.coding {
        dtype::from_f32(layout.dtype, &block.scales, parts[1]);
    }
}

pub(super) fn whole(layout: &Layout, global: f32) -> Vec<u8> {
    narrow(layout.dtype, &[global])
}

pub(super) fn read<'a>(layout: &Layout, parts: &[Strip<'a>], count: usize) -> Rows<'a> {
    let scales = widen(layout.dtype, &parts[1].together());
    let mut block = Rows { packed: parts[0].together(), scales, ..Rows::default() };
    if let Coding::Fp8 { group: Group::Tensor } = layout.coding {
        block.share_scale(count);
    }
    block
}

pub(super) fn config(layouts: &[(Layout, Vec<String>)], ignore: &[String]) -> Value {
    let block = match layouts[0].0.coding {
        Coding::Fp8 { group: Group::Block { rows, columns } } => json!([rows, columns]),
        _ => Value::Null,
    };
    json!({
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": block,
        "modules_to_not_convert": ignore,
    })
}

pub(super) fn recognise(held: &Held<'_>, block: Option<[usize; 2]>) -> Result<Stored> {
    let (rows, columns) = (held.axis("weight", 0)?, held.axis("weight", 1)?);
    let Some((dtype, shape)) = held.find(SCALE) else {
        // What vLLM wrote first: a scale for a tensor or its channels, named and stored as in compressed-tensors.
        return match (held.find("weight"), held.find("weight_scale")) {
            (Some((Dtype::F8E4M3, _)), Some(_)) => compressed_tensors::recognise(held, None),
            _ => Err(Error::Checkpoint(format!("{SCALE}: not there"))),
        };
    };
    let group = if shape.len() < 2 {
        Group::Tensor
    } else {
        let [high, wide] = block.unwrap_or(BLOCK);
        if high == 0 || wide == 0 {
            return Err(Error::Config(format!("block: {high} x {wide} holds nothing")));
        }
        Group::Block { rows: high.min(rows), columns: wide.min(columns) }
    };
    let layout = Layout { format: Format::Fp8, coding: Coding::Fp8 { group }, dtype, activations: false };
    Ok(Stored { layout, rows, columns })
}
