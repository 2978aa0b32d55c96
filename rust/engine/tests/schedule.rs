//! The scheduler: every block once, stages in order, groups that meet, the same bits for any number of threads.
#![allow(missing_docs, clippy::unwrap_used)]

use polmrs_core::reduce::{Ordered, sum};
use polmrs_core::{Ctl, Dtype, Error};
use polmrs_engine::sink::MemorySink;
use polmrs_engine::source::{MemorySource, Meta, Source};
use polmrs_engine::{Grain, Input, Job, Later, Options, Plan, Scope, Sink, Stage, Target, run};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const SIZES: [u64; 6] = [200_000, 1, 0, 65_536, 65_537, 7];

fn tensors() -> Vec<(Meta, Vec<u8>)> {
    let tensor = |(at, size): (usize, &u64)| {
        let meta = Meta { name: format!("t{at}"), dtype: Dtype::F32, shape: vec![*size] };
        let values = (0..*size).map(|i| ((i as f32) * 0.37 + at as f32).sin());
        (meta, values.flat_map(f32::to_le_bytes).collect())
    };
    SIZES.iter().enumerate().map(tensor).collect()
}

fn input(tensor: usize) -> Input {
    Input { source: 0, tensor, first: 0, len: SIZES[tensor], round: None }
}

fn target(tensor: usize) -> Target {
    Target { tensor, first: 0, len: SIZES[tensor] }
}

/// out = x - mean(x), the mean over one tensor or over the whole model.
fn centre(whole_model: bool) -> Plan {
    let outputs = tensors().into_iter().map(|(meta, _)| meta).collect();
    let model = Later::<f64>::default();
    let total: u64 = SIZES.iter().sum();
    let job = |tensor: usize| {
        let found = if whole_model { model.clone() } else { Later::default() };
        let mean = found.clone();
        let n = if whole_model { total } else { SIZES[tensor] } as f64;
        let scope = if whole_model { Scope::Group(0) } else { Scope::Tensor };
        let measure = Stage::reduce(
            Grain::Elements,
            scope,
            Ordered::<1>::default,
            |sums, block| {
                sums.push(block.ordinal, [sum(block.input(0))]);
                Ok(())
            },
            move |sums| {
                found.set(sums.total()[0] / n);
                Ok(())
            },
        );
        let subtract = Stage::map(move |block, out| {
            let mean = *mean.get()? as f32;
            out.iter_mut().zip(block.input(0)).for_each(|(out, x)| *out = x - mean);
            Ok(())
        });
        Job {
            name: format!("t{tensor}"),
            inputs: vec![input(tensor)],
            outputs: vec![target(tensor)],
            stages: vec![measure, subtract],
        }
    };
    Plan { outputs, jobs: (0..SIZES.len()).map(job).collect(), notes: vec![] }
}

fn execute(plan: &Plan, threads: usize, ctl: &Ctl) -> polmrs_core::Result<Vec<Vec<u8>>> {
    let data = tensors();
    let source = MemorySource::new("m", data.iter().map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect())?;
    let mut outputs: Vec<Vec<u8>> = plan.outputs.iter().map(|meta| vec![0xaa; meta.nbytes() as usize]).collect();
    let sink = MemorySink::new(outputs.iter_mut().map(Vec::as_mut_slice).collect());
    run(&[&source as &dyn Source], plan, &sink, Options { threads, ..Options::default() }, ctl)?;
    Ok(outputs)
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for whole_model in [false, true] {
        let one = execute(&centre(whole_model), 1, &Ctl::new()).unwrap();
        for threads in [2, 3, 8] {
            assert!(execute(&centre(whole_model), threads, &Ctl::new()).unwrap() == one, "{threads} threads");
        }
    }
}

#[test]
fn a_group_reduction_sees_every_job_before_any_goes_on() {
    let outputs = execute(&centre(true), 2, &Ctl::new()).unwrap();
    let sum: f64 = outputs
        .iter()
        .flat_map(|bytes| bytes.as_chunks::<4>().0)
        .map(|four| f64::from(f32::from_le_bytes(*four)))
        .sum();
    assert!(sum.abs() < 1e-2, "{sum}");
    let tensor_wise = execute(&centre(false), 2, &Ctl::new()).unwrap();
    assert!(tensor_wise != outputs);
}

