//! Gate functions.

use super::{exp, two_widths};

two_widths! {
    /// `out[i] = max(gate[i], 0)² * up[i]`.
    pub fn relu2_times(gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            let positive = gate.max(0.0);
            *out = positive * positive * up;
        }
    }
}

two_widths! {
    /// `out[i] = gate[i] / (1 + e^-gate[i]) * up[i]`.
    pub fn silu_times(gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}
