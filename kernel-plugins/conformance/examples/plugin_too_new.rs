//! A plugin for a later version of the table's meaning.

mod stub;

use ternion_kernel_abi as abi;

static TABLE: stub::Static<abi::Kernel> = stub::Static(abi::Kernel {
    abi_version: 2,
    ..stub::table(c"too_new")
});

// SAFETY: the name is ternion's.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    &TABLE.0
}
