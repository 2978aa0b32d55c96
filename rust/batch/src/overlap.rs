//! Which sets share enough with a given one, without comparing most of them (Chaudhuri et al., 2006; Bayardo et al., 2007).
//!
//! If a pair passes only with `c` shared elements or more, then the `a - c + 1` rarest elements of one set and the
//! `b - c + 1` rarest of the other have one in common: the rest of a set is too small to hold them all. So an index of the
//! rare elements finds every pair that can pass.

/// The measure of two sets: grows with what they share.
pub trait Measure {
    /// The measure of sets of `a` and `b` elements that share `shared`.
    fn of(&self, shared: usize, a: usize, b: usize) -> f64;
}

impl<F: Fn(usize, usize, usize) -> f64> Measure for F {
    fn of(&self, shared: usize, a: usize, b: usize) -> f64 {
        self(shared, a, b)
    }
}

/// Sets of elements, sorted by an order that is the same for all: rare ones first.
#[derive(Debug)]
pub struct Index<M> {
    measure: M,
    threshold: f64,
    postings: Vec<Vec<u32>>,
    sizes: Vec<u32>,
    seen: Vec<u32>,
    probes: u32,
    prefixes: Vec<u32>, // of each size, how many elements are looked at; 0: not known yet
}

impl<M: Measure> Index<M> {
    /// An empty index over elements `0 .. elements`, for pairs of the measure `threshold` or more, above 0.
    pub fn new(elements: usize, threshold: f64, measure: M) -> Index<M> {
        Index {
            measure,
            threshold,
            postings: vec![Vec::new(); elements],
            sizes: Vec::new(),
            seen: Vec::new(),
            probes: 0,
            prefixes: Vec::new(),
        }
    }

    /// How many elements of a set of this size are looked at.
    fn prefix(&mut self, size: usize) -> usize {
        if self.prefixes.len() <= size {
            self.prefixes.resize(size + 1, 0);
        }
        if self.prefixes[size] == 0 {
            // The smallest partner that can pass shares all it has; a larger one has to share no less.
            let passes = |shared: usize, other: usize| self.measure.of(shared, size, other) >= self.threshold;
            let least = (1..=size).find(|other| passes(*other, *other)).unwrap_or(size);
            self.prefixes[size] = (size - least + 1) as u32;
        }
        self.prefixes[size] as usize
    }

    /// Puts the sets into `found` that may pass with this one, by the number in which they were added.
    pub fn probe(&mut self, set: &[u32], found: &mut Vec<u32>) {
        found.clear();
        if set.is_empty() {
            return;
        }
        self.probes += 1;
        let prefix = self.prefix(set.len());
        for element in &set[..prefix] {
            for other in &self.postings[*element as usize] {
                let seen = &mut self.seen[*other as usize];
                if *seen == self.probes {
                    continue;
                }
                *seen = self.probes;
                let (a, b) = (set.len(), self.sizes[*other as usize] as usize);
                if self.measure.of(a.min(b), a, b) >= self.threshold {
                    found.push(*other);
                }
            }
        }
    }

    /// Adds a set; its number is how many were there before.
    pub fn add(&mut self, set: &[u32]) {
        let number = self.sizes.len() as u32;
        self.sizes.push(set.len() as u32);
        self.seen.push(0);
        if !set.is_empty() {
            let prefix = self.prefix(set.len());
            for element in &set[..prefix] {
                self.postings[*element as usize].push(number);
            }
        }
    }
}

/// Renumbers the elements of all sets by how many sets have them, rarest first, and sorts each set so. Elements are below
/// `elements`.
pub fn rarest_first(sets: &mut [Vec<u32>], elements: usize) {
    let mut counts = vec![0u32; elements];
    sets.iter().flatten().for_each(|element| counts[*element as usize] += 1);
    let mut order: Vec<u32> = (0..elements as u32).collect();
    order.sort_unstable_by_key(|element| (counts[*element as usize], *element));
    let mut rank = counts; // the same memory
    for (place, element) in order.iter().enumerate() {
        rank[*element as usize] = place as u32;
    }
    for set in sets {
        set.iter_mut().for_each(|element| *element = rank[*element as usize]);
        set.sort_unstable();
    }
}
