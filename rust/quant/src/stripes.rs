//! The stripes of weights that were read last, each made once: by the first thread that wants it, while others wait for it
//! and share what it made.
//!
//! Whoever makes a stripe works on the shared pool, so no thread of that pool may ask for one; the engine's have pools of
//! their own. Kept stripes take no more than the room there is, and so do those in the making; a single one may be larger.

use polmrs_core::Result;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of stripes that are kept.
const ROOM: usize = 64 << 20;
/// Buffers of stripes let go that are kept for the next ones.
const SPARE: usize = 2;

/// A tensor and the first row of a stripe of it.
pub(crate) type Place = (usize, usize);

/// What comes of a stripe in the making: for those who wait, even if it is let go before they wake.
type Hope = Arc<OnceLock<Arc<Vec<f32>>>>;

pub(crate) struct Stripes {
    room: usize,
    held: Mutex<Held>,
    made: Condvar,
}

#[derive(Default)]
struct Held {
    /// The latest first.
    kept: Vec<(Place, Arc<Vec<f32>>)>,
    /// In the making, and their bytes.
    making: Vec<(Place, usize, Hope)>,
    /// Fresh memory costs a page fault for every 4 KiB.
    spare: Vec<Vec<f32>>,
}

/// A stripe in the making; whatever comes of it, those who wait are told.
struct Making<'a>(&'a Stripes, Place);

impl Default for Stripes {
    fn default() -> Stripes {
        Stripes::within(ROOM)
    }
}

impl Stripes {
    fn within(room: usize) -> Stripes {
        Stripes { room, held: Mutex::default(), made: Condvar::new() }
    }

    /// The stripe of so many elements at a place, which `make` writes if it is not kept.
    ///
    /// # Errors
    /// That of `make`; whoever waited for it makes the stripe again.
    pub(crate) fn find(
        &self,
        place: Place,
        elements: usize,
        make: impl FnOnce(&mut Vec<f32>) -> Result<()>,
    ) -> Result<Arc<Vec<f32>>> {
        let (bytes, hope) = (4 * elements, Hope::default());
        let mut held = self.lock();
        loop {
            if let Some((_, values)) = held.kept.iter().find(|(kept, _)| *kept == place) {
                return Ok(Arc::clone(values));
            }
            if let Some((.., hope)) = held.making.iter().find(|(making, ..)| *making == place) {
                let hope = Arc::clone(hope);
                while held.making.iter().any(|(.., making)| Arc::ptr_eq(making, &hope)) {
                    held = self.wait(held);
                }
                if let Some(values) = hope.get() {
                    return Ok(Arc::clone(values));
                }
            } else if held.making.is_empty() || held.being_made() + bytes <= self.room {
                break;
            } else {
                held = self.wait(held);
            }
        }
        held.making.push((place, bytes, Arc::clone(&hope)));
        let mut values = held.spare.pop().unwrap_or_default();
        drop(held);
        let making = Making(self, place);
        make(&mut values)?;
        let values = hope.get_or_init(|| Arc::new(values));
        self.lock().keep(place, Arc::clone(values), self.room);
        drop(making);
        Ok(Arc::clone(values))
    }

