//! `polmrs._core.data`: the kernels of `polmrs-batch` on flat numpy arrays and lists of texts.

use pyo3::prelude::*;

mod batches;
mod groupings;
mod store;
mod texts;
mod tokenizer;

/// Token stores, batches, packing, near-duplicates.
#[pymodule]
pub(crate) mod data {
    #[pymodule_export]
    use super::batches::{collate, pad};
    #[pymodule_export]
    use super::groupings::{balance, pack, token_batches};
    #[pymodule_export]
    use super::store::{Writer, flatten, narrow, open_store, verify_store};
    #[pymodule_export]
    use super::texts::{contamination, near_duplicates, near_pairs, novel, porter_stem, rouge_l, rouge_l_pool, words};
    #[pymodule_export]
    use super::tokenizer::Tokenizer;
}
