//! Unbiased estimates of pass@k and maj@k from n >= k samples.

use crate::groups::Groups;
use crate::passk::ratio;
use crate::ragged::same_length;
use polmrs_core::{Error, Result};

/// Writes, for each problem, the chance that `k` of its samples hold a right one (Chen et al., arXiv:2107.03374, eq. 1).
///
/// $$ 1 - \binom{n-c}{k} \Big/ \binom{n}{k} $$
pub fn pass_at_k(samples: &[i64], correct: &[i64], k: usize, out: &mut [f64]) -> Result<()> {
    same_length("correct", correct.len(), "samples", samples.len())?;
    same_length("out", out.len(), "samples", samples.len())?;
    if k < 1 {
        return Err(Error::Usage("k: 0 is not 1 or more".into()));
    }
    for (at, (n, c)) in samples.iter().zip(correct).enumerate() {
        let (Ok(n), Ok(c)) = (usize::try_from(*n), usize::try_from(*c)) else {
            return Err(Error::Array(format!("samples[{at}], correct[{at}]: {n}, {c}; counts are not negative")));
        };
        if n < k {
            return Err(Error::Array(format!(
                "samples[{at}]: {n} is less than k = {k}; no estimate without bias exists"
            )));
        }
        if c > n {
            return Err(Error::Array(format!("correct[{at}]: {c} is more than samples[{at}] = {n}")));
        }
        out[at] = 1.0 - ratio(n - c, n, k);
    }
    Ok(())
}

/// Who wins a vote in which several answers lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Each leader with equal chance; the same as the one that came first, over random orders.
    Shared,
    /// Nobody: a tied vote is lost.
    Lost,
}

/// For each group, the chance that the plurality of `k` of its samples is a right answer (self-consistency,
/// arXiv:2203.11171), exact over all `C(n, k)` subsets. A negative answer abstains.
pub fn maj_at_k(answers: &[i64], correct: &[u8], groups: &Groups, k: usize, ties: Ties) -> Result<Vec<f64>> {
    same_length("correct", correct.len(), "answers", answers.len())?;
    same_length("groups", groups.samples(), "answers", answers.len())?;
    if k < 1 {
        return Err(Error::Usage("k: 0 is not 1 or more".into()));
    }
    (0..groups.count()).map(|group| chance(answers, correct, groups, group, k, ties)).collect()
}

/// How many samples gave an answer, and whether it is right. Abstentions have no answer.
struct Votes {
    count: usize,
    right: bool,
}

fn chance(answers: &[i64], correct: &[u8], groups: &Groups, group: usize, k: usize, ties: Ties) -> Result<f64> {
    let members = groups.members(group);
    let n = members.len();
    if n < k {
        let first = members.iter().next().unwrap_or_default();
        let rule = format!("k = {k}; no estimate without bias exists");
        return Err(Error::Array(format!("groups: the group of sample {first} has {n} samples, fewer than {rule}")));
    }
    let mut seen: Vec<(i64, Votes)> = Vec::new();
    let mut abstained = 0;
    for sample in members.iter() {
        let (answer, right) = (answers[sample], correct[sample] != 0);
        if answer < 0 {
            abstained += 1;
            continue;
        }
        match seen.iter_mut().find(|(other, _)| *other == answer) {
            None => seen.push((answer, Votes { count: 1, right })),
            Some((_, votes)) if votes.right == right => votes.count += 1,
            Some(_) => {
                let rule = "is right for one sample of its group and wrong for another";
                return Err(Error::Array(format!("answers[{sample}]: answer {answer} {rule}")));
            }
        }
    }
    let votes: Vec<Votes> = seen.into_iter().map(|(_, votes)| votes).collect();
    // The counts of a random subset are independent binomials of any one p, given that they add up to k.
    let p = (k as f64 / n as f64).clamp(0.25 / n as f64, 1.0 - 0.25 / n as f64);
    let logs = log_factorials(n);
    let drawn = |of: usize, take: usize| binomial(&logs, of, take, p);
    let mut won = 0.0;
    for (at, winner) in votes.iter().enumerate().filter(|(_, votes)| votes.right) {
        for lead in 1..=winner.count.min(k) {
            let others = votes.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, votes)| votes.count);
            won += drawn(winner.count, lead) * behind(others, abstained, lead, k - lead, ties, &drawn);
        }
    }
    Ok((won / drawn(n, k)).min(1.0))
}

/// The chance that the others draw `rest` in all, none more than `lead`, weighted by the winner's share of ties.
fn behind(
    others: impl Iterator<Item = usize>,
    abstained: usize,
    lead: usize,
    rest: usize,
    ties: Ties,
    drawn: &impl Fn(usize, usize) -> f64,
) -> f64 {
    let most_tied = if ties == Ties::Shared { rest / lead } else { 0 };
    // chances[tied][total]
    let mut chances = vec![vec![0.0; rest + 1]; most_tied + 1];
    for (total, chance) in chances[0].iter_mut().enumerate().take(abstained + 1) {
        *chance = drawn(abstained, total);
    }
    for count in others {
        let mut next = vec![vec![0.0; rest + 1]; most_tied + 1];
        for (tied, row) in chances.iter().enumerate() {
            for (total, chance) in row.iter().enumerate().filter(|(_, chance)| **chance > 0.0) {
                for take in 0..=count.min(lead).min(rest - total) {
                    let tied = tied + usize::from(take == lead);
                    if tied <= most_tied {
                        next[tied][total + take] += chance * drawn(count, take);
                    }
                }
            }
        }
        chances = next;
    }
    chances.iter().enumerate().map(|(tied, row)| row[rest] / (tied + 1) as f64).sum()
}

fn log_factorials(n: usize) -> Vec<f64> {
    let mut logs = vec![0.0; n + 1];
    for i in 2..=n {
        logs[i] = logs[i - 1] + (i as f64).ln();
    }
    logs
}

fn binomial(logs: &[f64], n: usize, k: usize, p: f64) -> f64 {
    (logs[n] - logs[k] - logs[n - k] + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
}