#[test]
fn regions_stack_and_split() {
    // Two tensors of 65,536 and 7 elements become one of 65,543, and its last ten become another.
    let whole = Meta { name: "stacked".into(), dtype: Dtype::F32, shape: vec![65_543] };
    let tail = Meta { name: "tail".into(), dtype: Dtype::F32, shape: vec![10] };
    let copy = |inputs, outputs| Job { name: "copy".into(), inputs, outputs, stages: vec![Stage::Copy] };
    let jobs = vec![
        copy(vec![input(3)], vec![Target { tensor: 0, first: 0, len: 65_536 }]),
        copy(vec![input(5)], vec![Target { tensor: 0, first: 65_536, len: 7 }]),
        copy(vec![Input { first: 65_526, len: 10, ..input(3) }], vec![Target { tensor: 1, first: 0, len: 10 }]),
    ];
    let outputs = execute(&Plan { outputs: vec![whole, tail], jobs, notes: vec![] }, 2, &Ctl::new()).unwrap();
    let data = tensors();
    assert_eq!(outputs[0][..65_536 * 4], data[3].1);
    assert_eq!(outputs[0][65_536 * 4..], data[5].1);
    assert_eq!(outputs[1], data[3].1[65_526 * 4..]);
}

#[test]
fn an_output_that_is_not_written_once_is_refused_before_work_starts() {
    for (first, len) in [(0, 6), (1, 6)] {
        let mut plan = centre(false);
        plan.jobs[5].outputs = vec![Target { tensor: 5, first, len }];
        assert!(matches!(execute(&plan, 1, &Ctl::new()), Err(Error::Internal(_))));
    }
    let mut plan = centre(false);
    plan.jobs.pop();
    assert!(execute(&plan, 1, &Ctl::new()).is_err());
}

#[test]
fn a_cancelled_run_says_so() {
    let ctl = Ctl::new();
    ctl.cancel();
    assert!(matches!(execute(&centre(false), 2, &ctl), Err(Error::Cancelled)));
}

#[test]
fn the_first_error_stops_the_run_and_names_the_job() {
    let mut plan = centre(false);
    plan.jobs[3].stages = vec![Stage::map(|_, _| Err(Error::Checkpoint("it broke".into())))];
    assert_eq!(execute(&plan, 2, &Ctl::new()).unwrap_err().to_string(), "t3: it broke");
}

#[test]
fn an_error_at_the_end_of_a_reduction_without_blocks_stops_every_thread() {
    for _ in 0..200 {
        let mut plan = centre(false);
        let fail = |_: Ordered<1>| Err(Error::Config("nothing to see".into()));
        plan.jobs[2].stages[0] =
            Stage::reduce(Grain::Elements, Scope::Tensor, Ordered::<1>::default, |_, _| Ok(()), fail);
        assert_eq!(execute(&plan, 4, &Ctl::new()).unwrap_err().to_string(), "t2: nothing to see");
    }
}

#[test]
fn a_nan_is_named_with_its_tensor_and_element() {
    let mut plan = centre(false);
    plan.jobs[4].stages = vec![Stage::map(|block, out| {
        out.fill(0.0);
        if block.first == 65_536 {
            out[0] = f32::NAN;
        }
        Ok(())
    })];
    let error = execute(&plan, 2, &Ctl::new()).unwrap_err();
    assert_eq!(error.to_string(), "result 't4': element 65536 is NaN, not finite in float32");
    assert_eq!(error.exit_code(), 5);
}

#[test]
fn progress_ends_at_its_total() {
    let ctl = Ctl::new();
    execute(&centre(false), 2, &ctl).unwrap();
    let (done, total) = ctl.progress();
    assert!(total > 0 && done == total, "{done} of {total}");
}

