//! The header of one safetensors file: a stranger's JSON, read in one pass, then checked against the length of the data.

use super::entry::{Entry, EntryVisitor};
use super::json::{self, Text, Value, quote, refuse_text, value_of};
use super::tensor::{Tensor, by_name, nbytes};
use polmrs_core::{Error, Result};
use serde::de::{Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// The longest header or index that is read, in bytes.
pub const MAX_HEADER: u64 = 100_000_000;
/// The most dimensions of a tensor, as in numpy and torch.
pub const MAX_RANK: usize = 64;
/// The most keys of `__metadata__`.
pub const MAX_METADATA: usize = 16_384;

/// A parsed header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<Tensor>,
}

impl Header {
    /// The length of the JSON, from the first eight bytes of a file and the file's length.
    pub fn length(first: [u8; 8], file_len: u64) -> Result<u64> {
        let len = u64::from_le_bytes(first);
        let most = file_len.saturating_sub(8).min(MAX_HEADER);
        if !(2..=most).contains(&len) {
            return Err(Error::Checkpoint(format!("header length {len} is not from 2 to {most}")));
        }
        Ok(len)
    }

    /// Reads the JSON of a header whose file holds `data_len` bytes after it.
    ///
    /// Errors are [`Error::Checkpoint`] and name the tensor, not the file.
    pub fn parse(json: &[u8], data_len: u64) -> Result<Header> {
        let bad = |rule: String| Error::Checkpoint(format!("header: {rule}"));
        if json.len() as u64 > MAX_HEADER {
            return Err(bad(format!("{} bytes are more than {MAX_HEADER}", json.len())));
        }
        let text = str::from_utf8(json).map_err(|error| bad(format!("not UTF-8: {error}")))?;
        let mut header = json::parse(text, Top).map_err(|error| bad(error.to_string()))?;
        refuse_duplicates(&header.tensors)?;
        header.tensors.iter().try_for_each(check_span)?;
        header.tensors.sort_unstable_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        check_cover(&header.tensors, data_len)?;
        Ok(header)
    }
}

fn refuse_duplicates(tensors: &[Tensor]) -> Result<()> {
    let order = by_name(tensors);
    let mut names = order.iter().map(|at| &tensors[*at as usize]);
    let mut previous = names.next();
    for tensor in names {
        if previous.is_some_and(|previous| previous.name == tensor.name) {
            return Err(Error::Checkpoint(format!("{} appears twice", tensor.called())));
        }
        previous = Some(tensor);
    }
    Ok(())
}

/// A tensor spans as many bytes as its type and shape need.
fn check_span(tensor: &Tensor) -> Result<()> {
    let Tensor { dtype, shape, start, end, .. } = tensor;
    let bad = |rule: String| Err(Error::Checkpoint(format!("{}: {rule}", tensor.called())));
    let kind = || format!("{} x {shape:?}", dtype.name());
    if start > end {
        return bad(format!("data_offsets [{start}, {end}] end before they begin"));
    }
    match nbytes(*dtype, shape) {
        None => bad(format!("{} needs more bytes than 64 bits can count", kind())),
        Some(needed) if needed != end - start => {
            bad(format!("data_offsets [{start}, {end}] span {} bytes, but {} needs {needed}", end - start, kind()))
        }
        Some(_) => Ok(()),
    }
}

/// Tensors in the order of their bytes follow one another from the first byte to the last.
fn check_cover(tensors: &[Tensor], data_len: u64) -> Result<()> {
    let mut covered = 0;
    let mut previous: Option<&Tensor> = None;
    for tensor in tensors {
        let Tensor { start, end, .. } = tensor;
        let bad =
            |rule: String| Err(Error::Checkpoint(format!("{}: data_offsets [{start}, {end}] {rule}", tensor.called())));
        if *start < covered {
            let other = previous.map_or_else(String::new, |other| {
                format!("{}, which has [{}, {}]", other.called(), other.start, other.end)
            });
            return bad(format!("overlap {other}"));
        }
        if *start > covered {
            return bad(format!("leave a hole: bytes {covered} to {start} belong to no tensor"));
        }
        if *end > data_len {
            return bad(format!("end beyond the {data_len} bytes that follow the header (is the file cut short?)"));
        }
        covered = *end;
        previous = Some(tensor);
    }
    if covered != data_len {
        return Err(Error::Checkpoint(format!(
            "header does not cover the file: its tensors take {covered} of the {data_len} bytes that follow it"
        )));
    }
    Ok(())
}

