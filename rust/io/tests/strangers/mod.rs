//! Files that nobody should trust: a corpus, a mutator, and a comparison with the `safetensors` crate.
//!
//! Shared by the tests in `safetensors_untrusted.rs` and the example `fuzz_safetensors`.

use polmrs_core::{Error, Result};
use polmrs_io::safetensors::{Header, Index};
use safetensors::SafeTensors;

/// xorshift64*: enough to choose what to break.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n.max(1)
    }

    pub(crate) fn choose<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A safetensors file: length, header, data.
pub(crate) fn frame(header: &[u8], data_len: usize) -> Vec<u8> {
    let data = (0..data_len).map(|at| at as u8);
    (header.len() as u64).to_le_bytes().into_iter().chain(header.iter().copied()).chain(data).collect()
}

/// Headers with the length of their data. Most are valid here; the rest only for the `safetensors` crate.
pub(crate) const HEADERS: [(&str, usize); 14] = [
    ("{}", 0),
    (r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}   "#, 24),
    (r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}"#, 8),
    (
        r#"{"__metadata__":{"k":"v","k2":"\u00e9\n"},
            "a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},
            "b":{"shape":[0,7],"dtype":"F64","data_offsets":[8,8]},
            "c":{"data_offsets":[8,11],"dtype":"U8","shape":[3]},
            "d":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[11,12]}}"#,
        12,
    ),
    (
        r#"{"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#,
        8,
    ),
    (
        r#"{"q":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},"r":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[2,4]}}"#,
        4,
    ),
    (r#"{"__metadata__":null,"w":{"dtype":"U16","shape":[1],"data_offsets":[0,2]}}"#, 2),
    (r#"{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#, 1),
    (r#"{"w":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#, 8),
    (r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":[{}]}}"#, 1),
    (r#"{"w":["U8",[1],[0,1]]}"#, 1),
    (r#"{"w":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}"#, 1),
    (r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#, 1),
    (r#"{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1),
];

/// Valid indexes.
pub(crate) const INDEXES: [&str; 3] = [
    r#"{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#,
    r#"{"weight_map":{"w":"a.safetensors","v":"b.safetensors","u":"a.safetensors"}}"#,
    "{\n  \"metadata\": {\"total_size\": 1.5, \"more\": [[], {\"x\": null}]},\n  \"weight_map\": {\"é\": \"w.safetensors\"},\n  \"other\": true\n}\n",
];

const TOKENS: [&str; 50] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    " ",
    "\n",
    "0",
    "1",
    "2",
    "8",
    "-1",
    "-0",
    "1.0",
    "1e3",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "\"\"",
    "{}",
    "[]",
    "[0,0]",
    "[1,1]",
    "\"dtype\":",
    "\"shape\":",
    "\"data_offsets\":",
    "\"__metadata__\":",
    "\"F32\"",
    "\"U8\"",
    "\"F4\"",
    "\"F8_E8M0\"",
    "\"w\":",
    "\"weight_map\":",
    "../",
    "/",
    ".safetensors",
    "[[[[[[[[",
    "{\"a\":{\"a\":",
    "\u{7f}",
    "é",
    "\u{202e}",
    ",\"x\":1",
];

/// Breaks bytes in a few places, mostly in one.
pub(crate) fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..*random.choose(&[1, 1, 1, 2, 4]) {
        let (at, len) = (random.below(bytes.len() + 1), random.below(24));
        let end = (at + len).min(bytes.len());
        match random.below(12) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, random.choose(&TOKENS).bytes())),
            4 => drop(bytes.splice(at..end, random.choose(&TOKENS).bytes())),
            5 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            6 => bytes.truncate(bytes.len().saturating_sub(random.below(4))),
            // What stays JSON reaches the checks behind the parser.
            7 | 8 => {
                let joints: Vec<usize> = (0..bytes.len()).filter(|at| b"{}[],:".contains(&bytes[*at])).collect();
                if let Some(at) = joints.get(random.below(joints.len())) {
                    bytes.insert(at + random.below(2), *random.choose(b" \t\n"));
                }
            }
            9 => {
                let letters: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_alphabetic()).collect();
                if let Some(at) = letters.get(random.below(letters.len())) {
                    bytes[*at] = b'a' + random.below(26) as u8;
                }
            }
            _ => {
                let digits: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
                if let Some(at) = digits.get(random.below(digits.len())) {
                    bytes[*at] = b'0' + random.below(10) as u8;
                }
            }
        }
    }
}

/// A broken file: mostly its JSON under a length that fits, at times the bytes as a whole.
pub(crate) fn broken_file(random: &mut Random) -> Vec<u8> {
    let (header, data_len) = *random.choose(&HEADERS);
    if random.below(8) == 0 {
        let mut file = frame(header.as_bytes(), data_len);
        mutate(random, &mut file);
        return file;
    }
    let mut header = header.as_bytes().to_vec();
    mutate(random, &mut header);
    let data_len = if random.below(8) == 0 { random.below(32) } else { data_len };
    frame(&header, data_len)
}

/// A broken index.
pub(crate) fn broken_index(random: &mut Random) -> Vec<u8> {
    let mut json = random.choose(&INDEXES).as_bytes().to_vec();
    mutate(random, &mut json);
    json
}

/// The header of a file in memory, as this crate reads it.
pub(crate) fn parse(file: &[u8]) -> Result<Header> {
    let Some((first, rest)) = file.split_first_chunk::<8>() else {
        return Err(Error::Checkpoint("too short".into()));
    };
    let len = Header::length(*first, file.len() as u64)? as usize;
    Header::parse(&rest[..len], (rest.len() - len) as u64)
}

/// What this crate and the `safetensors` crate said of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Accepted,
    Refused,
    /// Refused here only, for this documented reason.
    Stricter(&'static str),
}

/// Where this crate is stricter by design: a reason, and words of the message that gives it.
pub(crate) const STRICTER: [(&str, &str); 8] = [
    ("a name appears twice", "appears twice"),
    ("an unknown key in an entry", "unknown key"),
    ("an entry written as a list", "invalid type: sequence, expected an object of dtype"),
    ("a dtype written as an object", "dtype: invalid type: map"),
    ("a tensor without a name", "a tensor has an empty name"),
    ("too many dimensions", "shape: more than 64 numbers"),
    ("too many metadata keys", "more than 16384 keys"),
    ("a dtype not known here", "is not a type read here"),
];

/// Compares what was read here with what the `safetensors` crate reads; an error tells a difference that is not documented.
pub(crate) fn compare(file: &[u8], ours: &Result<Header>) -> std::result::Result<Verdict, String> {
    match (ours, SafeTensors::deserialize(file)) {
        (Ok(ours), Ok(theirs)) => {
            let start = file.len() as u64 - ours.tensors.iter().map(|tensor| tensor.nbytes()).sum::<u64>();
            let mut at = start as usize;
            if theirs.len() != ours.tensors.len() {
                return Err(format!("{} tensors here, {} there", ours.tensors.len(), theirs.len()));
            }
            for tensor in &ours.tensors {
                let view = theirs.tensor(&tensor.name).map_err(|error| format!("{}: {error}", tensor.name))?;
                let end = at + tensor.nbytes() as usize;
                let shape: Vec<u64> = view.shape().iter().map(|size| *size as u64).collect();
                if view.data() != &file[at..end]
                    || shape != tensor.shape
                    || view.dtype().to_string() != tensor.dtype.name()
                {
                    return Err(format!("{} differs", tensor.name));
                }
                at = end;
            }
            Ok(Verdict::Accepted)
        }
        (Err(_), Err(_)) => Ok(Verdict::Refused),
        (Ok(_), Err(theirs)) => Err(format!("accepted here, refused there: {theirs}")),
        (Err(ours), Ok(_)) => {
            let message = ours.to_string();
            let reason = STRICTER.iter().find(|(_, words)| message.contains(words));
            reason
                .map(|(reason, _)| Verdict::Stricter(reason))
                .ok_or_else(|| format!("accepted there, refused here: {message}"))
        }
    }
}

/// What holds for every index that was accepted.
pub(crate) fn check_index(index: &Index) -> std::result::Result<(), String> {
    let plain = |shard: &String| !shard.contains(['/', '\\', '\0']) && shard.len() > ".safetensors".len();
    if !index.shards().iter().all(plain) || !index.shards().is_sorted_by(|a, b| a < b) {
        return Err(format!("shards {:?}", index.shards()));
    }
    let names: Vec<&str> = index.tensors().map(|(name, _)| name).collect();
    if names.is_empty() || !names.is_sorted_by(|a, b| a < b) {
        return Err(format!("tensors {names:?}"));
    }
    match index.tensors().find(|(name, shard)| index.find(name) != Some(*shard)) {
        Some((name, _)) => Err(format!("'{name}' is not found")),
        None => Ok(()),
    }
}
