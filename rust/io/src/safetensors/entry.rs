//! One tensor's entry in a header: `{"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}`.

use super::header::MAX_RANK;
use super::json::{Value, Whole, quote, refuse_text, value_of};
use polmrs_core::Dtype;
use polmrs_core::error::did_you_mean;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What an entry says.
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) offsets: [u64; 2],
}

/// Reads an [`Entry`].
pub(super) struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key_seed(Value(FieldVisitor))? {
            let context = || key.name().to_owned();
            let twice = match key {
                Field::Dtype => dtype.replace(value_of(&mut map, DtypeVisitor, context)?).is_some(),
                Field::Shape => shape.replace(value_of(&mut map, Numbers::<MAX_RANK>, context)?.to_vec()).is_some(),
                Field::Offsets => offsets.replace(value_of(&mut map, Numbers::<2>, context)?.pair()).is_some(),
            };
            if twice {
                return Err(A::Error::custom(format_args!("{} appears twice", key.name())));
            }
        }
        let missing = |field: Field| move || A::Error::custom(format_args!("{} is missing", field.name()));
        Ok(Entry {
            dtype: dtype.ok_or_else(missing(Field::Dtype))?,
            shape: shape.ok_or_else(missing(Field::Shape))?,
            offsets: offsets
                .ok_or_else(missing(Field::Offsets))?
                .ok_or_else(|| A::Error::custom("data_offsets are not two numbers"))?,
        })
    }

    refuse_text!();
}

#[derive(Clone, Copy)]
enum Field {
    Dtype,
    Shape,
    Offsets,
}

impl Field {
    const ALL: [Field; 3] = [Field::Dtype, Field::Shape, Field::Offsets];

    fn name(self) -> &'static str {
        match self {
            Field::Dtype => "dtype",
            Field::Shape => "shape",
            Field::Offsets => "data_offsets",
        }
    }
}

struct FieldVisitor;

impl Visitor<'_> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("dtype, shape or data_offsets")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Field, E> {
        Field::ALL.into_iter().find(|field| field.name() == text).ok_or_else(|| {
            // Edit distance is quadratic: only of what could be a slip.
            let near = if text.len() < 40 { did_you_mean(text, Field::ALL.map(Field::name)) } else { String::new() };
            E::custom(format_args!("unknown key {}, where {} belong{near}", quote(text), "dtype, shape, data_offsets"))
        })
    }
}

struct DtypeVisitor;

impl Visitor<'_> for DtypeVisitor {
    type Value = Dtype;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the name of a type")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Dtype, E> {
        Dtype::from_name(text).ok_or_else(|| {
            let known = Dtype::ALL.map(Dtype::name).join(", ");
            E::custom(format_args!("{} is not a type read here, which are {known}", quote(text)))
        })
    }
}

/// At most `N` whole numbers, on the stack until it is known how many.
struct Numbers<const N: usize>;

struct Few<const N: usize> {
    numbers: [u64; N],
    len: usize,
}

impl<const N: usize> Few<N> {
    fn to_vec(&self) -> Vec<u64> {
        self.numbers[..self.len].to_vec()
    }
}

impl Few<2> {
    fn pair(&self) -> Option<[u64; 2]> {
        (self.len == 2).then_some(self.numbers)
    }
}

impl<'de, const N: usize> Visitor<'de> for Numbers<N> {
    type Value = Few<N>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of at most {N} whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Few<N>, A::Error> {
        let mut few = Few { numbers: [0; N], len: 0 };
        while let Some(number) = seq.next_element_seed(Value(Whole))? {
            match few.numbers.get_mut(few.len) {
                Some(slot) => *slot = number,
                None => return Err(A::Error::custom(format_args!("more than {N} numbers"))),
            }
            few.len += 1;
        }
        Ok(few)
    }

    refuse_text!();
}
