//! Texts and token rows as words, each a hash of 64 bits, with the place where it stands.
//!
//! A word of a text is a run of letters and digits, in lower case; everything else parts words. A word of a token row is
//! a token. Two different words share a hash with a chance of 2^-64.

use std::ops::Range;

/// What a document is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Runs of letters and digits.
    Word,
    /// Single letters and digits; for scripts without spaces.
    Char,
}

/// A word: its hash, and its bytes in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The hash of its lower-case form.
    pub hash: u64,
    /// Where it stands.
    pub at: Range<usize>,
}

/// Mixes 64 bits so that each depends on all (the finaliser of SplitMix64).
#[inline(always)]
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const START: u64 = 0xcbf2_9ce4_8422_2325;

#[inline(always)]
fn eat(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3) // FNV-1a
}

/// Calls `each(hash, bytes)` for every word of a text.
pub fn each_word(text: &str, unit: Unit, mut each: impl FnMut(u64, Range<usize>)) {
    let (mut hash, mut begun) = (START, None);
    let mut buffer = [0; 4];
    let mut end = |hash: &mut u64, begun: &mut Option<usize>, at: usize| {
        if let Some(start) = begun.take() {
            each(mix(*hash), start..at);
            *hash = START;
        }
    };
    for (at, c) in text.char_indices() {
        if !c.is_alphanumeric() {
            end(&mut hash, &mut begun, at);
            continue;
        }
        if unit == Unit::Char {
            end(&mut hash, &mut begun, at);
        }
        begun = begun.or(Some(at));
        if c.is_ascii() {
            hash = eat(hash, c.to_ascii_lowercase() as u8);
        } else {
            for lower in c.to_lowercase() {
                hash = lower.encode_utf8(&mut buffer).bytes().fold(hash, eat);
            }
        }
    }
    end(&mut hash, &mut begun, text.len());
}

/// The words of a text, with their places.
pub fn words(text: &str, unit: Unit) -> Vec<Word> {
    let mut words = Vec::new();
    each_word(text, unit, |hash, at| words.push(Word { hash, at }));
    words
}

/// The hashes of the words of a text.
pub fn hashes(text: &str, unit: Unit) -> Vec<u64> {
    let mut hashes = Vec::new();
    each_word(text, unit, |hash, _| hashes.push(hash));
    hashes
}

/// The hashes of the tokens of a row.
pub fn token_hashes(ids: &[i32]) -> Vec<u64> {
    ids.iter().map(|id| mix(0x9E37_79B9_7F4A_7C15u64.wrapping_add(*id as u64))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits_whatever_their_case() {
        let text = "It's 10 o'clock, ÄRGER!";
        let found: Vec<&str> = words(text, Unit::Word).iter().map(|word| &text[word.at.clone()]).collect();
        assert_eq!(found, ["It", "s", "10", "o", "clock", "ÄRGER"]);
        assert_eq!(hashes(text, Unit::Word), hashes("it S 10 O clock ärger", Unit::Word));
        assert_eq!(hashes("ab c", Unit::Char), hashes("a-b-c", Unit::Char));
        assert_ne!(hashes("ab", Unit::Word), hashes("ba", Unit::Word));
        assert!(words(" ,. ", Unit::Word).is_empty());
    }
}
