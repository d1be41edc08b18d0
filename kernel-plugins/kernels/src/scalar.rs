//! The reference every kernel is measured against: the sum as it is written,
//! in the order it is written, without a layout.

/// `out[b * rows + r] = sum over c of trits[r * cols + c] * activations[b * cols + c]`.
///
/// With trits the sum is at most `128 * cols` in magnitude, which `i32` holds
/// for every `cols` below 2^24.
///
/// # Panics
///
/// If a slice is not of the size that `rows`, `cols` and `batch` give it.
pub fn gemm(
    trits: &[i8],
    rows: usize,
    cols: usize,
    activations: &[i8],
    batch: usize,
    out: &mut [i32],
) {
    assert_eq!(trits.len(), rows * cols, "weights");
    assert_eq!(activations.len(), batch * cols, "activations");
    assert_eq!(out.len(), batch * rows, "results");
    if cols == 0 {
        out.fill(0);
        return;
    }
    for (token, out) in activations
        .chunks_exact(cols)
        .zip(out.chunks_exact_mut(rows.max(1)))
    {
        for (row, out) in trits.chunks_exact(cols).zip(out) {
            *out = row
                .iter()
                .zip(token)
                .map(|(&w, &x)| i32::from(w) * i32::from(x))
                .sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::gemm;

    #[test]
    fn a_product_worked_by_hand() {
        let weights = [
            1, 0, -1, //
            -1, -1, -1, //
        ];
        let activations = [
            5, 7, -128, //
            -128, 127, 1, //
        ];
        let mut out = [99; 4];
        gemm(&weights, 2, 3, &activations, 2, &mut out);
        assert_eq!(out, [133, 116, -129, 0]);
    }

    #[test]
    fn no_columns_sum_to_nothing() {
        let mut out = [99; 2];
        gemm(&[], 2, 0, &[], 1, &mut out);
        assert_eq!(out, [0, 0]);
    }
}
