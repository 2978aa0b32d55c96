//! Where weights are: on disk, in the Hub's cache, on the Hub.

use crate::reference::Place;
use polmrs_core::{Ctl, Error, Result};
use polmrs_engine::source::{CheckpointSource, Source};
use polmrs_hub::{Repo, Settings, cache};
use polmrs_io::safetensors::Checkpoint;
use serde_json::Value as Json;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes of a config or a card that are read; more is refused.
const MAX_TEXT: u64 = 10 << 20;

/// What peft calls an adapter's config.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_STEM: &str = "adapter_model";
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// Gives the dense weights of a model whose config says that it is quantized; of any other, nothing.
pub type ReadQuantized = fn(&Arc<dyn Source>, &Json) -> Result<Option<Arc<dyn Source>>>;

static READ_QUANTIZED: OnceLock<ReadQuantized> = OnceLock::new();

/// Says once, for the whole process, how quantized models are read. Formats are the business of a crate above this one;
/// whoever composes both calls this before it opens a model. Without it their tensors are what their files hold.
pub fn read_quantized_with(read: ReadQuantized) {
    let _said_before = READ_QUANTIZED.set(read);
}

/// Weights that are not here yet.
pub(crate) trait Pending: Send + Sync {
    /// How many bytes there are to come.
    fn bytes(&self) -> u64;
    /// Brings them; reads work from then on.
    fn fetch(&self, ctl: &Ctl) -> Result<()>;
}

/// Which weights of a folder are meant, or were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Adapter,
}

/// Weights, on disk or still on the Hub.
pub(crate) struct Found {
    pub(crate) folder: PathBuf,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) kind: Kind,
    pub(crate) pending: Option<Arc<dyn Pending>>,
}

impl Found {
    /// The tensors, dequantized where the config says that they are quantized, and the config without that.
    pub(crate) fn dense(&self) -> Result<(Arc<dyn Source>, Option<Json>)> {
        let mut config = read_json(&self.folder.join("config.json"))?;
        if let (Some(config), Some(read)) = (&mut config, READ_QUANTIZED.get())
            && let Some(dense) = read(&self.source, config)?
        {
            config.as_object_mut().and_then(|config| config.shift_remove("quantization_config"));
            return Ok((dense, Some(config.take())));
        }
        Ok((Arc::clone(&self.source), config))
    }

    fn has_config(&self) -> bool {
        self.folder.join(if self.kind == Kind::Model { "config.json" } else { ADAPTER_CONFIG }).exists()
    }
}

/// Finds the weights of a place: on disk, in the cache, on the Hub.
pub(crate) fn find(place: &Place, label: &str, wanted: Kind) -> Result<Found> {
    let repo = match place {
        Place::Path(path) => return on_disk(path, label, wanted),
        Place::Hub(repo) => repo,
    };
    let settings = Settings::from_env();
    let snapshot = cache::snapshot(&settings, repo);
    let missing = match snapshot.as_ref().map(|snapshot| on_disk(snapshot, label, wanted)) {
        Some(Err(Error::NotFound(message))) => format!("'{repo}': is not whole in the cache: {message}"),
        // Weights without a config: somebody fetched these alone. Where nobody can be asked, they have to do.
        Some(Ok(found)) if cfg!(feature = "hub") && !settings.offline && !found.has_config() => String::new(),
        Some(other) => return other,
        None => format!("'{repo}': no such local folder, and not in the cache {}", settings.cache.display()),
    };
    on_hub(repo, label, wanted, &settings, &missing)
}

pub(crate) fn on_disk(path: &Path, label: &str, wanted: Kind) -> Result<Found> {
    let weights = path.join(ADAPTER_WEIGHTS);
    let opened = match wanted {
        Kind::Model => Checkpoint::open(path),
        // A pickle's error says why it is refused, and what to do.
        Kind::Adapter if !weights.exists() => Checkpoint::open(&path.join("adapter_model.bin")),
        Kind::Adapter => Checkpoint::open(&weights),
    };
    let checkpoint = opened.map_err(|error| match error {
        Error::NotFound(message) if !path.exists() => Error::NotFound(format!(
            "{message} (a model is a local folder or file, or org/name[@revision] of the Hugging Face Hub)"
        )),
        other => other,
    })?;
    let named = path.file_name().is_some_and(|name| name == ADAPTER_WEIGHTS);
    let whole = path.is_dir() && checkpoint.files().eq([weights]);
    let kind = if named || whole { Kind::Adapter } else { Kind::Model };
    let folder = match path.parent() {
        _ if path.is_dir() => path,
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let source = Arc::new(CheckpointSource::new(label, checkpoint));
    Ok(Found { folder: folder.into(), source, kind, pending: None })
}

#[cfg(feature = "hub")]
fn on_hub(repo: &Repo, label: &str, wanted: Kind, settings: &Settings, missing: &str) -> Result<Found> {
    if settings.offline {
        return Err(Error::NotFound(format!("{missing}; HF_HUB_OFFLINE forbids to ask the Hub")));
    }
    let source = Arc::new(crate::remote::RemoteSource::open(label, repo, settings, wanted)?);
    let pending: Option<Arc<dyn Pending>> = Some(Arc::clone(&source) as Arc<dyn Pending>);
    Ok(Found { folder: source.folder(), kind: source.kind(), source, pending })
}

#[cfg(not(feature = "hub"))]
fn on_hub(repo: &Repo, _: &str, _: Kind, _: &Settings, missing: &str) -> Result<Found> {
    Err(Error::NotFound(format!("{missing}; this build does not download: `hf download {}` does", repo.id)))
}

/// A small JSON file, if it is there.
pub fn read_json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::Checkpoint(format!("{}: {error}", path.display())))
}

/// A small text file, if it is there.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "open")(error)),
    };
    let mut text = String::new();
    file.take(MAX_TEXT + 1).read_to_string(&mut text).map_err(Error::io(path, "read"))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(Error::Checkpoint(format!("{}: more than {MAX_TEXT} bytes", path.display())));
    }
    Ok(Some(text))
}
