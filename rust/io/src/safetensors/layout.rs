//! Where every tensor of a checkpoint to be written will lie: decided before the first byte.
//!
//! Shards follow `huggingface_hub`: tensors in the given order, a new shard where the next one would pass the size, a
//! shard of its own for one that is larger. Inside a shard the rule is that of the `safetensors` crate, wide types first,
//! then by name, which aligns every tensor without holes; a file comes out as that crate would write it, byte for byte.

use super::header::MAX_HEADER;
use super::index::{MAX_SHARDS, check_shard};
use super::json::quote;
use super::tensor::nbytes;
use polmrs_core::{Dtype, Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name in the checkpoint.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The sizes of the dimensions; none for a scalar.
    pub shape: Vec<u64>,
}

/// The plan of a checkpoint's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) files: Vec<Shard>,
    pub(super) places: Vec<Place>,
    /// The index's name, which must not be there even if none is written: it would hide the one file.
    pub(super) index_name: String,
    /// The index, where there is more than one file.
    pub(super) index: Option<Vec<u8>>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) name: String,
    /// Eight bytes of length, then the JSON.
    pub(super) header: Vec<u8>,
    /// The whole file's length.
    pub(super) len: u64,
}

/// Where one tensor lies, counted from the start of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) file: usize,
    pub(super) start: u64,
    pub(super) nbytes: u64,
}

impl Layout {
    /// Plans `<stem>.safetensors`, or shards of it and their index, with this `__metadata__` in each file.
    ///
    /// `shard_size` counts the tensors' bytes.
    pub fn new(stem: &str, metadata: &BTreeMap<String, String>, specs: &[Spec], shard_size: u64) -> Result<Layout> {
        check_shard(&format!("{stem}.safetensors"))
            .map_err(|rule| Error::Usage(format!("{}: {rule}", quote(&format!("{stem}.safetensors")))))?;
        if shard_size == 0 {
            return Err(Error::Usage("shard_size: 0 is not at least 1 byte".into()));
        }
        let sizes = check(specs)?;
        let groups = share_out(&sizes, shard_size);
        let count = groups.len();
        if count > MAX_SHARDS {
            return Err(Error::Usage(format!("shard_size: {shard_size} makes {count} shards, more than {MAX_SHARDS}")));
        }
        let mut places: Vec<Place> = (specs.iter().zip(&sizes))
            .map(|(spec, nbytes)| Place { name: spec.name.clone(), file: 0, start: 0, nbytes: *nbytes })
            .collect();
        let mut files = Vec::with_capacity(count);
        for (at, mut group) in groups.into_iter().enumerate() {
            let name = match count {
                1 => format!("{stem}.safetensors"),
                _ => format!("{stem}-{:05}-of-{count:05}.safetensors", at + 1),
            };
            let key = |tensor: usize| (rank(specs[tensor].dtype), specs[tensor].name.as_str());
            group.sort_unstable_by(|a, b| key(*a).cmp(&key(*b)));
            let header = header(metadata, &group, specs, &sizes);
            if header.len() as u64 - 8 > MAX_HEADER {
                return Err(Error::Checkpoint(format!(
                    "{name}: a header of {} bytes for {} tensors is more than {MAX_HEADER}; take a smaller shard size",
                    header.len() - 8,
                    group.len()
                )));
            }
            let mut end = header.len() as u64;
            for tensor in group {
                places[tensor].file = at;
                places[tensor].start = end;
                end += sizes[tensor];
            }
            files.push(Shard { name, header, len: end });
        }
        let index_name = format!("{stem}.safetensors.index.json");
        let mut layout = Layout { files, places, index_name, index: None };
        if count > 1 {
            layout.index = Some(layout.index_json());
        }
        Ok(layout)
    }

