//! The tl1 kernel as a plugin.

use core::ffi::CStr;

use ternion_kernel_abi as abi;
use ternion_kernel_export::{Plugin, Table};
use ternion_kernels::tl1::Variant;

struct Tl1;

impl Plugin for Tl1 {
    const NAME: &'static CStr = c"tl1";
    type Kernel = Variant;

    fn kernel() -> Variant {
        Variant::best()
    }
}

static TABLE: Table = Table::of::<Tl1>();

/// The plugin's one exported symbol.
// SAFETY: the name is ternion's, and no other library exports it as something
// else.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    TABLE.as_ptr()
}
