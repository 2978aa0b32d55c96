//! A file of several documents: later ones use the results of earlier ones by name.
//!
//! Every result but the last is written as a whole checkpoint into `OUT.parts`, and the folder is removed at the end. A
//! result appears there under a key, the SHA-256 of everything that its bits depend on, by the rename that ends every merge:
//! what an interrupted run has left is used again if the key is the same, and is whole if it is there at all.

use crate::config::Config;
use crate::extra::{Extra, Function};
use crate::run::{Prepared, Settings};
use polmrs_core::{Ctl, Error, Result};
use polmrs_engine::source::Meta;
use polmrs_io::output;
use polmrs_io::yaml::Node;
use polmrs_model::ModelFolder;
use polmrs_model::build;
use serde_json::{Value as Json, json};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Every document of a configuration file, understood and planned, with nothing written yet.
pub struct Chain {
    /// In the order in which they are to be merged.
    documents: Vec<Document>,
    settings: Settings,
    function: Option<Function>,
}

struct Document {
    node: Node,
    prepared: Prepared,
}

/// The result of an earlier document.
pub struct Earlier {
    /// What later documents call it.
    name: String,
    /// Its configuration, with models by their own names.
    document: Json,
    state: State,
}

enum State {
    Planned { tensors: Vec<Meta>, config: Option<Json> },
    Written(PathBuf),
}

impl Earlier {
    /// The configurations of results, one YAML document each.
    pub(crate) fn documents(earlier: &[Earlier]) -> Vec<Json> {
        earlier.iter().map(|one| one.document.clone()).collect()
    }

    /// The model that a reference names: an earlier result of that name, or a model outside.
    pub(crate) fn open(earlier: &[Earlier], reference: &str) -> Result<ModelFolder> {
        match earlier.iter().find(|one| one.name == reference) {
            None => ModelFolder::open_any(reference),
            Some(Earlier { state: State::Written(path), .. }) => ModelFolder::at(path, reference),
            Some(Earlier { state: State::Planned { tensors, config }, .. }) => {
                Ok(ModelFolder::announced(reference, tensors.clone(), config.clone()))
            }
        }
    }
}

impl Chain {
    /// Reads all documents, opens the models and plans every merge, from headers alone.
    ///
    /// The result is that of the document without a name, or of the last one if all have names. `function` is what the
    /// method `custom` calls.
    ///
    /// # Errors
    /// What [`Prepared::new`] refuses, names that are given twice, and documents that need each other in a circle.
    pub fn new(nodes: &[Node], settings: Settings, function: Option<Function>) -> Result<Chain> {
        let configs =
            nodes.iter().map(|node| Config::decode_any(node, settings.lenient)).collect::<Result<Vec<Config>>>()?;
        let mut earlier = Vec::new();
        let mut documents = Vec::new();
        for at in order(nodes, &configs)? {
            let prepared = Prepared::after(&nodes[at], settings.clone(), Extra::with(function.clone()), &earlier)?;
            if nodes.len() > 1 && prepared.is_adapter() {
                return Err(nodes[at].root().error("adapters are merged by a file of one document"));
            }
            earlier.extend(configs[at].name.clone().map(|name| {
                let (tensors, config) = (prepared.tensors().to_vec(), prepared.output_config());
                Earlier { name, document: prepared.named(), state: State::Planned { tensors, config } }
            }));
            documents.push(Document { node: nodes[at].clone(), prepared });
        }
        Ok(Chain { documents, settings, function })
    }

    fn extra(&self) -> Extra {
        Extra::with(self.function.clone())
    }

    /// The last document and those before it.
    fn last(&self) -> Result<(&Document, &[Document])> {
        self.documents.split_last().ok_or_else(|| Error::Config("the file is empty".into()))
    }

