//! Greedy soup: models are averaged one by one, as long as a score does not fall (arXiv:2203.05482, Recipe 1).
//!
//! ```text
//! sort the models by score, best first;  soup = the best
//! for every other model, in order:  keep it in the soup if score(average(soup + model)) is no worse than score(average(soup))
//! ```
//! Every average is made anew from its members, never from an earlier average that was rounded. Folders are scored as the
//! candidates of a sweep are: what was scored is in a journal, and a run that goes on scores nothing twice.

use crate::run::{Prepared, Settings};
use crate::trial::{Goal, Judge, Trial, Trials};
use polmrs_core::{Ctl, Dtype, Error, Result};
use polmrs_io::yaml::{self, Node};
use polmrs_model::beside::pretty;
use polmrs_model::{ModelFolder, build};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

/// The file beside the weights that has everything that was tried.
pub const FILE: &str = "polmrs_soup.json";

/// What came of a soup of models that are known by their numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The members, in the order in which they came in.
    pub members: Vec<usize>,
    /// The score of their average.
    pub score: f64,
    /// Every model, best first.
    pub tried: Vec<Tried>,
}

/// One model that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    /// Which.
    pub model: usize,
    /// Its score alone.
    pub alone: f64,
    /// The score of the soup with it.
    pub with_it: f64,
    /// Whether it stayed.
    pub kept: bool,
}

/// The recipe, over `count` models; `score` gives that of the average of some of them.
///
/// # Errors
/// [`Error::Usage`] if there are no models; whatever `score` meets.
pub fn greedy(count: usize, goal: Goal, mut score: impl FnMut(&[usize]) -> Result<f64>) -> Result<Found> {
    let alone = (0..count).map(|model| score(&[model])).collect::<Result<Vec<f64>>>()?;
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| goal.order(alone[*a], alone[*b]));
    let Some((first, others)) = order.split_first() else {
        return Err(Error::Usage("models: a soup needs at least one".into()));
    };
    let best = alone[*first];
    let mut found = Found {
        members: vec![*first],
        score: best,
        tried: vec![Tried { model: *first, alone: best, with_it: best, kept: true }],
    };
    for model in others {
        let together = [found.members.as_slice(), &[*model]].concat();
        let with_it = score(&together)?;
        let kept = !goal.better(found.score, with_it);
        if kept {
            (found.members, found.score) = (together, with_it);
        }
        found.tried.push(Tried { model: *model, alone: alone[*model], with_it, kept });
    }
    Ok(found)
}

/// Models that are going to be a soup, planned.
pub struct Soup {
    models: Vec<String>,
    types: [Option<Dtype>; 2],
    settings: Settings,
    all: Prepared,
}

impl Soup {
    /// Plans the average of all models from headers alone, so that what does not fit together is found at once.
    ///
    /// `types` are the configuration's `dtype` and `out_dtype`.
    ///
    /// # Errors
    /// [`Error::Usage`] for no models, or one that is there twice; what [`Prepared::new`] refuses.
    pub fn new(models: &[String], types: [Option<Dtype>; 2], settings: Settings) -> Result<Soup> {
        if models.is_empty() {
            return Err(Error::Usage("models: a soup needs at least one".into()));
        }
        if let Some(at) = (1..models.len()).find(|at| models[..*at].contains(&models[*at])) {
            return Err(Error::Usage(format!("models: '{}' is given twice", models[at])));
        }
        let all: Vec<&str> = models.iter().map(String::as_str).collect();
        let all = Prepared::new(&average(&all, types)?, settings.clone())?;
        Ok(Soup { models: models.to_vec(), types, settings, all })
    }

    /// What a person should know before the work starts.
    pub fn notes(&self) -> &[String] {
        self.all.notes()
    }

    /// Writes the average of all models: a uniform soup.
    ///
    /// # Errors
    /// As [`Prepared::run`].
    pub fn uniform(&self, out: &Path, ctl: &Ctl) -> Result<Json> {
        self.all.run(out, ctl)
    }

    /// Scores every model and every average that the recipe asks for, and makes the soup `out`, with [`FILE`] in it.
    ///
    /// `command` names the scorer, for a run that goes on: scores of another one are not taken for its own.
    ///
    /// # Errors
    /// As [`Prepared::run`] and [`Judge::score`], with the name of what was scored. What was scored by then stays in
    /// `OUT.partial` for a run that resumes.
    pub fn greedy(&self, out: &Path, goal: Goal, command: &[String], judge: &mut dyn Judge, ctl: &Ctl) -> Result<Json> {
        self.all.refuse_inputs(out)?;
        self.all.fetch(ctl)?;
        let work = json!({
            "schema": "polmrs.soup-journal/1",
            "models": self.models,
            "goal": goal.name(),
            "score": command,
            "inputs": self.all.key()?,
        });
        let mut trials = Trials::begin(out, self.settings.build.overwrite, self.settings.build.resume, &work)?;
        match self.try_all(&mut trials, goal, judge, ctl) {
            Ok((found, number)) => self.finish(trials, out, goal, &found, number, ctl),
            Err(error) => Err(trials.give_up(error)),
        }
    }

