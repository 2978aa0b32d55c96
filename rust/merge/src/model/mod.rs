//! An input model: its checkpoint, what its config says, and how a card names it.

mod reference;

pub use reference::{Place, Reference};

use crate::adapter::{Adapter, Applied, LoraConfig};
use polmrs_core::{Error, Result};
use polmrs_engine::source::{CheckpointSource, Source};
use polmrs_hub::{Repo, Settings, cache};
use polmrs_io::safetensors::Checkpoint;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes at the start of every tensor that the fingerprint covers.
const SAMPLE: u64 = 4096;
/// Bytes of a config or a card that are read; more is refused.
const MAX_TEXT: u64 = 10 << 20;

/// An open model.
pub struct ModelFolder {
    /// Its folder, or the folder of its file.
    pub folder: PathBuf,
    /// The tensors.
    pub source: Arc<dyn Source>,
    /// `config.json`, where there is one.
    pub config: Option<Json>,
    /// The model below and the adapter on it, where the reference is `model+adapter`.
    parts: Option<(Arc<dyn Source>, AdapterFolder)>,
}

impl ModelFolder {
    /// Opens what a [`Reference`] names; `reference` is what messages call it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is nothing of that name, saying where it was looked for; [`Error::Checkpoint`] for
    /// a malformed checkpoint, or an adapter that does not fit its model.
    pub fn open(reference: &str) -> Result<ModelFolder> {
        let Reference { model, adapter } = Reference::parse(reference)?;
        let Some(adapter) = adapter else { return open_model(&model, reference) };
        let model = open_model(&model, &model.to_string())?;
        let adapter = AdapterFolder::open(&adapter)?;
        let applied = Applied::new(reference, Arc::clone(&model.source), Arc::clone(&adapter.adapter))?;
        Ok(ModelFolder { source: Arc::new(applied), parts: Some((model.source, adapter)), ..model })
    }

    /// Every folder that is read.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let adapter = self.parts.as_ref().map(|(_, adapter)| adapter.folder.as_path());
        std::iter::once(self.folder.as_path()).chain(adapter)
    }

    /// Whether the config ties the output head to the input embedding.
    pub fn tied(&self) -> bool {
        let ties = |config: &Json| config.get("tie_word_embeddings").and_then(Json::as_bool).unwrap_or(false);
        self.config.as_ref().is_some_and(|config| ties(config) || config.get("text_config").is_some_and(ties))
    }

    /// What a card may show of it: `model`, or `model+adapter`, each the folder's own name, or `org/name@revision` of a
    /// model in the Hugging Face cache.
    pub fn name(&self) -> String {
        self.folders().map(name).collect::<Vec<_>>().join("+")
    }

    /// The licence that the model's card states in its front matter.
    pub fn licence(&self) -> Result<Option<String>> {
        let card = read_text(&self.folder.join("README.md"))?.unwrap_or_default();
        let front = card.strip_prefix("---").and_then(|rest| rest.split("\n---").next()).unwrap_or_default();
        let line = front.lines().find_map(|line| line.strip_prefix("license:"));
        Ok(line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty()))
    }

    /// SHA-256 over every tensor's name, type, shape and first 4 KiB, in the order of names: it tells checkpoints
    /// apart without reading them whole, and does not depend on sharding. With an adapter, SHA-256 over the fingerprints
    /// of the model and of the adapter's tensors, and the adapter's config.
    pub fn fingerprint(&self) -> Result<String> {
        let Some((model, adapter)) = &self.parts else { return fingerprint(self.source.as_ref()) };
        let mut hash = Sha256::new();
        hash.update(fingerprint(model.as_ref())?);
        hash.update(fingerprint(adapter.adapter.source.as_ref())?);
        hash.update(adapter.config.to_string());
        Ok(hex(hash))
    }
}

