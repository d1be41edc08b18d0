//! Hints of what will be read.

/// Brings the line where something begins.
#[inline(always)]
pub(super) fn line<T>(at: &T) {
    let at = core::ptr::from_ref(at);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every CPU of this kind has the instruction, which reads nothing as
    // far as the program can tell.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: likewise.
    unsafe {
        core::arch::asm!(
            "prfm pldl1keep, [{at}]",
            at = in(reg) at,
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
