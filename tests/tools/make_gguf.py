"""Writes the Hugging Face fixtures as I2_S GGUF files into ../fixtures/gguf.

    python make_gguf.py

Needs numpy. The files come out byte for byte the same every time.
"""

import json
import os

import numpy as np

import gguf_file as gguf
import safetensors_file as st

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "..", "fixtures")
PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMS = {
    "input_layernorm": "attn_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
}


def interleave(rows, heads):
    """Puts row p * half + j of each head at 2 * j + p: halves become neighbours."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, shape[1]).swapaxes(1, 2).reshape(shape)


def dense(values, kind):
    if kind == gguf.F32:
        return values.astype("<f4").tobytes()
    if kind == gguf.F16:
        return values.astype("<f2").tobytes()
    return gguf.q8_0(values)


def vocabulary(folder, pre):
    tokenizer = json.load(open(os.path.join(folder, "tokenizer.json")))
    config = json.load(open(os.path.join(folder, "tokenizer_config.json")))
    ids = dict(tokenizer["model"]["vocab"])
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids.update(added)
    tokens = sorted(ids, key=ids.get)
    assert [ids[token] for token in tokens] == list(range(len(tokens)))
    merges = [" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]]
    metadata = [
        ("tokenizer.ggml.model", gguf.text("gpt2")),
        ("tokenizer.ggml.tokens", gguf.strings(tokens)),
        ("tokenizer.ggml.token_type", gguf.i32s([3 if t in added else 1 for t in tokens])),
        ("tokenizer.ggml.merges", gguf.strings(merges)),
        ("tokenizer.ggml.bos_token_id", gguf.u32(ids[config["bos_token"]])),
        ("tokenizer.ggml.eos_token_id", gguf.u32(ids[config["eos_token"]])),
        ("tokenizer.ggml.add_bos_token", gguf.boolean(True)),
        ("tokenizer.chat_template", gguf.text(config["chat_template"])),
    ]
    if pre:
        metadata.insert(1, ("tokenizer.ggml.pre", gguf.text(pre)))
    return metadata


def convert(fixture, out, arch, embedding, pre="llama-bpe"):
    folder = os.path.join(FIXTURES, fixture, "model")
    config = json.load(open(os.path.join(folder, "config.json")))
    weights = st.read(os.path.join(folder, "model.safetensors"))
    divides = config["quantization_config"].get("linear_class", "bitlinear") == "bitlinear"
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    metadata = [
        ("general.architecture", gguf.text(arch)),
        ("general.name", gguf.text(fixture)),
        ("general.file_type", gguf.u32(40)),
        (f"{arch}.vocab_size", gguf.u32(config["vocab_size"])),
        (f"{arch}.context_length", gguf.u32(config["max_position_embeddings"])),
        (f"{arch}.embedding_length", gguf.u32(config["hidden_size"])),
        (f"{arch}.block_count", gguf.u32(config["num_hidden_layers"])),
        (f"{arch}.feed_forward_length", gguf.u32(config["intermediate_size"])),
        (f"{arch}.rope.dimension_count", gguf.u32(head_dim)),
        (f"{arch}.attention.head_count", gguf.u32(heads)),
        (f"{arch}.attention.head_count_kv", gguf.u32(kv_heads)),
        (f"{arch}.attention.layer_norm_rms_epsilon", gguf.f32(config["rms_norm_eps"])),
        (f"{arch}.rope.freq_base", gguf.f32(config["rope_theta"])),
        *vocabulary(folder, pre),
    ]

    def matrix(name, hf, kind):
        values = st.floats(weights[hf])
        return name, values.shape[::-1], kind, dense(values, kind)

    def vector(name, hf):
        values = st.floats(weights[hf])
        return name, values.shape, gguf.F32, values.astype("<f4").tobytes()

    tensors = [matrix("token_embd.weight", "model.embed_tokens.weight", embedding)]
    for layer in range(config["num_hidden_layers"]):
        for hf, name in NORMS.items():
            hf = f"model.layers.{layer}.{hf}.weight"
            if hf in weights:
                tensors.append(vector(f"blk.{layer}.{name}.weight", hf))
        for hf, name in PROJECTIONS.items():
            hf = f"model.layers.{layer}.{hf}"
            trits = st.trits(weights[f"{hf}.weight"])
            scale = st.floats(weights[f"{hf}.weight_scale"])[0]
            if divides:
                scale = np.float32(1) / scale
            if arch == "llama" and name in ("attn_q", "attn_k"):
                trits = interleave(trits, heads if name == "attn_q" else kv_heads)
            raw = gguf.i2s(trits, scale)
            tensors.append((f"blk.{layer}.{name}.weight", trits.shape[::-1], gguf.I2_S, raw))
    tensors.append(vector("output_norm.weight", "model.norm.weight"))
    if "lm_head.weight" in weights:
        tensors.append(matrix("output.weight", "lm_head.weight", embedding))
    gguf.write(os.path.join(FIXTURES, "gguf", out), metadata, tensors)


if __name__ == "__main__":
    os.makedirs(os.path.join(FIXTURES, "gguf"), exist_ok=True)
    convert("hf-llama", "llama-f16.gguf", "llama", gguf.F16)
    convert("hf-bitnet", "bitnet-f32.gguf", "bitnet-b1.58", gguf.F32)
    convert("hf-bitnet", "bitnet-q8_0.gguf", "bitnet-b1.58", gguf.Q8_0)
