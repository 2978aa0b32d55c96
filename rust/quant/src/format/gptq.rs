//! GPTQ: what AutoGPTQ began and gptqmodel writes.
//!
//! | tensor of a module | holds |
//! |---|---|
//! | `qweight` i32 `[in b / 32, out]` | codes, packed along the input |
//! | `qzeros` i32 `[groups, out b / 32]` | zero points, packed along the output: as they are in `gptq_v2`, less one in `gptq` |
//! | `scales` `[groups, out]` | f16 |
//! | `g_idx` i32 `[in]` | the group of each input |
//!
//! `w = (q - z) s`. Everything is transposed, so a block of rows is a stripe of columns; `qweight` is the transpose of rows
//! packed as words. In `gptq` a zero point of 0 is stored as the top code, and readers that add one to whole words let it
//! carry into its neighbour: grids with zero points are written as `gptq_v2` only. A file with another `g_idx`
//! (`desc_act`) has groups of columns that are no neighbours; [`read`] puts them side by side, in the order of their groups.

use super::words::{pack_down, turn, turned, unpack_down};
use super::{Coding, Format, Group, Held, Layout, Part, Rows, Stored, Strip, Tensor, widen};
use crate::bits;
use polmrs_core::{Dtype, Error, Result, dtype};
use serde_json::{Map, Value, json};

pub(super) const CODINGS: &str = "gptq and gptq_v2 hold int2, int3, int4 and int8 in channels or groups, symmetric; \
     gptq_v2 also with zero points";

pub(super) fn tensors(layout: &Layout, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
    let Coding::Int { bits: bits @ (2 | 3 | 4 | 8), group: Group::Channel | Group::Size(_), .. } = layout.coding else {
        return Err(layout.unsupported());
    };
    if !rows.is_multiple_of(32) || !columns.is_multiple_of(32) {
        let rule = "gptq files hold multiples of 32 inputs and outputs";
        return Err(Error::Config(format!("{}: [{rows}, {columns}]: {rule}", layout.format.name())));
    }
    let (bits, groups) = (bits as usize, columns / layout.coding.group(columns));
    let column =
        |suffix, dtype, lines| Tensor::new(suffix, dtype, &[lines, rows], Part::Columns { rows: 1, columns: 1 });
    let zeros = Part::Columns { rows: 32, columns: bits };
    Ok(vec![
        column("qweight", Dtype::I32, columns * bits / 32),
        Tensor::new("qzeros", Dtype::I32, &[groups, rows * bits / 32], zeros),
        column("scales", layout.dtype, groups),
        Tensor::new("g_idx", Dtype::I32, &[columns], Part::Whole),
    ])
}

pub(super) fn write(layout: &Layout, block: &Rows<'_>, columns: usize, parts: &mut [&mut [u8]]) {
    let (bits, groups) = (layout.coding.bits() as usize, columns / layout.coding.group(columns));
    let count = block.scales.len() / groups;
    let less = u8::from(layout.format == Format::Gptq);
    let zeros: Vec<u8> = match layout.coding {
        Coding::Int { symmetric: false, .. } => block.zeros.iter().map(|zero| zero.wrapping_sub(less)).collect(),
        _ => vec![(1 << (bits - 1)) - less; block.scales.len()],
    };
    turn(Strip::of(&block.packed), count, parts[0]);
    parts[1].copy_from_slice(&pack_down(bits, &zeros, groups));
    dtype::from_f32(layout.dtype, &turned(&block.scales, count), parts[2]);
}

pub(super) fn whole(layout: &Layout, columns: usize) -> Vec<u8> {
    let group = layout.coding.group(columns);
    (0..columns).flat_map(|column| ((column / group) as i32).to_le_bytes()).collect()
}

pub(super) fn read(
    layout: &Layout,
    parts: &[Strip<'_>],
    count: usize,
    columns: usize,
    mut packed: Vec<u8>,
) -> Result<Rows<'static>> {
    let (bits, groups) = (layout.coding.bits() as usize, columns / layout.coding.group(columns));
    let g_idx = parts[3].together();
    let order = if *g_idx == whole(layout, columns) { Vec::new() } else { order(&g_idx, groups)? };
    let mut zeros = unpack_down(bits, &parts[1].together(), groups, count);
    if layout.format == Format::Gptq {
        let top = 0xff >> (8 - bits);
        zeros.iter_mut().for_each(|zero| *zero = zero.wrapping_add(1) & top);
    }
    packed.resize(parts[0].nbytes(), 0);
    turn(parts[0], columns * bits / 32, &mut packed);
    if !order.is_empty() {
        gather(bits, &order, &mut packed);
    }
    Ok(Rows {
        packed: packed.into(),
        scales: turned(&widen(layout.dtype, &parts[2].together()), groups),
        zeros,
        order,
        ..Rows::default()
    })
}

