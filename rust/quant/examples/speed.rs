//! Input bytes a second of every codec on one thread, beside a copy of the same bytes: `cargo run --release -p
//! polmrs-quant --example speed`. Medians of 9.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use polmrs_core::Dtype;
use polmrs_quant::int::{Grid, Int, Span};
use polmrs_quant::{bits, codebook, fp4, fp8, hqq};
use std::hint::black_box;
use std::time::Instant;

const ROW: usize = 4096;
const ROWS: usize = 4096;

fn main() {
    let x: Vec<f32> = (0..ROW * ROWS).map(gaussian).collect();
    let mut codes = vec![0_u8; ROW];
    let mut packed = vec![0_u8; ROW];
    let mut back = vec![0.0_f32; ROW];
    time("copy", &x, |x| back.copy_from_slice(x));
    for (name, bits, span) in
        [("int4", 4, Span::Full), ("int4 affine", 4, Span::Affine), ("int8", 8, Span::Full), ("int3", 3, Span::Full)]
    {
        let int = Int { bits, span, scale_dtype: Dtype::BF16 };
        let mut grids = vec![Grid::default(); ROW / 128];
        let bytes = bits::packed_bytes(ROW, bits as usize);
        time(&format!("{name} g128, packed"), &x, |x| {
            int.fit(x, 128, &mut grids);
            int.encode(x, 128, &grids, &mut codes);
            bits::pack(bits as usize, &codes, &mut packed[..bytes]);
        });
        time(&format!("{name} g128, back"), &x, |_| {
            bits::unpack(bits as usize, &packed[..bytes], &mut codes);
            int.decode(&codes, 128, &grids, &mut back);
        });
    }
    let int = Int { bits: 4, span: Span::Affine, scale_dtype: Dtype::BF16 };
    let mut grids = vec![Grid::default(); ROW / 128];
    time("int4 g128 clipped, 20 steps", &x[..x.len() / 8], |x| int.fit_clipped(x, 128, 20, 0.2, &mut grids));
    let mut scales = vec![0.0; ROW / 64];
    time("nf4 b64, packed", &x, |x| {
        codebook::encode_nf4(x, 64, &mut scales, &mut codes);
        codebook::pack_high_first(&codes, &mut packed[..ROW / 2]);
    });
    time("nf4 b64, back", &x, |_| {
        codebook::unpack_high_first(&packed[..ROW / 2], &mut codes);
        codebook::decode_nf4(&codes, 64, &scales, &mut back);
    });
    let mut one = [0.0];
    time("fp8 per channel", &x, |x| {
        fp8::fit(x, ROW, Dtype::F32, &mut one);
        fp8::encode(x, ROW, &one, &mut packed);
    });
    time("fp8 per channel, back", &x, |_| fp8::decode(&packed, ROW, &one, &mut back));
    let mut exponents = vec![0; ROW / 32];
    time("mxfp4, packed", &x, |x| {
        fp4::encode_mx(x, &mut exponents, &mut codes);
        bits::pack(4, &codes, &mut packed[..ROW / 2]);
    });
    time("mxfp4, back", &x, |_| {
        bits::unpack(4, &packed[..ROW / 2], &mut codes);
        fp4::decode_mx(&codes, &exponents, &mut back);
    });
    let mut scales = vec![0; ROW / 16];
    time("nvfp4, packed", &x, |x| {
        fp4::encode_nv(x, 500.0, &mut scales, &mut codes);
        bits::pack(4, &codes, &mut packed[..ROW / 2]);
    });
    let mut reals = vec![hqq::Real::default(); ROW / 64];
    time("hqq 4 bits g64", &x[..x.len() / 8], |x| hqq::Hqq::new(4).encode(x, 64, &mut reals, &mut codes));
}

fn time(name: &str, x: &[f32], mut row: impl FnMut(&[f32])) {
    let mut seconds: Vec<f64> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            x.chunks_exact(ROW).for_each(|x| row(black_box(x)));
            begun.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!("{name:<30} {:6.2} GB/s", size_of_val(x) as f64 / 1e9 / seconds[4]);
}

/// Nearly normal numbers: the sum of four uniform ones.
fn gaussian(at: usize) -> f32 {
    let mut hash = at as u64 + 1;
    let mut uniform = || {
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (hash >> 29);
        (hash >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    uniform() + uniform() + uniform() + uniform()
}
