//! Folds: what a map computes is kept whole, and never more of it at once than the workers that there may be.
#![allow(missing_docs, clippy::unwrap_used)]

use polmrs_core::{Ctl, Dtype, Error, Result};
use polmrs_engine::sink::MemorySink;
use polmrs_engine::source::{MemorySource, Meta, Source};
use polmrs_engine::survey::Survey;
use polmrs_engine::{Grain, Input, Job, Options, Plan, Scope, Stage, Target, run};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const SIZES: [u64; 5] = [200_000, 70_000, 3, 150_000, 65_536];

/// Two numbers of each tensor doubled: its first, and the sum of all. Counts the elements that are in hand at once.
fn plan(in_hand: &Arc<[AtomicU64; 2]>, grain: fn(u64) -> Grain) -> Plan {
    let mut plan = Plan::default();
    for (tensor, len) in SIZES.into_iter().enumerate() {
        let (begun, ended) = (Arc::clone(in_hand), Arc::clone(in_hand));
        let map = Stage::map_at(grain(len), move |block, out| {
            if block.first == 0 {
                let now = begun[0].fetch_add(len, SeqCst) + len;
                begun[1].fetch_max(now, SeqCst);
            }
            out.iter_mut().zip(block.input(0)).for_each(|(out, x)| *out = 2.0 * x);
            Ok(())
        });
        let fold = Stage::fold(len, 1_000, move |whole, outputs| {
            ended[0].fetch_sub(len, SeqCst);
            let sum: f64 = whole.iter().map(|x| f64::from(*x)).sum();
            outputs.put(0, 0, &whole[0].to_le_bytes())?;
            outputs.put(1, 0, &(sum as f32).to_le_bytes())
        });
        let at = plan.outputs.len();
        for part in ["first", "sum"] {
            plan.outputs.push(Meta { name: format!("t{tensor}.{part}"), dtype: Dtype::F32, shape: vec![1] });
        }
        let target = |tensor: usize| Target { tensor, first: 0, len: 1 };
        plan.jobs.push(Job {
            name: format!("t{tensor}"),
            inputs: vec![Input { source: 0, tensor, first: 0, len, round: None }],
            outputs: vec![target(at), target(at + 1)],
            stages: vec![map, fold],
        });
    }
    plan
}

fn execute(plan: &Plan, options: Options<'_>) -> Result<Vec<f32>> {
    let data: Vec<Vec<u8>> = SIZES
        .iter()
        .enumerate()
        .map(|(tensor, len)| (0..*len).flat_map(|at| (((at + tensor as u64) % 7) as f32 - 2.0).to_le_bytes()).collect())
        .collect();
    let meta = |at: usize| Meta { name: format!("t{at}"), dtype: Dtype::F32, shape: vec![SIZES[at]] };
    let arrays = data.iter().enumerate().map(|(at, bytes)| (meta(at), bytes.as_slice())).collect();
    let source = MemorySource::new("m", arrays)?;
    let mut found = vec![vec![0; 4]; plan.outputs.len()];
    let sink = MemorySink::new(found.iter_mut().map(Vec::as_mut_slice).collect());
    run(&[&source as &dyn Source], plan, &sink, options, &Ctl::new())?;
    drop(sink);
    Ok(found.iter().map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect())
}

fn expected() -> Vec<f32> {
    let number = |tensor: usize, at: u64| 2.0 * (((at + tensor as u64) % 7) as f64 - 2.0);
    let of = |(tensor, len): (usize, u64)| {
        [number(tensor, 0) as f32, (0..len).map(|at| number(tensor, at)).sum::<f64>() as f32]
    };
    SIZES.into_iter().enumerate().flat_map(of).collect()
}

#[test]
fn a_fold_sees_all_that_the_map_computed_for_any_cut_and_any_number_of_threads() {
    for grain in [|_| Grain::Elements, |_| Grain::Whole, |len| Grain::Rows(len)] {
        for threads in [1, 2, 5] {
            let plan = plan(&Arc::default(), grain);
            assert_eq!(execute(&plan, Options { threads, ..Options::default() }).unwrap(), expected());
        }
    }
}

#[test]
fn no_more_is_kept_than_there_are_workers_and_they_are_as_many_as_memory_allows() {
    let need = plan(&Arc::default(), |_| Grain::Elements).hungriest().map(|(_, need)| need).unwrap();
    assert!(need > 4 * SIZES[0]);
    for (limit, most) in [(Some(need), SIZES[0]), (Some(2 * need), SIZES[0] + SIZES[3]), (None, 500_000)] {
        for threads in [2, 6] {
            let in_hand: Arc<[AtomicU64; 2]> = Arc::default();
            let plan = plan(&in_hand, |_| Grain::Elements);
            execute(&plan, Options { threads, max_memory: limit, ..Options::default() }).unwrap();
            let seen = in_hand[1].load(SeqCst);
            assert!(seen <= most, "{threads} threads, {limit:?}: {seen}");
        }
    }
    let refused = execute(
        &plan(&Arc::default(), |_| Grain::Elements),
        Options { max_memory: Some(need - 1), ..Options::default() },
    );
    assert!(refused.unwrap_err().to_string().contains("do not hold the workspace of 't0'"));
}

#[test]
fn jobs_that_a_group_lets_go_at_once_are_kept_one_after_the_other() {
    let in_hand: Arc<[AtomicU64; 2]> = Arc::default();
    let mut plan = plan(&in_hand, |_| Grain::Elements);
    for job in &mut plan.jobs {
        let whole_model = Stage::reduce(
            Grain::Elements,
            Scope::Group(1),
            polmrs_core::reduce::Ordered::<1>::default,
            |_, _| Ok(()),
            |_| Ok(()),
        );
        job.stages.insert(0, whole_model);
    }
    assert_eq!(execute(&plan, Options { threads: 1, ..Options::default() }).unwrap(), expected());
    assert_eq!(in_hand[1].load(SeqCst), SIZES[0]);
}

#[test]
fn what_is_done_is_left_alone_and_the_survey_sees_the_map() {
    let survey = Survey::new(10);
    let mut done = vec![false; 10];
    done[..2].fill(true);
    let plan = plan(&Arc::default(), |_| Grain::Elements);
    let options = Options { threads: 2, done: &done, survey: Some(&survey), ..Options::default() };
    let found = execute(&plan, options).unwrap();
    assert_eq!(found[..2], [0.0, 0.0]);
    assert_eq!(found[2..], expected()[2..]);
    assert_eq!(survey.row(0), None);
    assert_eq!(survey.row(2).unwrap().relative, 1.0); // twice the input
    assert_eq!(survey.row(3), None);
}

#[test]
fn a_fold_that_leaves_bytes_out_or_meets_nan_is_refused() {
    let mut short = plan(&Arc::default(), |_| Grain::Elements);
    short.jobs[1].stages[1] = Stage::fold(SIZES[1], 0, |_, outputs| outputs.put(0, 0, &[0; 4]));
    assert!(matches!(execute(&short, Options::default()), Err(Error::Internal(_))));
    let mut nan = plan(&Arc::default(), |_| Grain::Elements);
    nan.jobs[1].stages[0] = Stage::map(|_, out| {
        out.fill(f32::NAN);
        Ok(())
    });
    let message = execute(&nan, Options::default()).unwrap_err().to_string();
    assert_eq!(message, "result 't1': element 0 is NaN, not finite");
}
