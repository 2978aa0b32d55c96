//! Vectors from a file: JSON Lines with an id, a vector and metadata a line, or an array of numpy (.npy, format 1 to 3).

use polmrs_core::{Dtype, Error, Result, dtype};
use polmrs_search::ids::Ids;
use serde_json::{Map, Value as Json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest header of an array.
const MAX_HEADER: usize = 1 << 16;

/// Vectors that are read a few at a time.
pub(super) struct Rows {
    path: PathBuf,
    file: BufReader<File>,
    dim: usize,
    /// How many were read.
    read: usize,
    form: Form,
}

enum Form {
    /// The number type, and how many rows there are; `None` for float64.
    Array(Option<Dtype>, usize),
    /// The first line, which was read to see how long vectors are.
    Lines(Option<String>),
}

/// Some of the vectors.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) ids: Ids,
    pub(super) vectors: Vec<f32>,
    pub(super) metadata: Vec<Map<String, Json>>,
}

impl Rows {
    pub(super) fn open(path: &Path) -> Result<Rows> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io(path, "open"))?);
        let is_array = file.fill_buf().map_err(Error::io(path, "read"))?.starts_with(b"\x93NUMPY");
        let (dim, form) = if is_array { array(&mut file, path)? } else { lines(&mut file, path)? };
        Ok(Rows { path: path.to_path_buf(), file, dim, read: 0, form })
    }

    /// The length of a vector.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// The next vectors, at most as many as this; nothing at the end.
    pub(super) fn next(&mut self, most: usize) -> Result<Option<Batch>> {
        let first = self.read;
        let batch = match &mut self.form {
            Form::Array(dtype, rows) => {
                let count = most.min(*rows - first);
                let mut raw = vec![0; count * self.dim * dtype.map_or(8, Dtype::size)];
                self.file.read_exact(&mut raw).map_err(Error::io(&self.path, "read"))?;
                let mut vectors = vec![0.0; count * self.dim];
                match dtype {
                    Some(dtype) => dtype::to_f32(*dtype, &raw, &mut vectors),
                    None => {
                        for (to, from) in vectors.iter_mut().zip(raw.as_chunks::<8>().0) {
                            *to = f64::from_le_bytes(*from) as f32;
                        }
                    }
                }
                let ids = Ids::Numbers((first..first + count).map(|row| row as i64).collect());
                Batch { ids, vectors, metadata: Vec::new() }
            }
            Form::Lines(ahead) => {
                let mut batch = Batch { ids: Ids::Texts(Vec::new()), vectors: Vec::new(), metadata: Vec::new() };
                while batch.metadata.len() < most {
                    let mut line = ahead.take().unwrap_or_default();
                    if line.is_empty() && self.file.read_line(&mut line).map_err(Error::io(&self.path, "read"))? == 0 {
                        break;
                    }
                    if !line.trim().is_empty() {
                        let at = first + batch.metadata.len();
                        object(&line, self.dim, at, &mut batch).map_err(|rule| wrong(&self.path, at, &rule))?;
                    }
                }
                batch
            }
        };
        self.read += batch.ids.len();
        Ok((!batch.ids.is_empty()).then_some(batch))
    }
}

fn wrong(path: &Path, at: usize, rule: &str) -> Error {
    Error::Array(format!("{}: vector {}: {rule}", path.display(), at + 1))
}

/// Reads the header of an array.
fn array(file: &mut BufReader<File>, path: &Path) -> Result<(usize, Form)> {
    let refuse = |rule: &str| Error::Array(format!("{}: {rule}", path.display()));
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(Error::io(path, "read"))?;
    let mut len = [0; 4];
    let bytes = if start[6] == 1 { 2 } else { 4 };
    file.read_exact(&mut len[..bytes]).map_err(Error::io(path, "read"))?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HEADER {
        return Err(refuse("its header is longer than 64 KiB"));
    }
    let mut header = vec![0; len];
    file.read_exact(&mut header).map_err(Error::io(path, "read"))?;
    let header: String = String::from_utf8_lossy(&header).chars().filter(|c| !c.is_whitespace()).collect();
    let field = |name: &str| header.split_once(&format!("'{name}':")).map_or("", |(_, rest)| rest);
    let known = [("'<f4'", Some(Dtype::F32)), ("'<f2'", Some(Dtype::F16)), ("'<f8'", None)];
    let kind = known.into_iter().find(|(name, _)| field("descr").starts_with(name));
    let (_, dtype) = kind.ok_or_else(|| refuse("its numbers are not float16, float32 or float64"))?;
    if !field("fortran_order").starts_with("False") {
        return Err(refuse("is in Fortran order; save numpy.ascontiguousarray of it"));
    }
    let shape = field("shape").strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or("", |(shape, _)| shape);
    let shape: Vec<usize> = shape.split(',').filter_map(|part| part.parse().ok()).collect();
    match shape[..] {
        [rows, dim] if dim > 0 => Ok((dim, Form::Array(dtype, rows))),
        _ => Err(refuse(&format!("shape {shape:?} is not [n, dim]"))),
    }
}

fn lines(file: &mut BufReader<File>, path: &Path) -> Result<(usize, Form)> {
    let mut line = String::new();
    while line.trim().is_empty() {
        line.clear();
        if file.read_line(&mut line).map_err(Error::io(path, "read"))? == 0 {
            break;
        }
    }
    let json: Json = serde_json::from_str(&line).map_err(|error| wrong(path, 0, &error.to_string()))?;
    let dim = json.get("vector").and_then(Json::as_array).map_or(0, Vec::len);
    if dim == 0 {
        return Err(wrong(path, 0, "has no \"vector\", a list of numbers"));
    }
    Ok((dim, Form::Lines(Some(line))))
}

/// Adds the vector of a line.
fn object(line: &str, dim: usize, at: usize, batch: &mut Batch) -> std::result::Result<(), String> {
    let mut fields: Map<String, Json> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let Some(Json::Array(vector)) = fields.remove("vector") else {
        return Err("has no \"vector\", a list of numbers".into());
    };
    if vector.len() != dim {
        return Err(format!("{} numbers, but the first has {dim}", vector.len()));
    }
    for x in vector {
        batch.vectors.push(x.as_f64().ok_or_else(|| format!("{x} is not a number"))? as f32);
    }
    let id = fields.remove("id").unwrap_or_else(|| at.into());
    if batch.ids.is_empty() && id.is_i64() {
        batch.ids = Ids::Numbers(Vec::new());
    }
    match (&mut batch.ids, &id) {
        (Ids::Texts(all), Json::String(id)) => all.push(id.as_str().into()),
        (Ids::Numbers(all), id) if id.is_i64() => all.extend(id.as_i64()),
        _ => return Err(format!("id {id} is neither a string nor an integer like those before")),
    }
    batch.metadata.push(fields);
    Ok(())
}
