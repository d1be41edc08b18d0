/* A plugin that answers right, and doesn't answer at all while the file
 * STALL_FILE exists: a stalled engine as users have it. While FAIL_FILE exists,
 * it says that it failed. */
#define _GNU_SOURCE
#include <time.h>
#include <unistd.h>

#define ternion_kernel_v1 steady_kernel
#include "../../kernel-plugins/conformance/tests/odd_plugin.c"
#undef ternion_kernel_v1

static int32_t stalling_gemm(uint64_t rows, uint64_t cols, const uint8_t *packed, uint64_t batch,
                             const uint8_t *prepared, uint64_t row_begin, uint64_t row_end,
                             int32_t *out, uint64_t out_stride)
{
    const struct timespec a_moment = {.tv_nsec = 10 * 1000 * 1000};
    while (access(STALL_FILE, F_OK) == 0)
        nanosleep(&a_moment, 0);
    if (access(FAIL_FILE, F_OK) == 0)
        return TERNION_FAILED;
    return gemm(rows, cols, packed, batch, prepared, row_begin, row_end, out, out_stride);
}

const ternion_kernel *ternion_kernel_v1(void)
{
    static const ternion_kernel stalling = {
        .abi_version = TERNION_ABI_VERSION,
        .struct_size = sizeof(ternion_kernel),
        .name = "stalling",
        .version = "1.0",
        .isa = isa,
        .probe = probe,
        .alignment = 8,
        .row_tile = 5,
        .supports = supports,
        .packed_bytes = packed_bytes,
        .pack = pack,
        .prepared_bytes = prepared_bytes,
        .prepare = prepare,
        .gemm = stalling_gemm,
    };
    return &stalling;
}
