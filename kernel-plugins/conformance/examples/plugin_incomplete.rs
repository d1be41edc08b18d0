//! A plugin that leaves a function out.

mod stub;

use ternion_kernel_abi as abi;

static TABLE: stub::Static<abi::Kernel> = stub::Static(abi::Kernel {
    prepare: None,
    ..stub::table(c"incomplete")
});

// SAFETY: the name is ternion's.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    &TABLE.0
}
