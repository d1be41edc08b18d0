//! What this CPU can do, and its operating system lets programs do.

/// Names as in `std::arch`'s detection, which asks the CPU and, for what has
/// registers of its own, whether the operating system saves them.
macro_rules! features {
    ($detected:ident: $($feature:tt)*) => {
        const KNOWN: &[&str] = &[$($feature),*];

        /// Whether a feature is there; None if this host knows no such feature.
        pub(crate) fn has(name: &str) -> Option<bool> {
            match name {
                $($feature => Some(std::arch::$detected!($feature)),)*
                _ => None,
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
features!(is_x86_feature_detected:
    "sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "lzcnt" "movbe" "bmi1" "bmi2" "adx"
    "f16c" "fma" "avx" "avx2" "avxvnni" "avxvnniint8" "avxvnniint16" "avxifma" "gfni" "vaes"
    "vpclmulqdq" "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512ifma" "avx512vbmi"
    "avx512vbmi2" "avx512vnni" "avx512bitalg" "avx512vpopcntdq" "avx512bf16" "avx512fp16");

#[cfg(target_arch = "aarch64")]
features!(is_aarch64_feature_detected:
    "neon" "fp16" "fhm" "rdm" "fcma" "lse" "crc" "dotprod" "i8mm" "bf16" "sve" "sve2" "f32mm"
    "f64mm");

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod none {
    pub(super) const KNOWN: &[&str] = &[];

    pub(crate) fn has(_name: &str) -> Option<bool> {
        None
    }
}
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use none::KNOWN;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use none::has;

/// Those features of this CPU that a plugin could ask for.
pub fn cpu_features() -> Vec<&'static str> {
    let is_there = |name: &&str| has(name) == Some(true);
    KNOWN.iter().copied().filter(is_there).collect()
}