/// The whole header.
struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut seen_metadata = false;
        while let Some(name) = map.next_key_seed(Value(Text))? {
            if name == "__metadata__" {
                if std::mem::replace(&mut seen_metadata, true) {
                    return Err(A::Error::custom("'__metadata__' appears twice"));
                }
                header.metadata = value_of(&mut map, Metadata, || "'__metadata__'".to_owned())?;
                continue;
            }
            if name.is_empty() {
                return Err(A::Error::custom("a tensor has an empty name"));
            }
            let Entry { dtype, shape, offsets: [start, end] } =
                value_of(&mut map, EntryVisitor, || format!("tensor {}", quote(&name)))?;
            header.tensors.push(Tensor { name, dtype, shape, file: 0, start, end });
        }
        Ok(header)
    }

    refuse_text!();
}

struct Metadata;

impl<'de> Visitor<'de> for Metadata {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = BTreeMap::new();
        while let Some(key) = map.next_key_seed(Value(Text))? {
            let value = value_of(&mut map, Text, || quote(&key))?;
            if metadata.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{} appears twice", quote(&key))));
            }
            if metadata.len() == MAX_METADATA {
                return Err(A::Error::custom(format_args!("more than {MAX_METADATA} keys")));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    refuse_text!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use polmrs_core::Dtype;

    fn entry(dtype: &str, shape: &str, offsets: &str) -> String {
        format!(r#"{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}"#)
    }

    fn refused(json: &str, data_len: u64) -> String {
        match Header::parse(json.as_bytes(), data_len) {
            Err(Error::Checkpoint(message)) => message,
            other => panic!("{json}: {other:?}"),
        }
    }

    /// The message for one tensor `w` with this entry.
    fn refused_entry(entry: &str, data_len: u64) -> String {
        refused(&format!(r#"{{"w": {entry}}}"#), data_len)
    }

    #[test]
    fn tensors_come_in_the_order_of_their_bytes() {
        let (a, b) = (entry("BF16", "[2, 3]", "[4, 16]"), entry("F32", "[]", "[0, 4]"));
        let json = format!(r#" {{"a": {a}, "__metadata__": {{"format": "pt"}}, "b": {b}}}  "#);
        let header = Header::parse(json.as_bytes(), 16).unwrap();
        assert_eq!(header.metadata, BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
        let seen: Vec<_> = header.tensors.iter().map(|t| (&t.name[..], t.dtype, t.elements(), t.nbytes())).collect();
        assert_eq!(seen, [("b", Dtype::F32, 1, 4), ("a", Dtype::BF16, 6, 12)]);
        assert_eq!(header.tensors[1].shape, [2, 3]);
    }

    #[test]
    fn every_type_is_read_and_others_are_named() {
        for dtype in Dtype::ALL {
            let size = dtype.size() as u64;
            let json = format!(r#"{{"w": {}}}"#, entry(dtype.name(), "[3]", &format!("[0, {}]", 3 * size)));
            assert_eq!(Header::parse(json.as_bytes(), 3 * size).unwrap().tensors[0].dtype, dtype);
        }
        for other in ["F4", "F6_E2M3", "F8_E8M0", "F8_E4M3FNUZ", "C64", "f32", ""] {
            let message = refused_entry(&entry(other, "[3]", "[0, 3]"), 3);
            let start =
                format!("header: tensor 'w': dtype: '{other}' is not a type read here, which are BOOL, U8, I8,");
            assert!(message.starts_with(&start), "{message}");
        }
    }

    #[test]
    fn empty_tensors_and_scalars_are_tensors() {
        let (scalar, empty) = (entry("I64", "[]", "[0, 8]"), entry("F32", "[0, 9]", "[8, 8]"));
        let json = format!(r#"{{"s": {scalar}, "e": {empty}, "f": {empty}}}"#);
        let header = Header::parse(json.as_bytes(), 8).unwrap();
        assert_eq!(header.tensors.iter().map(Tensor::elements).collect::<Vec<_>>(), [1, 0, 0]);
        assert!(Header::parse(b"{}", 0).unwrap().tensors.is_empty());
        assert!(Header::parse(br#"{"__metadata__": null}"#, 0).unwrap().metadata.is_empty());
        // An empty tensor lies between others, not inside one.
        let inside = format!(r#"{{"s": {scalar}, "e": {}}}"#, entry("F32", "[0]", "[4, 4]"));
        assert!(refused(&inside, 8).contains("tensor 'e': data_offsets [4, 4] overlap tensor 's', which has [0, 8]"));
    }

    #[test]
    fn a_span_fits_type_and_shape() {
        assert_eq!(
            refused_entry(&entry("BF16", "[64]", "[0, 100]"), 100),
            "tensor 'w': data_offsets [0, 100] span 100 bytes, but BF16 x [64] needs 128"
        );
        assert!(refused_entry(&entry("U8", "[0]", "[4, 3]"), 4).contains("[4, 3] end before they begin"));
        for shape in ["[4611686018427387904, 4]", "[9223372036854775808, 4, 0]", "[4611686018427387904]"] {
            let message = refused_entry(&entry("F32", shape, "[0, 0]"), 0);
            assert!(message.contains("needs more bytes than 64 bits can count"), "{message}");
        }
    }

    #[test]
    fn tensors_cover_the_data_exactly() {
        let pair = |first: &str, second: &str| {
            format!(r#"{{"a": {}, "b": {}}}"#, entry("U8", "[4]", first), entry("U8", "[4]", second))
        };
        assert!(Header::parse(pair("[0, 4]", "[4, 8]").as_bytes(), 8).is_ok());
        assert!(refused(&pair("[0, 4]", "[2, 6]"), 6).contains("tensor 'b': data_offsets [2, 6] overlap tensor 'a'"));
        assert!(refused(&pair("[0, 4]", "[0, 4]"), 4).contains("'b': data_offsets [0, 4] overlap tensor 'a'"));
        assert!(refused(&pair("[0, 4]", "[5, 9]"), 9).contains("leave a hole: bytes 4 to 5 belong to no tensor"));
        assert!(refused(&pair("[0, 4]", "[4, 8]"), 7).contains("end beyond the 7 bytes that follow the header"));
        let message = refused(&pair("[0, 4]", "[4, 8]"), 9);
        assert_eq!(message, "header does not cover the file: its tensors take 8 of the 9 bytes that follow it");
    }

    #[test]
    fn nothing_appears_twice() {
        let w = entry("U8", "[1]", "[0, 1]");
        assert_eq!(refused(&format!(r#"{{"w": {w}, "w": {w}}}"#), 1), "tensor 'w' appears twice");
        assert!(refused(r#"{"__metadata__": {}, "__metadata__": {}}"#, 0).contains("'__metadata__' appears twice"));
        assert!(refused(r#"{"__metadata__": {"k": "", "k": ""}}"#, 0).contains("'__metadata__': 'k' appears twice"));
        for key in [r#""dtype": "U8""#, r#""shape": [1]"#, r#""data_offsets": [0, 1]"#] {
            let message = refused_entry(&w.replacen('{', &format!("{{{key}, "), 1), 1);
            assert!(message.starts_with("header: tensor 'w': ") && message.contains("appears twice"), "{message}");
        }
    }

    #[test]
    fn an_entry_has_its_three_keys_and_no_other() {
        assert!(refused_entry(r#"{"dtype": "U8", "shape": [0]}"#, 0).contains("'w': data_offsets is missing"));
        assert!(refused_entry(r#"{"dtype": "U8", "shpae": [0]}"#, 0).contains("unknown key 'shpae'"));
        assert!(refused_entry(r#"{"dtype": "U8", "shpae": [0]}"#, 0).contains("did you mean 'shape'?"));
        assert!(refused_entry(&entry("U8", "[1]", "[1]"), 1).contains("not two numbers"));
        assert!(refused_entry(&entry("U8", "[1]", "[0, 1, 2]"), 1).contains("data_offsets: more than 2 numbers"));
        assert!(refused_entry(&entry("U8", "[-1]", "[0, 1]"), 1).contains("shape: invalid type: integer `-1`"));
        assert!(refused_entry(&entry("U8", "[1.0]", "[0, 1]"), 1).contains("shape: invalid type: floating point"));
        let ones = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert!(refused_entry(&entry("U8", &ones(MAX_RANK + 1), "[0, 1]"), 1).contains("more than 64 numbers"));
        let json = format!(r#"{{"w": {}}}"#, entry("U8", &ones(MAX_RANK), "[0, 1]"));
        assert!(Header::parse(json.as_bytes(), 1).is_ok());
        assert!(refused_entry(r#"["U8", [1], [0, 1]]"#, 1).contains("expected an object of dtype"));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert!(refused(r#"{"": {}}"#, 0).contains("a tensor has an empty name"));
        assert!(refused("[]", 0).contains("expected an object of tensors"));
        assert!(refused("{} x", 0).contains("trailing characters at line 1 column 4"));
        assert!(refused(r#"{"__metadata__": {"k": 1}}"#, 0).contains("'__metadata__': 'k': invalid type: integer `1`"));
        let many: Vec<String> = (0..=MAX_METADATA).map(|i| format!(r#""{i}": """#)).collect();
        assert!(refused(&format!(r#"{{"__metadata__": {{{}}}}}"#, many.join(",")), 0).contains("more than 16384 keys"));
        assert!(Header::parse(b"{\"\xff\": 1}", 0).unwrap_err().to_string().contains("header: not UTF-8"));
    }

    #[test]
    fn nesting_is_refused_at_its_first_step() {
        for open in ["[", "{\"a\":"] {
            let bomb = open.repeat(1 << 20);
            assert!(refused(&format!(r#"{{"w": {bomb}"#), 0).len() < 300);
            assert!(refused(&format!(r#"{{"__metadata__": {{"k": {bomb}"#), 0).len() < 300);
            assert!(refused_entry(&entry("U8", &bomb, "[0, 1]"), 1).len() < 300);
        }
    }
}
