//! Cancellation and progress of one long call, shared between the threads that work and the one that watches.

use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The controls of one long call.
#[derive(Debug, Default)]
pub struct Ctl {
    cancelled: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl Ctl {
    /// Fresh controls: nothing done, nothing cancelled.
    pub const fn new() -> Ctl {
        Ctl { cancelled: AtomicBool::new(false), done: AtomicU64::new(0), total: AtomicU64::new(0) }
    }

    /// Asks the work to stop at its next check.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// [`Error::Cancelled`] once [`cancel`](Ctl::cancel) was called. Work checks at least every few milliseconds.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// States the size of the work that begins now, in bytes to go through; nothing of it is done.
    pub fn expect(&self, total: u64) {
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
    }

    /// Adds to what is done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// `(done, total)` in bytes; the total is 0 until it is known.
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Relaxed), self.total.load(Relaxed))
    }
}
