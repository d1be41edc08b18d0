//! What is measured: each packing's variants, and the reference.

use std::ops::Range;

use ternion_kernels::{i2s, scalar};

use crate::case::Shape;

/// A kernel under one name, whatever its packing.
pub(crate) trait Contender: Sync {
    fn name(&self) -> String;
    /// The instructions whose peak it is measured against.
    fn instructions(&self) -> &'static str;
    fn row_tile(&self) -> usize;
    fn pack(&self, shape: Shape, trits: &[i8]) -> Vec<u8>;
    fn prepare(&self, cols: usize, batch: usize, activations: &[i8]) -> Vec<u8>;
    /// Writes the rows' integers, token after token.
    fn multiply(&self, work: &Work<'_>, rows: Range<usize>, out: &mut [i32]);
}

/// A packed matrix and prepared activations.
pub(crate) struct Work<'a> {
    pub(crate) shape: Shape,
    pub(crate) batch: usize,
    pub(crate) packed: &'a [u8],
    pub(crate) prepared: &'a [u8],
}

/// Packings, whose modules name and call things alike.
macro_rules! packings {
    ($($packing:ident)*) => {
        $(impl Contender for $packing::Variant {
            fn name(&self) -> String {
                format!(
                    "{}-{}",
                    stringify!($packing),
                    $packing::Variant::name(*self)
                )
            }

            fn instructions(&self) -> &'static str {
                match $packing::Variant::name(*self) {
                    "avx2" => "vpmaddubsw+vpaddw",
                    "avx-vnni" => "vpdpbusd ymm",
                    "avx512-vnni" => "vpdpbusd zmm",
                    "neon" => "smlal",
                    "dotprod" | "i8mm" => "sdot",
                    _ => "rust",
                }
            }

            fn row_tile(&self) -> usize {
                $packing::ROW_TILE
            }

            fn pack(&self, Shape { rows, cols }: Shape, trits: &[i8]) -> Vec<u8> {
                let layout = $packing::Layout::new(rows, cols).expect("a shape of the list");
                let mut packed = vec![0; layout.packed_bytes()];
                layout.pack(0..rows, trits, &mut packed).expect("trits");
                packed
            }

            fn prepare(&self, cols: usize, batch: usize, activations: &[i8]) -> Vec<u8> {
                let layout = $packing::Activations::new(cols, batch).expect("a shape of the list");
                let mut prepared = vec![0; layout.prepared_bytes()];
                layout.prepare(activations, &mut prepared);
                prepared
            }

            fn multiply(&self, work: &Work<'_>, rows: Range<usize>, out: &mut [i32]) {
                let Work {
                    shape,
                    batch,
                    packed,
                    prepared,
                } = *work;
                let layout =
                    $packing::Layout::new(shape.rows, shape.cols).expect("a shape of the list");
                let activations =
                    $packing::Activations::new(shape.cols, batch).expect("a shape of the list");
                let num_rows = rows.len();
                let product = $packing::Product::new(layout, packed, activations, prepared, rows);
                let out = $packing::Output::new(out, num_rows, batch, num_rows);
                $packing::Variant::multiply(*self, &product, out);
            }
        })*

        /// All that this CPU runs.
        pub(crate) fn contenders() -> Vec<Box<dyn Contender>> {
            let mut all: Vec<Box<dyn Contender>> = vec![Box::new(Scalar)];
            $(for variant in $packing::Variant::available() {
                all.push(Box::new(variant));
            })*
            all
        }
    };
}

packings! {
    i2s
}

struct Scalar;

impl Contender for Scalar {
    fn name(&self) -> String {
        "scalar".to_owned()
    }

    fn instructions(&self) -> &'static str {
        "rust"
    }

    fn row_tile(&self) -> usize {
        1
    }

    fn pack(&self, _: Shape, trits: &[i8]) -> Vec<u8> {
        trits.iter().map(|&trit| trit as u8).collect()
    }

    fn prepare(&self, _: usize, _: usize, activations: &[i8]) -> Vec<u8> {
        activations.iter().map(|&x| x as u8).collect()
    }

    fn multiply(&self, work: &Work<'_>, rows: Range<usize>, out: &mut [i32]) {
        let cols = work.shape.cols;
        let trits = signed(&work.packed[rows.start * cols..rows.end * cols]);
        scalar::gemm(
            trits,
            rows.len(),
            cols,
            signed(work.prepared),
            work.batch,
            out,
        );
    }
}

fn signed(bytes: &[u8]) -> &[i8] {
    // SAFETY: any byte is both, and they are of one size.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}
