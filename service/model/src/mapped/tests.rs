use std::io::Write;

use super::*;
use crate::{DenseFormat, DenseMatrix};

const ROW_BYTES: usize = 8 << 10;
const ROWS: usize = 1 << 10;

/// A file of rows that differ.
fn file() -> FileBytes {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for row in 0..ROWS {
        file.write_all(&[row as u8 ^ (row >> 8) as u8; ROW_BYTES])
            .unwrap();
    }
    FileBytes::map(file.path()).unwrap()
}

fn matrix(file: &FileBytes) -> DenseMatrix<'_> {
    let range = 0..file.len();
    DenseMatrix::in_file(ROWS, ROW_BYTES / 2, DenseFormat::F16, file, range).unwrap()
}

#[test]
fn rows_that_are_read_are_those_that_are_mapped() {
    let file = file();
    let mut memory = Vec::new();
    for row in [0, 1, 700, ROWS - 1] {
        let read = matrix(&file).read_row(row, &mut memory).to_vec();
        assert_eq!(read, matrix(&file).row(row), "{row}");
    }
    file.give_back(ROW_BYTES + 5..700 * ROW_BYTES);
    file.give_back(0..file.len());
    for row in [0, 1, 700, ROWS - 1] {
        assert_eq!(
            matrix(&file).row(row),
            [row as u8 ^ (row >> 8) as u8; ROW_BYTES],
            "{row}"
        );
    }
    let embedded = FileBytes::Embedded(&[1, 2, 3]);
    let mut out = [0; 2];
    embedded.read_into(1..3, &mut out);
    assert_eq!(out, [2, 3]);
    embedded.give_back(0..3);
}

/// An emulator shows the pages of another process.
#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn rows_that_are_read_take_no_memory_and_those_given_back_neither() {
    let file = file();
    let resident = || resident_bytes(file.as_ptr().addr());
    let mut memory = Vec::new();
    for row in 0..ROWS {
        matrix(&file).read_row(row, &mut memory);
    }
    assert_eq!(resident(), 0);
    let mut sum = 0_u64;
    for row in 0..ROWS {
        sum += u64::from(matrix(&file).row(row)[0]);
    }
    assert!(sum > 0 && resident() == ROWS * ROW_BYTES, "{}", resident());
    file.give_back(0..ROWS / 2 * ROW_BYTES);
    assert_eq!(resident(), ROWS / 2 * ROW_BYTES);
}

/// Of the mapping that begins here.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn resident_bytes(address: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let begin = format!("{address:x}-");
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&begin));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    let kib: usize = rss.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}
