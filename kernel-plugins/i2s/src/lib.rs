//! The i2s kernel as a plugin.

use core::ffi::CStr;

use ternion_kernel_abi as abi;
use ternion_kernel_export::{Plugin, Table};
use ternion_kernels::i2s::Variant;

struct I2s;

impl Plugin for I2s {
    const NAME: &'static CStr = c"i2s";
    type Kernel = Variant;

    fn kernel() -> Variant {
        Variant::best()
    }
}

static TABLE: Table = Table::of::<I2s>();

/// The plugin's one exported symbol.
// SAFETY: the name is ternion's, and no other library exports it as something
// else.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    TABLE.as_ptr()
}
