use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Logits, a row for each position.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub columns: usize,
    pub values: Vec<f32>,
}

/// How far two matrices are apart.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    pub max_difference: f32,
    /// Share of rows that have their largest value in the same column.
    pub argmax_agreement: f64,
}

impl Matrix {
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.columns)
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    /// Only these rows, in this order.
    pub fn select(&self, rows: &[usize]) -> Matrix {
        Matrix {
            columns: self.columns,
            values: rows
                .iter()
                .flat_map(|row| self.row(*row))
                .copied()
                .collect(),
        }
    }

    pub fn compare(&self, other: &Matrix) -> Comparison {
        assert_eq!(
            (self.rows().len(), self.columns),
            (other.rows().len(), other.columns),
            "shapes differ",
        );
        let differences = self
            .values
            .iter()
            .zip(&other.values)
            .map(|(a, b)| (a - b).abs());
        let agreeing = self
            .rows()
            .zip(other.rows())
            .filter(|(a, b)| argmax(a) == argmax(b))
            .count();
        Comparison {
            // `f32::max` would pass over a NaN.
            max_difference: differences.fold(0.0, |max, d| if d <= max { max } else { d }),
            argmax_agreement: agreeing as f64 / self.rows().len() as f64,
        }
    }

    /// A file of NumPy's format.
    pub fn from_npy(path: &Path) -> Matrix {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        parse_npy(&bytes)
    }

    /// An array of a NumPy archive.
    pub fn from_npz(path: &Path, name: &str) -> Matrix {
        let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut archive = zip::ZipArchive::new(file).expect("an .npz is a zip archive");
        let mut entry = archive
            .by_name(&format!("{name}.npy"))
            .unwrap_or_else(|e| panic!("{name} in {}: {e}", path.display()));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("the archive is whole");
        parse_npy(&bytes)
    }

    /// Nothing but little-endian numbers.
    pub fn from_raw(path: &Path, columns: usize) -> Matrix {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Matrix {
            columns,
            values: floats(&bytes),
        }
    }
}

/// Column of the largest value, the first one on a tie.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (column, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = column;
        }
    }
    best
}

/// Version 1 of the format, float32 in C order, two axes: all that the
/// fixtures and `score` write.
fn parse_npy(bytes: &[u8]) -> Matrix {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "not .npy of version 1");
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (header, data) = bytes[10..].split_at(header_len);
    let header = std::str::from_utf8(header).expect("a header is ASCII");
    assert!(header.contains("'descr': '<f4'"), "{header}");
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape: Vec<usize> = header
        .split_once("'shape': (")
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(shape, _)| shape.split(',').filter_map(|axis| axis.trim().parse().ok()))
        .expect("a header has a shape")
        .collect();
    let [rows, columns] = shape[..] else {
        panic!("a matrix has two axes: {header}");
    };
    let values = floats(data);
    assert_eq!(values.len(), rows * columns, "{header}");
    Matrix { columns, values }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty(), "half a number at the end");
    numbers.iter().copied().map(f32::from_le_bytes).collect()
}
