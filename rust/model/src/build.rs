//! From a plan to a model folder that appears whole: journal, resume, the files beside the weights, verification, report.

use crate::beside::pretty;
use crate::folder::ModelFolder;
use crate::found::ADAPTER_STEM;
use crate::report;
use polmrs_core::{Ctl, Dtype, Error, Result};
use polmrs_engine::durable::Record;
use polmrs_engine::source::{Meta, Source};
use polmrs_engine::verify::verify;
use polmrs_engine::{Cost, Durable, Options, Plan, Sink, Wanted};
use polmrs_io::output::{self, Output};
use polmrs_io::safetensors::{Layout, Spec, Writer};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

/// How to build a model folder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads.
    pub threads: usize,
    /// Bytes of tensors in one output file.
    pub shard_size: u64,
    /// Replace an output that exists.
    pub overwrite: bool,
    /// Go on with what a run that was interrupted has left, if there is such.
    pub resume: bool,
    /// Let NaN and infinities through.
    pub allow_nonfinite: bool,
    /// The most bytes of buffers and workspaces to hold at once.
    pub max_memory: Option<u64>,
    /// Bytes of output between two points from which another run can go on.
    pub sync_every: u64,
    /// Read the result back and compare it with what was written.
    pub verify: bool,
    /// Write `polmrs_report.json`: what the work did to every tensor.
    pub report: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            threads: 1,
            shard_size: 5_000_000_000,
            overwrite: false,
            resume: false,
            allow_nonfinite: false,
            max_memory: None,
            sync_every: 256 << 20,
            verify: false,
            report: false,
        }
    }
}

/// A model folder that is planned, with nothing written yet.
pub struct Build {
    plan: Plan,
    layout: Layout,
    cost: Cost,
    settings: Settings,
}

/// What only the kind of work knows about a folder.
pub trait Contents {
    /// Everything that the bits of the result depend on, beside those of this program.
    fn work(&self) -> Result<Json>;
    /// Writes the files beside the weights.
    fn beside(&self, output: &Output) -> Result<()>;
    /// What the report says the work was, and what its rows compare results with.
    fn reported(&self) -> (String, String);
}

impl Build {
    /// Lays out the files of a plan and reckons its cost, from headers alone.
    pub fn new(plan: Plan, sources: &[&dyn Source], settings: Settings) -> Result<Build> {
        let specs: Vec<Spec> = plan.outputs.iter().map(spec).collect();
        let layout = Writer::plan(&specs, settings.shard_size)?;
        Build::laid_out(plan, layout, sources, settings)
    }

    /// The same for an adapter, whose one file has another name.
    ///
    /// # Errors
    /// As [`Build::new`].
    pub fn adapter(plan: Plan, sources: &[&dyn Source], settings: Settings) -> Result<Build> {
        let specs: Vec<Spec> = plan.outputs.iter().map(spec).collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let layout = Layout::new(ADAPTER_STEM, &metadata, &specs, u64::MAX)?;
        Build::laid_out(plan, layout, sources, settings)
    }

    fn laid_out(plan: Plan, layout: Layout, sources: &[&dyn Source], settings: Settings) -> Result<Build> {
        let cost = plan.cost(sources, settings.threads, settings.max_memory)?;
        Ok(Build { plan, layout, cost, settings })
    }

    /// The jobs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How it is built.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The bytes of the output's files.
    pub fn disk_bytes(&self) -> u64 {
        self.layout.files().map(|(_, bytes)| bytes).sum()
    }

    /// What is going to happen: outputs, bytes, passes, memory.
    pub fn describe(&self) -> Json {
        let files = self.layout.files().map(|(name, bytes)| json!({"name": name, "bytes": bytes}));
        json!({
            "output": {
                "tensors": self.plan.outputs.len(),
                "parameters": self.plan.outputs.iter().map(Meta::elements).sum::<u64>(),
                "dtype": self.dtype().map(Dtype::torch_name),
                "files": files.collect::<Vec<_>>(),
            },
            "threads": self.settings.threads,
            "input_bytes": self.cost.input_bytes,
            "output_bytes": self.cost.output_bytes,
            "disk_bytes": self.disk_bytes(),
            "passes": self.cost.passes,
            "peak_memory_bytes": self.cost.peak_memory,
            "workspace": self.plan.hungriest().map(|(tensor, bytes)| json!({"tensor": tensor, "bytes": bytes})),
            "notes": self.plan.notes,
        })
    }

    /// The floating-point type of most bytes of the output.
    pub fn dtype(&self) -> Option<Dtype> {
        let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
        for meta in self.plan.outputs.iter().filter(|meta| meta.dtype.is_float()) {
            *bytes.entry(meta.dtype).or_default() += meta.nbytes();
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype)
    }