#[test]
fn a_skipped_reduction_sees_no_block() {
    let mut plan = centre(false);
    for job in &mut plan.jobs {
        let never = Stage::reduce(
            Grain::Elements,
            Scope::Tensor,
            Ordered::<1>::default,
            |_, _| Err(Error::Internal("seen".into())),
            |sums| if sums.total() == [0.0] { Ok(()) } else { Err(Error::Internal("summed".into())) },
        );
        job.stages.insert(1, never.when(|| false));
    }
    assert!(execute(&plan, 2, &Ctl::new()).unwrap() == execute(&centre(false), 2, &Ctl::new()).unwrap());
}

#[test]
fn blocks_of_rows_hold_whole_rows() {
    // 1,000 rows of 200: a block holds 163 of them.
    let outputs = tensors().into_iter().take(1).map(|(meta, _)| meta).collect();
    let stage = Stage::map_at(Grain::Rows(1_000), |block, out| {
        for (row, values) in out.chunks_mut(200).enumerate() {
            values.fill((block.first + row as u64) as f32);
        }
        if block.first % 163 == 0 { Ok(()) } else { Err(Error::Internal(format!("row {}", block.first))) }
    });
    let job = Job { name: "rows".into(), inputs: vec![input(0)], outputs: vec![target(0)], stages: vec![stage] };
    let bytes = execute(&Plan { outputs, jobs: vec![job], notes: vec![] }, 2, &Ctl::new()).unwrap();
    let values: Vec<f32> = bytes[0].as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    assert!(values.iter().enumerate().all(|(at, value)| *value == (at / 200) as f32));
}

/// A sink that counts what arrives for every tensor and remembers what it was told to be whole.
struct Counting {
    bytes: Mutex<Vec<u64>>,
    whole: Mutex<Vec<usize>>,
}

impl Counting {
    fn new() -> Counting {
        Counting { bytes: Mutex::new(vec![0; SIZES.len()]), whole: Mutex::default() }
    }
}

impl Sink for Counting {
    fn write(&self, tensor: usize, _: u64, bytes: &[u8]) -> polmrs_core::Result<()> {
        self.bytes.lock().unwrap()[tensor] += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self, whole: &[usize]) -> polmrs_core::Result<()> {
        for tensor in whole {
            assert_eq!(self.bytes.lock().unwrap()[*tensor], 4 * SIZES[*tensor], "tensor {tensor} is not whole");
        }
        self.whole.lock().unwrap().extend(whole);
        Ok(())
    }
}

fn count(plan: &Plan, options: Options<'_>) -> (Vec<u64>, Vec<usize>) {
    let data = tensors();
    let source =
        MemorySource::new("m", data.iter().map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect()).unwrap();
    let sink = Counting::new();
    run(&[&source as &dyn Source], plan, &sink, options, &Ctl::new()).unwrap();
    let mut whole = sink.whole.into_inner().unwrap();
    whole.sort_unstable();
    (sink.bytes.into_inner().unwrap(), whole)
}

#[test]
fn every_tensor_is_told_to_be_whole_once_and_only_then() {
    for (threads, sync_every) in [(1, 1), (3, 1), (2, 100_000), (2, 1 << 40)] {
        for whole_model in [false, true] {
            let options = Options { threads, sync_every, ..Options::default() };
            let (_, whole) = count(&centre(whole_model), options);
            assert_eq!(whole, (0..SIZES.len()).collect::<Vec<_>>(), "{threads} threads, every {sync_every}");
        }
    }
}

#[test]
fn what_is_done_is_not_written_again_but_is_still_part_of_its_group() {
    let done = [true, false, true, false, false, true];
    for whole_model in [false, true] {
        let data = tensors();
        let source =
            MemorySource::new("m", data.iter().map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect())
                .unwrap();
        let all = execute(&centre(whole_model), 2, &Ctl::new()).unwrap();
        let mut rest: Vec<Vec<u8>> = all.iter().map(|bytes| vec![0xaa; bytes.len()]).collect();
        let sink = MemorySink::new(rest.iter_mut().map(Vec::as_mut_slice).collect());
        let (options, ctl) = (Options { threads: 2, done: &done, ..Options::default() }, Ctl::new());
        run(&[&source as &dyn Source], &centre(whole_model), &sink, options, &ctl).unwrap();
        drop(sink);
        for tensor in 0..SIZES.len() {
            let untouched = vec![0xaa; all[tensor].len()];
            assert!(rest[tensor] == if done[tensor] { untouched } else { all[tensor].clone() }, "tensor {tensor}");
        }
        let (progress, total) = ctl.progress();
        assert_eq!(progress, total);
    }
    let (bytes, whole) = count(&centre(true), Options { done: &[true; SIZES.len()], ..Options::default() });
    assert_eq!((bytes.iter().sum::<u64>(), whole.len()), (0, 0));
}

