//! Random weights in the shape of a family member, for measuring speed
//! without a model file.

use std::ops::Range;

use ternion_kernels::team::Team;
use ternion_model::{
    Activation, Architecture, DenseFormat, DenseMatrix, ModelError, Norm, Projection, Rope,
};

use crate::dialect::Dialect;
use crate::source::WeightSource;

/// A model with random ternary weights and a random f16 head.
pub struct Synthetic {
    architecture: Architecture,
    /// f16, `[vocab, hidden]`.
    embedding: Vec<u8>,
}

/// Name, hidden, ffn, layers, heads, key heads, head_dim, vocab, relu² and
/// sub-norms.
///
/// Up to 10B these are published models: bitnet_b1_58-large and -3B,
/// bitnet-b1.58-2B-4T, Llama3-8B-1.58, Falcon3-7B and -10B in 1.58 bits. Nobody
/// has published larger ones: 13b to 100b are those that bitnet.cpp makes up
/// for its benchmarks (`utils/generate-dummy-bitnet-model.py`), on which the
/// claim of 5 to 7 tokens a second for 100B rests. They share no key heads, and
/// have the skeleton and vocabulary of bitnet_b1_58-3B, which they are made
/// from.
type Row = (&'static str, [usize; 7], bool, bool);

const SHAPES: [Row; 11] = [
    ("0.7b", [1536, 4096, 24, 16, 16, 96, 32002], false, true),
    ("2b-4t", [2560, 6912, 30, 20, 5, 128, 128_256], true, true),
    ("3b", [3200, 8640, 26, 32, 32, 100, 32002], false, true),
    ("7b", [3072, 23040, 28, 12, 4, 256, 131_072], false, false),
    ("8b", [4096, 14336, 32, 32, 8, 128, 128_256], false, false),
    ("10b", [3072, 23040, 40, 12, 4, 256, 131_072], false, false),
    ("13b", [5120, 13824, 40, 40, 40, 128, 32002], false, true),
    ("30b", [6656, 16384, 60, 52, 52, 128, 32002], false, true),
    ("70b", [8192, 24576, 80, 64, 64, 128, 32002], false, true),
    ("100b", [8192, 45568, 72, 64, 64, 128, 32002], false, true),
    ("tiny", [256, 768, 4, 8, 2, 32, 1024], true, true),
];

/// Names that [`architecture_of`] knows.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|row| row.0)
}

/// Architecture of a named shape.
pub fn architecture_of(name: &str) -> Option<Architecture> {
    let (name, sizes, relu2, sub_norms) = *SHAPES.iter().find(|row| row.0 == name)?;
    let [hidden, ffn, layers, heads, kv_heads, head_dim, vocab] = sizes;
    Some(Architecture {
        family: format!("synthetic-{name}"),
        hidden,
        ffn,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocab,
        context: 32_768,
        rope_theta: 500_000.0,
        rope: Rope::Neox,
        norm_eps: 1e-5,
        activation: if relu2 {
            Activation::Relu2
        } else {
            Activation::Silu
        },
        sub_norms,
        tied_head: true,
    })
}

impl Synthetic {
    /// That of the peers that speed is compared with.
    pub const DIALECT: Dialect = Dialect::BitnetCpp;

    /// Random weights of this shape. The head is drawn now, the ternary
    /// matrices when they are asked for.
    pub fn new(architecture: Architecture, team: &Team) -> Synthetic {
        let row_bytes = 2 * architecture.hidden;
        let mut embedding = vec![0; architecture.vocab * row_bytes];
        team.rows(&mut embedding, row_bytes, |_, row, bytes| {
            let mut random = Random::new(row as u64);
            for value in bytes.as_chunks_mut::<2>().0 {
                // Any sign and fraction, exponents for 1/64 to 1/16.
                let bits = random.next() as u16 & 0x87ff | 0x2400;
                *value = bits.to_le_bytes();
            }
        });
        Synthetic {
            architecture,
            embedding,
        }
    }
}

impl WeightSource for Synthetic {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn dialect(&self) -> Dialect {
        Synthetic::DIALECT
    }

    fn scale(&self, _: usize, _: Projection) -> Result<f32, ModelError> {
        Ok(1.0)
    }

    fn trits_into(
        &self,
        layer: usize,
        projection: Projection,
        rows: Range<usize>,
        out: &mut [i8],
    ) -> Result<(), ModelError> {
        let matrix = (layer * 7 + projection as usize) as u64;
        let mut random = Random::new((matrix << 32) + rows.start as u64 + 1);
        for eight in out.chunks_mut(8) {
            let bytes = random.next().to_le_bytes();
            for (trit, byte) in eight.iter_mut().zip(bytes) {
                *trit = ((u16::from(byte) * 3) >> 8) as i8 - 1;
            }
        }
        Ok(())
    }

    fn norm(&self, _: usize, norm: Norm) -> Option<Vec<f32>> {
        let has = self.architecture.sub_norms || matches!(norm, Norm::Attention | Norm::Ffn);
        has.then(|| vec![1.0; norm.len(&self.architecture)])
    }

    fn output_norm(&self) -> Vec<f32> {
        vec![1.0; self.architecture.hidden]
    }

    fn embedding(&self) -> DenseMatrix<'_> {
        let Architecture { vocab, hidden, .. } = self.architecture;
        DenseMatrix::new(vocab, hidden, DenseFormat::F16, &self.embedding)
            .expect("the vector was made for this shape")
    }

    fn head(&self) -> DenseMatrix<'_> {
        self.embedding()
    }
}

/// xorshift64*: fast, and good enough to have no structure a kernel could use.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slip in one of the numbers makes a model of another size.
    #[test]
    fn shapes_have_the_size_in_their_name() {
        for name in shape_names().filter(|name| *name != "tiny") {
            let architecture = architecture_of(name).expect("it is listed");
            let layer = Projection::ALL.map(|projection| {
                let (rows, cols) = projection.shape(&architecture);
                rows * cols
            });
            let head = architecture.vocab * architecture.hidden;
            let parameters = architecture.layers * layer.iter().sum::<usize>() + head;
            let billions = name.split('b').next().expect("a number in front");
            let billions: f64 = billions.parse().expect("a number");
            let ratio = parameters as f64 / (billions * 1e9);
            assert!((0.9..1.25).contains(&ratio), "{name}: {parameters}");
        }
    }
}