    /// The result as it is going to be, without its weights; `name` is what messages call it.
    pub fn announced(&self, name: &str) -> Result<ModelFolder> {
        let (last, _) = self.last()?;
        if last.prepared.is_adapter() {
            return Err(Error::Config("the result is an adapter; what follows needs a model".into()));
        }
        Ok(ModelFolder::announced(name, last.prepared.tensors().to_vec(), last.prepared.output_config()))
    }

    /// Refuses to write over a model that is read, or over a folder that holds one.
    pub fn refuse_inputs(&self, out: &Path) -> Result<()> {
        self.documents.iter().try_for_each(|one| one.prepared.refuse_inputs(out))
    }

    /// What was accepted and has no effect, or was left out, and what is written besides the output.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.documents.iter().flat_map(|one| one.prepared.notes()).cloned().collect();
        let (count, bytes) = (self.documents.len().saturating_sub(1), self.spilled());
        if count > 0 {
            notes.push(format!(
                "{count} of {} results are intermediate: {bytes} bytes in OUT.parts, removed at the end",
                count + 1
            ));
        }
        notes
    }

    /// The bytes of intermediate results.
    fn spilled(&self) -> u64 {
        let before = self.documents.len().saturating_sub(1);
        self.documents[..before].iter().map(|one| one.prepared.disk_bytes()).sum()
    }

    /// What is going to happen: that of the last document, and under `documents` that of each before it.
    pub fn describe(&self) -> Result<Json> {
        let (last, before) = self.last()?;
        let mut described = last.prepared.describe();
        if before.is_empty() {
            return Ok(described);
        }
        let all = self.documents.iter().map(|one| one.prepared.describe()["peak_memory_bytes"].as_u64());
        described["peak_memory_bytes"] = all.max().flatten().into();
        described["disk_bytes"] = (last.prepared.disk_bytes() + self.spilled()).into();
        described["notes"] = self.notes().into();
        described["spilled_bytes"] = self.spilled().into();
        described["documents"] = before.iter().map(|one| self.intermediate(one)).collect();
        Ok(described)
    }

    fn intermediate(&self, one: &Document) -> Json {
        let described = one.prepared.describe();
        let kept = ["method", "inputs", "output", "input_bytes", "disk_bytes", "passes"];
        let rest = kept.into_iter().map(|key| (key.to_owned(), described[key].clone()));
        [("name".to_owned(), json!(one.prepared.name()))].into_iter().chain(rest).collect()
    }

    /// Merges every document, the last into `out`, which appears whole at the end.
    ///
    /// # Errors
    /// As [`Prepared::run`]. After a cancellation and after an error of the disk, intermediate results that are whole stay
    /// for the next run.
    pub fn run(&self, out: &Path, ctl: &Ctl) -> Result<Json> {
        let (last, before) = self.last()?;
        if before.is_empty() {
            return last.prepared.run(out, ctl);
        }
        output::check(out, self.settings.build.overwrite)?;
        let parts = Parts::claim(out)?;
        match self.run_all(out, &parts, ctl) {
            Err(error @ (Error::Cancelled | Error::Io { .. })) => Err(error),
            other => {
                parts.remove()?;
                other
            }
        }
    }

    fn run_all(&self, out: &Path, parts: &Parts, ctl: &Ctl) -> Result<Json> {
        let (last, before) = self.last()?;
        let mut earlier = Vec::new();
        let mut keys = Vec::new();
        for one in before {
            let build = build::Settings { overwrite: false, ..self.settings.build.clone() };
            let settings = Settings { build, ..self.settings.clone() };
            let prepared = Prepared::after(&one.node, settings, self.extra(), &earlier)?;
            prepared.refuse_inputs(out)?;
            prepared.fetch(ctl)?;
            let key = prepared.key()?;
            let name = one.prepared.name().unwrap_or_default().to_owned();
            let path = parts.folder.join(&key).join(&name);
            keys.push(key);
            if !path.exists() {
                parts.keep_only(&keys)?;
                prepared.run(&path, ctl)?;
            }
            earlier.push(Earlier { name, document: prepared.named(), state: State::Written(path) });
        }
        let prepared = Prepared::after(&last.node, self.settings.clone(), self.extra(), &earlier)?;
        let mut report = prepared.run(out, ctl)?;
        let described = self.describe()?;
        for key in ["documents", "spilled_bytes", "disk_bytes", "notes", "peak_memory_bytes"] {
            report[key] = described[key].clone();
        }
        Ok(report)
    }
}

