//! A plugin whose table has slots that this host doesn't know of.

mod stub;

use ternion_kernel_abi as abi;

#[repr(C)]
struct LaterKernel {
    known: abi::Kernel,
    later: [Option<extern "C" fn()>; 2],
}

static TABLE: stub::Static<LaterKernel> = stub::Static(LaterKernel {
    known: abi::Kernel {
        struct_size: size_of::<LaterKernel>() as u32,
        ..stub::table(c"newer_minor")
    },
    later: [None; 2],
});

// SAFETY: the name is ternion's.
#[unsafe(no_mangle)]
pub extern "C" fn ternion_kernel_v1() -> *const abi::Kernel {
    (&raw const TABLE.0).cast()
}
