//! Element types of checkpoints; in `convert` their bulk conversion to and from `f32`, in `small` one code of 8 bits.

mod convert;
mod small;

pub use convert::{first_beyond, from_f32, overflow, to_f32};
pub use small::e4m3;

/// An element type, named as safetensors names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

use Dtype::{BF16, Bool, F8E4M3, F8E5M2, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};

impl Dtype {
    /// Every element type.
    pub const ALL: [Dtype; 15] = [Bool, U8, I8, F8E4M3, F8E5M2, I16, U16, F16, BF16, I32, U32, F32, I64, U64, F64];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Bool | U8 | I8 | F8E4M3 | F8E5M2 => 1,
            I16 | U16 | F16 | BF16 => 2,
            I32 | U32 | F32 => 4,
            I64 | U64 | F64 => 8,
        }
    }

    /// The name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Bool => "BOOL",
            U8 => "U8",
            I8 => "I8",
            F8E4M3 => "F8_E4M3",
            F8E5M2 => "F8_E5M2",
            I16 => "I16",
            U16 => "U16",
            F16 => "F16",
            BF16 => "BF16",
            I32 => "I32",
            U32 => "U32",
            F32 => "F32",
            I64 => "I64",
            U64 => "U64",
            F64 => "F64",
        }
    }

    /// The name in torch and in a mergekit file: `bfloat16`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            Bool => "bool",
            U8 => "uint8",
            I8 => "int8",
            F8E4M3 => "float8_e4m3fn",
            F8E5M2 => "float8_e5m2",
            I16 => "int16",
            U16 => "uint16",
            F16 => "float16",
            BF16 => "bfloat16",
            I32 => "int32",
            U32 => "uint32",
            F32 => "float32",
            I64 => "int64",
            U64 => "uint64",
            F64 => "float64",
        }
    }

    /// The type with this safetensors name.
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The type with this torch name, with or without `torch.` before it.
    pub fn from_torch_name(name: &str) -> Option<Dtype> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        Dtype::ALL.into_iter().find(|dtype| dtype.torch_name() == name)
    }

    /// Whether arithmetic on weights makes sense: the floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, F8E4M3 | F8E5M2 | F16 | BF16 | F32 | F64)
    }

    /// The smallest floating-point type that holds both, as torch promotes: bf16 with f16 gives f32.
    #[must_use]
    pub fn promote(self, other: Dtype) -> Dtype {
        match (self, other) {
            (a, b) if a == b => a,
            (F64, _) | (_, F64) => F64,
            (F8E4M3 | F8E5M2, wide @ (F16 | BF16)) | (wide @ (F16 | BF16), F8E4M3 | F8E5M2) => wide,
            _ => F32,
        }
    }
}
