//! What a merge takes beside its models: statistics files, which methods read through further inputs, and a caller's own
//! function.

use crate::spec::{Method, Tensor};
use polmrs_core::{Error, Result};
use polmrs_engine::source::{CheckpointSource, Meta, Source};
use polmrs_engine::{Grain, Input};
use polmrs_io::stats::{Kind, Stats};
use std::path::Path;
use std::sync::Arc;

/// Everything beside the models.
#[derive(Default)]
pub struct Extra {
    /// What the method `custom` calls.
    pub function: Option<Function>,
    statistics: Vec<StatisticsFile>,
    without: usize,
}

impl Extra {
    /// With a function for the method `custom`.
    pub fn with(function: Option<Function>) -> Extra {
        Extra { function, ..Extra::default() }
    }

    /// The sources that follow the models in a plan's numbering.
    pub fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        self.statistics.iter().map(|file| &file.source as &dyn Source)
    }

    /// What a person should know before the work starts.
    pub fn notes(&self, method: &dyn Method) -> Vec<String> {
        let mut notes = Vec::new();
        if let (Some(kind), 1..) = (method.statistic(), self.without) {
            let count = self.without;
            notes.push(format!("{count} tensors have no {} in any statistics file: they are averaged", kind.name()));
        }
        if self.function.is_some() && method.spec().name == "custom" {
            let rule = "called for one block after the other, on one thread, under Python's lock";
            notes.push(format!("the function of 'custom' is {rule}"));
        }
        notes
    }

    /// The inputs that hold a statistic of a tensor, one for each of its models: `(path of the file, the model's tensor,
    /// its region)`. None if no file has it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if only some have it, or one has another shape; and what opening a file can fail with.
    pub(crate) fn statistics(
        &mut self,
        kind: Kind,
        models: &[(Arc<str>, &Meta, &Input)],
        first_source: usize,
    ) -> Result<Vec<Input>> {
        let mut found = Vec::new();
        let mut missing = None;
        for (path, meta, region) in models {
            let file = self.open(path)?;
            let Some(tensor) = self.statistics[file].stats.find(&meta.name, kind) else {
                missing = Some((path, meta));
                continue;
            };
            let shape = &self.statistics[file].source.tensors()[tensor].shape;
            let columns = meta.shape.last().copied().unwrap_or(1);
            let (fits, first, len) = match kind {
                Kind::Fisher => (*shape == meta.shape, region.first, region.len),
                _ => (*shape == [columns, columns] && meta.shape.len() == 2, 0, columns * columns),
            };
            if !fits {
                let (label, name, is, own) = (path, kind.tensor(&meta.name), shape, &meta.shape);
                return Err(Error::Checkpoint(format!("{label}: '{name}' of shape {is:?} does not fit {own:?}")));
            }
            found.push(Input { source: first_source + file, tensor, first, len, round: None });
        }
        match missing {
            None => Ok(found),
            Some(_) if found.is_empty() => {
                self.without += 1;
                Ok(found)
            }
            Some((path, meta)) => {
                let name = kind.tensor(&meta.name);
                Err(Error::Checkpoint(format!("{path}: '{name}' is missing, and other models have it")))
            }
        }
    }

    /// The number of a statistics file, opened once.
    fn open(&mut self, path: &str) -> Result<usize> {
        if let Some(at) = self.statistics.iter().position(|file| file.source.label() == path) {
            return Ok(at);
        }
        let stats = Stats::open(Path::new(path))?;
        let source = CheckpointSource::new(path, Arc::clone(stats.checkpoint()));
        self.statistics.push(StatisticsFile { stats, source });
        Ok(self.statistics.len() - 1)
    }
}

/// An open statistics file, and its tensors as a source.
struct StatisticsFile {
    stats: Stats,
    source: CheckpointSource,
}

/// Fills the result of one call.
pub type Compute = dyn Fn(&Call<'_>, &mut [f32]) -> Result<()> + Send + Sync;

/// A caller's own merge method.
#[derive(Clone)]
pub struct Function {
    /// What it sees at a time.
    pub extent: FunctionExtent,
    /// The function itself.
    pub compute: Arc<Compute>,
}

/// How much of a tensor a function sees in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionExtent {
    /// Some elements, as a vector.
    Elements,
    /// Some whole rows, as a matrix.
    Rows,
    /// All of it.
    Tensor,
}

impl FunctionExtent {
    /// How finely the engine may cut a tensor.
    pub(crate) fn grain(self, tensor: &Tensor<'_>) -> Grain {
        match self {
            FunctionExtent::Elements => Grain::Elements,
            FunctionExtent::Rows => Grain::Rows(tensor.rows()),
            FunctionExtent::Tensor => Grain::Whole,
        }
    }
}

/// What a function gets.
pub struct Call<'a> {
    /// The output tensor's name.
    pub tensor: &'a str,
    /// The shape of the base, of every model and of the result.
    pub shape: Vec<usize>,
    /// The base, where there is one.
    pub base: Option<&'a [f32]>,
    /// Every model, in order.
    pub models: Vec<&'a [f32]>,
}
