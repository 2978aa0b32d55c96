//! Encoders: bytes anywhere in the outputs, each once, the same for any number of threads, and done after a resumption.
#![allow(missing_docs, clippy::unwrap_used)]

use polmrs_core::{Ctl, Dtype, Error, Result};
use polmrs_engine::job::Accumulate;
use polmrs_engine::sink::MemorySink;
use polmrs_engine::source::{MemorySource, Meta, Source};
use polmrs_engine::survey::Survey;
use polmrs_engine::{Cost, Grain, Input, Job, Later, Options, Plan, Scope, Stage, Target, run};

const ROWS: usize = 1_000;
const COLUMNS: usize = 384;
const TENSORS: [&str; 3] = ["q", "k", "v"];

fn meta(name: &str, dtype: Dtype, shape: &[usize]) -> Meta {
    Meta { name: name.into(), dtype, shape: shape.iter().map(|size| *size as u64).collect() }
}

fn value(tensor: usize, at: usize) -> f32 {
    ((at as f32) * 0.37 + tensor as f32).sin() * (tensor + 1) as f32
}

struct Most(f32);

impl Accumulate for Most {
    fn merge(&mut self, other: Self) {
        self.0 = self.0.max(other.0);
    }
}

fn code(x: f32, most: f32) -> i8 {
    (x / most * 127.0).round() as i8
}

/// Codes of a byte, transposed, under one scale for all three tensors; the scale; and the shape, known beforehand.
fn plan(grain: Grain) -> Plan {
    let found = Later::<f32>::default();
    let mut plan = Plan::default();
    for (at, name) in TENSORS.iter().enumerate() {
        let first = plan.outputs.len();
        plan.outputs.push(meta(&format!("{name}.codes"), Dtype::I8, &[COLUMNS, ROWS]));
        plan.outputs.push(meta(&format!("{name}.scale"), Dtype::F32, &[1]));
        plan.outputs.push(meta(&format!("{name}.shape"), Dtype::I64, &[2]));
        let len = (ROWS * COLUMNS) as u64;
        let (share, most) = (found.clone(), found.clone());
        let measure = Stage::reduce(
            grain,
            Scope::Group(7),
            || Most(0.0),
            |most, block| {
                most.0 = block.input(0).iter().fold(most.0, |most, x| most.max(x.abs()));
                Ok(())
            },
            move |most| {
                share.set(most.0);
                Ok(())
            },
        );
        let encode = Stage::encode(grain, move |block, outputs| {
            let (most, x, first) = (*most.get()?, block.input(0), block.first as usize);
            let rows = x.len() / COLUMNS;
            for column in 0..COLUMNS {
                let codes: Vec<u8> = (0..rows).map(|row| code(x[row * COLUMNS + column], most) as u8).collect();
                outputs.put(0, (column * ROWS + first) as u64, &codes)?;
            }
            if first == 0 {
                outputs.put(1, 0, &most.to_le_bytes())?;
            }
            let back: Vec<f32> = x.iter().map(|x| f32::from(code(*x, most)) * most / 127.0).collect();
            outputs.compare(0, &back);
            Ok(())
        });
        let inputs = vec![Input { source: 0, tensor: at, first: 0, len, round: None }];
        let outputs = vec![Target { tensor: first, first: 0, len }, Target { tensor: first + 1, first: 0, len: 1 }];
        plan.jobs.push(Job { name: (*name).into(), inputs, outputs, stages: vec![measure, encode] });
        let shape = [ROWS as i64, COLUMNS as i64].into_iter().flat_map(i64::to_le_bytes).collect();
        plan.jobs.push(Job {
            name: format!("{name}.shape"),
            inputs: vec![],
            outputs: vec![Target { tensor: first + 2, first: 0, len: 2 }],
            stages: vec![Stage::constant(shape)],
        });
    }
    plan
}

const STRIPS: Grain = Grain::Strips { rows: ROWS as u64, at_once: 96 };

fn execute(plan: &Plan, options: Options<'_>, ctl: &Ctl) -> Result<Vec<Vec<u8>>> {
    let data: Vec<(Meta, Vec<u8>)> = TENSORS
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let bytes = (0..ROWS * COLUMNS).flat_map(|x| value(at, x).to_le_bytes()).collect();
            (meta(name, Dtype::F32, &[ROWS, COLUMNS]), bytes)
        })
        .collect();
    let source = MemorySource::new("m", data.iter().map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect())?;
    let mut outputs: Vec<Vec<u8>> = plan.outputs.iter().map(|meta| vec![0xaa; meta.nbytes() as usize]).collect();
    let sink = MemorySink::new(outputs.iter_mut().map(Vec::as_mut_slice).collect());
    run(&[&source as &dyn Source], plan, &sink, options, ctl)?;
    Ok(outputs)
}

