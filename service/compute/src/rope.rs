//! Rotary position embedding.

use ternion_model::Rope;

/// Cosines and sines of every position and pair.
///
/// As in transformers, the frequency `theta^(-2j/d)` and the angle are rounded
/// to f32 and the functions of that angle are exact to f32; they come from a
/// library in Rust, since those of C libraries differ.
pub(crate) struct RopeTable {
    convention: Rope,
    pairs: usize,
    /// `[positions][pairs]` of (cos, sin).
    rotations: Vec<(f32, f32)>,
}

impl RopeTable {
    pub(crate) fn new(
        convention: Rope,
        theta: f32,
        head_dim: usize,
        positions: usize,
    ) -> RopeTable {
        let pairs = head_dim / 2;
        let frequencies: Vec<f32> = (0..pairs)
            .map(|j| libm::pow(f64::from(theta), -2.0 * j as f64 / head_dim as f64) as f32)
            .collect();
        let rotations = (0..positions)
            .flat_map(|position| {
                frequencies.iter().map(move |frequency| {
                    let angle = f64::from(position as f32 * frequency);
                    (libm::cos(angle) as f32, libm::sin(angle) as f32)
                })
            })
            .collect();
        RopeTable {
            convention,
            pairs,
            rotations,
        }
    }

    /// Rotates every head of `heads`, `[n][head_dim]`, to `position`.
    pub(crate) fn rotate(&self, position: usize, heads: &mut [f32]) {
        let rotations = &self.rotations[position * self.pairs..][..self.pairs];
        for head in heads.chunks_exact_mut(2 * self.pairs) {
            match self.convention {
                Rope::Neox => {
                    let (first, second) = head.split_at_mut(self.pairs);
                    for ((a, b), rotation) in first.iter_mut().zip(second).zip(rotations) {
                        rotate_pair(a, b, *rotation);
                    }
                }
                Rope::Interleaved => {
                    for ([a, b], rotation) in head.as_chunks_mut().0.iter_mut().zip(rotations) {
                        rotate_pair(a, b, *rotation);
                    }
                }
            }
        }
    }
}

fn rotate_pair(a: &mut f32, b: &mut f32, (cos, sin): (f32, f32)) {
    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conventions_pair_different_elements() {
        // theta 1 makes every frequency 1: all pairs turn by the position.
        let (sin, cos) = 2.0_f32.sin_cos();
        let mut neox = [1.0, 0.0, 0.0, 1.0];
        RopeTable::new(Rope::Neox, 1.0, 4, 3).rotate(2, &mut neox);
        assert_eq!(neox, [cos, -sin, sin, cos]);

        let mut interleaved = [1.0, 0.0, 0.0, 1.0];
        RopeTable::new(Rope::Interleaved, 1.0, 4, 3).rotate(2, &mut interleaved);
        assert_eq!(interleaved, [cos, sin, -sin, cos]);
    }

    #[test]
    fn frequencies_fall_with_the_pair() {
        // Pair 1 of 2 at theta 10000 turns 100 times slower than pair 0.
        let mut head = [1.0, 1.0, 0.0, 0.0];
        RopeTable::new(Rope::Neox, 10_000.0, 4, 101).rotate(100, &mut head);
        let want = [100_f64.cos(), 1_f64.cos(), 100_f64.sin(), 1_f64.sin()];
        for (got, want) in head.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} is not {want}");
        }
    }
}
