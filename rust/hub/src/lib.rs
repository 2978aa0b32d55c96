//! Models of the Hugging Face Hub: their names, and the cache that `huggingface_hub` keeps on disk.
//!
//! | module | holds |
//! |---|---|
//! | [`repo`] | `org/name@revision` |
//! | [`settings`] | where the cache is and who asks, from the environment variables that `huggingface_hub` reads |
//! | [`cache`] | what is in the cache |

pub mod cache;
pub mod repo;
pub mod settings;

pub use repo::Repo;
pub use settings::Settings;