#[test]
fn bytes_land_where_an_encoder_puts_them_for_any_cut_and_any_number_of_threads() {
    let most = (0..ROWS * COLUMNS).map(|at| value(2, at).abs()).fold(0.0, f32::max);
    let mut expected = Vec::new();
    for tensor in 0..TENSORS.len() {
        let at = |column: usize, row: usize| code(value(tensor, row * COLUMNS + column), most) as u8;
        expected.push((0..COLUMNS).flat_map(|column| (0..ROWS).map(move |row| at(column, row))).collect::<Vec<u8>>());
        expected.push(most.to_le_bytes().to_vec());
        expected.push([ROWS as i64, COLUMNS as i64].into_iter().flat_map(i64::to_le_bytes).collect());
    }
    for grain in [Grain::Rows(ROWS as u64), STRIPS, Grain::Whole] {
        for threads in [1, 3] {
            let ctl = Ctl::new();
            let outputs = execute(&plan(grain), Options { threads, ..Options::default() }, &ctl).unwrap();
            assert!(outputs == expected, "{grain:?}, {threads} threads");
            let (done, total) = ctl.progress();
            assert!(total > 0 && done == total, "{done} of {total}");
        }
    }
}

#[test]
fn what_is_done_stays_as_it_is_and_still_counts_in_its_group() {
    let all = execute(&plan(STRIPS), Options::default(), &Ctl::new()).unwrap();
    let done = [false, false, true, true, true, false, true, true, true];
    let rest = execute(&plan(STRIPS), Options { threads: 2, done: &done, ..Options::default() }, &Ctl::new()).unwrap();
    for (tensor, bytes) in all.iter().enumerate() {
        let untouched = vec![0xaa; bytes.len()];
        assert!(rest[tensor] == if done[tensor] { untouched } else { bytes.clone() }, "tensor {tensor}");
    }
}

#[test]
fn a_survey_sees_what_the_codes_stand_for() {
    let plan = plan(STRIPS);
    let survey = Survey::new(plan.outputs.len());
    execute(&plan, Options { threads: 2, survey: Some(&survey), ..Options::default() }, &Ctl::new()).unwrap();
    let relative = |tensor| survey.row(tensor).unwrap().relative;
    assert!(relative(6) > 1e-4 && relative(6) < 5e-3, "{}", relative(6));
    assert!(relative(0) > 2.0 * relative(6), "the smallest tensor loses most under the scale of the largest");
    assert!(survey.row(1).is_none() && survey.row(2).is_none());
}

#[test]
fn bytes_outside_and_bytes_that_are_missing_are_refused() {
    let broken = |offset: u64, len: usize| {
        let mut plan = plan(STRIPS);
        plan.jobs[3].stages =
            vec![Stage::encode(Grain::Whole, move |_, outputs| outputs.put(0, offset, &vec![1; len]))];
        execute(&plan, Options::default(), &Ctl::new()).unwrap_err()
    };
    for (offset, len, rule) in [
        (9, 8, "k.shape: 'k.shape': 8 bytes at 9 lie outside the job's region"),
        (0, 8, "k.shape: 8 bytes were put of 16"),
    ] {
        let error = broken(offset, len);
        assert!(matches!(error, Error::Internal(_)) && error.to_string().contains(rule), "{error}");
    }
}

#[test]
fn a_strip_costs_its_rows_and_no_more() {
    let data = vec![0; 4 * ROWS * COLUMNS];
    let tensors = TENSORS.map(|name| (meta(name, Dtype::F32, &[ROWS, COLUMNS]), data.as_slice()));
    let source = MemorySource::new("m", tensors.to_vec()).unwrap();
    let need = |grain| {
        let Cost { workspace, .. } = plan(grain).cost(&[&source], 1, None).unwrap();
        workspace
    };
    assert_eq!(need(STRIPS), 16 * 96 * COLUMNS as u64);
    assert_eq!(need(Grain::Whole), 16 * (ROWS * COLUMNS) as u64);
}