/// The columns in the order of their groups.
///
/// # Errors
/// The groups are not as many as there are scales, or not all of one size.
fn order(g_idx: &[u8], groups: usize) -> Result<Vec<usize>> {
    let of: Vec<i32> = g_idx.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
    let mut order: Vec<usize> = (0..of.len()).collect();
    order.sort_by_key(|column| of[*column]);
    let size = of.len() / groups;
    match order.iter().enumerate().find(|(place, column)| of[**column] != (place / size) as i32) {
        None => Ok(order),
        Some((_, column)) => {
            let rule = format!("{groups} groups of {size} columns are expected");
            Err(Error::Checkpoint(format!("g_idx: column {column} is of group {}, where {rule}", of[*column])))
        }
    }
}

/// Puts the codes of packed rows into this order.
fn gather(bits: usize, order: &[usize], packed: &mut [u8]) {
    let (mut codes, mut gathered) = (vec![0; order.len()], vec![0; order.len()]);
    for row in packed.chunks_exact_mut(bits::packed_bytes(order.len(), bits)) {
        bits::unpack(bits, row, &mut codes);
        gathered.iter_mut().zip(order).for_each(|(code, column)| *code = codes[*column]);
        bits::pack(bits, &gathered, row);
    }
}

/// How many zero points of version 1 are stored as the top code: readers that add one to whole words carry them into their
/// neighbours.
pub(crate) fn carrying(bits: usize, qzeros: &[u8], groups: usize, rows: usize) -> usize {
    let top = 0xff >> (8 - bits);
    unpack_down(bits, qzeros, groups, rows).into_iter().filter(|zero| *zero == top).count()
}

/// Also the content of `quantize_config.json`.
pub(super) fn config(layouts: &[(Layout, Vec<String>)], ignore: &[String]) -> Value {
    let own = |layout: &Layout| {
        let (size, symmetric) = match layout.coding {
            Coding::Int { group: Group::Size(size), symmetric, .. } => (size as i64, symmetric),
            Coding::Int { symmetric, .. } => (-1, symmetric),
            _ => (-1, true),
        };
        (layout.coding.bits(), size, symmetric)
    };
    let mut dynamic: Map<String, Value> = Map::new();
    for (layout, targets) in &layouts[1..] {
        let (bits, group_size, sym) = own(layout);
        let rule = json!({ "bits": bits, "group_size": group_size, "sym": sym });
        dynamic.extend(targets.iter().map(|target| (format!("+:{}", pattern(target)), rule.clone())));
    }
    // The head stays as it is by default (`lm_head`).
    let kept = ignore.iter().filter(|name| *name != "lm_head");
    dynamic.extend(kept.map(|name| (format!("-:{}", pattern(name)), json!({}))));
    let (bits, group_size, sym) = own(&layouts[0].0);
    let mut config = json!({
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "desc_act": false,
        "sym": sym,
        "lm_head": false,
        "checkpoint_format": layouts[0].0.format.name(),
        "pack_dtype": "int32",
    });
    if !dynamic.is_empty() {
        config["dynamic"] = Value::Object(dynamic);
    }
    config
}

/// The regular expression of a target: gptqmodel matches one from the start of a module's name.
fn pattern(target: &str) -> String {
    match target.strip_prefix("re:") {
        Some(pattern) => pattern.to_owned(),
        None => format!("{}$", target.replace('.', r"\.")),
    }
}

pub(super) fn recognise(held: &Held<'_>, format: Format) -> Result<Stored> {
    let (words, rows, groups) = (held.axis("qweight", 0)?, held.axis("qweight", 1)?, held.axis("scales", 0)?);
    let columns = held.axis("g_idx", 0)?;
    let dtype = held.find("scales").map_or(Dtype::F16, |(dtype, _)| dtype);
    let group = if groups == 1 { Group::Channel } else { Group::Size(columns / groups) };
    let bits = (words * 32 / columns) as u32;
    // Which grids are symmetric does not show, and zero points are there for all.
    let coding = Coding::Int { bits, symmetric: false, group };
    Ok(Stored { layout: Layout { format, coding, dtype, activations: false }, rows, columns })
}
