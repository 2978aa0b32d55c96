//! Quantized checkpoints that nobody should trust: what is broken is refused by name, and never read as more than it holds.
//!
//! A million of them: `cargo test -p polmrs-quant --test untrusted -- --ignored --nocapture`.

use polmrs_core::{Dtype, Error, Result};
use polmrs_engine::source::{Meta, Source};
use polmrs_quant::check::check;
use polmrs_quant::codebook::Table;
use polmrs_quant::coder::Coder;
use polmrs_quant::format::{Coding, Format, Group, Layout, quantization_config};
use polmrs_quant::fp4::nv_global;
use polmrs_quant::method::Search;
use polmrs_quant::source::dense;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

const ROWS: usize = 32;
const COLUMNS: usize = 64;

/// A checkpoint in memory.
#[derive(Clone)]
struct Model {
    config: Json,
    tensors: Vec<Meta>,
    data: Vec<Vec<u8>>,
}

impl Source for Model {
    fn label(&self) -> &str {
        "model"
    }

    fn tensors(&self) -> &[Meta] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|meta| meta.name == name)
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        let start = first as usize * self.tensors[tensor].dtype.size();
        let held = self.data[tensor].get(start..start + bytes.len());
        bytes.copy_from_slice(held.ok_or_else(|| Error::Internal("read beyond a tensor".into()))?);
        Ok(())
    }
}

/// A model of one layer in each layout.
fn models() -> Result<Vec<Model>> {
    let int = |bits, symmetric, group| Coding::Int { bits, symmetric, group };
    let (ct, sized) = (Format::CompressedTensors, Group::Size(32));
    let layouts = [
        (ct, int(4, true, sized), false),
        (ct, int(3, false, sized), false),
        (ct, int(8, true, Group::Channel), true),
        (ct, Coding::Fp8 { group: Group::Channel }, true),
        (ct, Coding::Mxfp4, false),
        (ct, Coding::Nvfp4, false),
        (Format::Gptq, int(4, true, sized), false),
        (Format::GptqV2, int(3, false, Group::Channel), false),
        (Format::Awq, int(4, false, sized), false),
        (Format::Bnb, Coding::Int8, false),
        (Format::Bnb, Coding::Codebook { table: Table::Nf4, block: 64, nested: false }, false),
        (Format::Bnb, Coding::Codebook { table: Table::Nf4, block: 64, nested: true }, false),
        (Format::Bnb, Coding::Codebook { table: Table::Fp4, block: 64, nested: true }, false),
        (Format::Fp8, Coding::Fp8 { group: Group::Block { rows: 24, columns: 40 } }, false),
    ];
    let x: Vec<f32> = (0..ROWS * COLUMNS).map(|at| ((at * 7919 % 1013) as f32 - 500.0) / 300.0).collect();
    let made = |(format, coding, activations): (Format, Coding, bool)| {
        let layout = Layout { format, coding, dtype: format.dtype(Dtype::BF16), activations };
        let coder = Coder { coding, search: Search::Range, scale_dtype: layout.dtype, arithmetic: Dtype::F32 };
        let rows = coder.encode(&x, COLUMNS, nv_global(2.0));
        let mut tensors = vec![Meta { name: "norm.weight".into(), dtype: Dtype::F32, shape: vec![2] }];
        let mut data = vec![vec![0; 8]];
        for (tensor, bytes) in layout.written(&rows, ROWS, COLUMNS)? {
            let name = format!("layer.up_proj.{}", tensor.suffix);
            tensors.push(Meta { name, dtype: tensor.dtype, shape: tensor.shape });
            data.push(bytes);
        }
        let quantization = quantization_config(&[(layout, vec!["Linear".into()])], &["lm_head".into()])?;
        Ok(Model { config: json!({"dtype": "bfloat16", "quantization_config": quantization}), tensors, data })
    };
    layouts.into_iter().map(made).collect()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n.max(1)
    }

    fn choose<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

