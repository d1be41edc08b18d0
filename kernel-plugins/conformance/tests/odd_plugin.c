/* Where other plugins are alike, this one is not: tiles of five rows, a weight a
 * byte, transposed, so that rows of different tiles lie between each other. */
#include <ternion_kernel.h>

static const char *isa(void)
{
    return "c";
}

static int32_t probe(void)
{
    return 10;
}

/* Of the shapes it is asked for, it turns some down. */
static int32_t supports(uint64_t rows, uint64_t cols)
{
    return rows > 0 && cols > 1 && cols <= TERNION_MAX_COLS;
}

static uint64_t packed_bytes(uint64_t rows, uint64_t cols)
{
    return supports(rows, cols) ? rows * cols : 0;
}

static int32_t pack(uint64_t rows, uint64_t cols, uint64_t row_begin, uint64_t row_end,
                    const int8_t *trits, uint8_t *packed)
{
    if (!supports(rows, cols))
        return TERNION_UNSUPPORTED;
    if (row_begin > row_end || row_end > rows)
        return TERNION_INVALID;
    for (uint64_t r = row_begin; r < row_end; r++) {
        for (uint64_t c = 0; c < cols; c++) {
            int8_t trit = *trits++;
            if (trit < -1 || trit > 1)
                return TERNION_INVALID;
            packed[c * rows + r] = (uint8_t)trit;
        }
    }
    return TERNION_OK;
}

static uint64_t prepared_bytes(uint64_t cols, uint64_t batch)
{
    return cols * batch;
}

static int32_t prepare(uint64_t cols, uint64_t batch, const int8_t *activations, uint8_t *prepared)
{
    for (uint64_t i = 0; i < cols * batch; i++)
        prepared[i] = (uint8_t)activations[i];
    return TERNION_OK;
}

static int32_t gemm(uint64_t rows, uint64_t cols, const uint8_t *packed, uint64_t batch,
                    const uint8_t *prepared, uint64_t row_begin, uint64_t row_end,
                    int32_t *out, uint64_t out_stride)
{
    for (uint64_t b = 0; b < batch; b++) {
        int32_t *sums = out + b * out_stride;
        for (uint64_t r = row_begin; r < row_end; r++)
            sums[r - row_begin] = 0;
        for (uint64_t c = 0; c < cols; c++) {
            int32_t x = (int8_t)prepared[b * cols + c];
            for (uint64_t r = row_begin; r < row_end; r++)
                sums[r - row_begin] += (int8_t)packed[c * rows + r] * x;
        }
    }
    return TERNION_OK;
}

static const ternion_kernel table = {
    .abi_version = TERNION_ABI_VERSION,
    .struct_size = sizeof(ternion_kernel),
    .name = "odd",
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
    .gemm = gemm,
};

const ternion_kernel *ternion_kernel_v1(void)
{
    return &table;
}
