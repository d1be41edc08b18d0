/* A plugin that computes right, and does something else at a moment of the
 * caller's choice: the statement AT_LOAD, AT_ENTRY, AT_PROBE, AT_GEMM or
 * AT_UNLOAD. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ternion_kernel_v1 well_behaved_kernel
#include "../../kernel-plugins/conformance/tests/odd_plugin.c"
#undef ternion_kernel_v1

#ifndef NAME
#define NAME "misbehaving"
#endif
#ifndef SCORE
#define SCORE 10
#endif
#ifndef AT_LOAD
#define AT_LOAD
#endif
#ifndef AT_ENTRY
#define AT_ENTRY
#endif
#ifndef AT_PROBE
#define AT_PROBE
#endif
#ifndef AT_GEMM
#define AT_GEMM
#endif
#ifndef AT_UNLOAD
#define AT_UNLOAD
#endif

/* As a wild pointer does it, and not by raise. */
__attribute__((unused)) static void crash(void)
{
    volatile int *volatile nowhere = (volatile int *)8;
    *nowhere = 1;
}

__attribute__((unused)) static void write_pid(const char *path)
{
    FILE *file = fopen(path, "w");
    if (file) {
        fprintf(file, "%ld\n", (long)getpid());
        fclose(file);
    }
}

__attribute__((constructor)) static void load(void)
{
    AT_LOAD;
}

__attribute__((destructor)) static void unload(void)
{
    AT_UNLOAD;
}

static int32_t misbehaving_probe(void)
{
    AT_PROBE;
    return SCORE;
}

static int32_t misbehaving_gemm(uint64_t rows, uint64_t cols, const uint8_t *packed, uint64_t batch,
                                const uint8_t *prepared, uint64_t row_begin, uint64_t row_end,
                                int32_t *out, uint64_t out_stride)
{
    int32_t status = gemm(rows, cols, packed, batch, prepared, row_begin, row_end, out, out_stride);
    AT_GEMM;
    return status;
}

const ternion_kernel *ternion_kernel_v1(void)
{
    static ternion_kernel table;
    AT_ENTRY;
    table = *well_behaved_kernel();
    table.name = NAME;
    table.probe = misbehaving_probe;
    table.gemm = misbehaving_gemm;
    return &table;
}
