//! An input model: its checkpoint, what its config says, and how a card names it.

use crate::adapter::{Adapter, Applied, LoraConfig};
use crate::announced::Announced;
use crate::reference::{Place, Reference};
use polmrs_core::{Ctl, Error, Result};
use polmrs_engine::source::{CheckpointSource, Meta, Source};
use polmrs_hub::{Repo, Settings, cache};
use polmrs_io::safetensors::Checkpoint;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes at the start of every tensor that the fingerprint covers.
const SAMPLE: u64 = 4096;
/// Bytes of a config or a card that are read; more is refused.
const MAX_TEXT: u64 = 10 << 20;

/// Gives the dense weights of a model whose config says that it is quantized; of any other, nothing.
pub type ReadQuantized = fn(&Arc<dyn Source>, &Json) -> Result<Option<Arc<dyn Source>>>;

static READ_QUANTIZED: OnceLock<ReadQuantized> = OnceLock::new();

/// Says once, for the whole process, how quantized models are read. Formats are the business of a crate above this one;
/// whoever composes both calls this before it opens a model. Without it their tensors are what their files hold.
pub fn read_quantized_with(read: ReadQuantized) {
    let _said_before = READ_QUANTIZED.set(read);
}

/// An open model.
pub struct ModelFolder {
    /// Its folder, or the folder of its file.
    pub folder: PathBuf,
    /// The tensors; those of a quantized model dequantized, see [`read_quantized_with`].
    pub source: Arc<dyn Source>,
    /// `config.json`, where there is one, without the quantization that the source undid.
    pub config: Option<Json>,
    /// The adapter, where the reference is `model+adapter` or an adapter alone.
    adapter: Option<AdapterFolder>,
    /// What is still on the Hub.
    pending: Vec<Arc<dyn Pending>>,
}

/// Weights that are not here yet.
pub(crate) trait Pending: Send + Sync {
    /// How many bytes there are to come.
    fn bytes(&self) -> u64;
    /// Brings them; reads work from then on.
    fn fetch(&self, ctl: &Ctl) -> Result<()>;
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
        let mut model = open_model(&model, &model.to_string())?;
        let adapter = AdapterFolder::open(&adapter)?;
        let applied = Applied::new(reference, Arc::clone(&model.source), Arc::clone(&adapter.adapter))?;
        model.pending.extend(adapter.pending.clone());
        let adapter = Some(AdapterFolder { below: Some(model.source), ..adapter });
        Ok(ModelFolder { source: Arc::new(applied), adapter, ..model })
    }

    /// Opens a model, or an adapter without a model: its tensors are then the factors that its file holds.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn open_any(reference: &str) -> Result<ModelFolder> {
        let Reference { model: place, adapter: None } = Reference::parse(reference)? else {
            return ModelFolder::open(reference);
        };
        match find(&place, reference, Kind::Model)? {
            found if found.kind == Kind::Model => found.model(),
            found => {
                let adapter = AdapterFolder::of(found, reference)?;
                let (folder, source) = (adapter.folder.clone(), Arc::clone(&adapter.adapter.source));
                let pending = adapter.pending.iter().cloned().collect();
                Ok(ModelFolder { folder, source, config: None, adapter: Some(adapter), pending })
            }
        }
    }

    /// The adapter and its config, where it stands alone.
    pub fn adapter(&self) -> Option<(&Arc<Adapter>, &Json)> {
        self.adapter.as_ref().filter(|one| one.below.is_none()).map(|one| (&one.adapter, &one.config))
    }

    /// Opens a folder that was written here; `label` is what messages call it.
    pub fn at(path: &Path, label: &str) -> Result<ModelFolder> {
        open_model(&Place::Path(path.into()), label)
    }

    /// A model that is going to be written: all is known of it but its weights.
    pub fn announced(name: &str, tensors: Vec<Meta>, config: Option<Json>) -> ModelFolder {
        let source = Arc::new(Announced::new(name, tensors));
        ModelFolder { folder: name.into(), source, config, adapter: None, pending: Vec::new() }
    }

    /// Every folder that is read.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let above = self.adapter.as_ref().filter(|one| one.below.is_some());
        std::iter::once(self.folder.as_path()).chain(above.map(|one| one.folder.as_path()))
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

/// What peft calls an adapter's config.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_STEM: &str = "adapter_model";
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// Opens a model without an adapter.
fn open_model(place: &Place, label: &str) -> Result<ModelFolder> {
    let found = find(place, label, Kind::Model)?;
    if found.kind == Kind::Adapter {
        return Err(Error::Checkpoint(format!("{label}: is an adapter, not a model; write 'MODEL+{label}'")));
    }
    found.model()
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
        let lora = LoraConfig::decode(&config).map_err(|error| error.within(label))?;
        Ok(AdapterFolder { folder, config, adapter: Arc::new(Adapter::new(lora, source)?), pending, below: None })
    }
}

fn adapter_config(folder: &Path, label: &str) -> Result<Json> {
    let file = folder.join(ADAPTER_CONFIG);
    let missing = || Error::NotFound(format!("{label}: is no peft adapter: there is no {}", file.display()));
    read_json(&file)?.ok_or_else(missing)
}

/// Which weights of a folder are meant, or were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Adapter,
}

/// Weights, on disk or still on the Hub.
struct Found {
    folder: PathBuf,
    source: Arc<dyn Source>,
    kind: Kind,
    pending: Option<Arc<dyn Pending>>,
}

impl Found {
    /// The tensors, dequantized where the config says that they are quantized, and the config without that.
    fn dense(&self) -> Result<(Arc<dyn Source>, Option<Json>)> {
        let mut config = read_json(&self.folder.join("config.json"))?;
        if let (Some(config), Some(read)) = (&mut config, READ_QUANTIZED.get())
            && let Some(dense) = read(&self.source, config)?
        {
            config.as_object_mut().and_then(|config| config.shift_remove("quantization_config"));
            return Ok((dense, Some(config.take())));
        }
        Ok((Arc::clone(&self.source), config))
    }

    fn model(self) -> Result<ModelFolder> {
        let (source, config) = self.dense()?;
        Ok(ModelFolder {
            folder: self.folder,
            source,
            config,
            adapter: None,
            pending: self.pending.into_iter().collect(),
        })
    }

    fn has_config(&self) -> bool {
        self.folder.join(if self.kind == Kind::Model { "config.json" } else { ADAPTER_CONFIG }).exists()
    }
}

/// Finds the weights of a place: on disk, in the cache, on the Hub.
fn find(place: &Place, label: &str, wanted: Kind) -> Result<Found> {
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

fn on_disk(path: &Path, label: &str, wanted: Kind) -> Result<Found> {
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
