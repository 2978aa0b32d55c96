//! Rows of a source as a batch, and a batch as a padded array.

use crate::array::{Any, apart, ragged, read, word, write};
use crate::call::quick;
use crate::error::to_py;
use numpy::{PyArray1, PyArrayDyn, PyUntypedArrayMethods};
use polmrs_batch::collate::{Examples, Plan, Side, TooLong, pad as pad_rows};
use polmrs_core::Error;
use polmrs_core::ragged::{Ragged, same_length};
use pyo3::prelude::*;

/// Flat integers of 32 bits.
type Ints<'py> = Bound<'py, PyArray1<i32>>;
/// Flat integers of 64 bits.
type Longs<'py> = Bound<'py, PyArray1<i64>>;
/// Ids, targets, `cu_seqlens`, example, place, cut, dropped.
type Collated<'py> = (Any<'py>, Any<'py>, Ints<'py>, Longs<'py>, Ints<'py>, Ints<'py>, Longs<'py>);

/// Lays out and fills a batch; `out` holds the memory for ids and targets, if given.
#[pyfunction]
#[pyo3(signature = (ids, offsets, mask, prompts, completions, members, max_length, too_long, out))]
#[allow(clippy::too_many_arguments, reason = "the columns of the source and of the examples")]
pub(crate) fn collate<'py>(
    py: Python<'py>,
    ids: &Any<'py>,
    offsets: &Any<'py>,
    mask: Option<&Any<'py>>,
    prompts: &Any<'py>,
    completions: &Any<'py>,
    members: &Any<'py>,
    max_length: Option<usize>,
    too_long: &str,
    out: Option<(Any<'py>, Any<'py>)>,
) -> PyResult<Collated<'py>> {
    let rules = [
        ("refuse", TooLong::Refuse),
        ("drop", TooLong::Drop),
        ("prompt_start", TooLong::PromptStart),
        ("prompt_end", TooLong::PromptEnd),
        ("completion_end", TooLong::CompletionEnd),
    ];
    let rule = word(py, "too_long", too_long, &rules)?;
    let (source_ids, source_mask) = (ids, mask);
    let (ids, mask) = (read::<i32>("ids", ids)?, read_if!("mask", mask, u8));
    let (prompts, completions) = (read::<i64>("prompts", prompts)?, read::<i64>("completions", completions)?);
    let (offsets, members) = (read::<i64>("offsets", offsets)?, ragged(members, completions.len(), "completions")?);
    let (ids, mask, offsets) = (slice!(ids), mask.as_ref().map(|mask| slice!(mask)), slice!(offsets));
    let (prompts, completions) = (slice!(prompts), slice!(completions));
    let plan = quick(py, || {
        let source = Ragged::new(offsets, ids.len(), "ids").map_err(|error| error.within("offsets"))?;
        mask.map_or(Ok(()), |mask| same_length("mask", mask.len(), "ids", ids.len()))?;
        same_length("members", members.sequences(), "prompts", prompts.len())?;
        Plan::new(&source, Examples { prompts, completions, members: &members }, max_length, rule)
    })?;
    let needed = plan.tokens();
    let (tokens, target) = match out {
        Some(out) if out.0.len()?.min(out.1.len()?) >= needed => out,
        _ => (zeros::<i32>(py, needed), zeros::<u8>(py, needed)),
    };
    apart(&[("out", &tokens), ("out", &target)], &[("ids", Some(source_ids)), ("mask", source_mask)])?;
    {
        let (mut tokens, mut target) = (write::<i32>("out", &tokens)?, write::<u8>("out", &target)?);
        let (tokens, target) = (slice_mut!(tokens), slice_mut!(target));
        quick(py, || plan.fill(ids, mask, &mut tokens[..needed], &mut target[..needed]))?;
    }
    Ok((
        tokens,
        target,
        PyArray1::from_vec(py, plan.cu_seqlens),
        PyArray1::from_vec(py, plan.example),
        PyArray1::from_vec(py, plan.place),
        PyArray1::from_vec(py, plan.cut),
        PyArray1::from_vec(py, plan.dropped),
    ))
}

fn zeros<'py, T: numpy::Element>(py: Python<'py>, n: usize) -> Any<'py> {
    PyArray1::<T>::zeros(py, n, false).into_any()
}

/// Writes sequences as rows of a padded array.
#[pyfunction]
pub(crate) fn pad(
    py: Python<'_>,
    values: &Any<'_>,
    cu_seqlens: &Any<'_>,
    width: usize,
    side: &str,
    filler: i64,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: numpy::Element + Copy + Sync>(
        values: &Any<'_>,
        cu_seqlens: &Any<'_>,
        (width, side): (usize, Side),
        filler: T,
        out: &Any<'_>,
    ) -> PyResult<()> {
        let py = values.py();
        let values = read::<T>("values", values)?;
        let sequences = ragged(cu_seqlens, values.len(), "values")?;
        let mut out = write::<T>("out", out)?;
        let (values, out) = (slice!(values), slice_mut!(out));
        quick(py, || {
            let longest = (0..sequences.sequences()).map(|i| sequences.range(i).len()).max().unwrap_or(0);
            if longest > width {
                return Err(Error::Usage(format!("width: {width} is less than {longest}, the longest sequence")));
            }
            same_length("out", out.len(), "the padded batch", width * sequences.sequences())?;
            pad_rows(values, &sequences, width, side, filler, out);
            Ok(())
        })
    }
    let side = word(py, "side", side, &[("left", Side::Left), ("right", Side::Right)])?;
    if values.cast::<PyArrayDyn<u8>>().is_ok() {
        return of::<u8>(values, cu_seqlens, (width, side), filler as u8, out);
    }
    let filler = i32::try_from(filler)
        .map_err(|_| to_py(py, &Error::Usage(format!("pad_id: {filler} is not a number of 32 bits"))))?;
    of::<i32>(values, cu_seqlens, (width, side), filler, out)
}
