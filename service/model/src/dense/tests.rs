use super::*;

#[test]
fn quantised_rows_have_the_values_the_gguf_package_gives_them() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/dense/blocks.json"
    );
    let cases: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (name, format) in [("q8_0", DenseFormat::Q8_0), ("q6_k", DenseFormat::Q6K)] {
        let hex = cases[name]["bytes"].as_str().unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect();
        let want: Vec<u32> = cases[name]["bits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bits| bits.as_u64().unwrap() as u32)
            .collect();
        let (elements, block) = format.block();
        assert_eq!(want.len(), bytes.len() / block * elements);
        let rows = bytes.len() / block;
        let matrix = DenseMatrix::new(rows, elements, format, &bytes).unwrap();
        let mut row = vec![0.0; elements];
        for (r, want) in want.chunks_exact(elements).enumerate() {
            matrix.row_into(r, &mut row);
            let got: Vec<u32> = row.iter().map(|x| x.to_bits()).collect();
            assert_eq!(got, want, "{name}, row {r}");
        }
    }
}

#[test]
fn a_matrix_has_exactly_its_bytes() {
    assert!(DenseMatrix::new(2, 3, DenseFormat::F32, &[0; 24]).is_some());
    assert!(DenseMatrix::new(2, 3, DenseFormat::F32, &[0; 23]).is_none());
    assert!(DenseMatrix::new(1, 31, DenseFormat::Q8_0, &[0; 34]).is_none());
    assert!(DenseMatrix::new(usize::MAX, 4, DenseFormat::F32, &[0; 16]).is_none());
}
