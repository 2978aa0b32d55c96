//! Models of the Hugging Face Hub: their names, the cache that `huggingface_hub` keeps on disk, downloads into it.
//!
//! | module | holds |
//! |---|---|
//! | [`repo`] | `org/name@revision` |
//! | [`settings`] | where the cache is and who asks, from the environment variables that `huggingface_hub` reads |
//! | [`cache`] | what is in the cache |
//! | [`remote`] | a model on the Hub: its files, parts of them, whole ones into the cache |
//! | `http`, `download`, `lock` | requests; one file, resumed and checked; one downloader at a time |
//!
//! Only the feature `network` asks anybody anything.

pub mod cache;
#[cfg(feature = "network")]
mod download;
#[cfg(feature = "network")]
mod http;
#[cfg(feature = "network")]
mod lock;
#[cfg(feature = "network")]
pub mod remote;
pub mod repo;
pub mod settings;

#[cfg(feature = "network")]
pub use remote::Remote;
pub use repo::Repo;
pub use settings::Settings;