    /// Builds `out`, which appears whole at the end; says how many tensors an earlier run had done, whether the result was
    /// read back, and how long it took.
    ///
    /// An error in the input leaves nothing behind. A cancellation leaves `OUT.partial`, and so does an error of the disk
    /// once anything is whole: the next run goes on from there if `resume` is set, and replaces it if not.
    pub fn run(&self, sources: &[&dyn Source], contents: &dyn Contents, out: &Path, ctl: &Ctl) -> Result<Json> {
        let begun = Instant::now();
        let output = Output::begin(out, self.settings.overwrite, self.settings.resume)?;
        let durable = match self.open(&output, contents) {
            Ok(durable) => durable,
            Err(error) if output.resumed() => return Err(error),
            Err(error) => {
                output.discard();
                return Err(error);
            }
        };
        let resumed = durable.done().iter().filter(|done| **done).count();
        match self.write(&output, sources, contents, &durable, ctl) {
            Ok(()) => {}
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error @ Error::Io { .. }) if durable.has_progress() => return Err(error),
            Err(error) => {
                output.discard();
                return Err(error);
            }
        }
        match self.finish(&output, contents, durable, ctl) {
            Ok(()) => output.commit()?,
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => {
                output.discard();
                return Err(error);
            }
        }
        Ok(json!({
            "to": out.to_string_lossy(),
            "resumed_tensors": resumed,
            "verified": self.settings.verify,
            "seconds": begun.elapsed().as_secs_f64(),
        }))
    }

    /// Sends the tensors into a sink, without the files beside them.
    pub fn stream(&self, sources: &[&dyn Source], sink: &dyn Sink, ctl: &Ctl) -> Result<()> {
        polmrs_engine::run(sources, &self.plan, sink, self.options(), ctl)
    }

    fn options(&self) -> Options<'_> {
        Options {
            threads: self.settings.threads,
            allow_nonfinite: self.settings.allow_nonfinite,
            max_memory: self.settings.max_memory,
            sync_every: self.settings.sync_every,
            ..Options::default()
        }
    }

    /// What the bits and the files depend on, whatever the work: this program, this machine, how files are cut.
    pub fn identity(&self) -> Json {
        json!({
            "polmrs": env!("CARGO_PKG_VERSION"),
            "simd": format!("{:?}", polmrs_core::simd::level()), // transcendental functions differ
            "shard_size": self.settings.shard_size,
        })
    }

    /// Begins the checkpoint, or goes on with one.
    fn open(&self, output: &Output, contents: &dyn Contents) -> Result<Durable> {
        let wanted = Wanted { digests: self.settings.verify || self.settings.report, survey: self.settings.report };
        let mut work = self.identity();
        work["schema"] = "polmrs.journal/1".into();
        if let (Some(work), Json::Object(own)) = (work.as_object_mut(), contents.work()?) {
            work.extend(own);
        }
        Durable::begin(output, self.layout.clone(), &self.plan.outputs, &work, wanted)
    }

    /// Writes the small files, then the tensors that are not there yet.
    fn write(
        &self,
        output: &Output,
        sources: &[&dyn Source],
        contents: &dyn Contents,
        durable: &Durable,
        ctl: &Ctl,
    ) -> Result<()> {
        contents.beside(output)?;
        let options = Options { done: durable.done(), survey: durable.survey(), ..self.options() };
        polmrs_engine::run(sources, &self.plan, durable, options, ctl)
    }

    /// Makes all of it durable, compares what the disk holds where that is asked for, and writes the report.
    fn finish(&self, output: &Output, contents: &dyn Contents, durable: Durable, ctl: &Ctl) -> Result<()> {
        let records = durable.finish()?;
        if self.settings.verify {
            let names = self.plan.outputs.iter().map(|meta| meta.name.as_str());
            let digests = records.iter().map(|record: &Record| record.digest.as_deref().unwrap_or_default());
            verify(output.folder(), names.zip(digests), self.settings.threads, ctl)?;
        }
        if self.settings.verify || self.settings.report {
            let (method, reference) = contents.reported();
            let report = report::write(&method, &reference, &self.plan.outputs, &records);
            output.put(report::FILE, pretty(&report).as_bytes())?;
        }
        Ok(())
    }
}

/// Refuses to write over a model that is read, or over a folder that holds one; models come with what messages call them.
pub fn refuse_inputs<'a>(out: &Path, models: impl IntoIterator<Item = (&'a str, &'a ModelFolder)>) -> Result<()> {
    let target = output::resolve(out)?;
    for (reference, model) in models {
        for read in model.folders() {
            let folder = read.canonicalize().map_err(Error::io(read, "find"))?;
            if folder.starts_with(&target) {
                let out = out.display();
                let relation = if folder == target { "is also" } else { "holds" };
                return Err(Error::Usage(format!("{out}: {relation} the input '{reference}'; write elsewhere")));
            }
        }
    }
    Ok(())
}

/// The files of an input as [`Contents::work`] states them: their sizes, and when they were last written.
pub fn files(paths: impl IntoIterator<Item = PathBuf>) -> Result<Json> {
    let mut files = Map::new();
    for path in paths {
        let metadata = path.metadata().map_err(Error::io(&path, "look at"))?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let nanoseconds = modified.map(|since| since.as_nanos().to_string());
        files.insert(name, json!({"bytes": metadata.len(), "modified": nanoseconds}));
    }
    Ok(Json::Object(files))
}

fn spec(meta: &Meta) -> Spec {
    Spec { name: meta.name.clone(), dtype: meta.dtype, shape: meta.shape.clone() }
}
