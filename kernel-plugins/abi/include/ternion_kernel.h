/*
 * The C table that a ternion kernel plugin exports.
 *
 * A plugin is a shared library with one exported symbol,
 * ternion_kernel_v1, a function without arguments that returns a pointer
 * to a static ternion_kernel. The table only ever grows at its end, and
 * struct_size says how much of it the plugin knows; a change that is not an
 * addition gets a new symbol.
 *
 * What crosses the boundary: plain pointers, lengths and integer status
 * codes. No Rust type, no allocation, no panic, no thread. The host owns all
 * memory and all threads. A plugin writes nothing to standard output, which
 * is the host's, and doesn't end the process.
 *
 * Before it is loaded. A host reads the file first: its machine, and the
 * CPU features that it names in a section .ternion.requires. Where the CPU
 * or its operating system lacks one, nothing of the library runs, so only what
 * is named there may be used by code that doesn't ask for itself: constructors,
 * ternion_kernel_v1, probe and isa. A plugin that is compiled for the
 * architecture's baseline and picks its paths at run time names nothing. Then
 * a host tries the plugin in a process of its own: whoever crashes, hangs,
 * exits or prints there is not loaded.
 *
 * The work. W is a ternary matrix of rows x cols, every weight in
 * {-1, 0, +1}. X is a matrix of batch x cols int8 activations, every
 * value an int8 allows (-128 included). The result is the exact
 * Y[b][r] = sum over c of W[r][c] * X[b][c] in int32. cols is at most
 * TERNION_MAX_COLS, for which the sum can't overflow. There is no
 * "approximately right": a plugin returns the same integers as the scalar
 * reference for every shape it supports.
 *
 * Threading. gemm is called from many threads at once on one packed
 * matrix and one prepared activation matrix, with disjoint row ranges;
 * pack from many threads with disjoint row ranges of one packed matrix.
 * prepare fills a buffer from one thread, while others fill other buffers.
 * Nothing else may be shared: a plugin keeps no mutable state.
 *
 * Ownership. Buffers belong to the host, don't overlap, and are valid
 * for the length of the call only. Packed and prepared buffers are aligned
 * to alignment bytes; others to their element. Between two tokens' results
 * in out may lie those of another thread: gemm touches its own only.
 *
 * Generated from the crate ternion-kernel-abi: edit that, not this.
 */

#ifndef TERNION_KERNEL_H
#define TERNION_KERNEL_H

#include <stdint.h>

/**
 * Version of the table's meaning. Unequal versions don't work together.
 */
#define TERNION_ABI_VERSION 1

/**
 * Largest cols a host asks for: 128 * 2^23 sums to 2^30, inside int32.
 */
#define TERNION_MAX_COLS (1 << 23)

/**
 * The call did what it says.
 */
#define TERNION_OK 0

/**
 * The plugin can't do this shape; supports would have said so.
 */
#define TERNION_UNSUPPORTED 1

/**
 * An argument breaks the contract: a length too small, a range out of bounds.
 */
#define TERNION_INVALID 2

/**
 * The plugin failed inside.
 */
#define TERNION_FAILED 3

/**
 * The table.
 *
 * Strings are static, NUL-terminated UTF-8. Status codes are TERNION_OK,
 * TERNION_UNSUPPORTED, TERNION_INVALID, TERNION_FAILED; any other value counts as
 * TERNION_FAILED.
 */
typedef struct ternion_kernel {
  /**
   * TERNION_ABI_VERSION of the header the plugin was built with.
   */
  uint32_t abi_version;
  /**
   * sizeof this table in the header the plugin was built with.
   */
  uint32_t struct_size;
  /**
   * Short name, unique among the plugins of a directory: i2s.
   */
  const char *name;
  /**
   * The plugin's own version. Packed layouts may differ between versions.
   */
  const char *version;
  /**
   * The instruction set the kernel will use on this machine: avx2.
   */
  const char *(*isa)(void);
  /**
   * 0: can't run on this CPU. Otherwise how well it expects to do, higher
   * is better; i2s says 100 for its portable path, 200 for AVX2, 250
   * for AVX-VNNI, 300 for AVX-512 VNNI.
   */
  int32_t (*probe)(void);
  /**
   * Alignment in bytes of packed and prepared buffers: a power of two, at
   * most 4096.
   */
  uint32_t alignment;
  /**
   * Row ranges passed to pack and gemm begin at multiples of this and
   * end at one or at rows. 1 to 4096.
   */
  uint32_t row_tile;
  /**
   * 1 if the plugin can multiply matrices of this shape, else 0.
   */
  int32_t (*supports)(uint64_t rows, uint64_t cols);
  /**
   * Bytes of a packed matrix; 0 if the shape isn't supported. A host takes
   * more than four bytes a weight, of a shape rounded up generously, for a
   * mistake.
   */
  uint64_t (*packed_bytes)(uint64_t rows, uint64_t cols);
  /**
   * Packs rows row_begin..row_end of a rows x cols matrix.
   *
   * trits holds those rows only, row-major, one int8 in {-1, 0, +1} a
   * weight: (row_end - row_begin) * cols bytes. packed is the buffer of
   * the whole matrix, packed_bytes(rows, cols) long. A trit outside
   * {-1, 0, +1} is TERNION_INVALID.
   */
  int32_t (*pack)(uint64_t rows,
                  uint64_t cols,
                  uint64_t row_begin,
                  uint64_t row_end,
                  const int8_t *trits,
                  uint8_t *packed);
  /**
   * Bytes of batch x cols prepared activations; 64 for each, of a shape
   * rounded up generously, is as much as a host gives.
   */
  uint64_t (*prepared_bytes)(uint64_t cols, uint64_t batch);
  /**
   * Turns row-major batch x cols activations into what gemm reads:
   * sums, tables, shuffles. Once for all matrices that share the input.
   */
  int32_t (*prepare)(uint64_t cols, uint64_t batch, const int8_t *activations, uint8_t *prepared);
  /**
   * out[b * out_stride + (r - row_begin)] = Y[b][r] for every b in
   * 0..batch and r in row_begin..row_end. out_stride is in elements
   * and at least row_end - row_begin.
   */
  int32_t (*gemm)(uint64_t rows,
                  uint64_t cols,
                  const uint8_t *packed,
                  uint64_t batch,
                  const uint8_t *prepared,
                  uint64_t row_begin,
                  uint64_t row_end,
                  int32_t *out,
                  uint64_t out_stride);
} ternion_kernel;

/**
 * Names CPU features that the library needs to be loaded at all, separated by
 * commas, as GCC and Rust spell them: TERNION_KERNEL_REQUIRES("avx2,fma");
 * once, at the top level of a source file.
 */
#define TERNION_KERNEL_REQUIRES(features) \
  __attribute__((TERNION_KEPT, section(".ternion.requires"))) \
  static const char ternion_kernel_requires[] = features

/* Against linkers that drop what nothing refers to. */
#ifdef __has_attribute
#if __has_attribute(retain)
#define TERNION_KEPT used, retain
#endif
#endif
#ifndef TERNION_KEPT
#define TERNION_KEPT used
#endif

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The one symbol a plugin exports. The table it returns lives as long as the
 * library stays loaded, and doesn't change.
 */
const ternion_kernel *ternion_kernel_v1(void);

#ifdef __cplusplus
}
#endif

#endif  /* TERNION_KERNEL_H */