    /// The files' names and lengths, the index left out.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|file| (file.name.as_str(), file.len))
    }

    /// The position in [`files`](Layout::files) of the file that holds a tensor, by its place among the specs.
    pub fn file_of(&self, tensor: usize) -> usize {
        self.places[tensor].file
    }

    /// The tensors' bytes, without headers.
    pub fn tensor_bytes(&self) -> u64 {
        self.places.iter().map(|place| place.nbytes).sum()
    }

    /// The bytes of all files, the index included: the space that the disk needs.
    pub fn disk_bytes(&self) -> u64 {
        let index = self.index.as_ref().map_or(0, |json| json.len() as u64);
        self.files.iter().map(|file| file.len).sum::<u64>() + index
    }

    /// The index as `huggingface_hub` writes it: keys sorted, two spaces.
    fn index_json(&self) -> Vec<u8> {
        let map: BTreeMap<&str, &str> =
            self.places.iter().map(|place| (place.name.as_str(), self.files[place.file].name.as_str())).collect();
        let mut json = format!("{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n", self.tensor_bytes());
        json += "  \"weight_map\": {";
        for (at, (tensor, file)) in map.into_iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            json += &format!("{comma}\n    {}: {}", text(tensor), text(file));
        }
        json += "\n  }\n}\n";
        json.into_bytes()
    }
}

/// The order of types in the `safetensors` crate, wide ones first.
fn rank(dtype: Dtype) -> usize {
    use Dtype::{BF16, Bool, F8E4M3, F8E5M2, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    const ORDER: [Dtype; 15] = [U64, I64, F64, F32, U32, I32, BF16, F16, U16, I16, F8E4M3, F8E5M2, I8, U8, Bool];
    ORDER.iter().position(|other| *other == dtype).unwrap_or(ORDER.len())
}

/// The size of each tensor, after checks on names and sums.
fn check(specs: &[Spec]) -> Result<Vec<u64>> {
    let mut names = HashSet::with_capacity(specs.len());
    let mut total = 0u64;
    let mut sizes = Vec::with_capacity(specs.len());
    for Spec { name, dtype, shape } in specs {
        let bad = |rule: String| Error::Checkpoint(format!("tensor {}: {rule}", quote(name)));
        if name.is_empty() || name == "__metadata__" {
            return Err(bad("is no name for a tensor in safetensors".into()));
        }
        if !names.insert(name.as_str()) {
            return Err(bad("is to be written twice".into()));
        }
        let too_large = || bad(format!("{} x {shape:?} needs more bytes than a checkpoint can hold", dtype.name()));
        let size = nbytes(*dtype, shape).ok_or_else(too_large)?;
        total = total.checked_add(size).filter(|total| *total <= i64::MAX as u64).ok_or_else(too_large)?;
        sizes.push(size);
    }
    Ok(sizes)
}

/// Deals tensors out to shards; at least one shard, so that a checkpoint without tensors is still a file.
fn share_out(sizes: &[u64], shard_size: u64) -> Vec<Vec<usize>> {
    let mut shards = Vec::new();
    let (mut current, mut filled) = (Vec::new(), 0u64);
    for (tensor, size) in sizes.iter().enumerate() {
        if *size > shard_size {
            shards.push(vec![tensor]);
            continue;
        }
        if filled + size > shard_size {
            shards.push(std::mem::take(&mut current));
            filled = 0;
        }
        current.push(tensor);
        filled += size;
    }
    if !current.is_empty() || shards.is_empty() {
        shards.push(current);
    }
    shards
}

/// The header of a shard whose tensors lie in the order of `group`, padded with spaces to eight bytes.
fn header(metadata: &BTreeMap<String, String>, group: &[usize], specs: &[Spec], sizes: &[u64]) -> Vec<u8> {
    let mut json = String::from("{\"__metadata__\":{");
    for (at, (key, value)) in metadata.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        json += &format!("{comma}{}:{}", text(key), text(value));
    }
    json.push('}');
    let mut begin = 0;
    for tensor in group {
        let Spec { name, dtype, shape } = &specs[*tensor];
        let end = begin + sizes[*tensor];
        let shape = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        // Writing to a String cannot fail.
        let _ = write!(
            json,
            ",{}:{{\"dtype\":\"{}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}",
            text(name),
            dtype.name()
        );
        begin = end;
    }
    json.push('}');
    let padded = json.len().next_multiple_of(8);
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    bytes.resize(8 + padded, b' ');
    bytes
}

