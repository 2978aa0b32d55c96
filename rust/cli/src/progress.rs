//! Progress on stderr: a bar on a terminal, a plain line now and then elsewhere.

use crate::text::bytes;
use indicatif::{ProgressBar, ProgressStyle};
use polmrs_core::Ctl;
use std::io::{IsTerminal, stderr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Runs `work` while showing how far `ctl` says it is.
pub(crate) fn shown<T>(quiet: bool, what: &str, ctl: &Ctl, work: impl FnOnce() -> T) -> T {
    if quiet {
        return work();
    }
    thread::scope(|scope| {
        let (finished, waiting) = mpsc::channel::<()>();
        scope.spawn(move || watch(what, ctl, &waiting));
        let result = work();
        drop(finished);
        result
    })
}

fn watch(what: &str, ctl: &Ctl, finished: &mpsc::Receiver<()>) {
    let bar = if stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
    let template = "{msg} {bar:32} {percent:>3} %  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    let mut last = Instant::now();
    while finished.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
        let (done, total) = ctl.progress();
        bar.set_length(total);
        bar.set_position(done);
        if bar.is_hidden() && total > 0 && last.elapsed() >= LINE_EVERY {
            eprintln!("{what}: {} of {}", bytes(done), bytes(total));
            last = Instant::now();
        }
    }
    bar.finish_and_clear();
}