/// out = x, whole tensors at a time, noting how many bytes of them are in work at once.
fn whole_tensors(seen: &Arc<[AtomicU64; 2]>) -> Plan {
    let outputs = tensors().into_iter().map(|(meta, _)| meta).collect();
    let job = |tensor: usize| {
        let seen = Arc::clone(seen);
        let stage = Stage::map_at(Grain::Whole, move |block, out| {
            let size = block.input(0).len() as u64;
            let now = seen[0].fetch_add(size, SeqCst) + size;
            seen[1].fetch_max(now, SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(2));
            out.copy_from_slice(block.input(0));
            seen[0].fetch_sub(size, SeqCst);
            Ok(())
        });
        let (inputs, outputs) = (vec![input(tensor)], vec![target(tensor)]);
        Job { name: format!("t{tensor}"), inputs, outputs, stages: vec![stage] }
    };
    Plan { outputs, jobs: (0..SIZES.len()).map(job).collect(), notes: vec![] }
}

#[test]
fn whole_tensors_take_turns_where_memory_is_short_and_one_that_never_fits_is_refused() {
    let seen = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let plan = whole_tensors(&seen);
    let (name, need) = plan.hungriest().unwrap();
    assert_eq!((name, need), ("t0", (4 + 4 + 8) * SIZES[0]));
    let options = Options { threads: 6, max_memory: Some(need), ..Options::default() };
    let (bytes, _) = count(&plan, options);
    assert_eq!(bytes, SIZES.map(|size| 4 * size));
    assert_eq!(seen[1].load(SeqCst), SIZES[0], "the largest must be alone");
    let (sink, ctl) = (Counting::new(), Ctl::new());
    let data = tensors();
    let source =
        MemorySource::new("m", data.iter().map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect()).unwrap();
    let options = Options { max_memory: Some(need - 1), ..options };
    let message = run(&[&source as &dyn Source], &plan, &sink, options, &ctl).unwrap_err().to_string();
    assert_eq!(sink.bytes.into_inner().unwrap(), [0; SIZES.len()]);
    assert_eq!(
        message,
        format!("max-memory: {} bytes do not hold the workspace of 't0', which needs {need}", need - 1)
    );
}

#[test]
fn resident_inputs_follow_the_limit_and_bits_do_not() {
    let free = execute(&centre(false), 3, &Ctl::new()).unwrap();
    let (name, need) = centre(false).hungriest().map(|(name, need)| (name.to_owned(), need)).unwrap();
    assert_eq!(name, "t4");
    let data = tensors();
    let source =
        MemorySource::new("m", data.iter().map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect()).unwrap();
    for limit in [need, 2 * need, 3 * need, 3 * need + 1_000_000, 1 << 40] {
        let plan = centre(false);
        let cost = plan.cost(&[&source], 3, Some(limit)).unwrap();
        assert!(cost.peak_memory <= limit, "{limit}: {cost:?}");
        let mut outputs: Vec<Vec<u8>> = free.iter().map(|bytes| vec![0; bytes.len()]).collect();
        let sink = MemorySink::new(outputs.iter_mut().map(Vec::as_mut_slice).collect());
        let options = Options { threads: 3, max_memory: Some(limit), ..Options::default() };
        run(&[&source as &dyn Source], &plan, &sink, options, &Ctl::new()).unwrap();
        drop(sink);
        assert!(outputs == free, "{limit}");
    }
}
