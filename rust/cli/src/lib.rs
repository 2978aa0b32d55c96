//! The command line, one for both doors: the `polmrs` binary and the wheel's console script run this.
//!
//! stdout is the result, stderr is progress and errors. Exit codes: 0 ok, 1 failed, 2 usage, 3 bad input, 4 I/O or
//! space, 5 non-finite, 130 interrupted.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

mod args;
mod progress;
mod text;
mod verbs;

use args::{Args, Verb};
use clap::Parser;
use polmrs_core::{Ctl, Result};
use std::ffi::OsString;

/// Cancelled by Ctrl-C in the standalone command.
static INTERRUPTED: Ctl = Ctl::new();

/// Runs the standalone command and gives its exit code; Ctrl-C stops it cleanly.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    extern "C" fn stop(_: libc::c_int) {
        INTERRUPTED.cancel();
    }
    // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler; broken pipes end the process
    // as they do for other commands.
    unsafe {
        libc::signal(libc::SIGINT, stop as *const () as libc::sighandler_t);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    run(args, &INTERRUPTED)
}

/// Runs a command line (its first item is the program's name) and gives its exit code. Prints to stdout and stderr.
pub fn run(args: impl IntoIterator<Item = OsString>, ctl: &Ctl) -> i32 {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print(); // help goes to stdout and exits 0, mistakes to stderr with 2
            return error.exit_code();
        }
    };
    compose();
    match dispatch(&args, ctl) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("polmrs: {error}");
            i32::from(error.exit_code())
        }
    }
}

/// Tells the crates what they need of each other and do not import: quantized models are read through `polmrs_quant`.
pub fn compose() {
    polmrs_model::folder::read_quantized_with(polmrs_quant::source::dense);
}

/// What the Python build does itself, as JSON `{"verb": ..., arguments}`; nothing for a verb of this library.
pub fn python_verb(args: impl IntoIterator<Item = OsString>) -> Option<serde_json::Value> {
    match Args::try_parse_from(args).ok()?.verb {
        Verb::Convert(args) => Some(verbs::convert::asked(&args)),
        _ => None,
    }
}

fn dispatch(args: &Args, ctl: &Ctl) -> Result<()> {
    match &args.verb {
        Verb::Merge(args) => verbs::merge::merge(args, ctl),
        Verb::Plan(args) => verbs::merge::plan(args),
        Verb::Soup(args) => verbs::soup::soup(args, ctl),
        Verb::Quantize(args) => verbs::quantize::quantize(args, ctl),
        Verb::Inspect(args) => verbs::inspect::inspect(args, ctl),
        Verb::Diff(args) => verbs::diff::diff(args, ctl),
        Verb::Data(args) => verbs::data::data(args, ctl),
        Verb::Search(args) => verbs::search::search(args, ctl),
        Verb::Check(args) => verbs::check::check(args),
        Verb::Convert(args) => verbs::convert::convert(args),
        Verb::Train(args) => verbs::about::train(args),
        Verb::Report(args) => verbs::report::report(args),
        Verb::Methods(args) => verbs::about::methods(args),
        Verb::Schema(args) => verbs::about::schema(args),
        Verb::Completions(args) => verbs::about::completions(args),
    }
}