    /// A buffer, to be given back.
    pub(crate) fn spare(&self) -> Vec<f32> {
        self.lock().spare.pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&self, buffer: Vec<f32>) {
        self.lock().let_go(buffer, self.room);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, held: MutexGuard<'a, Held>) -> MutexGuard<'a, Held> {
        self.made.wait(held).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Bytes of the stripes in the making.
    fn being_made(&self) -> usize {
        self.making.iter().map(|(_, bytes, _)| bytes).sum()
    }

    /// Puts the latest first, and lets go what then is too much. The latest stays whatever its size: it is read in pieces, and
    /// would be made anew for each.
    fn keep(&mut self, place: Place, values: Arc<Vec<f32>>, room: usize) {
        self.kept.insert(0, (place, values));
        let mut bytes = 0;
        let within = |(_, values): &&(Place, Arc<Vec<f32>>)| {
            bytes += 4 * values.len();
            bytes <= room
        };
        let count = self.kept.iter().take_while(within).count().max(1);
        for (_, values) in self.kept.split_off(count) {
            Arc::try_unwrap(values).into_iter().for_each(|buffer| self.let_go(buffer, room));
        }
    }

    fn let_go(&mut self, buffer: Vec<f32>, room: usize) {
        if self.spare.len() < SPARE && 4 * buffer.capacity() <= room {
            self.spare.push(buffer);
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.lock().making.retain(|(place, ..)| *place != self.1);
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
            stripes.find((3, 0), 1, make)
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
            thread::scope(|scope| scope.spawn(|| stripes.find((0, 0), 1, |_| panic!("on purpose"))).join().is_err());
        assert!(panicked);
        assert!(stripes.find((0, 0), 1, |_| Ok(())).is_ok());
    }

    /// Fills a stripe with so many elements.
    fn filled(elements: usize) -> impl FnOnce(&mut Vec<f32>) -> Result<()> {
        move |values| {
            values.resize(elements, 0.0);
            Ok(())
        }
    }

    #[test]
    fn the_stripes_read_last_are_kept_and_the_others_buffers_used_again() {
        let (stripes, attempts) = (Stripes::within(64), AtomicUsize::new(0));
        let read = |first| {
            let found = stripes.find((0, first), 4, |values| {
                attempts.fetch_add(1, Relaxed);
                filled(4)(values)
            });
            found.unwrap().as_ptr()
        };
        let buffers: Vec<_> = (0..5).map(read).collect();
        assert_eq!((read(4), read(1)), (buffers[4], buffers[1]));
        assert_eq!(attempts.load(Relaxed), 5);
        assert_eq!(read(5), buffers[0]); // the first stripe was let go for the fifth
        assert_eq!(attempts.load(Relaxed), 6);
    }

    #[test]
    fn a_stripe_larger_than_the_room_is_kept_until_the_next() {
        let (stripes, large) = (Stripes::within(64), 100);
        let made = stripes.find((0, 0), large, filled(large)).unwrap();
        let again = stripes.find((0, 0), large, |_| panic!("made again")).unwrap();
        assert!(Arc::ptr_eq(&made, &again));
        stripes.find((0, 1), 4, filled(4)).unwrap();
        assert_eq!(stripes.lock().kept.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [(0, 1)]);
        assert!(stripes.lock().spare.is_empty());
    }

    /// Eight threads read four stripes of so many elements, in orders of their own. How often one was made that was in the making
    /// already, and the most elements that were in the making at once.
    fn read_by_many(stripes: &Stripes, elements: usize) -> (usize, usize) {
        let (making, most, overlapping) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let being_made: [AtomicUsize; 4] = Default::default();
        let read = |thread: usize| {
            for step in 0..40 {
                let place = (thread * step + step) % 4;
                let make = |values: &mut Vec<f32>| {
                    overlapping.fetch_add(being_made[place].fetch_add(1, Relaxed), Relaxed);
                    most.fetch_max(making.fetch_add(elements, Relaxed) + elements, Relaxed);
                    thread::yield_now();
                    filled(elements)(values)?;
                    making.fetch_sub(elements, Relaxed);
                    being_made[place].fetch_sub(1, Relaxed);
                    Ok(())
                };
                let values = stripes.find((0, place), elements, make).unwrap();
                assert_eq!(values.len(), elements);
            }
        };
        thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || read(thread));
            }
        });
        (overlapping.into_inner(), most.into_inner())
    }

    #[test]
    fn what_is_in_the_making_fits_into_the_room_or_is_alone() {
        let room = 64;
        for (elements, at_most) in [(100, 100), (8, 16), (6, 12), (1, 4)] {
            let (overlapping, most) = read_by_many(&Stripes::within(room), elements);
            assert!(overlapping == 0 && most <= at_most, "{elements}: {most} at once");
        }
    }

    #[test]
    fn who_waits_gets_a_stripe_that_was_let_go_before_they_woke() {
        let (stripes, begun) = (Stripes::within(4), Barrier::new(2));
        let make_while_another_waits = |values: &mut Vec<f32>| {
            begun.wait();
            while Arc::strong_count(&stripes.lock().making[0].2) < 3 {
                thread::yield_now();
            }
            filled(2)(values)
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                stripes.find((0, 0), 2, make_while_another_waits).unwrap();
                stripes.find((0, 1), 2, filled(2)).unwrap();
            });
            begun.wait();
            let found = stripes.find((0, 0), 2, |_| panic!("made again")).unwrap();
            assert_eq!(found.len(), 2);
        });
    }
}
