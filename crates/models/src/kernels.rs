//! The arithmetic: loops over slices of `f32`, row by row, with sums in one fixed order.
//!
//! Nothing here knows where the numbers come from. Matrices are row-major; the row length is the last argument's business.

/// `out = a · b`, with `a` of `out.len() / n` rows of `k` and `b` of `k` rows of `n`.
pub(crate) fn matmul(a: &[f32], b: &[f32], out: &mut [f32], k: usize, n: usize) {
    out.fill(0.0);
    for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
}

/// The transpose of a matrix with rows of `columns`.
pub(crate) fn transpose(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns;
    let mut out = vec![0.0; matrix.len()];
    for (row, values) in matrix.chunks_exact(columns).enumerate() {
        values.iter().enumerate().for_each(|(column, value)| out[column * rows + row] = *value);
    }
    out
}

/// Adds `row` to every row of `out`.
pub(crate) fn add_row(row: &[f32], out: &mut [f32]) {
    out.chunks_exact_mut(row.len()).for_each(|out| add(row, out));
}

/// `out` is the sum of the rows of `matrix`.
pub(crate) fn sum_rows(matrix: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    matrix.chunks_exact(out.len()).for_each(|row| add(row, out));
}

/// `out += values`.
pub(crate) fn add(values: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
}

/// `out` is `function` of each value.
pub(crate) fn map(values: &[f32], out: &mut [f32], function: impl Fn(f32) -> f32) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = function(*value));
}

/// `out` is `function` of each pair.
pub(crate) fn zip(a: &[f32], b: &[f32], out: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = function(*a, *b));
}

/// GELU by its approximation with tanh, as GPT-2 has it (Hendrycks and Gimpel, 2016).
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + bend(x).tanh())
}

/// The derivative of [`gelu`].
pub(crate) fn gelu_slope(x: f32) -> f32 {
    let tanh = bend(x).tanh();
    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * SCALE * (1.0 + 3.0 * CUBE * x * x)
}

fn bend(x: f32) -> f32 {
    SCALE * (x + CUBE * x * x * x)
}

/// The square root of 2 / π.
const SCALE: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 2.0, 2.0]);
        let mut out = [9.0; 4];
        matmul(&a, &b, &mut out, 3, 2);
        assert_eq!(out, [7.0, 8.0, 16.0, 17.0]);
        assert_eq!(transpose(&a, 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let mut sums = [9.0; 3];
        sum_rows(&a, &mut sums);
        assert_eq!(sums, [5.0, 7.0, 9.0]);
        add_row(&[1.0, -1.0], &mut out);
        assert_eq!(out, [8.0, 7.0, 17.0, 16.0]);
    }

    #[test]
    fn gelu_and_its_slope() {
        assert_eq!(gelu(0.0), 0.0);
        assert!((gelu(1.0) - 0.841_192).abs() < 1e-5 && (gelu(-1.0) + 0.158_808).abs() < 1e-5);
        for x in [-2.0, -0.5, 0.0, 0.3, 1.7] {
            let slope = (f64::from(gelu(x + 1e-2)) - f64::from(gelu(x - 1e-2))) / 2e-2;
            assert!((slope - f64::from(gelu_slope(x))).abs() < 1e-3, "at {x}");
        }
    }
}
