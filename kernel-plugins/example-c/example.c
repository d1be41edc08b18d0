/*
 * A complete kernel plugin in plain C, to start one's own from. How to build
 * it, try it and serve with it is in ../WRITING.md.
 *
 * Packed, a weight is a code of two bits, trit + 1: never negative, so that
 * codes times int8 activations is what the multiply-add instructions of x86
 * and ARM take. A row is cut into groups of 128 columns, a group is 32 bytes,
 * and byte p of it holds the codes of columns p, 32 + p, 64 + p and 96 + p
 * from the low bits up: one shift of 32 bytes gives 32 codes in order, which
 * compilers turn into vectors.
 *
 * The ones that were added come off again with the sum of the activations:
 *
 *     sum of w * x  =  sum of (w + 1) * x  -  sum of x
 *
 * Prepared, a token is that sum in a header of 32 bytes, then its activations.
 * Both are filled up with zeros to whole groups, so that columns that the
 * matrix doesn't have add nothing.
 *
 * Nothing overflows. A row's sum begins at -(sum of x) and each product is
 * added as it comes, so what it holds at any time is the sum of w * x over the
 * columns done minus the sum of x over the others: at most 128 a column, and
 * TERNION_MAX_COLS of these are 2^30.
 */
#include <stddef.h>
#include <string.h>

#include <ternion_kernel.h>

#define GROUP_COLS 128
#define GROUP_BYTES (GROUP_COLS / 4)
#define HEADER_BYTES 32
#define ROW_TILE 8

static uint64_t num_groups(uint64_t cols)
{
    return (cols + GROUP_COLS - 1) / GROUP_COLS;
}

static uint64_t row_bytes(uint64_t cols)
{
    return num_groups(cols) * GROUP_BYTES;
}

static uint64_t token_bytes(uint64_t cols)
{
    return HEADER_BYTES + num_groups(cols) * GROUP_COLS;
}

static int are_cols_supported(uint64_t cols)
{
    return cols > 0 && cols <= TERNION_MAX_COLS;
}

static int are_whole_tiles(uint64_t rows, uint64_t row_begin, uint64_t row_end)
{
    return row_begin <= row_end && row_end <= rows && row_begin % ROW_TILE == 0 &&
           (row_end % ROW_TILE == 0 || row_end == rows);
}

static const char *isa(void)
{
    return "c";
}

static int32_t probe(void)
{
    return 50;
}

static int32_t supports(uint64_t rows, uint64_t cols)
{
    return rows > 0 && are_cols_supported(cols) && rows <= PTRDIFF_MAX / row_bytes(cols);
}

static uint64_t packed_bytes(uint64_t rows, uint64_t cols)
{
    return supports(rows, cols) ? rows * row_bytes(cols) : 0;
}

static int32_t pack(uint64_t rows, uint64_t cols, uint64_t row_begin, uint64_t row_end,
                    const int8_t *trits, uint8_t *packed)
{
    if (!supports(rows, cols))
        return TERNION_UNSUPPORTED;
    if (!are_whole_tiles(rows, row_begin, row_end) || !trits || !packed)
        return TERNION_INVALID;
    for (uint64_t r = row_begin; r < row_end; r++, trits += cols) {
        uint8_t *row = packed + r * row_bytes(cols);
        memset(row, 0, row_bytes(cols));
        for (uint64_t c = 0; c < cols; c++) {
            if (trits[c] < -1 || trits[c] > 1)
                return TERNION_INVALID;
            uint64_t in_group = c % GROUP_COLS;
            int code = trits[c] + 1;
            int shift = 2 * (int)(in_group / GROUP_BYTES);
            row[c / GROUP_COLS * GROUP_BYTES + in_group % GROUP_BYTES] |= (uint8_t)(code << shift);
        }
    }
    return TERNION_OK;
}

static uint64_t prepared_bytes(uint64_t cols, uint64_t batch)
{
    if (!are_cols_supported(cols) || batch > PTRDIFF_MAX / token_bytes(cols))
        return 0;
    return batch * token_bytes(cols);
}

static int32_t prepare(uint64_t cols, uint64_t batch, const int8_t *activations, uint8_t *prepared)
{
    if (prepared_bytes(cols, batch) == 0)
        return TERNION_UNSUPPORTED;
    if (!activations || !prepared)
        return TERNION_INVALID;
    for (uint64_t b = 0; b < batch; b++, activations += cols, prepared += token_bytes(cols)) {
        int32_t sum = 0;
        for (uint64_t c = 0; c < cols; c++)
            sum += activations[c];
        memset(prepared, 0, token_bytes(cols));
        memcpy(prepared, &sum, sizeof sum);
        memcpy(prepared + HEADER_BYTES, activations, cols);
    }
    return TERNION_OK;
}

static void unpack(const uint8_t *group, uint8_t *codes)
{
    for (int p = 0; p < GROUP_BYTES; p++) {
        codes[p] = group[p] & 3;
        codes[GROUP_BYTES + p] = group[p] >> 2 & 3;
        codes[2 * GROUP_BYTES + p] = group[p] >> 4 & 3;
        codes[3 * GROUP_BYTES + p] = group[p] >> 6;
    }
}

static int32_t add_products(int32_t sum, const uint8_t *codes, const uint8_t *activations)
{
    for (int c = 0; c < GROUP_COLS; c++)
        sum += codes[c] * (int8_t)activations[c];
    return sum;
}

static int32_t gemm(uint64_t rows, uint64_t cols, const uint8_t *packed, uint64_t batch,
                    const uint8_t *prepared, uint64_t row_begin, uint64_t row_end,
                    int32_t *out, uint64_t out_stride)
{
    if (!supports(rows, cols) || prepared_bytes(cols, batch) == 0)
        return TERNION_UNSUPPORTED;
    if (!are_whole_tiles(rows, row_begin, row_end) || out_stride < row_end - row_begin ||
        out_stride > PTRDIFF_MAX / sizeof *out / batch || !packed || !prepared || !out)
        return TERNION_INVALID;
    for (uint64_t b = 0; b < batch; b++) {
        int32_t sum;
        memcpy(&sum, prepared + b * token_bytes(cols), sizeof sum);
        for (uint64_t i = 0; i < row_end - row_begin; i++)
            out[b * out_stride + i] = -sum;
    }
    for (uint64_t r = row_begin; r < row_end; r += ROW_TILE) {
        uint64_t num_rows = row_end - r < ROW_TILE ? row_end - r : ROW_TILE;
        for (uint64_t g = 0; g < num_groups(cols); g++) {
            /* Unpacked once for all tokens, and a token's group read once for all rows. */
            uint8_t codes[ROW_TILE][GROUP_COLS];
            for (uint64_t i = 0; i < num_rows; i++)
                unpack(packed + (r + i) * row_bytes(cols) + g * GROUP_BYTES, codes[i]);
            for (uint64_t b = 0; b < batch; b++) {
                const uint8_t *token = prepared + b * token_bytes(cols) + HEADER_BYTES;
                int32_t *sums = out + b * out_stride + (r - row_begin);
                for (uint64_t i = 0; i < num_rows; i++)
                    sums[i] = add_products(sums[i], codes[i], token + g * GROUP_COLS);
            }
        }
    }
    return TERNION_OK;
}

static const ternion_kernel table = {
    .abi_version = TERNION_ABI_VERSION,
    .struct_size = sizeof(ternion_kernel),
    .name = "example",
    .version = "1.0.0",
    .isa = isa,
    .probe = probe,
    .alignment = 32,
    .row_tile = ROW_TILE,
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
