"""Makes ../fixtures/dense: quantised rows and the values the `gguf` package gives them.

    python make_dense.py

Needs numpy and gguf; made with gguf 0.19.0.
"""

import json
import os

import gguf
import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "dense")


def blocks(seed, count, size, scales_at):
    """Random bytes are random quants; only the f16 scales must be kept from being infinite."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, size), dtype=np.uint8)
    scales = rng.uniform(-0.1, 0.1, count).astype("<f2")
    rows[:, scales_at : scales_at + 2] = scales.view(np.uint8).reshape(count, 2)
    return rows


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    cases = {}
    for name, kind, rows in [
        ("q8_0", gguf.GGMLQuantizationType.Q8_0, blocks(1, 4, 34, 0)),
        ("q6_k", gguf.GGMLQuantizationType.Q6_K, blocks(2, 2, 210, 208)),
    ]:
        values = gguf.quants.dequantize(rows, kind).reshape(-1)
        bits = values.astype("<f4").view("<u4")
        cases[name] = {"bytes": rows.tobytes().hex(), "bits": [int(b) for b in bits]}
    with open(os.path.join(OUT, "blocks.json"), "w") as out:
        out.write(json.dumps(cases) + "\n")
