//! The stripes of weights that were read last, each made once: by the first thread that wants it, while others wait.
//!
//! Whoever makes a stripe works on the shared pool, so no thread of that pool may ask for one; the engine's have pools of
//! their own.

use polmrs_core::Result;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of stripes that are kept.
const KEPT: usize = 64 << 20;
/// Buffers of stripes let go that are kept for the next ones.
const SPARE: usize = 2;

/// A tensor and the first row of a stripe of it.
pub(crate) type Place = (usize, usize);

#[derive(Default)]
pub(crate) struct Stripes {
    held: Mutex<Held>,
    made: Condvar,
}

#[derive(Default)]
struct Held {
    /// The latest first.
    kept: Vec<(Place, Arc<Vec<f32>>)>,
    making: Vec<Place>,
    /// Fresh memory costs a page fault for every 4 KiB.
    spare: Vec<Vec<f32>>,
}

/// A stripe in the making; whatever comes of it, those who wait are told.
struct Making<'a>(&'a Stripes, Place);

impl Stripes {
    /// The stripe at a place, which `make` writes if it is not kept.
    ///
    /// # Errors
    /// That of `make`; whoever waited for it makes the stripe again.
    pub(crate) fn find(&self, place: Place, make: impl FnOnce(&mut Vec<f32>) -> Result<()>) -> Result<Arc<Vec<f32>>> {
        let mut held = self.lock();
        loop {
            if let Some((_, values)) = held.kept.iter().find(|(kept, _)| *kept == place) {
                return Ok(Arc::clone(values));
            }
            if !held.making.contains(&place) {
                break;
            }
            held = self.made.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.making.push(place);
        let mut values = held.spare.pop().unwrap_or_default();
        drop(held);
        let making = Making(self, place);
        make(&mut values)?;
        let values = Arc::new(values);
        self.lock().keep(place, Arc::clone(&values));
        drop(making);
        Ok(values)
    }

    /// A buffer, to be given back.
    pub(crate) fn spare(&self) -> Vec<f32> {
        self.lock().spare.pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&self, buffer: Vec<f32>) {
        self.lock().let_go(buffer);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn keep(&mut self, place: Place, values: Arc<Vec<f32>>) {
        self.kept.insert(0, (place, values));
        let mut bytes = 0;
        let within = |(_, values): &&(Place, Arc<Vec<f32>>)| {
            bytes += 4 * values.len();
            bytes <= KEPT
        };
        let count = self.kept.iter().take_while(within).count();
        for (_, values) in self.kept.split_off(count) {
            Arc::try_unwrap(values).into_iter().for_each(|buffer| self.let_go(buffer));
        }
    }

    fn let_go(&mut self, buffer: Vec<f32>) {
        if self.spare.len() < SPARE && 4 * buffer.capacity() <= KEPT {
            self.spare.push(buffer);
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.lock().making.retain(|place| *place != self.1);
        self.0.made.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polmrs_core::Error;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::thread;
    use std::time::Duration;

    /// What eight threads get that want one stripe at once, where the first attempts fail; and the number of attempts.
    fn wanted_at_once(failing: usize) -> (Vec<Result<Arc<Vec<f32>>>>, usize) {
        let (stripes, attempts, start) = (Stripes::default(), AtomicUsize::new(0), Barrier::new(8));
        let make = |values: &mut Vec<f32>| {
            let attempt = attempts.fetch_add(1, Relaxed);
            thread::sleep(Duration::from_millis(20));
            values.push(7.0);
            if attempt < failing { Err(Error::Checkpoint("broken".into())) } else { Ok(()) }
        };
        let ask = || {
            start.wait();
            stripes.find((3, 0), make)
        };
        let got = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        (got, attempts.into_inner())
    }

    #[test]
    fn threads_that_want_one_stripe_make_it_once() {
        let (got, attempts) = wanted_at_once(0);
        assert_eq!(attempts, 1);
        assert!(got.iter().all(|values| Arc::ptr_eq(values.as_ref().unwrap(), got[0].as_ref().unwrap())));
    }

    #[test]
    fn who_waited_for_a_stripe_that_failed_makes_it_again() {
        let (got, attempts) = wanted_at_once(2);
        assert_eq!((attempts, got.iter().filter(|values| values.is_err()).count()), (3, 2));
    }

    #[test]
    fn a_stripe_whose_maker_panicked_is_made_by_the_next() {
        let stripes = Stripes::default();
        let panicked =
            thread::scope(|scope| scope.spawn(|| stripes.find((0, 0), |_| panic!("on purpose"))).join().is_err());
        assert!(panicked);
        assert!(stripes.find((0, 0), |_| Ok(())).is_ok());
    }

    #[test]
    fn the_stripes_read_last_are_kept_and_the_others_buffers_used_again() {
        let stripes = Stripes::default();
        let (quarter, attempts) = (KEPT / 4 / 4, AtomicUsize::new(0));
        let read = |first| {
            let make = |values: &mut Vec<f32>| {
                attempts.fetch_add(1, Relaxed);
                values.resize(quarter, 0.0);
                Ok(())
            };
            stripes.find((0, first), make).unwrap().as_ptr()
        };
        let buffers: Vec<_> = (0..5).map(read).collect();
        assert_eq!((read(4), read(1)), (buffers[4], buffers[1]));
        assert_eq!(attempts.load(Relaxed), 5);
        assert_eq!(read(5), buffers[0]); // the first stripe was let go for the fifth
        assert_eq!(attempts.load(Relaxed), 6);
    }
}