impl Model {
    fn break_something(&mut self, random: &mut Random) {
        let at = random.below(self.tensors.len());
        match random.below(9) {
            0 if self.tensors.len() > 1 => {
                self.tensors.remove(at);
                self.data.remove(at);
            }
            1 => {
                let types = [Dtype::I32, Dtype::U8, Dtype::I8, Dtype::F32, Dtype::BF16, Dtype::F8E4M3, Dtype::I64];
                self.tensors[at].dtype = random.choose(&types);
                self.fill(at);
            }
            2 | 3 => {
                let axis = random.below(self.tensors[at].shape.len());
                let size = random.choose(&[0, 1, 2, 3, 5, 8, 16, 31, 32, 33, 63, 64, 65, 96, 128, 1 << 13]);
                match (random.below(6), self.tensors[at].shape.get_mut(axis)) {
                    (0, _) => self.tensors[at].shape.push(size),
                    (1, _) => drop(self.tensors[at].shape.pop()),
                    (_, Some(axis)) => *axis = size,
                    _ => {}
                }
                self.fill(at);
            }
            4 | 5 => {
                for _ in 0..=random.below(8) {
                    let byte = random.below(self.data[at].len());
                    let value = random.choose(&[0, 0xff, 0x7f, 0x80, b'0', b'9', b'"', b'}', b'-', b'e', b' ']);
                    self.data[at].get_mut(byte).into_iter().for_each(|byte| *byte = value);
                }
            }
            6 => {
                let (other, name) = (random.below(self.tensors.len()), self.tensors[at].name.clone());
                self.tensors[at].name = std::mem::replace(&mut self.tensors[other].name, name);
            }
            7 => {
                let suffixes = [".weight", ".weight_scale", ".qweight", ".SCB", ".g_idx", ".weight_zero_point", ""];
                let name = format!("layer.up_proj{}", random.choose(&suffixes));
                if self.find(&name).is_none() {
                    self.tensors[at].name = name;
                }
            }
            _ => edit(&mut self.config, random),
        }
    }

    /// Gives a tensor as many bytes as its shape says, as the reader of files makes sure of.
    fn fill(&mut self, at: usize) {
        if self.tensors[at].nbytes() > 1 << 20 {
            self.tensors[at].shape = vec![1];
        }
        self.data[at].resize(self.tensors[at].nbytes() as usize, 1);
    }
}

/// Changes one value, somewhere.
fn edit(json: &mut Json, random: &mut Random) {
    let deeper = random.below(4) > 0;
    match json {
        Json::Object(map) if deeper && !map.is_empty() => {
            let key = random.choose(&map.keys().cloned().collect::<Vec<_>>());
            map.get_mut(&key).into_iter().for_each(|value| edit(value, random));
        }
        Json::Array(items) if deeper && !items.is_empty() => {
            let at = random.below(items.len());
            edit(&mut items[at], random);
        }
        other => {
            let values = [json!(null), json!(0), json!(-1), json!(3), json!(4), json!(1e300), json!("gptq"), json!({})];
            *other = random.choose(&values);
        }
    }
}

/// Looks a checkpoint through, and reads all that it stands for; gives the number of its quantized layers.
fn read(model: &Model) -> Result<usize> {
    let held: usize = model.data.iter().map(Vec::len).sum();
    let base: Arc<dyn Source> = Arc::new(model.clone());
    let told = check(base.as_ref(), &model.config)?;
    let Some(source) = dense(&base, &model.config)? else { return Ok(0) };
    let elements: u64 = source.tensors().iter().map(Meta::elements).sum();
    assert!(elements as usize <= 8 * held, "{elements} elements of {held} bytes");
    for (at, meta) in source.tensors().iter().enumerate() {
        source.read(at, 0, &mut vec![0; meta.nbytes() as usize])?;
    }
    Ok(told.modules)
}

/// Breaks so many checkpoints, and counts what became of them.
fn broken(inputs: usize, seed: u64) -> Result<BTreeMap<&'static str, usize>> {
    let (mut random, models) = (Random(seed), models()?);
    let mut counts = BTreeMap::new();
    for _ in 0..inputs {
        let mut model = random.choose(&models);
        for _ in 0..=random.below(3) {
            model.break_something(&mut random);
        }
        let verdict = match read(&model) {
            Ok(0) => "read as dense",
            Ok(_) => "read as quantized",
            Err(Error::Checkpoint(_) | Error::Config(_)) => "refused",
            Err(other) => return Err(other.within(&format!("{}\n{:?}\n", model.config, model.tensors))),
        };
        *counts.entry(verdict).or_default() += 1;
    }
    Ok(counts)
}

#[test]
fn intact_checkpoints_are_read() -> Result<()> {
    for model in models()? {
        assert_eq!(read(&model)?, 1);
        assert_eq!(check(&model, &model.config)?.findings, []);
    }
    Ok(())
}

#[test]
fn broken_checkpoints_are_refused_or_read_within_their_bytes() -> Result<()> {
    let counts = broken(600, 1)?;
    assert!(counts.len() == 3 && counts.values().all(|count| *count > 20), "{counts:?}");
    Ok(())
}

#[test]
#[ignore = "a million take a minute"]
fn a_million_broken_checkpoints() -> Result<()> {
    eprintln!("{:?}", broken(1_000_000, 2)?);
    Ok(())
}
