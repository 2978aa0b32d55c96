use super::*;

/// Numbers that look random.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut words = vec![0; len];
    fill(Key::new(seed, "low rank", "test"), 0, &mut words);
    words.into_iter().map(|word| word as i32 as f32 / 2_147_483_648.0).collect()
}

fn product(left: &[f32], right: &[f32], rank: usize, columns: usize) -> Vec<f32> {
    let rows = left.len() / rank;
    let value = |at: usize| {
        let (i, j) = (at / columns, at % columns);
        (0..rank).map(|k| f64::from(left[i * rank + k]) * f64::from(right[k * columns + j])).sum::<f64>() as f32
    };
    (0..rows * columns).map(value).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

fn norm(a: &[f32]) -> f64 {
    apart(a, &vec![0.0; a.len()])
}

const KEY: fn() -> Key = || Key::new(0, "w", "svd");

#[test]
fn a_matrix_of_low_rank_comes_back_whatever_its_shape() {
    for (rows, columns) in [(5, 9), (9, 5), (90, 200), (1, 7)] {
        let (left, right) = (noise(rows * 3, 1), noise(3 * columns, 2));
        let matrix = product(&left, &right, 3, columns);
        for rank in [3, 4] {
            let found = nearest(&matrix, columns, rank, KEY());
            let back = product(&found.left, &found.right, rank, columns);
            assert!(apart(&matrix, &back) <= 1e-6 * norm(&matrix), "{rows} x {columns}");
            assert!(found.lost < 1e-9, "{}", found.lost);
        }
    }
}

#[test]
fn the_factors_are_balanced_and_orthogonal() {
    let matrix = noise(40 * 30, 3);
    let found = nearest(&matrix, 30, 4, KEY());
    for i in 0..4 {
        for j in 0..4 {
            let left: f32 = (0..40).map(|row| found.left[row * 4 + i] * found.left[row * 4 + j]).sum();
            let right: f32 = (0..30).map(|at| found.right[i * 30 + at] * found.right[j * 30 + at]).sum();
            assert!((left - right).abs() < 1e-4, "{i} {j}: {left} {right}");
            assert!(i == j || left.abs() < 1e-4);
        }
    }
}

#[test]
fn a_product_and_the_dense_matrix_it_makes_have_the_same_nearest() {
    let (rows, columns) = (60, 45);
    let (left, right) = (noise(rows * 10, 4), noise(10 * columns, 5));
    let dense = nearest(&product(&left, &right, 10, columns), columns, 4, KEY());
    let panels = (Panel::of(&left, rows, 10, false), Panel::of(&right, 10, columns, true));
    let small = of_product(panels.0, panels.1, 4, None);
    let (a, b) = (product(&dense.left, &dense.right, 4, columns), product(&small.left, &small.right, 4, columns));
    assert!(apart(&a, &b) < 1e-5 * norm(&a));
    assert!((dense.lost - small.lost).abs() < 1e-6);
}

#[test]
fn noise_is_brought_within_one_hundredth_of_the_least_distance() {
    let (rows, columns, rank) = (160, 140, 4);
    let matrix = noise(rows * columns, 6);
    let found = nearest(&matrix, columns, rank, KEY());
    let whole = Panel::of(&matrix, rows, columns, false);
    let best = of_product(whole, Panel::identity(columns), rank, None);
    assert!(found.lost >= best.lost - 1e-9);
    assert!((found.lost / best.lost).sqrt() <= 1.01, "{} {}", found.lost, best.lost);
    let back = product(&found.left, &found.right, rank, columns);
    let distance = apart(&matrix, &back) / norm(&matrix);
    assert!((distance - found.lost.sqrt()).abs() < 1e-6, "{distance} {}", found.lost.sqrt());
}

#[test]
fn nothing_and_columns_that_repeat_give_zeros_and_no_nan() {
    let found = nearest(&[0.0; 12], 4, 2, KEY());
    assert_eq!(found, LowRank { left: vec![0.0; 6], right: vec![0.0; 8], lost: 0.0 });
    let one = noise(50, 7);
    let twice: Vec<f32> = one.iter().flat_map(|x| [*x, *x, -*x]).collect();
    let found = nearest(&twice, 3, 3, KEY());
    assert!(found.left.iter().chain(&found.right).all(|x| x.is_finite()));
    assert!(apart(&twice, &product(&found.left, &found.right, 3, 3)) < 1e-6 * norm(&twice));
}
