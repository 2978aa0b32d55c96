//! A sweep: one configuration with several values of some parameters, every combination merged and scored, the best kept.
//!
//! `density` overrides the parameter everywhere: whatever the configuration says of it at the top, at a slice, a module or a
//! model, by filter or by layer, is replaced. `models[1].weight` overrides it for what stands at that place, all below it
//! included. A value may be anything that a configuration takes there, a gradient (`[0.2, 0.8]`) for example. Every candidate
//! is planned before the first is merged. In a file of several documents the parameters are those of the result's; what comes
//! before it is merged once.

use crate::chain::{self, Chain, Earlier};
use crate::config::Config;
use crate::extra::Extra;
use crate::run::{Prepared, Settings};
use crate::trial::{Goal, Judge, Trial, Trials};
use polmrs_core::error::did_you_mean;
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::output;
use polmrs_io::yaml::{self, Map, Node, Value};
use polmrs_model::beside::pretty;
use polmrs_model::build;
use serde_json::{Value as Json, json};
use std::path::Path;

/// The file beside the weights that has every candidate's score.
pub const FILE: &str = "polmrs_sweep.json";

/// The most candidates of one sweep.
const MOST: usize = 10_000;

/// The values of one parameter.
#[derive(Clone, Debug)]
pub struct Over {
    /// The parameter: its name, after its place where it has one.
    pub name: String,
    /// What it is set to, one candidate each.
    pub values: Vec<Node>,
}

impl Over {
    /// Reads `density=0.1,0.3,0.5`.
    ///
    /// # Errors
    /// [`Error::Usage`] for text of another form.
    pub fn parse(text: &str) -> Result<Over> {
        let form = || Error::Usage(format!("sweep: '{text}' is not of the form NAME=VALUE,VALUE"));
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let list = yaml::parse_one(&format!("[{values}]"), &format!("sweep {name}"))?;
        match list.value {
            Value::List(values) => Over::new(name.trim(), values),
            _ => Err(form()),
        }
    }

    /// A parameter and its values.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, or one is null or there twice.
    pub fn new(name: &str, values: Vec<Node>) -> Result<Over> {
        let refused = |why: &str| Err(Error::Usage(format!("sweep {name}: {why}")));
        if name.is_empty() || values.is_empty() || values.iter().any(|value| value.value == Value::Null) {
            return refused("a parameter and at least one value are needed");
        }
        if let Some(at) = (1..values.len()).find(|at| values[..*at].contains(&values[*at])) {
            return refused(&format!("{} is there twice", shown(&values[at])));
        }
        Ok(Over { name: name.into(), values })
    }
}

/// A configuration's candidates, all of them planned.
pub struct Sweep {
    /// The first candidate with all that comes before it.
    chain: Chain,
    candidates: Vec<Candidate>,
    settings: Settings,
    documents: Vec<Json>,
}

/// Values of parameters, by name.
type Set<'a> = Vec<(&'a str, &'a Node)>;

struct Candidate {
    over: Json,
    label: String,
    node: Node,
}

impl Sweep {
    /// Makes every combination, the last parameter changing fastest, and plans them all from headers alone.
    ///
    /// # Errors
    /// [`Error::Usage`] for parameters that the method does not take, places that the configuration does not have, and too
    /// many candidates; what [`Prepared::new`] refuses, with the candidate's name.
    pub fn new(nodes: &[Node], over: &[Over], settings: Settings) -> Result<Sweep> {
        let configs = chain::decoded(nodes, settings.lenient)?;
        let result = chain::result(&configs)?;
        check_names(&configs[result], over)?;
        let count = over.iter().try_fold(1_usize, |count, one| count.checked_mul(one.values.len()));
        if count.is_none_or(|count| count > MOST) {
            return Err(Error::Usage(format!("sweep: more than {MOST} candidates")));
        }
        let candidates =
            combinations(over).iter().map(|set| Candidate::new(&nodes[result], set)).collect::<Result<Vec<_>>>()?;
        let plan = |candidate: &Candidate| {
            let mut nodes = nodes.to_vec();
            nodes[result] = candidate.node.clone();
            Chain::new(&nodes, settings.clone(), None).map_err(|error| error.within(&candidate.label))
        };
        let chain = plan(&candidates[0])?;
        candidates[1..].iter().try_for_each(|candidate| plan(candidate).map(drop))?;
        Ok(Sweep { chain, candidates, settings, documents: nodes.iter().map(Node::to_json).collect() })
    }

