//! Bandwidth of reading memory.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use memmap2::{MmapMut, MmapOptions};

use super::median;
use crate::team::Team;

/// Bytes to read if the caches are not large: eight times what most have.
const MIN_BYTES: usize = 256 << 20;
/// Times the largest cache.
const CACHES: usize = 4;
/// Bytes that a thread reads at a time, one after the other.
const CHUNK: usize = 1 << 20;

/// Bytes ahead of the read that are asked for. Which is best, if any, is for
/// the CPU to say.
const PREFETCHES: [Option<usize>; 4] = [None, Some(512), Some(4096), Some(12288)];

/// Memory to read from, far larger than any cache, on small and on huge pages.
pub struct ReadBandwidth {
    memories: Vec<MmapMut>,
}

impl ReadBandwidth {
    /// Takes two times 256 MiB, or eight times the largest cache if that is
    /// more.
    ///
    /// # Errors
    ///
    /// The operating system's, if it has not so much memory.
    pub fn new() -> io::Result<ReadBandwidth> {
        let bytes = (CACHES * largest_cache()).max(MIN_BYTES);
        let bytes = bytes.next_multiple_of(CHUNK);
        let small = MmapOptions::new().len(bytes).map_anon()?;
        let huge = MmapOptions::new().len(bytes).map_anon()?;
        // Where this is refused, or unknown, both are on small pages.
        #[cfg(target_os = "linux")]
        let _ = huge.advise(memmap2::Advice::HugePage);
        let mut memories = vec![small, huge];
        // Pages that were never written are all one page of zeros.
        memories.iter_mut().for_each(|memory| memory.fill(1));
        Ok(ReadBandwidth { memories })
    }

    /// Bytes of memory that this takes.
    pub fn bytes(&self) -> usize {
        self.memories.iter().map(|memory| memory.len()).sum()
    }

    /// Bytes a second that the team reads together, in the fastest way. Each
    /// way gets its part of the budget.
    pub fn measure(&self, team: &Team, budget: Duration) -> f64 {
        self.fastest(team, budget).1
    }

    /// The fastest way to read, and its bytes a second.
    pub fn fastest(&self, team: &Team, budget: Duration) -> (Reading<'_>, f64) {
        let budget = budget / (PREFETCHES.len() * self.memories.len()) as u32;
        let ways = PREFETCHES.iter().flat_map(|&ahead| {
            let reading = move |memory| Reading { memory, ahead };
            self.memories.iter().map(reading)
        });
        ways.map(|way| {
            let time = median(budget, || way.pass(team));
            (way, way.memory.len() as f64 / time.as_secs_f64())
        })
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .expect("there are some ways")
    }
}

/// A way to read memory.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    memory: &'a MmapMut,
    ahead: Option<usize>,
}

impl Reading<'_> {
    /// Bytes of a pass.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Reads all of it once, which takes some milliseconds: to be taken in
    /// turns with what is measured against it.
    pub fn pass(&self, team: &Team) -> Duration {
        let (chunks, _) = self.memory.as_chunks::<CHUNK>();
        let start = Instant::now();
        team.run(chunks.len(), &|_, chunk| {
            black_box(sum(&chunks[chunk], self.ahead));
        });
        start.elapsed()
    }
}

/// Bytes of the largest cache that Linux tells of, or 0.
fn largest_cache() -> usize {
    (0..8)
        .filter_map(|index| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
            let size = std::fs::read_to_string(path).ok()?;
            size.trim().strip_suffix('K')?.parse::<usize>().ok()
        })
        .max()
        .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
}

/// Adds up memory, in vectors of the CPU's best width.
fn sum(chunk: &[u8; CHUNK], ahead: Option<usize>) -> u64 {
    let (lines, _) = chunk.as_chunks::<128>();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has it.
            return unsafe { x86_64::sum_avx512(lines, ahead) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has it.
            return unsafe { x86_64::sum_avx2(lines, ahead) };
        }
    }
    // Stable Rust has no prefetch for other CPUs.
    let _ = ahead;
    let mut sums = [0_u64; 16];
    for lines in lines {
        for (sum, number) in sums.iter_mut().zip(lines.as_chunks().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*number));
        }
    }
    total(&sums)
}

fn total(sums: &[u64]) -> u64 {
    sums.iter().fold(0, |total, &sum| total.wrapping_add(sum))
}

/// With intrinsics, since the compiler makes shuffles of the loop above.
#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::x86_64::{
        __m256i, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi64, _mm256_loadu_si256,
        _mm256_setzero_si256, _mm256_storeu_si256, _mm512_add_epi64, _mm512_loadu_si512,
        _mm512_setzero_si512, _mm512_storeu_si512,
    };

    use super::total;

    /// Two cache lines.
    type Lines = [u8; 128];

    macro_rules! sum {
        (
            $name:ident, $feature:literal, $vector:ident,
            $zero:ident, $load:ident, $store:ident, $add:ident
        ) => {
            #[target_feature(enable = $feature)]
            pub(super) fn $name(lines: &[Lines], ahead: Option<usize>) -> u64 {
                const VECTORS: usize = 128 / size_of::<$vector>();
                let mut sums = [$zero(); VECTORS];
                for lines in lines {
                    if let Some(ahead) = ahead {
                        for line in [ahead, ahead + 64] {
                            let there = lines.as_ptr().wrapping_add(line);
                            _mm_prefetch::<_MM_HINT_T0>(there.cast());
                        }
                    }
                    let (vectors, _) = lines.as_chunks::<{ size_of::<$vector>() }>();
                    for (sum, bytes) in sums.iter_mut().zip(vectors) {
                        // SAFETY: there are as many bytes as a vector has, and
                        // this load needs no alignment.
                        *sum = $add(*sum, unsafe { $load(bytes.as_ptr().cast()) });
                    }
                }
                let mut numbers = [[0; size_of::<$vector>() / 8]; VECTORS];
                for (numbers, sum) in numbers.iter_mut().zip(sums) {
                    // SAFETY: as for the load, and the reference is exclusive.
                    unsafe { $store(numbers.as_mut_ptr().cast(), sum) }
                }
                total(numbers.as_flattened())
            }
        };
    }

    sum! {
        sum_avx512, "avx512f", __m512i,
        _mm512_setzero_si512, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_add_epi64
    }

    sum! {
        sum_avx2, "avx2", __m256i,
        _mm256_setzero_si256, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_add_epi64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        let mut chunk = vec![0_u8; CHUNK];
        for at in [0, 8, 120, 128, CHUNK - 8] {
            chunk[at] = 1;
        }
        let chunk = chunk.as_array().expect("a chunk's length");
        for ahead in PREFETCHES {
            assert_eq!(sum(chunk, ahead), 5);
        }
    }
}
