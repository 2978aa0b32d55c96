//! A file of several documents: later ones use the results of earlier ones by name.
//!
//! Every result but the last is written as a whole folder into `OUT.parts`, which is removed at the end.
//!
//! | module | holds |
//! |---|---|
//! | `order` | which document is the result, and which come before it |
//! | `earlier` | the results of earlier documents, planned or written, as later ones name them |
//! | `parts` | `OUT.parts`, and what of it the next run can use |

mod earlier;
mod order;
mod parts;

pub(crate) use earlier::Earlier;
pub(crate) use order::result;
pub(crate) use parts::Parts;

use crate::config::Config;
use crate::extra::{Extra, Function};
use crate::run::{Prepared, Settings};
use order::order;
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::output;
use polmrs_io::yaml::Node;
use polmrs_model::ModelFolder;
use polmrs_model::build;
use serde_json::{Value as Json, json};
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

/// A whole result that stands beside the output which is going to be made of it.
pub struct Beside {
    parts: Parts,
    folder: PathBuf,
}

impl Beside {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Passes on what came of the output. The result goes, unless the next run can go on from it: after a cancellation, an
    /// error of the disk, and a refusal of what stands there.
    ///
    /// # Errors
    /// Those of the output, and what removing a folder can fail with.
    pub fn settle<T>(self, done: Result<T>) -> Result<T> {
        self.parts.settle(done)
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
        let configs = decoded(nodes, settings.lenient)?;
        let mut earlier = Vec::new();
        let mut documents = Vec::new();
        for at in order(nodes, &configs)? {
            let prepared = Prepared::after(&nodes[at], settings.clone(), Extra::with(function.clone()), &earlier)?;
            earlier.extend(configs[at].name.as_deref().map(|name| Earlier::planned(name, &prepared)));
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
        if last.prepared.adapter_config().is_some() {
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
    /// As [`Prepared::run`]. After a cancellation, an error of the disk, and a refusal of what stands there, intermediate
    /// results that are whole stay for the next run.
    pub fn run(&self, out: &Path, ctl: &Ctl) -> Result<Json> {
        let (last, _) = self.last()?;
        let (Some(parts), earlier) = self.before(out, ctl)? else { return last.prepared.run(out, ctl) };
        let done = self.finish(last, &earlier, out, ctl);
        parts.settle(done)
    }

    fn finish(&self, last: &Document, earlier: &[Earlier], out: &Path, ctl: &Ctl) -> Result<Json> {
        let prepared = Prepared::after(&last.node, self.settings.clone(), self.extra(), earlier)?;
        let mut report = prepared.run(out, ctl)?;
        let described = self.describe()?;
        for key in ["documents", "spilled_bytes", "disk_bytes", "notes", "peak_memory_bytes"] {
            report[key] = described[key].clone();
        }
        Ok(report)
    }

    /// Merges every document, the last into a folder of a name beside `out`, for the output to be made of it.
    ///
    /// # Errors
    /// As [`Chain::run`].
    pub fn run_beside(&self, out: &Path, name: &str, ctl: &Ctl) -> Result<Beside> {
        let (last, _) = self.last()?;
        let mut parts = Parts::claim(out, self.settings.build.overwrite)?;
        let earlier = self.before_in(&mut parts, out, ctl);
        match earlier.and_then(|earlier| self.spill(last, name, out, &mut parts, &earlier, ctl)) {
            Ok((_, folder)) => Ok(Beside { parts, folder }),
            Err(error) => parts.settle(Err(error)),
        }
    }

    /// Merges all documents but the last, and gives the results with the folder that holds them, if there are any.
    pub(crate) fn before(&self, out: &Path, ctl: &Ctl) -> Result<(Option<Parts>, Vec<Earlier>)> {
        if self.documents.len() < 2 {
            return Ok((None, Vec::new()));
        }
        let mut parts = Parts::claim(out, self.settings.build.overwrite)?;
        match self.before_in(&mut parts, out, ctl) {
            Ok(earlier) => Ok((Some(parts), earlier)),
            Err(error) => parts.settle(Err(error)),
        }
    }

    fn before_in(&self, parts: &mut Parts, out: &Path, ctl: &Ctl) -> Result<Vec<Earlier>> {
        let (_, before) = self.last()?;
        let mut earlier = Vec::new();
        for one in before {
            let name = one.prepared.name().unwrap_or_default();
            let (result, _) = self.spill(one, name, out, parts, &earlier, ctl)?;
            earlier.push(result);
        }
        Ok(earlier)
    }

    /// Merges one document beside the output, or finds that an earlier run has; gives the result and its folder.
    fn spill(
        &self,
        one: &Document,
        name: &str,
        out: &Path,
        parts: &mut Parts,
        earlier: &[Earlier],
        ctl: &Ctl,
    ) -> Result<(Earlier, PathBuf)> {
        let build = build::Settings { overwrite: false, ..self.settings.build.clone() };
        let settings = Settings { build, ..self.settings.clone() };
        let prepared = Prepared::after(&one.node, settings, self.extra(), earlier)?;
        prepared.refuse_inputs(out)?;
        prepared.fetch(ctl)?;
        let key = prepared.key()?;
        if self.settings.build.resume && output::has_remnant(out) && !parts.holds(&key, name) {
            return Err(Error::Exists(format!(
                "{}.partial holds unfinished work, and the results that it reads differ from those of now, or are gone; \
                 without --resume it is replaced",
                out.display()
            )));
        }
        let (folder, there) = parts.place(key, name)?;
        if !there {
            prepared.run(&folder, ctl)?;
        }
        Ok((Earlier::written(name, &prepared, &folder), folder))
    }
}

/// The documents of a file, whose models may be adapters.
pub(crate) fn decoded(nodes: &[Node], lenient: bool) -> Result<Vec<Config>> {
    nodes.iter().map(|node| Config::decode_any(node, lenient)).collect()
}

/// Documents as one YAML text.
pub(crate) fn text(documents: &[Json]) -> String {
    documents.iter().map(polmrs_io::yaml::emit_json).collect::<Vec<_>>().join("---\n")
}