/// The documents that the result needs, in an order in which each comes after those it uses.
fn order(nodes: &[Node], configs: &[Config]) -> Result<Vec<usize>> {
    for (at, config) in configs.iter().enumerate() {
        if configs[..at].iter().any(|other| other.name == config.name) {
            let what = config.name.as_ref().map_or("a document without a name".into(), |name| format!("'{name}'"));
            return Err(nodes[at].root().error(format_args!("{what} is there twice")));
        }
    }
    let Some(result) = configs.iter().position(|config| config.name.is_none()).or(configs.len().checked_sub(1)) else {
        return Err(Error::Config("the file is empty".into()));
    };
    let mut state = vec![Visit::New; configs.len()];
    let mut order = Vec::new();
    visit(result, nodes, configs, &mut state, &mut order)?;
    match state.iter().position(|state| *state == Visit::New) {
        None => Ok(order),
        Some(unused) => Err(nodes[unused].root().error("the result does not use this document")),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    New,
    Open,
    Done,
}

fn visit(at: usize, nodes: &[Node], configs: &[Config], state: &mut [Visit], order: &mut Vec<usize>) -> Result<()> {
    match state[at] {
        Visit::Done => return Ok(()),
        Visit::Open => return Err(nodes[at].root().error("uses its own result, directly or through other documents")),
        Visit::New => state[at] = Visit::Open,
    }
    for model in &configs[at].models {
        let used = configs.iter().position(|config| config.name.as_deref() == Some(&model.reference));
        if let Some(used) = used {
            visit(used, nodes, configs, state, order)?;
        }
    }
    state[at] = Visit::Done;
    order.push(at);
    Ok(())
}

const LOCK: &str = ".polmrs.lock";

/// The folder of intermediate results, held by one run.
struct Parts {
    folder: PathBuf,
    _lock: File,
}

impl Parts {
    fn claim(out: &Path) -> Result<Parts> {
        let out = output::resolve(out)?;
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".parts");
        let folder = out.with_file_name(name);
        let (lock, shown) = (folder.join(LOCK), folder.display());
        // A run that was killed as it came or went may have left the folder empty.
        let emptied = || fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
        if folder.exists() && !lock.exists() && !emptied() {
            return Err(Error::Exists(format!("{shown}: was not made by polmrs; move it away, or write elsewhere")));
        }
        fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
        let held = File::options().create(true).append(true).open(&lock).map_err(Error::io(&lock, "open"))?;
        match held.try_lock() {
            Ok(()) => Ok(Parts { folder, _lock: held }),
            Err(TryLockError::WouldBlock) => Err(Error::Exists(format!("{shown}: another run is writing it"))),
            Err(TryLockError::Error(error)) => Err(Error::io(&folder, "lock")(error)),
        }
    }

    /// Removes the results of other configurations. The lock, which says whose folder it is, stays.
    fn keep_only(&self, keys: &[String]) -> Result<()> {
        for entry in fs::read_dir(&self.folder).map_err(Error::io(&self.folder, "list"))?.flatten() {
            if entry.path().is_dir() && !keys.iter().any(|key| entry.file_name() == key.as_str()) {
                fs::remove_dir_all(entry.path()).map_err(Error::io(entry.path(), "remove"))?;
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        self.keep_only(&[])?;
        fs::remove_dir_all(&self.folder).map_err(Error::io(&self.folder, "remove"))
    }
}

/// Documents as one YAML text.
pub(crate) fn text(documents: &[Json]) -> String {
    documents.iter().map(polmrs_io::yaml::emit_json).collect::<Vec<_>>().join("---\n")
}
