"""Writes a GGUF file in the exact shape of bitnet-b1.58-2B-4T, 1.2 GB of random weights: for timing how a model loads.

    python make_2b_4t.py OUT.gguf

Needs numpy. The file comes out byte for byte the same every time. Its tokenizer is as large as that of Llama 3 and of
the same kind, with every way to split a token into two among its merges, but knows no language.
"""

import random
import struct
import sys

import numpy as np

import gguf_file as gguf

LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 30, 2560, 6912, 20, 5, 128
VOCAB, SPECIALS = 128_256, 256
LONGEST = 16
ARCH = "bitnet-b1.58"
NORMS = {"attn_norm": HIDDEN, "attn_sub_norm": HIDDEN, "ffn_norm": HIDDEN, "ffn_sub_norm": FFN}
PROJECTIONS = {
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": (FFN, HIDDEN),
    "ffn_up": (FFN, HIDDEN),
    "ffn_down": (HIDDEN, FFN),
}


def byte_pieces():
    """One character for each byte: its own where it can be seen, otherwise one from U+0100 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = iter(range(256, 512))
    return [chr(b) if b in seen else chr(next(unseen)) for b in range(256)]


def vocabulary(draw):
    tokens = byte_pieces()
    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0120"]
    words, known = list(letters), set(tokens)
    while len(tokens) < VOCAB - SPECIALS:
        union = draw.choice(words) + draw.choice(words)
        if union not in known and len(union) <= LONGEST and "\u0120" not in union[1:]:
            known.add(union)
            tokens.append(union)
            words.append(union)
    merges = []
    for token in tokens[256:]:
        halves = ((token[:at], token[at:]) for at in range(1, len(token)))
        merges += [f"{left} {right}" for left, right in halves if left in known and right in known]
    tokens += ["<|begin_of_text|>", "<|end_of_text|>"]
    tokens += [f"<|reserved_special_token_{i}|>" for i in range(7)] + ["<|eot_id|>"]
    tokens += [f"<|reserved_special_token_{i}|>" for i in range(7, SPECIALS - 3)]
    return tokens, merges


def metadata(draw):
    tokens, merges = vocabulary(draw)
    assert len(tokens) == VOCAB == len(set(tokens))
    first = VOCAB - SPECIALS
    return [
        ("general.architecture", gguf.text(ARCH)),
        ("general.name", gguf.text("random-2b-4t")),
        ("general.file_type", gguf.u32(40)),
        (f"{ARCH}.vocab_size", gguf.u32(VOCAB)),
        (f"{ARCH}.context_length", gguf.u32(4096)),
        (f"{ARCH}.embedding_length", gguf.u32(HIDDEN)),
        (f"{ARCH}.block_count", gguf.u32(LAYERS)),
        (f"{ARCH}.feed_forward_length", gguf.u32(FFN)),
        (f"{ARCH}.rope.dimension_count", gguf.u32(HEAD_DIM)),
        (f"{ARCH}.attention.head_count", gguf.u32(HEADS)),
        (f"{ARCH}.attention.head_count_kv", gguf.u32(KV_HEADS)),
        (f"{ARCH}.attention.layer_norm_rms_epsilon", gguf.f32(1e-5)),
        (f"{ARCH}.rope.freq_base", gguf.f32(500_000.0)),
        ("tokenizer.ggml.model", gguf.text("gpt2")),
        ("tokenizer.ggml.pre", gguf.text("llama-bpe")),
        ("tokenizer.ggml.tokens", gguf.strings(tokens)),
        ("tokenizer.ggml.token_type", gguf.i32s([1] * first + [3] * SPECIALS)),
        ("tokenizer.ggml.merges", gguf.strings(merges)),
        ("tokenizer.ggml.bos_token_id", gguf.u32(first)),
        ("tokenizer.ggml.eos_token_id", gguf.u32(first + 1)),
    ]


def ternary(rng, rows, cols):
    """Random bytes of four weights each, none of them the code 3, which is no weight."""
    codes = [a << 6 | b << 4 | c << 2 | d for a in range(3) for b in range(3) for c in range(3) for d in range(3)]
    raw = np.array(codes, np.uint8)[rng.integers(0, 81, rows * cols // 4, np.uint8)]
    return raw.tobytes() + struct.pack("<f", 1 / cols**0.5) + bytes(28)


def tensors(rng):
    ones = {n: np.ones(n, "<f4").tobytes() for n in (HIDDEN, FFN)}
    # Any sign and fraction, exponents for 1/64 to 1/16.
    embedding = rng.integers(0, 1 << 16, VOCAB * HIDDEN, np.uint16) & 0x87FF | 0x2400
    yield "token_embd.weight", (HIDDEN, VOCAB), gguf.F16, embedding.astype("<u2").tobytes()
    for layer in range(LAYERS):
        for name, size in NORMS.items():
            yield f"blk.{layer}.{name}.weight", (size,), gguf.F32, ones[size]
        for name, (rows, cols) in PROJECTIONS.items():
            yield f"blk.{layer}.{name}.weight", (cols, rows), gguf.I2_S, ternary(rng, rows, cols)
    yield "output_norm.weight", (HIDDEN,), gguf.F32, ones[HIDDEN]


if __name__ == "__main__":
    gguf.write(sys.argv[1], metadata(random.Random(1)), list(tensors(np.random.default_rng(1))))
