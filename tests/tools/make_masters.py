"""Cuts the first two layers out of a bf16 master and says what they compute.

    python make_masters.py MASTER_DIRECTORY

`MASTER_DIRECTORY` holds the bf16 weights that the demo model was packed from; they are not part of
this repository. Without the argument only `logits.json` is made again, from the fixture itself.
Needs numpy.
"""

import json
import os
import shutil
import sys

import numpy as np

import safetensors_file as st

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "fixtures", "masters")
DEMO = os.path.join(HERE, "..", "..", "service", "server", "demo")
LAYERS = 2
PROMPTS = [[1016, 270, 25, 392, 309, 256, 330, 13, 1023, 299, 25, 220], [1016, 1, 500, 77, 900]]
f4 = np.float32


def cut(master):
    os.makedirs(OUT, exist_ok=True)
    config = json.load(open(os.path.join(master, "config.json")))
    config["num_hidden_layers"] = LAYERS
    with open(os.path.join(OUT, "config.json"), "w") as out:
        out.write(json.dumps(config, indent=2) + "\n")
    weights = st.read(os.path.join(master, "model.safetensors"))
    keep = {n: t for n, t in weights.items() if ".layers." not in n or int(n.split(".")[2]) < LAYERS}
    st.write(os.path.join(OUT, "model.safetensors"), keep)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(os.path.join(master, name), os.path.join(OUT, name))


def ternarise(weight):
    """Training's rule: scale by the mean magnitude, round half to even, clip."""
    mean = max(f4(np.abs(weight).mean(dtype=np.float64)), f4(1e-5))
    return np.clip(np.rint(weight * (f4(1) / mean)), -1, 1).astype(np.int32), mean


def from_masters(weights):
    names = [n for n in weights if n.endswith("_proj.weight")]
    return {n.removesuffix(".weight"): ternarise(st.floats(weights[n])) for n in names}


def from_packed(weights):
    names = [n.removesuffix(".weight") for n in weights if n.endswith("_proj.weight")]
    return {
        n: (
            st.trits(weights[f"{n}.weight"]).astype(np.int32),
            st.floats(weights[f"{n}.weight_scale"])[0],
        )
        for n in names
    }


def forward(config, weights, linears, ids):
    """All logits of a prompt: exact integer products, float32 around them."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim, length = config["hidden_size"] // heads, len(ids)

    def norm(name, x):
        mean = (x * x).mean(-1, keepdims=True, dtype=f4)
        return x / np.sqrt(mean + f4(config["rms_norm_eps"])) * st.floats(weights[name])

    def linear(name, x):
        trits, scale = linears[name]
        s = f4(127) / np.maximum(np.abs(x).max(-1, keepdims=True), f4(1e-5))
        q = np.clip(np.rint(x * s), -128, 127).astype(np.int32)
        return (q @ trits.T).astype(f4) / s * scale

    angles = np.outer(np.arange(length), config["rope_theta"] ** (-np.arange(0, dim, 2) / dim))
    cos, sin = np.cos(angles).astype(f4), np.sin(angles).astype(f4)

    def rope(x):
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def split(x, n):
        return x.reshape(length, n, dim).swapaxes(0, 1)

    embedding = st.floats(weights["model.embed_tokens.weight"])
    x = embedding[ids]
    past = np.tril(np.ones((length, length), bool))
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        h = norm(f"{at}.input_layernorm.weight", x)
        q = rope(split(linear(f"{at}.self_attn.q_proj", h), heads))
        k = rope(split(linear(f"{at}.self_attn.k_proj", h), kv_heads)).repeat(heads // kv_heads, 0)
        v = split(linear(f"{at}.self_attn.v_proj", h), kv_heads).repeat(heads // kv_heads, 0)
        scores = np.where(past, q @ k.swapaxes(1, 2) / f4(np.sqrt(dim)), f4(-np.inf))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        a = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(length, -1)
        x = x + linear(f"{at}.self_attn.o_proj", norm(f"{at}.self_attn.attn_sub_norm.weight", a))
        h = norm(f"{at}.post_attention_layernorm.weight", x)
        gate = np.maximum(linear(f"{at}.mlp.gate_proj", h), 0) ** 2
        f = norm(f"{at}.mlp.ffn_sub_norm.weight", gate * linear(f"{at}.mlp.up_proj", h))
        x = x + linear(f"{at}.mlp.down_proj", f)
    return norm("model.norm.weight", x) @ embedding.T


def logits():
    config = json.load(open(os.path.join(OUT, "config.json")))
    master = st.read(os.path.join(OUT, "model.safetensors"))
    packed = st.read(os.path.join(DEMO, "model.safetensors"))
    ours = from_masters(master)
    theirs = from_packed(packed)
    for name, (trits, _) in ours.items():
        assert (trits == theirs[name][0]).all(), name
    cases = []
    for ids in PROMPTS:
        # The last position, four decimals: rounding in float32 shows in the fifth.
        rows = [forward(config, w, linears, ids)[-1] for w, linears in ((master, ours), (packed, theirs))]
        cases.append(
            {
                "ids": ids,
                "master": [round(float(x), 4) for x in rows[0]],
                "packed": [round(float(x), 4) for x in rows[1]],
            }
        )
    scales = {name: float(scale) for name, (_, scale) in ours.items()}
    with open(os.path.join(OUT, "logits.json"), "w") as out:
        out.write(json.dumps({"scales": scales, "cases": cases}) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        cut(sys.argv[1])
    logits()
