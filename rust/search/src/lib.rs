//! Search by vectors, exact or saying how near to exact it is, and by words.
//!
//! | module | holds |
//! |---|---|
//! | [`bm25`] | search by words |
//! | [`index`] | an index of named vectors: add, delete, search |
//! | [`metric`] | scores, and keys with a bound on their rounding |
//! | [`shortlist`] | the candidates of a query: all within a margin of the `k`-th best |
//! | [`vectors`] | full vectors in f32, f16 or bf16 |
//! | [`dense`] | the scan of full vectors |
//! | [`quantized`] | candidates from codes: what an estimate of RaBitQ leaves |
//! | [`onebit`], [`levels`], [`rows8`] | 1-bit, 4-bit and 8-bit codes |
//! | [`graph`] | candidates along a graph: HNSW |
//! | [`ivf`] | candidates in the nearest of many lists: IVF |
//! | [`rotation`] | a random rotation in $O(d \log d)$ |
//! | [`column`] | numbers in memory or in a mapped file |
//! | [`filter`] | conditions on metadata, as bitmaps |
//! | [`shared`] | one writer beside many readers |
//! | [`ids`] | integers or strings as names |

mod bitmap;
pub mod bm25;
pub mod column;
pub mod dense;
mod factors;
mod fields;
mod file;
pub mod filter;
mod finder;
pub mod graph;
pub mod ids;
pub mod index;
pub mod ivf;
pub mod levels;
pub mod metric;
pub mod onebit;
pub mod quantized;
pub mod rotation;
mod rows;
pub mod rows8;
pub mod shared;
mod shares;
pub mod shortlist;
mod staged;
mod tile;
pub mod vectors;

pub use file::Extent;
pub use rows::record::Appended;
