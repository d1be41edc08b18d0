use super::*;

/// The pattern that the layouts' golden bytes were made from.
fn pattern(i: usize) -> i8 {
    ((7 * i * i + 3 * i + 5) % 11 % 3) as i8 - 1
}

const ROWS: usize = 4;
const COLS: usize = 256;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn matrix(packing: Packing<'_>, rows: usize, cols: usize) -> TernaryMatrix<'_> {
    TernaryMatrix {
        name: "t",
        rows,
        cols,
        scale: 0.5,
        packing,
        file_offset: 1000,
    }
}

/// Written from the layout's description, to be held against its golden bytes.
fn pack_quarters(rows: usize, cols: usize, trit: impl Fn(usize) -> i8) -> Vec<u8> {
    let quarter = rows.div_ceil(4);
    let mut bytes = vec![0; quarter * cols];
    for i in 0..rows * cols {
        let (row, col) = (i / cols, i % cols);
        bytes[row % quarter * cols + col] |= ((trit(i) + 1) as u8) << (2 * (row / quarter));
    }
    bytes
}

fn pack_i2s(len: usize, trit: impl Fn(usize) -> i8) -> Vec<u8> {
    let mut bytes = vec![0; len / 4];
    for i in 0..len {
        bytes[i / 128 * 32 + i % 32] |= ((trit(i) + 1) as u8) << (6 - 2 * (i % 128 / 32));
    }
    bytes
}

#[test]
fn row_quarters_match_the_golden_vector() {
    let bytes = pack_quarters(ROWS, COLS, pattern);
    assert_eq!(hex(&bytes[..16]), "82099860022698800926608209986002");
    assert_eq!(crc32fast::hash(&bytes), 0x23c5_96e4);
    let mut trits = [0; ROWS * COLS];
    let matrix = matrix(Packing::RowQuarters(&bytes), ROWS, COLS);
    matrix.trits_into(0..ROWS, &mut trits).unwrap();
    assert!(trits.iter().enumerate().all(|(i, &t)| t == pattern(i)));
}

#[test]
fn i2s_matches_the_golden_vector() {
    let mut bytes = pack_i2s(ROWS * COLS, pattern);
    assert_eq!(hex(&bytes[..16]), "8962180681a0280a4290248962180681");
    assert_eq!(crc32fast::hash(&bytes), 0xb9d0_89b3);
    let mut trits = [0; ROWS * COLS];
    matrix(Packing::I2S(&bytes), ROWS, COLS)
        .trits_into(0..ROWS, &mut trits)
        .unwrap();
    assert!(trits.iter().enumerate().all(|(i, &t)| t == pattern(i)));
    bytes.extend(0.5_f32.to_le_bytes());
    bytes.extend([0; 28]);
    assert_eq!(crc32fast::hash(&bytes), 0x5f70_cd52);
}

#[test]
fn any_range_of_rows_is_the_same_rows() {
    // 12 rows of 96: blocks of 128 straddle them. 10 rows: the last quarter is short.
    for (rows, cols) in [(12, 96), (10, 64), (4, 32), (9, 128)] {
        let quarters = pack_quarters(rows, cols, pattern);
        let i2s = pack_i2s((rows * cols).next_multiple_of(128), pattern);
        for packing in [Packing::RowQuarters(&quarters), Packing::I2S(&i2s)] {
            let matrix = matrix(packing, rows, cols);
            for start in 0..rows {
                for end in start..=rows {
                    let mut trits = vec![7; (end - start) * cols];
                    matrix.trits_into(start..end, &mut trits).unwrap();
                    for (i, &trit) in trits.iter().enumerate() {
                        assert_eq!(trit, pattern(start * cols + i), "{packing:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_fourth_code_is_an_error_that_says_where() {
    let mut quarters = pack_quarters(ROWS, COLS, pattern);
    quarters[77] |= 0b11 << 4;
    let mut trits = vec![0; COLS];
    let damaged = matrix(Packing::RowQuarters(&quarters), ROWS, COLS);
    damaged.trits_into(1..2, &mut trits).unwrap();
    let error = damaged.trits_into(2..3, &mut trits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor t holds a value that is no trit at byte 1077 of the file"
    );

    let mut i2s = pack_i2s(ROWS * COLS, pattern);
    i2s[65] = 0b0001_1100;
    let damaged = matrix(Packing::I2S(&i2s), ROWS, COLS);
    damaged.trits_into(0..1, &mut trits).unwrap();
    let error = damaged.trits_into(1..2, &mut trits).unwrap_err();
    assert!(matches!(error, ModelError::NotATrit { offset: 1065, .. }));
}

#[test]
fn floats_round_half_to_even_and_clamp() {
    let weights = [
        0.25_f32,
        -0.25,
        0.250_001,
        -0.6,
        0.0,
        9.0,
        0.75,
        f32::MIN_POSITIVE,
    ];
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let floats = |inverse, exact| Packing::Floats {
        format: DenseFormat::F32,
        inverse,
        exact,
        bytes: &bytes,
    };
    let mut trits = [0; 8];
    matrix(floats(2.0, false), 2, 4)
        .trits_into(0..2, &mut trits)
        .unwrap();
    assert_eq!(trits, [0, 0, 1, -1, 0, 1, 1, 0]);
    let error = matrix(floats(1.0, true), 2, 4).trits_into(0..2, &mut trits);
    assert!(matches!(
        error,
        Err(ModelError::NotATrit { offset: 1000, .. })
    ));
}
