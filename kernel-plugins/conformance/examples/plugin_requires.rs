//! A plugin for CPUs that are not built yet.

mod stub;

use ternion_kernel_abi as abi;

abi::requires!("quantum");

static TABLE: stub::Static<abi::Kernel> = stub::Static(stub::table(c"requires"));

// SAFETY: the name is ternion's.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    &TABLE.0
}
