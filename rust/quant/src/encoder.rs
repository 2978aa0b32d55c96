//! Blocks of one weight into the tensors of its layout, and what the report wants to know of them.

use crate::coder::Coder;
use crate::format::{Layout, Part, Rows, Tensor};
use crate::moments::Moments;
use polmrs_core::Result;
use polmrs_engine::{Block, Outputs};

/// What turns blocks of one weight into its tensors.
pub(crate) struct Encoder<'a> {
    pub(crate) layout: Layout,
    pub(crate) coder: Coder,
    pub(crate) tensors: &'a [Tensor],
    pub(crate) moments: Option<&'a Moments>,
}

impl Encoder<'_> {
    /// One block: codes, then each tensor's part of them.
    pub(crate) fn encode(
        &self,
        [rows, columns]: [usize; 2],
        global: f32,
        block: &Block<'_>,
        outputs: &mut Outputs<'_>,
    ) -> Result<()> {
        let (x, first) = (block.input(0), block.first as usize);
        let (coded, count) = (self.coder.encode(x, columns, global), x.len() / columns);
        let mut parts: Vec<Vec<u8>> =
            self.layout.tensors(count, columns)?.iter().map(|tensor| vec![0; tensor.nbytes()]).collect();
        self.layout.write(&coded, columns, &mut parts.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        for (at, (tensor, part)) in self.tensors.iter().zip(&mut parts).enumerate() {
            if tensor.part == Part::Whole {
                if first > 0 {
                    continue;
                }
                *part = self.layout.whole(tensor.suffix, rows, columns, global);
            }
            let mut rest = part.as_slice();
            for run in tensor.runs(first..first + count) {
                let (now, later) = rest.split_at(run.len());
                outputs.put(at, run.start as u64, now)?;
                rest = later;
            }
        }
        if outputs.surveyed() { self.report(&coded, columns, block, outputs) } else { Ok(()) }
    }

    /// Shows the report how far from the block its codes are, and what that does to the layer's output.
    fn report(&self, coded: &Rows<'_>, columns: usize, block: &Block<'_>, outputs: &mut Outputs<'_>) -> Result<()> {
        let x = block.input(0);
        let mut back = block.scratch(x.len());
        self.layout.coding.decode(coded, columns, &mut back)?;
        outputs.compare(0, &back);
        if let Some(moments) = self.moments {
            let mut off = block.scratch(x.len());
            off.iter_mut().zip(&*back).zip(x).for_each(|((off, back), x)| *off = back - x);
            outputs.weigh(0, moments.weigh([&off, x])?);
        }
        let zeros = self.tensors.iter().position(|tensor| tensor.suffix.contains("zero"));
        if let Some(at) = zeros.filter(|_| self.coder.unrounded(x, columns, &mut back)) {
            outputs.compare(at, &back);
        }
        Ok(())
    }
}
