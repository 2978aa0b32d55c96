//! One writer beside many readers, who go on reading while a change is made ready.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A value that is read by many and changed by one at a time.
#[derive(Debug, Default)]
pub struct Shared<T> {
    now: RwLock<T>,
    writer: Mutex<()>,
}

impl<T> Shared<T> {
    /// With this value.
    pub fn new(value: T) -> Shared<T> {
        Shared { now: RwLock::new(value), writer: Mutex::new(()) }
    }

    /// For reading, beside others who do.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it while no one reads.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let _writer = self.alone();
        change(&mut self.write())
    }

    /// Makes a change ready while others read, then changes it while no one does. Nothing else changes it in between.
    ///
    /// # Errors
    /// Those of the two steps; without the first there is no second.
    pub fn prepare<P, R, E>(
        &self,
        prepare: impl FnOnce(&T) -> Result<P, E>,
        commit: impl FnOnce(&mut T, P) -> Result<R, E>,
    ) -> Result<R, E> {
        let _writer = self.alone();
        let ready = prepare(&self.read())?;
        commit(&mut self.write(), ready)
    }

    /// Changes it while no one reads, then does as [`prepare`](Shared::prepare). Nothing else changes it in between.
    ///
    /// # Errors
    /// Those of the steps; without one there is none after it.
    pub fn change_and_prepare<P, R, E>(
        &self,
        change: impl FnOnce(&mut T) -> Result<(), E>,
        prepare: impl FnOnce(&T) -> Result<P, E>,
        commit: impl FnOnce(&mut T, P) -> Result<R, E>,
    ) -> Result<R, E> {
        let _writer = self.alone();
        change(&mut self.write())?;
        let ready = prepare(&self.read())?;
        commit(&mut self.write(), ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn readers_see_the_value_before_while_a_change_is_made_ready() {
        let (shared, begun, seen) = (Shared::new(1), Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let wait = |now: &i32| {
                    begun.wait();
                    seen.wait(); // until the reader has read
                    Ok::<i32, ()>(now + 1)
                };
                shared.prepare(wait, |now, next| Ok::<i32, ()>(std::mem::replace(now, next))).unwrap();
            });
            begun.wait();
            assert_eq!(*shared.read(), 1);
            seen.wait();
        });
        assert_eq!(*shared.read(), 2);
    }

    #[test]
    fn what_is_made_ready_after_a_change_sees_it_and_so_do_readers() {
        let shared = Shared::new(1);
        let double = |now: &mut i32| {
            *now *= 2;
            Ok::<(), ()>(())
        };
        let beside = |now: &i32| {
            let read = std::thread::scope(|scope| scope.spawn(|| *shared.read()).join().unwrap());
            Ok((*now, read))
        };
        let seen = shared.change_and_prepare(double, beside, |now, seen| {
            *now += 1;
            Ok(seen)
        });
        assert_eq!((seen, *shared.read()), (Ok((2, 2)), 3));
    }

    #[test]
    fn changes_come_one_after_another() {
        let shared = Shared::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        shared
                            .prepare(
                                |now| Ok::<i32, ()>(now + 1),
                                |now, next| Ok::<i32, ()>(std::mem::replace(now, next)),
                            )
                            .unwrap();
                        shared.change(|now| *now += 1);
                    }
                });
            }
        });
        assert_eq!(*shared.read(), 4000);
    }

    #[test]
    fn a_change_that_cannot_be_made_ready_changes_nothing() {
        let shared = Shared::new(1);
        let refused = shared.prepare(|_| Err::<i32, &str>("no"), |now, next| Ok(std::mem::replace(now, next)));
        assert_eq!((refused, *shared.read()), (Err("no"), 1));
    }
}
