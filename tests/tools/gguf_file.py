"""Writing GGUF version 3."""

import struct

import numpy as np

F32, F16, Q8_0, Q6_K, BF16, I2_S = 0, 1, 8, 14, 30, 36
ALIGNMENT = 32


def string(text):
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def u32(n):
    return 4, struct.pack("<I", n)


def f32(x):
    return 6, struct.pack("<f", x)


def boolean(b):
    return 7, bytes([b])


def text(t):
    return 8, string(t)


def strings(items):
    return 9, struct.pack("<IQ", 8, len(items)) + b"".join(map(string, items))


def f32s(items):
    return 9, struct.pack("<IQ", 6, len(items)) + struct.pack(f"<{len(items)}f", *items)


def i32s(items):
    return 9, struct.pack("<IQ", 5, len(items)) + struct.pack(f"<{len(items)}i", *items)


def write(path, metadata, tensors):
    """`tensors`: (name, dims with columns first, type id, bytes)."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, (kind, value) in metadata:
        out += string(key) + struct.pack("<I", kind) + value
    place = 0
    for name, dims, kind, raw in tensors:
        out += string(name) + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", kind, place)
        place += len(raw) + -len(raw) % ALIGNMENT
    out += bytes(-len(out) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(out)
        for _, _, _, raw in tensors:
            file.write(raw)
            file.write(bytes(-len(raw) % ALIGNMENT))


def i2s(trits, scale):
    """Blocks of 128 through the flat matrix; the first 32 of a block sit in the top bits."""
    codes = (trits.reshape(-1) + 1).astype(np.uint8)
    assert len(codes) % 128 == 0 and codes.max() <= 2
    blocks = codes.reshape(-1, 4, 32)
    packed = blocks[:, 0] << 6 | blocks[:, 1] << 4 | blocks[:, 2] << 2 | blocks[:, 3]
    return packed.tobytes() + struct.pack("<f", scale) + bytes(28)


def q8_0(values):
    blocks = values.astype(np.float32).reshape(-1, 32)
    d = (np.abs(blocks).max(1) / np.float32(127)).astype("<f2")
    inverse = np.divide(1, d.astype(np.float32), where=d != 0, out=np.zeros(len(d), np.float32))
    q = np.clip(np.rint(blocks * inverse[:, None]), -127, 127).astype(np.int8)
    return b"".join(d[i].tobytes() + q[i].tobytes() for i in range(len(d)))
