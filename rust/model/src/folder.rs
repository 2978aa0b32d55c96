//! An input model: its checkpoint, what its config says, and how a card names it.

use crate::adapter::{Adapter, Applied, LoraConfig};
use crate::announced::Announced;
use crate::found::{Found, Kind, Pending, find, on_disk};
use crate::reference::{Place, Reference};
use polmrs_core::{Ctl, Error, Result};
use polmrs_engine::source::{Meta, Source};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::found::{ADAPTER_CONFIG, ReadQuantized, read_json, read_quantized_with, read_text};

/// Bytes at the start of every tensor that the fingerprint covers.
const SAMPLE: u64 = 4096;

/// An open model.
pub struct ModelFolder {
    /// Its folder, or the folder of its file; where it is only announced, what messages call it.
    pub folder: PathBuf,
    /// The tensors; those of a quantized model dequantized, see [`read_quantized_with`].
    pub source: Arc<dyn Source>,
    /// `config.json`, where there is one, without the quantization that the source undid.
    pub config: Option<Json>,
    /// The adapter, where the reference is `model+adapter` or an adapter alone.
    adapter: Option<AdapterFolder>,
    /// What is still on the Hub.
    pending: Vec<Arc<dyn Pending>>,
    /// Nothing of it is written yet.
    announced: bool,
}

