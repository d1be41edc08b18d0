//! What is measured: each packing's variants, and the reference.

use std::ops::Range;

use ternion_kernels::kernel::{Kernel, Weights};
use ternion_kernels::layout::{Layout, Packing};
use ternion_kernels::{Output, i2s, scalar, tl1, tl2};

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

/// A kernel, and its packing's name.
struct Named<K> {
    name: &'static str,
    kernel: K,
}

impl<K: Kernel + Sync> Contender for Named<K> {
    fn name(&self) -> String {
        format!("{}-{}", self.name, self.kernel.isa().to_string_lossy())
    }

    fn instructions(&self) -> &'static str {
        match self.kernel.isa().to_bytes() {
            b"avx2" => "vpmaddubsw+vpaddw",
            b"avx-vnni" => "vpdpbusd ymm",
            b"avx512-vnni" | b"avx512-vbmi" => "vpdpbusd zmm",
            b"neon" => "smlal",
            b"neon-dotprod" | b"neon-i8mm" => "sdot",
            _ => "rust",
        }
    }

    fn row_tile(&self) -> usize {
        K::Packing::ROW_TILE
    }

    fn pack(&self, Shape { rows, cols }: Shape, trits: &[i8]) -> Vec<u8> {
        let layout = Layout::<K::Packing>::new(rows, cols).expect(LISTED);
        let mut packed = vec![0; layout.packed_bytes()];
        layout.pack(0..rows, trits, &mut packed).expect("trits");
        packed
    }

    fn prepare(&self, cols: usize, batch: usize, activations: &[i8]) -> Vec<u8> {
        let layout = self.kernel.activations(cols, batch).expect(LISTED);
        let mut prepared = vec![0; K::prepared_bytes(layout)];
        self.kernel.prepare(layout, activations, &mut prepared);
        prepared
    }

    fn multiply(&self, work: &Work<'_>, rows: Range<usize>, out: &mut [i32]) {
        let Shape {
            rows: num_rows,
            cols,
        } = work.shape;
        let num = rows.len();
        let weights = Weights {
            layout: Layout::<K::Packing>::new(num_rows, cols).expect(LISTED),
            packed: work.packed,
            rows,
        };
        let activations = self.kernel.activations(cols, work.batch).expect(LISTED);
        let out = Output::new(out, num, work.batch, num);
        self.kernel
            .multiply(weights, activations, work.prepared, out);
    }
}

const LISTED: &str = "a shape of the list";

/// The one that the others are measured against.
pub(crate) fn i2s() -> impl Contender {
    let kernel = i2s::Variant::best();
    Named {
        name: "i2s",
        kernel,
    }
}

/// All that this CPU runs.
pub(crate) fn contenders() -> Vec<Box<dyn Contender>> {
    let mut all: Vec<Box<dyn Contender>> = vec![Box::new(Scalar)];
    all.extend(each("i2s", i2s::Variant::available()));
    all.extend(each("tl1", tl1::Variant::available()));
    all.extend(each("tl2", tl2::Variant::available()));
    all
}

fn each<K: Kernel + Sync>(
    name: &'static str,
    variants: Vec<K>,
) -> impl Iterator<Item = Box<dyn Contender>> {
    let contender = move |kernel| Box::new(Named { name, kernel }) as Box<dyn Contender>;
    variants.into_iter().map(contender)
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
