//! What `--score CMD --maximize` asks for: a command as the judge of candidates, with a line for each on stderr.

use crate::args::Scoring;
use crate::progress::shown;
use polmrs_core::{Ctl, Error, Result};
use polmrs_merge::score::Command;
use polmrs_merge::trial::{Goal, Judge, Trial};
use serde_json::Value as Json;
use std::path::Path;

/// Which scores are good ones: one of the two has to be said.
pub(super) fn goal(args: &Scoring) -> Result<Goal> {
    match (args.maximize, args.minimize) {
        (true, _) => Ok(Goal::Maximize),
        (_, true) => Ok(Goal::Minimize),
        _ => Err(Error::Usage("--score: say --maximize or --minimize".into())),
    }
}

/// Scores by a command, and shows how far it is.
pub(super) struct Scorer<'a> {
    pub(super) command: Command,
    pub(super) ctl: &'a Ctl,
    pub(super) quiet: bool,
}

impl<'a> Scorer<'a> {
    pub(super) fn new(args: &Scoring, quiet: bool, ctl: &'a Ctl) -> Result<Scorer<'a>> {
        Ok(Scorer { command: Command::parse(args.score.as_deref().unwrap_or_default())?, ctl, quiet })
    }
}

impl Judge for Scorer<'_> {
    fn merging(&mut self, trial: Trial<'_>, work: &mut dyn FnMut() -> Result<Json>) -> Result<Json> {
        shown(self.quiet, &format!("merging {} of {}", trial.number + 1, trial.of), self.ctl, work)
    }

    fn score(&mut self, _trial: Trial<'_>, model: &Path, scratch: &Path) -> Result<f64> {
        self.command.score(model, scratch, self.ctl)
    }

    fn scored(&mut self, trial: Trial<'_>, score: f64, best: bool) {
        if !self.quiet {
            let (number, best) = (trial.number + 1, if best { " (the best so far)" } else { "" });
            eprintln!("{number} of {}: {}: {score}{best}", trial.of, trial.label);
        }
    }
}

/// After an error: what was scored is still there.
pub(super) fn explain_scored(out: &Path) {
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    if Path::new(&partial).exists() {
        let partial = Path::new(&partial).display();
        eprintln!("{partial} holds what was scored: --resume goes on with it, a run without replaces it");
    }
}
