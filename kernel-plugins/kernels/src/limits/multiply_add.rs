//! The most int8 products that can be added up: the instructions that kernels
//! multiply with, and nothing else, in registers.
//!
//! Written as assembly, since what is measured is the instruction: a compiler
//! sees that nothing comes of it. Sums are many enough to hide the latency.

use std::time::{Duration, Instant};

use super::median;
use crate::team::Team;

/// A way to multiply and add that this CPU has.
#[derive(Clone, Copy, Debug)]
pub struct MultiplyAdd {
    name: &'static str,
    /// Products of one turn of the loop.
    turn: u64,
    run: fn(turns: u64),
}

/// What is multiplied: not zeros, as some CPUs' power and so their clock
/// depends on it.
#[repr(align(64))]
struct Operand(#[expect(dead_code, reason = "assembly reads it")] [u8; 64]);

static CODES: Operand = Operand([1; 64]);
static ACTIVATIONS: Operand = Operand([0x5b; 64]);

impl MultiplyAdd {
    /// All that this CPU has, the best one last.
    pub fn available() -> Vec<MultiplyAdd> {
        let mut all = vec![MultiplyAdd {
            name: "rust",
            turn: 512,
            run: in_rust,
        }];
        #[cfg(target_arch = "x86_64")]
        x86_64::add_to(&mut all);
        #[cfg(target_arch = "aarch64")]
        aarch64::add_to(&mut all);
        all
    }

    /// The instructions: `vpmaddubsw+vpaddw`, `vpdpbusd ymm`, `vpdpbusd zmm`,
    /// `smlal`, `sdot`, or `rust` for what the compiler makes of a loop.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Products a second that the team multiplies and adds up together.
    pub fn measure(self, team: &Team, budget: Duration) -> f64 {
        // Some tenths of a millisecond, so that a thread that loses its core
        // for a while leaves the others to take over.
        const TURNS: u64 = 20_000;
        let num_chunks = 8 * team.size();
        let time = median(budget, || {
            let start = Instant::now();
            team.run(num_chunks, &|_, _| (self.run)(TURNS));
            start.elapsed()
        });
        (num_chunks as u64 * TURNS * self.turn) as f64 / time.as_secs_f64()
    }
}

fn in_rust(turns: u64) {
    let mut sums = [0_i16; 512];
    let codes = std::hint::black_box([1_i16; 512]);
    for turn in 0..turns {
        let x = std::hint::black_box(turn as i16);
        for (sum, code) in sums.iter_mut().zip(&codes) {
            *sum = sum.wrapping_add(code.wrapping_mul(x));
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    use super::{ACTIVATIONS, CODES, MultiplyAdd};

    pub(super) fn add_to(all: &mut Vec<MultiplyAdd>) {
        if is_x86_feature_detected!("avx2") {
            all.push(MultiplyAdd {
                name: "vpmaddubsw+vpaddw",
                turn: 12 * 32,
                // SAFETY: the CPU has AVX2.
                run: |turns| unsafe { maddubs(turns) },
            });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
            all.push(MultiplyAdd {
                name: "vpdpbusd ymm",
                turn: 12 * 32,
                // SAFETY: the CPU has AVX-VNNI.
                run: |turns| unsafe { dpbusd_ymm(turns) },
            });
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            all.push(MultiplyAdd {
                name: "vpdpbusd zmm",
                turn: 24 * 64,
                // SAFETY: the CPU has AVX-512 with VNNI.
                run: |turns| unsafe { dpbusd_zmm(turns) },
            });
        }
    }

    /// A loop of assembly, with each of the numbers in turn for `N`. An
    /// instruction that names its register once repeats it in a comment.
    macro_rules! assembly {
        (
            $name:ident, $features:literal, load $load:literal,
            for [$($number:literal)*] $first:literal N $second:literal N $third:literal,
            changes [$($register:tt)*]
        ) => {
            #[target_feature(enable = $features)]
            fn $name(turns: u64) {
                if turns == 0 {
                    return;
                }
                // SAFETY: reads two statics, which are as long as the longest
                // vector, counts a register down, and changes no others than
                // those that it says.
                unsafe {
                    asm!(
                        $load,
                        "2:",
                        $(concat!($first, $number, $second, $number, $third),)*
                        "dec {turns}",
                        "jnz 2b",
                        turns = inout(reg) turns => _,
                        codes = in(reg) &raw const CODES,
                        activations = in(reg) &raw const ACTIVATIONS,
                        $(out($register) _,)*
                        options(nostack, readonly),
                    );
                }
            }
        };
    }

    assembly! {
        maddubs, "avx2",
        load "vmovdqu ymm14, [{codes}]\nvmovdqu ymm15, [{activations}]",
        for [0 1 2 3 4 5 6 7 8 9 10 11]
            "vpmaddubsw ymm12, ymm14, ymm15\nvpaddw ymm" N ", ymm12, ymm" N "",
        changes [
            "ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9" "ymm10"
            "ymm11" "ymm12" "ymm14" "ymm15"
        ]
    }

    assembly! {
        dpbusd_ymm, "avx2,avxvnni",
        load "vmovdqu ymm14, [{codes}]\nvmovdqu ymm15, [{activations}]",
        for [0 1 2 3 4 5 6 7 8 9 10 11] "{{vex}} vpdpbusd ymm" N ", ymm14, ymm15 #" N "",
        changes [
            "ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9" "ymm10"
            "ymm11" "ymm14" "ymm15"
        ]
    }

    assembly! {
        dpbusd_zmm, "avx512f,avx512vnni",
        load "vmovdqu64 zmm30, [{codes}]\nvmovdqu64 zmm31, [{activations}]",
        for [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23]
            "vpdpbusd zmm" N ", zmm30, zmm31 #" N "",
        changes [
            "zmm0" "zmm1" "zmm2" "zmm3" "zmm4" "zmm5" "zmm6" "zmm7" "zmm8" "zmm9" "zmm10"
            "zmm11" "zmm12" "zmm13" "zmm14" "zmm15" "zmm16" "zmm17" "zmm18" "zmm19" "zmm20"
            "zmm21" "zmm22" "zmm23" "zmm30" "zmm31"
        ]
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::{asm, is_aarch64_feature_detected};

    use super::{ACTIVATIONS, CODES, MultiplyAdd};

    pub(super) fn add_to(all: &mut Vec<MultiplyAdd>) {
        all.push(MultiplyAdd {
            name: "smlal",
            turn: 24 * 8,
            // SAFETY: every aarch64 CPU that Rust's target allows has NEON.
            run: |turns| unsafe { smlal(turns) },
        });
        if is_aarch64_feature_detected!("dotprod") {
            all.push(MultiplyAdd {
                name: "sdot",
                turn: 24 * 16,
                // SAFETY: the CPU has it.
                run: |turns| unsafe { sdot(turns) },
            });
        }
    }

    macro_rules! assembly {
        (
            $name:ident, $features:literal,
            for [$($number:literal)*] $first:literal N $second:literal
        ) => {
            #[target_feature(enable = $features)]
            fn $name(turns: u64) {
                if turns == 0 {
                    return;
                }
                // SAFETY: reads two statics, which are as long as a vector,
                // counts a register down, and changes no others than those
                // that it says.
                unsafe {
                    asm!(
                        "ldr q30, [{codes}]",
                        "ldr q31, [{activations}]",
                        "2:",
                        $(concat!($first, $number, $second),)*
                        "subs {turns}, {turns}, #1",
                        "b.ne 2b",
                        turns = inout(reg) turns => _,
                        codes = in(reg) &raw const CODES,
                        activations = in(reg) &raw const ACTIVATIONS,
                        out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _,
                        out("v5") _, out("v6") _, out("v7") _, out("v8") _, out("v9") _,
                        out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
                        out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                        out("v20") _, out("v21") _, out("v22") _, out("v23") _,
                        out("v30") _, out("v31") _,
                        options(nostack, readonly),
                    );
                }
            }
        };
    }

    assembly! {
        smlal, "neon",
        for [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23]
            "smlal v" N ".8h, v30.8b, v31.8b"
    }

    assembly! {
        sdot, "dotprod",
        for [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23]
            "sdot v" N ".4s, v30.16b, v31.16b"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An emulated CPU does more than a million products a second, and none
    /// does a thousand a cycle of a fast clock.
    #[test]
    fn speeds_are_of_this_world() {
        const TURNS: u64 = 1000;
        for way in MultiplyAdd::available() {
            let start = Instant::now();
            (way.run)(TURNS);
            let speed = (TURNS * way.turn) as f64 / start.elapsed().as_secs_f64();
            assert!((1e6..5e12).contains(&speed), "{}: {speed:e}", way.name());
        }
    }
}