/// SHA-256 over the starts of a source's tensors.
fn fingerprint(source: &dyn Source) -> Result<String> {
    let tensors = source.tensors();
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_unstable_by(|a, b| tensors[*a].name.cmp(&tensors[*b].name));
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    for at in order {
        let tensor = &tensors[at];
        hash.update(format!("{}\0{}\0{:?}\0", tensor.name, tensor.dtype.name(), tensor.shape));
        let size = tensor.dtype.size() as u64;
        bytes.resize((tensor.elements().min(SAMPLE / size) * size) as usize, 0);
        source.read(at, 0, &mut bytes)?;
        hash.update(&bytes);
    }
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder's own name, or `org/name@revision` in the Hugging Face cache.
fn name(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let mut parts = folder.iter().rev().map(|part| part.to_string_lossy().into_owned());
    let name = parts.next().unwrap_or_else(|| "model".into());
    match (parts.next(), parts.next()) {
        (Some(snapshots), Some(cached)) if snapshots == "snapshots" && cached.starts_with("models--") => {
            format!("{}@{name}", cached["models--".len()..].replace("--", "/"))
        }
        _ => name,
    }
}

const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// Opens a model without an adapter.
fn open_model(place: &Place, label: &str) -> Result<ModelFolder> {
    let path = resolve(place)?;
    let checkpoint = Checkpoint::open(&path).map_err(|error| match error {
        Error::NotFound(message) if !path.exists() => Error::NotFound(format!(
            "{message} (a model is a local folder or file, or org/name[@revision] of the Hugging Face Hub)"
        )),
        other => other,
    })?;
    if path.is_dir() && checkpoint.files().eq([path.join(ADAPTER_WEIGHTS)]) {
        return Err(Error::Checkpoint(format!("{label}: is an adapter, not a model; write 'MODEL+{label}'")));
    }
    let folder = match path.parent() {
        _ if path.is_dir() => path.as_path(),
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let config = read_json(&folder.join("config.json"))?;
    let source = Arc::new(CheckpointSource::new(label, checkpoint));
    Ok(ModelFolder { folder: folder.into(), source, config, parts: None })
}

/// An adapter on disk.
struct AdapterFolder {
    folder: PathBuf,
    config: Json,
    adapter: Arc<Adapter>,
}

impl AdapterFolder {
    fn open(place: &Place) -> Result<AdapterFolder> {
        let (folder, label) = (resolve(place)?, place.to_string());
        let config = read_json(&folder.join(ADAPTER_CONFIG))?.ok_or_else(|| {
            Error::NotFound(format!(
                "{label}: is no peft adapter: there is no {}",
                folder.join(ADAPTER_CONFIG).display()
            ))
        })?;
        let lora = LoraConfig::decode(&config).map_err(|error| error.within(&label))?;
        let weights = folder.join(ADAPTER_WEIGHTS);
        if !weights.exists() && folder.join("adapter_model.bin").exists() {
            Checkpoint::open(&folder.join("adapter_model.bin"))?; // says why not, and what to do
        }
        let source = CheckpointSource::new(label, Checkpoint::open(&weights)?);
        Ok(AdapterFolder { folder, config, adapter: Arc::new(Adapter::new(lora, Box::new(source))?) })
    }
}

/// The path that a place stands for.
fn resolve(place: &Place) -> Result<PathBuf> {
    match place {
        Place::Path(path) => Ok(path.clone()),
        Place::Hub(repo) => cached(repo, &Settings::from_env()),
    }
}

/// The folder of a model of the Hub in the cache.
fn cached(repo: &Repo, settings: &Settings) -> Result<PathBuf> {
    cache::snapshot(settings, repo).ok_or_else(|| {
        Error::NotFound(format!(
            "'{repo}': no such local folder, and not in the cache {} (`hf download {}` fetches it)",
            settings.cache.display(),
            repo.id
        ))
    })
}

/// A small JSON file, if it is there.
fn read_json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::Checkpoint(format!("{}: {error}", path.display())))
}

/// A small text file, if it is there.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
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
