//! A plugin from before the table had its functions.

mod stub;

use ternion_kernel_abi as abi;

static TABLE: stub::Static<abi::Kernel> = stub::Static(abi::Kernel {
    struct_size: 16,
    ..stub::table(c"too_old")
});

// SAFETY: the name is ternion's.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    &TABLE.0
}
