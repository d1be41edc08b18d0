//! Float primitives whose result does not depend on the machine.
//!
//! A reduction here has one order, fixed by the length of its input: element
//! `i` goes to lane `i % 32` by fused multiply-add, the lanes are then added
//! pairwise. Every instruction set computes exactly that, so a variant is a
//! recompilation of the same body with wider registers, and the same request
//! gives the same bits on every CPU. Elementwise operations use the same
//! sequence of correctly rounded operations everywhere; [`exp`] is our own,
//! since the one of the C library differs between machines.

mod activation;
pub mod attention;
mod dense;
mod exp;
mod norm;
mod quantise;
mod scale;

pub use activation::{relu2_times, silu_times};
pub use dense::{add_scaled, dot, dot_bf16, dot_f16, dot_f32_bytes, widen_bf16, widen_f16};
pub use exp::exp;
pub use norm::{rms_norm, rms_norm_ggml, rms_norm_torch};
pub use quantise::{quantise, quantise_torch};
pub use scale::{add_scaled_sums, scale_sums};

/// Partial sums of a reduction: enough for four AVX2 or two AVX-512 registers.
pub(crate) const LANES: usize = 32;

/// Adds the lanes pairwise: `l` and `l + 16`, then `l` and `l + 8`, and so on.
///
/// Not inlined: where it is, the compiler splits the lanes of the loop before
/// it into pairs, for the sake of the last additions, and never joins them to
/// whole registers again.
#[inline(never)]
fn add_lanes(lanes: &mut [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// True where the wide variants may run: AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn wide() -> bool {
    std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
}

/// Defines a function twice from one body, for the baseline of the target and
/// for AVX2 with FMA, and picks one at run time.
macro_rules! two_widths {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                if crate::float::wide() {
                    // SAFETY: `wide` says that the CPU has these features.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use two_widths;

#[cfg(test)]
mod tests;