    /// The soup, and the number of the trial that its average was.
    fn try_all(&self, trials: &mut Trials, goal: Goal, judge: &mut dyn Judge, ctl: &Ctl) -> Result<(Found, usize)> {
        let count = self.models.len();
        let (mut number, mut numbers) = (0, Vec::new());
        let found = greedy(count, goal, |members| {
            let label = self.label(members);
            let trial = Trial { number, of: 2 * count - 1, label: &label };
            number += 1;
            numbers.push(members.to_vec());
            trials.score(trial, goal, judge, ctl, |judge, folder| match self.folder_of(members)? {
                Some(model) => Ok(model),
                None => {
                    if !folder.exists() {
                        judge.merging(trial, &mut || self.merge(members, folder, ctl))?;
                    }
                    Ok(folder.to_path_buf())
                }
            })
        })?;
        let at = numbers.iter().position(|members| *members == found.members);
        at.map(|at| (found, at)).ok_or_else(|| Error::Internal("a soup that was not tried".into()))
    }

    fn label(&self, members: &[usize]) -> String {
        let names: Vec<&str> = members.iter().map(|at| self.models[*at].as_str()).collect();
        names.join(" + ")
    }

    /// Where a single model lies already; `None` for an average, and for a model that is computed as it is read.
    fn folder_of(&self, members: &[usize]) -> Result<Option<PathBuf>> {
        let [model] = members else { return Ok(None) };
        let reference = &self.models[*model];
        if Path::new(reference).exists() {
            return Ok(Some(reference.into()));
        }
        let opened = ModelFolder::open_any(reference)?;
        let mut folders = opened.folders().map(Path::to_path_buf);
        Ok(folders.next().filter(|_| folders.next().is_none()))
    }

    fn merge(&self, members: &[usize], folder: &Path, ctl: &Ctl) -> Result<Json> {
        let names: Vec<&str> = members.iter().map(|at| self.models[*at].as_str()).collect();
        let build = build::Settings { overwrite: false, ..self.settings.build.clone() };
        let settings = Settings { build, ..self.settings.clone() };
        Prepared::new(&average(&names, self.types)?, settings)?.run(folder, ctl)
    }

    fn finish(&self, trials: Trials, out: &Path, goal: Goal, found: &Found, number: usize, ctl: &Ctl) -> Result<Json> {
        let name = |at: usize| self.models[at].as_str();
        let row = |one: &Tried| json!({"model": name(one.model), "alone": one.alone, "with_it": one.with_it, "kept": one.kept});
        let mut table = json!({
            "schema": "polmrs.soup/1",
            "goal": goal.name(),
            "score": found.score,
            "members": found.members.iter().map(|at| name(*at)).collect::<Vec<_>>(),
            "tried": found.tried.iter().map(row).collect::<Vec<_>>(),
        });
        trials.finish(number, FILE, &pretty(&table), |folder| self.merge(&found.members, folder, ctl))?;
        table["to"] = out.to_string_lossy().into();
        table["output"] = self.all.describe()["output"].clone();
        Ok(table)
    }
}

/// The configuration of an average.
fn average(models: &[&str], types: [Option<Dtype>; 2]) -> Result<Node> {
    let models: Vec<Json> = models.iter().map(|model| json!({"model": model, "parameters": {"weight": 1.0}})).collect();
    let [dtype, out_dtype] = types.map(|dtype| dtype.map(Dtype::torch_name));
    let config = json!({"merge_method": "linear", "models": models, "dtype": dtype, "out_dtype": out_dtype});
    yaml::parse_one(&config.to_string(), "soup")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores by the distance of the average from 0.
    fn of(values: &[f64], goal: Goal) -> Found {
        let sign = if goal == Goal::Maximize { -1.0 } else { 1.0 };
        greedy(values.len(), goal, |members| {
            let mean = members.iter().map(|at| values[*at]).sum::<f64>() / members.len() as f64;
            Ok(sign * mean.abs())
        })
        .unwrap()
    }

    #[test]
    fn the_recipe_keeps_what_does_not_make_the_score_fall() {
        let found = of(&[1.0, -0.8, 9.0], Goal::Maximize);
        assert_eq!(found.members, [1, 0]);
        assert!((found.score + 0.1).abs() < 1e-12);
        let kept: Vec<(usize, bool)> = found.tried.iter().map(|one| (one.model, one.kept)).collect();
        assert_eq!(kept, [(1, true), (0, true), (2, false)]);
        assert_eq!(of(&[1.0, -0.8, 9.0], Goal::Minimize).members, [1, 0]);
    }

    #[test]
    fn equal_scores_keep_a_model_and_the_order_that_was_given() {
        assert_eq!(of(&[0.0; 4], Goal::Maximize).members, [0, 1, 2, 3]);
        assert!(greedy(0, Goal::Maximize, |_| Ok(0.0)).is_err());
    }
}