/// A JSON string.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dtype: Dtype, shape: &[u64]) -> Spec {
        Spec { name: name.into(), dtype, shape: shape.into() }
    }

    fn plan(specs: &[Spec], shard_size: u64) -> Result<Layout> {
        Layout::new("model", &BTreeMap::new(), specs, shard_size)
    }

    fn shards_of(sizes: &[u64], shard_size: u64) -> Vec<Vec<u64>> {
        let groups = share_out(sizes, shard_size);
        groups.iter().map(|group| group.iter().map(|tensor| sizes[*tensor]).collect()).collect()
    }

    #[test]
    fn shards_are_those_of_huggingface_hub() {
        assert_eq!(shards_of(&[6, 6, 2, 6, 2, 2], 10), [vec![6], vec![6, 2], vec![6, 2, 2]]);
        assert_eq!(shards_of(&[5, 5, 1], 10), [vec![5, 5], vec![1]]);
        // One that is too large goes alone, before the shard that is being filled.
        assert_eq!(shards_of(&[1, 40, 1], 10), [vec![40], vec![1, 1]]);
        assert_eq!(shards_of(&[0, 0], 10), [vec![0, 0]]);
        assert_eq!(shards_of(&[], 10), [Vec::<u64>::new()]);
    }

    #[test]
    fn one_shard_has_the_plain_name_and_more_have_an_index() {
        let specs = [spec("b", Dtype::F32, &[4]), spec("a\"", Dtype::BF16, &[2, 2]), spec("c", Dtype::F32, &[])];
        let one = plan(&specs, 1 << 30).unwrap();
        assert_eq!(one.files().map(|(name, _)| name).collect::<Vec<_>>(), ["model.safetensors"]);
        assert_eq!((one.index.as_ref(), one.tensor_bytes()), (None, 28));
        let two = plan(&specs, 24).unwrap();
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(two.files().map(|(name, _)| name).collect::<Vec<_>>(), names);
        assert_eq!(two.index_name, "model.safetensors.index.json");
        let expected = r#"{
  "metadata": {
    "total_size": 28
  },
  "weight_map": {
    "a\"": "model-00001-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors",
    "c": "model-00002-of-00002.safetensors"
  }
}
"#;
        assert_eq!(str::from_utf8(two.index.as_ref().unwrap()).unwrap(), expected);
        assert_eq!(two.disk_bytes(), two.files().map(|(_, len)| len).sum::<u64>() + expected.len() as u64);
    }

    #[test]
    fn every_tensor_is_aligned_for_its_type() {
        let specs: Vec<Spec> = (Dtype::ALL.iter())
            .flat_map(|dtype| [1, 3, 5].map(|n| spec(&format!("{}{n}", dtype.name()), *dtype, &[n])))
            .collect();
        for (place, spec) in plan(&specs, 1 << 20).unwrap().places.iter().zip(&specs) {
            assert_eq!(place.start % spec.dtype.size() as u64, 0, "{}", spec.name);
        }
    }

    #[test]
    fn petabytes_can_be_planned() {
        let specs: Vec<Spec> = (0..1000).map(|i| spec(&format!("w{i}"), Dtype::F32, &[1 << 19, 1 << 19])).collect();
        let layout = plan(&specs, 5_000_000_000).unwrap();
        assert_eq!((layout.files().count(), layout.tensor_bytes()), (1000, 1000 << 40));
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let w = |shape: &[u64]| spec("w", Dtype::F32, shape);
        let refused = |specs: &[Spec]| plan(specs, 1 << 40).unwrap_err().to_string();
        assert_eq!(refused(&[w(&[1]), w(&[1])]), "tensor 'w': is to be written twice");
        assert!(refused(&[spec("", Dtype::F32, &[1])]).contains("is no name"));
        assert!(refused(&[spec("__metadata__", Dtype::F32, &[1])]).contains("is no name"));
        assert!(refused(&[w(&[1 << 62])]).contains("F32 x [4611686018427387904] needs more bytes"));
        assert!(refused(&[w(&[1 << 60]), spec("v", Dtype::F32, &[1 << 60])]).contains("'v': F32"));
        assert!(plan(&[], 0).is_err());
        assert!(Layout::new("../model", &BTreeMap::new(), &[], 1).is_err());
    }
}
