use super::*;

fn master(weights: &[f32], rule: MasterRule, factor: f32) -> (StoredTernary, Vec<u8>) {
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let stored = StoredTernary {
        name: "t".to_owned(),
        rows: 2,
        cols: weights.len() / 2,
        file: 0,
        bytes: 0..bytes.len(),
        encoding: TernaryEncoding::Master {
            format: DenseFormat::F32,
            rule,
            factor,
            levels: OnceLock::new(),
        },
    };
    (stored, bytes)
}

fn scale_and_trits(weights: &[f32], rule: MasterRule) -> (f32, Vec<i8>) {
    let (stored, bytes) = master(weights, rule, 1.0);
    let matrix = stored.matrix(&bytes).unwrap();
    let mut trits = vec![0; weights.len()];
    matrix.trits_into(0..2, &mut trits).unwrap();
    (matrix.scale(), trits)
}

#[test]
fn a_master_is_scaled_by_its_mean_magnitude() {
    // The mean is 1, so a half is exactly between 0 and 1 and goes to the even one.
    let weights = [0.5, -0.5, 3.0, -0.75, 0.25, 1.0, -2.0, 0.0];
    let (scale, trits) = scale_and_trits(&weights, MasterRule::Absmean);
    assert_eq!((scale, trits), (1.0, vec![0, 0, 1, -1, 0, 1, -1, 0]));
    let (_, general) = scale_and_trits(&weights, MasterRule::UniformOrAbsmean);
    assert_eq!(general, [0, 0, 1, -1, 0, 1, -1, 0]);
}

#[test]
fn weights_of_one_magnitude_keep_it() {
    let weights = [0.5, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.5];
    let want = vec![1, 0, -1, 0, 0, 0, 0, 1];
    let uniform = scale_and_trits(&weights, MasterRule::UniformOrAbsmean);
    assert_eq!(uniform, (0.5, want.clone()));
    let absmean = scale_and_trits(&weights, MasterRule::Absmean);
    assert_eq!(absmean, (0.1875, want));
}

#[test]
fn a_separate_scale_multiplies() {
    let (stored, bytes) = master(&[1.0, -1.0], MasterRule::UniformOrAbsmean, 1.5);
    assert_eq!(stored.matrix(&bytes).unwrap().scale(), 1.5);
}

#[test]
fn a_master_of_zeros_is_zeros_and_one_with_an_infinity_is_refused() {
    let (scale, trits) = scale_and_trits(&[0.0; 4], MasterRule::Absmean);
    assert_eq!((scale, trits), (1e-5, vec![0; 4]));
    for bad in [f32::INFINITY, f32::NAN] {
        let (stored, bytes) = master(&[1.0, bad], MasterRule::Absmean, 1.0);
        let error = stored.matrix(&bytes).unwrap_err();
        assert!(matches!(error, ModelError::Scale { .. }), "{error}");
    }
}
