//! Where computed tensors go.

use polmrs_core::{Error, Result};
use polmrs_io::safetensors::Writer;
use std::marker::PhantomData;

/// Takes bytes of output tensors, from many threads at once, in any order.
pub trait Sink: Sync {
    /// Puts `bytes` at byte `offset` of an output tensor.
    fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Makes what was written so far durable, where that means something. `whole` are the output tensors that became
    /// whole since the last call and before this one.
    fn sync(&self, _whole: &[usize]) -> Result<()> {
        Ok(())
    }
}

impl Sink for Writer {
    fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        Writer::write(self, tensor, offset, bytes)
    }

    fn sync(&self, _: &[usize]) -> Result<()> {
        Writer::sync(self)
    }
}

/// The sink of work that only reduces: statistics, diffs.
pub struct Nowhere;

impl Sink for Nowhere {
    fn write(&self, tensor: usize, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::Internal(format!("output {tensor} written by work that has no output")))
    }
}

/// A sink that takes everything and keeps nothing: for measuring.
pub struct Discard;

impl Sink for Discard {
    fn write(&self, _: usize, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Arrays in memory as a sink.
pub struct MemorySink<'a> {
    arrays: Vec<(*mut u8, usize)>,
    borrowed: PhantomData<&'a mut [u8]>,
}

// SAFETY: the pointers come from exclusive borrows held for 'a, and `write` touches them only inside its bounds; the
// scheduler gives every output region to exactly one block of one job, so no two threads write the same bytes.
unsafe impl Sync for MemorySink<'_> {}
// SAFETY: as above; nothing is tied to the thread that made the sink.
unsafe impl Send for MemorySink<'_> {}

impl<'a> MemorySink<'a> {
    /// A sink over exclusively borrowed bytes, one slice per output tensor.
    pub fn new(arrays: Vec<&'a mut [u8]>) -> MemorySink<'a> {
        let arrays = arrays.into_iter().map(|array| (array.as_mut_ptr(), array.len())).collect();
        MemorySink { arrays, borrowed: PhantomData }
    }
}

impl Sink for MemorySink<'_> {
    fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (start, len) = self.arrays[tensor];
        let offset = offset as usize;
        if offset.checked_add(bytes.len()).is_none_or(|end| end > len) {
            return Err(Error::Internal(format!("output {tensor}: bytes {offset}.. lie outside its {len} bytes")));
        }
        // SAFETY: the range was just checked against the borrowed slice, `bytes` cannot overlap an exclusive borrow, and
        // no other thread writes this range (see `Sync` above).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.add(offset), bytes.len()) };
        Ok(())
    }
}
