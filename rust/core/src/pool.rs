//! A thread pool that survives `fork`.
//!
//! A forked child (a DataLoader worker, say) inherits the memory of the parent's pool but none of its threads:
//! work given to it would wait for ever. So a pool belongs to the process that made it; a child makes its own and
//! leaves the inherited one untouched (dropping it would join threads that do not exist).

use crate::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire};

struct Owned {
    pid: u32,
    pool: ThreadPool,
}

static SHARED: AtomicPtr<Owned> = AtomicPtr::new(ptr::null_mut());

/// The process's shared pool, of [`default_threads`] threads.
pub fn shared() -> Result<&'static ThreadPool> {
    let pid = std::process::id();
    let current = SHARED.load(Acquire);
    // SAFETY: a non-null pointer comes from `Box::leak` below and is never freed.
    if let Some(owned) = unsafe { current.as_ref() }
        && owned.pid == pid
    {
        return Ok(&owned.pool);
    }
    let fresh: *mut Owned = Box::leak(Box::new(Owned { pid, pool: build(default_threads()?)? }));
    let winner = match SHARED.compare_exchange(current, fresh, AcqRel, Acquire) {
        Ok(_) => fresh,
        Err(other) => other, // another thread of this process was faster; its pool serves both
    };
    // SAFETY: both candidates are leaked boxes, alive for ever.
    Ok(unsafe { &(*winner).pool })
}

/// A pool of exactly `threads` threads for one long call.
pub fn build(threads: usize) -> Result<ThreadPool> {
    if threads == 0 {
        return Err(Error::Usage("threads: 0 is not at least 1".into()));
    }
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("polmrs-{index}"))
        .build()
        .map_err(|error| Error::Internal(format!("thread pool: {error}")))
}

/// `POLMRS_NUM_THREADS` if set, else the cores this process may use.
pub fn default_threads() -> Result<usize> {
    match std::env::var("POLMRS_NUM_THREADS") {
        Ok(text) => match text.trim().parse() {
            Ok(threads) if threads > 0 => Ok(threads),
            _ => Err(Error::Usage(format!("POLMRS_NUM_THREADS: '{text}' is not a number of threads, 1 or more"))),
        },
        Err(_) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_works_on_a_pool_of_its_own() {
        let parent = shared().unwrap();
        assert_eq!(parent.install(|| 1 + 1), 2);
        // SAFETY: the child only computes, then leaves by `_exit`; it runs no destructor of the parent.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let answer = shared().map_or(0, |pool| pool.install(|| 6 * 7));
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(answer) };
        }
        let mut status = 0;
        // SAFETY: `child` is ours, and `status` outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status));
        assert_eq!(libc::WEXITSTATUS(status), 42);
    }

    #[test]
    fn no_threads_is_an_error() {
        assert!(build(0).is_err());
    }
}
