//! MinHash signatures (Broder, 1997) and their bands (Indyk and Motwani, 1998).
//!
//! Under a random hash of the elements, the least values of two sets agree with a chance of their Jaccard index. `b` bands
//! of `r` values each agree somewhere with a chance of `1 - (1 - J^r)^b`.

use crate::parallel;
use crate::words::mix;
use polmrs_core::philox::{Key, fill};
use polmrs_core::{Ctl, Error, Result, simd};

/// Hash functions side by side in the kernel.
const LANES: usize = 16;

/// Signatures of a fixed number of hash functions `x -> a x + b mod 2^64`, of which the upper half is kept.
#[derive(Clone, Debug)]
pub struct MinHash {
    factors: Vec<u64>,
    terms: Vec<u64>,
}

impl MinHash {
    /// `functions` hash functions that follow from the seed.
    ///
    /// # Errors
    /// [`Error::Usage`] unless `functions` is a multiple of 16 from 16 to 4096.
    pub fn new(functions: usize, seed: u64) -> Result<MinHash> {
        if !(LANES..=4096).contains(&functions) || !functions.is_multiple_of(LANES) {
            return Err(Error::Usage(format!("functions: {functions} is not a multiple of 16 from 16 to 4096")));
        }
        let mut words = vec![0u32; 4 * functions];
        fill(Key::new(seed, "minhash", "functions"), 0, &mut words);
        let wide = |pair: &[u32]| u64::from(pair[0]) << 32 | u64::from(pair[1]);
        let (factors, terms) = words.split_at(2 * functions);
        Ok(MinHash {
            factors: factors.chunks(2).map(|pair| wide(pair) | 1).collect(),
            terms: terms.chunks(2).map(wide).collect(),
        })
    }

    /// The signature of a set of hashes.
    pub fn sign(&self, set: &[u64]) -> Vec<u32> {
        let mut signature = vec![0; self.factors.len()];
        sign(set, &self.factors, &self.terms, &mut signature);
        signature
    }
}

simd! {
    /// The least hash of a set under every function.
    fn sign(set: &[u64], factors: &[u64], terms: &[u64], signature: &mut [u32]) {
        for ((a, b), out) in factors.chunks_exact(LANES).zip(terms.chunks_exact(LANES)).zip(signature.chunks_exact_mut(LANES)) {
            let mut least = [u64::MAX; LANES];
            for x in set {
                for lane in 0..LANES {
                    least[lane] = least[lane].min(x.wrapping_mul(a[lane]).wrapping_add(b[lane]));
                }
            }
            for lane in 0..LANES {
                out[lane] = (least[lane] >> 32) as u32;
            }
        }
    }
}

/// How a signature is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bands {
    /// How many bands.
    pub bands: usize,
    /// Values of a band.
    pub rows: usize,
}

impl Bands {
    /// The longest bands that still find a pair at the threshold with this chance.
    ///
    /// # Errors
    /// [`Error::Usage`] if no cut of so many values does, or if `recall` is not in (0, 1).
    pub fn choose(functions: usize, threshold: f64, recall: f64) -> Result<Bands> {
        if !(recall > 0.0 && recall < 1.0) {
            return Err(Error::Usage(format!("recall: {recall} is not in (0, 1)")));
        }
        let cut = |rows: usize| Bands { bands: functions / rows, rows };
        let enough = (1..=functions).rev().map(cut).find(|bands| bands.chance(threshold) >= recall);
        enough.ok_or_else(|| {
            Error::Usage(format!(
                "functions: {functions} do not find pairs at {threshold} with a chance of {recall}; take more"
            ))
        })
    }

    /// The chance of finding a pair of this Jaccard index.
    pub fn chance(&self, jaccard: f64) -> f64 {
        1.0 - (1.0 - jaccard.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// The documents of each bucket of two or more, band by band. `signatures` are side by side; `skip` are in no bucket.
    pub fn buckets(
        &self,
        signatures: &[Vec<u32>],
        skip: impl Fn(usize) -> bool + Sync,
        ctl: &Ctl,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        let here: Vec<u32> = (0..signatures.len() as u32).filter(|document| !skip(*document as usize)).collect();
        let band = |band: usize| {
            let values = band * self.rows..(band + 1) * self.rows;
            let key = |document: &u32| {
                let values = &signatures[*document as usize][values.clone()];
                (values.iter().fold(0, |hash, value| mix(hash ^ u64::from(*value)).rotate_left(17)), *document)
            };
            let mut keys: Vec<(u64, u32)> = here.iter().map(key).collect();
            keys.sort_unstable();
            let buckets = keys.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1);
            buckets.map(|bucket| bucket.iter().map(|(_, document)| *document).collect()).collect()
        };
        parallel::bands(self.bands, ctl, band)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_agree_as_often_as_sets_do() {
        let minhash = MinHash::new(4096, 5).unwrap();
        let set = |range: std::ops::Range<u64>| range.map(mix).collect::<Vec<u64>>();
        for (shared, jaccard) in [(100, 1.0), (80, 80.0 / 120.0), (50, 50.0 / 150.0), (0, 0.0)] {
            let (a, b) = (minhash.sign(&set(0..100)), minhash.sign(&set(100 - shared..200 - shared)));
            let agree = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / 4096.0;
            assert!((agree - jaccard).abs() < 0.03, "{agree} for {jaccard}"); // four deviations of 4096 coins
        }
    }

    #[test]
    fn bands_are_as_long_as_the_recall_allows() {
        let bands = Bands::choose(128, 0.8, 0.95).unwrap();
        assert_eq!(bands, Bands { bands: 18, rows: 7 });
        assert!(bands.chance(0.8) > 0.95 && bands.chance(0.3) < 0.01);
        assert!(Bands::choose(16, 0.1, 0.99).is_err());
        assert!(MinHash::new(17, 0).is_err());
    }
}