    /// What was accepted and has no effect, or was left out, by the first candidate.
    pub fn notes(&self) -> Vec<String> {
        self.chain.notes()
    }

    /// Merges and scores every candidate, and makes the best one `out`, with [`FILE`] in it. Of equal scores the first wins.
    ///
    /// `command` names the scorer, for a run that goes on: scores of another one are not taken for its own.
    ///
    /// # Errors
    /// As [`Prepared::run`] and [`Judge::score`], with the candidate's name. What was scored by then stays in `OUT.partial` for
    /// a run that resumes.
    pub fn run(&self, out: &Path, goal: Goal, command: &[String], judge: &mut dyn Judge, ctl: &Ctl) -> Result<Json> {
        self.chain.refuse_inputs(out)?;
        let (parts, earlier) = self.chain.before(out, ctl)?;
        let done = self.run_after(&earlier, out, goal, command, judge, ctl);
        match parts {
            // A run that goes on with scores needs the very files that they are of.
            Some(parts) if done.is_ok() || !output::has_remnant(out) => parts.settle(done),
            _ => done,
        }
    }

    fn run_after(
        &self,
        earlier: &[Earlier],
        out: &Path,
        goal: Goal,
        command: &[String],
        judge: &mut dyn Judge,
        ctl: &Ctl,
    ) -> Result<Json> {
        let first = self.candidates[0].prepare(&self.settings, earlier)?;
        first.fetch(ctl)?;
        let over: Vec<&Json> = self.candidates.iter().map(|candidate| &candidate.over).collect();
        let work = json!({
            "schema": "polmrs.sweep-journal/1",
            "config": self.documents,
            "candidates": over,
            "goal": goal.name(),
            "score": command,
            "seed": self.settings.seed,
            "inputs": first.key()?,
        });
        let mut trials = Trials::begin(out, self.settings.build.overwrite, self.settings.build.resume, &work)?;
        match self.try_all(&mut trials, earlier, goal, judge, ctl) {
            Ok(()) => self.finish(trials, earlier, out, goal, ctl),
            Err(error) => Err(trials.give_up(error)),
        }
    }

    fn try_all(
        &self,
        trials: &mut Trials,
        earlier: &[Earlier],
        goal: Goal,
        judge: &mut dyn Judge,
        ctl: &Ctl,
    ) -> Result<()> {
        for (number, candidate) in self.candidates.iter().enumerate() {
            let trial = Trial { number, of: self.candidates.len(), label: &candidate.label };
            trials.score(trial, goal, judge, ctl, |judge, folder| {
                if !folder.exists() {
                    judge.merging(trial, &mut || self.merge(candidate, earlier, folder, ctl))?;
                }
                Ok(folder.to_path_buf())
            })?;
        }
        Ok(())
    }

    fn merge(&self, candidate: &Candidate, earlier: &[Earlier], folder: &Path, ctl: &Ctl) -> Result<Json> {
        let build = build::Settings { overwrite: false, ..self.settings.build.clone() };
        candidate.prepare(&Settings { build, ..self.settings.clone() }, earlier)?.run(folder, ctl)
    }

    fn finish(&self, trials: Trials, earlier: &[Earlier], out: &Path, goal: Goal, ctl: &Ctl) -> Result<Json> {
        let scores = trials.scores().to_vec();
        let Some(best) = goal.best(&scores) else {
            return Err(Error::Internal("a sweep without candidates".into()));
        };
        let pairs = self.candidates.iter().zip(&scores);
        let rows: Vec<Json> =
            pairs.map(|(candidate, score)| json!({"parameters": candidate.over, "score": score})).collect();
        let winner = &self.candidates[best];
        let described = self.chain.describe()?;
        let mut table = json!({
            "schema": "polmrs.sweep/1",
            "method": described["method"],
            "goal": goal.name(),
            "best": {"candidate": best, "parameters": winner.over, "score": scores[best]},
            "candidates": rows,
        });
        trials.finish(best, FILE, &pretty(&table), |folder| self.merge(winner, earlier, folder, ctl))?;
        table["to"] = out.to_string_lossy().into();
        table["output"] = described["output"].clone();
        Ok(table)
    }
}

