/* A plugin that answers right, and doesn't answer at all while the file
 * STALL_FILE exists: a stalled engine as users have it. While SLOW_FILE exists,
 * it takes its time. While FAIL_FILE does, it says that it failed; while
 * POISON_FILE does, for activations that it holds. They are the first that came
 * after it was created, empty. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ternion_kernel_v1 steady_kernel
#include "../../kernel-plugins/conformance/tests/odd_plugin.c"
#undef ternion_kernel_v1

static int32_t slow_prepare(uint64_t cols, uint64_t batch, const int8_t *activations,
                                  uint8_t *prepared)
{
    const struct timespec a_millisecond = {.tv_nsec = 1000 * 1000};
    if (access(SLOW_FILE, F_OK) == 0)
        nanosleep(&a_millisecond, 0);
    int8_t poison[4096];
    FILE *file = fopen(POISON_FILE, "r+");
    if (file) {
        size_t len = fread(poison, 1, sizeof poison, file);
        if (len == 0)
            fwrite(activations, 1, cols, file);
        fclose(file);
        for (uint64_t b = 0; len == cols && b < batch; b++)
            if (memcmp(activations + b * cols, poison, cols) == 0)
                return TERNION_FAILED;
    }
    return prepare(cols, batch, activations, prepared);
}

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
        .prepare = slow_prepare,
        .gemm = stalling_gemm,
    };
    return &stalling;
}
