//! Candidates that are made and scored one after the other in `OUT.partial`; the best becomes the output.
//!
//! A candidate stands in a folder of its own among the scratch files. Once it is scored, the score goes to the journal; then
//! whichever is not the best so far is removed, so at most two copies of the model are there at a time: the best and the
//! one being made. A run that goes on reads the scores back and makes nothing twice. At the end the files of the best move
//! into `OUT.partial`, which becomes `OUT` by one rename.

use polmrs_core::{Ctl, Error, Result};
use polmrs_io::journal::Journal;
use polmrs_io::output::Output;
use serde_json::{Value as Json, json};
use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

/// Which scores are good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// High ones.
    Maximize,
    /// Low ones.
    Minimize,
}

impl Goal {
    /// Whether a score is better than another; an equal one is not.
    pub fn better(self, score: f64, than: f64) -> bool {
        match self {
            Goal::Maximize => score > than,
            Goal::Minimize => score < than,
        }
    }

    /// The better one first.
    pub fn order(self, a: f64, b: f64) -> Ordering {
        match self {
            Goal::Maximize => b.partial_cmp(&a),
            Goal::Minimize => a.partial_cmp(&b),
        }
        .unwrap_or(Ordering::Equal)
    }

    /// As a word.
    pub fn name(self) -> &'static str {
        match self {
            Goal::Maximize => "maximize",
            Goal::Minimize => "minimize",
        }
    }

    /// The first of the best scores.
    pub fn best(self, scores: &[f64]) -> Option<usize> {
        let first_best = |best: usize, at: usize| if self.better(scores[at], scores[best]) { at } else { best };
        (0..scores.len()).reduce(first_best)
    }
}

/// A candidate that is being tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// Its number, from 0.
    pub number: usize,
    /// How many there are at most.
    pub of: usize,
    /// What it is: `density=0.5 weight=1`.
    pub label: &'a str,
}

/// Who judges candidates, and watches.
pub trait Judge {
    /// Merges a candidate by calling `work` once; the place to show how far it is.
    fn merging(&mut self, _trial: Trial<'_>, work: &mut dyn FnMut() -> Result<Json>) -> Result<Json> {
        work()
    }

    /// The score of the model in a folder. `scratch` is another folder, for files that are not needed afterwards.
    fn score(&mut self, trial: Trial<'_>, model: &Path, scratch: &Path) -> Result<f64>;

    /// A score is known, by this run or by an earlier one.
    fn scored(&mut self, _trial: Trial<'_>, _score: f64, _best: bool) {}
}

/// The trials of one output.
pub(crate) struct Trials {
    output: Output,
    scratch: PathBuf,
    journal: Journal,
    scores: Vec<f64>,
    moved: bool,
}

impl Trials {
    /// Begins, or goes on with what an interrupted run has left; `work` describes all that scores depend on.
    ///
    /// # Errors
    /// As [`Output::begin`] and [`Journal::take_up`].
    pub(crate) fn begin(out: &Path, overwrite: bool, resume: bool, work: &Json) -> Result<Trials> {
        let output = Output::begin(out, overwrite, resume)?;
        let (journal, lines) = match Journal::take_up(&output, work)? {
            Some(found) => found,
            None => (Journal::create(&output.journal(), work)?, Vec::new()),
        };
        let score = |line: &Json| line["score"].as_str().and_then(|text| text.parse().ok());
        let scratch = output.scratch()?;
        let moved = lines.iter().any(|line| line["moved"] == true);
        Ok(Trials { output, scratch, journal, scores: lines.iter().filter_map(score).collect(), moved })
    }

    /// The scores so far.
    pub(crate) fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// The folder for a candidate.
    pub(crate) fn folder(&self, number: usize) -> PathBuf {
        self.scratch.join(number.to_string())
    }

    /// The score of the next trial, of the model that `make` gives the folder of, which may be [`Trials::folder`].
    pub(crate) fn score(
        &mut self,
        trial: Trial<'_>,
        goal: Goal,
        judge: &mut dyn Judge,
        ctl: &Ctl,
        make: impl FnOnce(&mut dyn Judge, &Path) -> Result<PathBuf>,
    ) -> Result<f64> {
        ctl.check()?;
        let score = match self.scores.get(trial.number) {
            Some(score) => *score,
            None => {
                self.keep_only(&[goal.best(&self.scores), Some(trial.number)])?;
                let model = make(judge, &self.folder(trial.number)).map_err(|error| error.within(trial.label))?;
                let score = judge.score(trial, &model, &self.scratch).map_err(|error| error.within(trial.label))?;
                self.journal.append(&json!({"trial": trial.label, "score": format!("{score:?}")}))?; // exact, as text
                self.scores.push(score);
                score
            }
        };
        judge.scored(trial, score, goal.best(&self.scores[..=trial.number]) == Some(trial.number));
        Ok(score)
    }

    /// Removes the folders of other candidates, whole or not.
    fn keep_only(&self, numbers: &[Option<usize>]) -> Result<()> {
        let kept: Vec<String> = numbers.iter().flatten().map(usize::to_string).collect();
        for entry in fs::read_dir(&self.scratch).map_err(Error::io(&self.scratch, "list"))?.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !kept.iter().any(|kept| name.split('.').next() == Some(kept)) {
                fs::remove_dir_all(&path).map_err(Error::io(&path, "remove"))?;
            }
        }
        Ok(())
    }

    /// Makes a candidate's folder the output, with one more file beside its own. `make` makes it where it is not there.
    pub(crate) fn finish(
        self,
        number: usize,
        name: &str,
        text: &str,
        make: impl FnOnce(&Path) -> Result<Json>,
    ) -> Result<()> {
        let folder = self.folder(number);
        if !self.moved {
            self.keep_only(&[Some(number)])?;
            if !folder.exists() {
                make(&folder)?;
            }
            for entry in fs::read_dir(&folder).map_err(Error::io(&folder, "list"))?.flatten() {
                let to = self.output.folder().join(entry.file_name());
                fs::rename(entry.path(), &to).map_err(Error::io(&to, "move"))?;
            }
            self.output.put(name, text.as_bytes())?;
            self.output.sync()?;
            self.journal.append(&json!({"moved": true}))?;
        }
        self.output.commit()
    }

    /// After an error: what was scored stays for a run that goes on, and so does what a person has interrupted.
    pub(crate) fn give_up(self, error: Error) -> Error {
        if !matches!(error, Error::Cancelled) && self.scores.is_empty() {
            self.output.discard();
        }
        error
    }
}