impl Candidate {
    fn new(node: &Node, set: &Set<'_>) -> Result<Candidate> {
        let mut node = node.clone();
        let mut outermost_first = set.clone();
        outermost_first.sort_by_key(|(name, _)| name.matches('.').count());
        for (name, value) in outermost_first {
            set_at(&mut node, name, value)?;
        }
        let over = set.iter().map(|(name, value)| ((*name).to_owned(), value.to_json())).collect();
        let label: Vec<String> = set.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
        Ok(Candidate { over, label: label.join(" "), node })
    }

    fn prepare(&self, settings: &Settings, earlier: &[Earlier]) -> Result<Prepared> {
        let prepared = Prepared::after(&self.node, settings.clone(), Extra::default(), earlier);
        prepared.map_err(|error| error.within(&self.label))
    }
}

/// Refuses names that the method does not have, and parameters that are swept twice.
fn check_names(config: &Config, over: &[Over]) -> Result<()> {
    let spec = config.method.spec();
    for (at, one) in over.iter().enumerate() {
        let name = one.name.rsplit('.').next().unwrap_or_default();
        let known = || spec.params.iter().filter(|param| param.has_effect()).map(|param| param.name);
        if !known().any(|known| known == name) {
            let (hint, all) = (did_you_mean(name, known()), known().collect::<Vec<_>>().join(", "));
            return Err(Error::Usage(format!("sweep: {} has no parameter '{name}'{hint}; it has {all}", spec.name)));
        }
        if over[..at].iter().any(|earlier| earlier.name == one.name) {
            return Err(Error::Usage(format!("sweep: '{}' is there twice", one.name)));
        }
    }
    Ok(())
}

/// Every combination of values, the last parameter changing fastest.
fn combinations(over: &[Over]) -> Vec<Set<'_>> {
    let mut sets = vec![Set::new()];
    for one in over {
        let mut longer = Vec::with_capacity(sets.len() * one.values.len());
        for set in &sets {
            longer.extend(one.values.iter().map(|value| [set.as_slice(), &[(one.name.as_str(), value)]].concat()));
        }
        sets = longer;
    }
    sets
}

/// Sets a parameter at its place, and takes it out of everything below.
fn set_at(node: &mut Node, name: &str, value: &Node) -> Result<()> {
    let (place, name) = name.rsplit_once('.').unwrap_or(("", name));
    let target =
        find(node, place).ok_or_else(|| Error::Usage(format!("sweep: there is no {place} in the configuration")))?;
    clear(target, name);
    if let Value::Map(map) = &mut target.value {
        match map.get_mut("parameters").map(|node| &mut node.value) {
            Some(Value::Map(parameters)) => parameters.insert(name, value.clone()),
            _ => {
                let mut parameters = Map::default();
                parameters.insert(name, value.clone());
                map.insert("parameters", Node::new(Value::Map(parameters), "sweep"));
            }
        }
    }
    Ok(())
}

/// The map at a place: `slices[0].sources[1]`, `modules.vision_tower`; the root where there is none.
fn find<'a>(node: &'a mut Node, place: &str) -> Option<&'a mut Node> {
    let mut node = node;
    for step in place.split('.').filter(|step| !step.is_empty()) {
        let (key, at) = match step.strip_suffix(']').and_then(|step| step.split_once('[')) {
            Some((key, at)) => (key, Some(at.parse::<usize>().ok()?)),
            None => (step, None),
        };
        let Value::Map(map) = &mut node.value else { return None };
        node = map.get_mut(key)?;
        if let Some(at) = at {
            let Value::List(items) = &mut node.value else { return None };
            node = items.get_mut(at)?;
        }
    }
    Some(node).filter(|node| matches!(node.value, Value::Map(_)))
}

/// Takes a parameter out of the `parameters` of a place and of everything below it.
fn clear(node: &mut Node, name: &str) {
    let Value::Map(map) = &mut node.value else { return };
    if let Some(Node { value: Value::Map(parameters), .. }) = map.get_mut("parameters") {
        parameters.remove(name);
    }
    for key in ["models", "slices", "sources", "modules"] {
        match map.get_mut(key).map(|node| &mut node.value) {
            Some(Value::List(items)) => items.iter_mut().for_each(|item| clear(item, name)),
            Some(Value::Map(modules)) => modules.values_mut().for_each(|module| clear(module, name)),
            _ => {}
        }
    }
}

fn shown(value: &Node) -> String {
    value.text().map_or_else(|| value.to_json().to_string(), |text| text.into_owned())
}