/// Brings the weights of models that are on the Hub into the cache. Before that, their headers can be read and nothing
/// else; headers are all that a plan needs.
pub fn fetch(models: &[ModelFolder], ctl: &Ctl) -> Result<()> {
    let pending = || models.iter().flat_map(|model| &model.pending);
    let bytes = pending().map(|pending| pending.bytes()).sum();
    if bytes > 0 {
        ctl.expect(bytes);
        pending().try_for_each(|pending| pending.fetch(ctl))?;
    }
    Ok(())
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
        open_model(&model, &model.to_string())?.under(AdapterFolder::open(&adapter)?, reference)
    }

    /// Opens a model, or an adapter without a model: its tensors are then the factors that its file holds.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn open_any(reference: &str) -> Result<ModelFolder> {
        match Reference::parse(reference)? {
            Reference { model, adapter: None } => open_either(&model, reference),
            _ => ModelFolder::open(reference),
        }
    }

    /// Opens a folder that was written here, a model's or an adapter's; `label` is what messages call it.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn at(path: &Path, label: &str) -> Result<ModelFolder> {
        open_either(&Place::Path(path.into()), label)
    }

    fn of(found: Found) -> Result<ModelFolder> {
        let (source, config) = found.dense()?;
        let pending = found.pending.into_iter().collect();
        Ok(ModelFolder { folder: found.folder, source, config, adapter: None, pending, announced: false })
    }

    /// A model that is going to be written: all is known of it but its weights.
    pub fn announced(name: &str, tensors: Vec<Meta>, config: Option<Json>) -> ModelFolder {
        let source = Arc::new(Announced::new(name, tensors));
        ModelFolder { folder: name.into(), source, config, adapter: None, pending: Vec::new(), announced: true }
    }

    /// An adapter that is going to be written.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn announced_adapter(name: &str, tensors: Vec<Meta>, config: Json) -> Result<ModelFolder> {
        let source: Arc<dyn Source> = Arc::new(Announced::new(name, tensors));
        let adapter = Arc::new(Adapter::new(decoded(&config, name)?, source)?);
        let folder = name.into();
        Ok(AdapterFolder { folder, config, adapter, pending: None, below: None, announced: true }.alone())
    }

    /// This model with an adapter on it; `reference` is what messages call the two.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where one is not what it has to be, or they do not go together.
    pub fn adapted(self, adapter: ModelFolder, reference: &str) -> Result<ModelFolder> {
        let bad = |rule: &str| Err(Error::Checkpoint(format!("{reference}: {rule}")));
        match adapter.adapter {
            _ if self.adapter.is_some() => bad("what stands before the '+' is no model, or has an adapter already"),
            Some(adapter) if adapter.below.is_none() => self.under(adapter, reference),
            _ => bad("what stands after the '+' is no adapter"),
        }
    }

    fn under(mut self, adapter: AdapterFolder, reference: &str) -> Result<ModelFolder> {
        let applied = Applied::new(reference, Arc::clone(&self.source), Arc::clone(&adapter.adapter))?;
        self.pending.extend(adapter.pending.clone());
        let adapter = Some(AdapterFolder { below: Some(self.source), ..adapter });
        Ok(ModelFolder { source: Arc::new(applied), adapter, ..self })
    }

    /// The adapter and its config, where it stands alone.
    pub fn adapter(&self) -> Option<(&Arc<Adapter>, &Json)> {
        self.adapter.as_ref().filter(|one| one.below.is_none()).map(|one| (&one.adapter, &one.config))
    }

    /// Every folder that is read.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.places().filter(|(_, announced)| !announced).map(|(folder, _)| folder)
    }

    /// The model's folder and that of an adapter on it, and whether they are only announced.
    fn places(&self) -> impl Iterator<Item = (&Path, bool)> {
        let above = self.adapter.as_ref().filter(|one| one.below.is_some());
        let above = above.map(|one| (one.folder.as_path(), one.announced));
        std::iter::once((self.folder.as_path(), self.announced)).chain(above)
    }

    /// Whether the config ties the output head to the input embedding.
    pub fn tied(&self) -> bool {
        let ties = |config: &Json| config.get("tie_word_embeddings").and_then(Json::as_bool).unwrap_or(false);
        self.config.as_ref().is_some_and(|config| ties(config) || config.get("text_config").is_some_and(ties))
    }

    /// What a card may show of it: `model`, or `model+adapter`, each the folder's own name, or `org/name@revision` of a
    /// model in the Hugging Face cache.
    pub fn name(&self) -> String {
        self.places().map(|(folder, _)| name(folder)).collect::<Vec<_>>().join("+")
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
        let Some(adapter) = &self.adapter else { return fingerprint(self.source.as_ref()) };
        let mut hash = Sha256::new();
        if let Some(model) = &adapter.below {
            hash.update(fingerprint(model.as_ref())?);
        }
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

/// Opens a model without an adapter.
fn open_model(place: &Place, label: &str) -> Result<ModelFolder> {
    let found = find(place, label, Kind::Model)?;
    if found.kind == Kind::Adapter {
        return Err(Error::Checkpoint(format!("{label}: is an adapter, not a model; write 'MODEL+{label}'")));
    }
    ModelFolder::of(found)
}

/// Opens a model, or an adapter alone.
fn open_either(place: &Place, label: &str) -> Result<ModelFolder> {
    match find(place, label, Kind::Model)? {
        found if found.kind == Kind::Model => ModelFolder::of(found),
        found => Ok(AdapterFolder::of(found, label)?.alone()),
    }
}

/// The tensors that a folder or a file holds: a model's, dense if it is quantized, or an adapter's own.
///
/// # Errors
/// As [`ModelFolder::open`].
pub fn tensors(path: &Path) -> Result<Arc<dyn Source>> {
    Ok(on_disk(path, &path.display().to_string(), Kind::Model)?.dense()?.0)
}

/// An adapter that is open.
struct AdapterFolder {
    folder: PathBuf,
    config: Json,
    adapter: Arc<Adapter>,
    pending: Option<Arc<dyn Pending>>,
    /// The model that it is applied to.
    below: Option<Arc<dyn Source>>,
    /// Nothing of it is written yet.
    announced: bool,
}

impl AdapterFolder {
    fn open(place: &Place) -> Result<AdapterFolder> {
        let label = place.to_string();
        if let Place::Path(folder) = place {
            adapter_config(folder, &label)?; // what it is no adapter for want of, before what its weights lack
        }
        AdapterFolder::of(find(place, &label, Kind::Adapter)?, &label)
    }

    fn of(found: Found, label: &str) -> Result<AdapterFolder> {
        let Found { folder, source, pending, .. } = found;
        let config = adapter_config(&folder, label)?;
        let adapter = Arc::new(Adapter::new(decoded(&config, label)?, source)?);
        Ok(AdapterFolder { folder, config, adapter, pending, below: None, announced: false })
    }

    /// Without a model: the tensors are the factors.
    fn alone(self) -> ModelFolder {
        ModelFolder {
            folder: self.folder.clone(),
            source: Arc::clone(&self.adapter.source),
            config: None,
            pending: self.pending.iter().cloned().collect(),
            announced: self.announced,
            adapter: Some(self),
        }
    }
}

fn decoded(config: &Json, label: &str) -> Result<LoraConfig> {
    LoraConfig::decode(config).map_err(|error| error.within(label))
}

fn adapter_config(folder: &Path, label: &str) -> Result<Json> {
    let file = folder.join(ADAPTER_CONFIG);
    let missing = || Error::NotFound(format!("{label}: is no peft adapter: there is no {}", file.display()));
    read_json(&file)?.ok_or_else(missing)
}
