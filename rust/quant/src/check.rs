//! What a loader would trip over in a quantized checkpoint.

use crate::format::{Format, Stored, gptq};
use crate::source::{STACKED, UNSCALED, Weight, format_of, marks, modules, stacked, stated_in, unscaled};
use polmrs_core::Result;
use polmrs_engine::source::{CheckpointSource, Source};
use polmrs_io::safetensors::Checkpoint;
use polmrs_model::folder::read_json;
use serde_json::{Value as Json, json};
use std::fmt;
use std::path::Path;

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: `config.json`, or a module.
    pub place: String,
    /// What.
    pub what: String,
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The format that the config names.
    pub format: Option<Format>,
    /// How many quantized modules there are.
    pub modules: usize,
    /// All that is wrong, the config's first.
    pub findings: Vec<Finding>,
}

/// [`check`] of a folder.
///
/// # Errors
/// Those of [`check`], and there is no checkpoint.
pub fn check_folder(path: &Path) -> Result<Checked> {
    let source = CheckpointSource::new(path.display().to_string(), Checkpoint::open(path)?);
    let config = read_json(&path.join("config.json"))?;
    check(&source, config.as_ref().unwrap_or(&Json::Null))
}

/// Looks at headers, the config, and the small tensors: shapes and types of every quantized module, settings that the config
/// lacks or that contradict the tensors, and zero points of GPTQ version 1 that carry. Codes are not read.
///
/// # Errors
/// A small tensor cannot be read.
pub fn check(source: &dyn Source, config: &Json) -> Result<Checked> {
    let mut checked = Checked::default();
    match format_of(config) {
        Err(error) => checked.find("config.json", error),
        Ok(None) => {
            let marked =
                |name: &str| Format::ALL.iter().flat_map(|format| marks(*format)).any(|mark| name.ends_with(mark));
            if let Some(meta) = source.tensors().iter().find(|meta| marked(&meta.name)) {
                let rule = "and without a quantization_config a loader takes the model for a dense one";
                checked.find("config.json", format_args!("'{}' is of a quantized layer, {rule}", meta.name));
            }
        }
        Ok(Some(format)) => {
            checked.format = Some(format);
            let config = &config["quantization_config"];
            checked.settings(format, config);
            checked.tensors(source, format, config)?;
        }
    }
    Ok(checked)
}

/// What loaders read from a `quantization_config` without a default.
const fn required(format: Format) -> &'static [&'static str] {
    match format {
        Format::CompressedTensors => &["config_groups"],
        Format::Gptq | Format::GptqV2 => &["bits", "group_size", "desc_act", "sym"],
        Format::Awq => &["bits", "group_size", "zero_point"],
        Format::Bnb | Format::Fp8 => &[],
    }
}

impl Checked {
    /// As JSON (`polmrs.check/1`).
    pub fn to_json(&self) -> Json {
        let row = |finding: &Finding| json!({"place": finding.place, "what": finding.what});
        json!({
            "schema": "polmrs.check/1",
            "format": self.format.map(Format::name),
            "quantized": self.modules,
            "findings": self.findings.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn find(&mut self, place: &str, what: impl fmt::Display) {
        self.findings.push(Finding { place: place.into(), what: what.to_string() });
    }

    fn settings(&mut self, format: Format, config: &Json) {
        for key in required(format).iter().filter(|key| config[**key].is_null()) {
            self.find(
                "config.json",
                format_args!("quantization_config.{key}: not there, and {} loaders need it", format.name()),
            );
        }
        let asked = |key: &str| config[key] == true;
        if format == Format::Bnb && asked("load_in_4bit") == asked("load_in_8bit") {
            self.find("config.json", "quantization_config: exactly one of load_in_4bit and load_in_8bit is to be true");
        }
    }

    fn tensors(&mut self, source: &dyn Source, format: Format, config: &Json) -> Result<()> {
        let stated = match stated_in(config) {
            Ok(stated) => stated,
            Err(error) => {
                self.find("config.json", error);
                return Ok(());
            }
        };
        let (stacked, modules) = (stacked(source.tensors(), format), modules(source.tensors(), format));
        self.modules = modules.len();
        if let Some(meta) = stacked {
            self.find(&meta.name, STACKED);
        } else if let Some(meta) = unscaled(source.tensors(), &modules, format) {
            self.find(&meta.name, UNSCALED);
        } else if modules.is_empty() {
            self.find("config.json", format_args!("names {}, but no tensor is of a quantized layer", format.name()));
        }
        for (module, held) in &modules {
            match Weight::new(source, held, format, stated) {
                Err(error) => self.find(module, error),
                Ok(weight) => {
                    self.agrees(module, &weight.stored, config);
                    if format == Format::Gptq {
                        self.carries(module, held, &weight.stored, source)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares bits and group with those that the config states for all layers.
    fn agrees(&mut self, module: &str, stored: &Stored, config: &Json) {
        let rules = config["dynamic"].as_object();
        if rules.is_some_and(|rules| rules.keys().any(|rule| !rule.starts_with("-:"))) {
            return; // layers with settings of their own; `-:` only leaves layers out
        }
        let coding = stored.layout.coding;
        let (bits, group, columns) = (coding.bits() as usize, coding.group(stored.columns), stored.columns);
        let stated = |key: &str| config[key].as_i64();
        if let Some(stated) = stated("bits").filter(|stated| *stated != bits as i64) {
            self.find(module, format_args!("codes of {bits} bits, where quantization_config.bits is {stated}"));
        }
        let size = |stated: i64| if stated == -1 { columns as i64 } else { stated };
        if let Some(stated) = stated("group_size").filter(|stated| size(*stated) != group as i64) {
            self.find(module, format_args!("groups of {group}, where quantization_config.group_size is {stated}"));
        }
    }

    fn carries(&mut self, module: &str, held: &[(&str, usize)], stored: &Stored, source: &dyn Source) -> Result<()> {
        let Some((_, at)) = held.iter().find(|(suffix, _)| *suffix == "qzeros") else { return Ok(()) };
        let mut bytes = vec![0; source.tensors()[*at].nbytes() as usize];
        source.read(*at, 0, &mut bytes)?;
        let coding = stored.layout.coding;
        let groups = stored.columns / coding.group(stored.columns);
        let count = gptq::carrying(coding.bits() as usize, &bytes, groups, stored.rows);
        if count > 0 {
            let rule = "readers of version 1 add one, which carries into the neighbour; gptq_v2 has no such case";
            self.find(module, format_args!("qzeros: {count} zero points of 0 are stored as the top code: {rule}"));
        }
        Ok(())
    }
}
