"""Writes ../fuzz/base and the seeds among ../fuzz/corpus: one input of every format and kind, as small as can be.

    python make_fuzz_seeds.py

Needs numpy for what it imports. GGUF and safetensors files end where the numbers of their tensors would begin; the
targets add those. What failing inputs left in the corpus is not touched.
"""

import json
import os
import struct

import gguf_file as gguf

HERE = os.path.dirname(os.path.abspath(__file__))
FUZZ = os.path.join(HERE, "..", "fuzz")
WIDTH, VOCAB = 32, 264
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
BITNET = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim "
    "+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
STRICT = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set rest = messages %}{%- endif %}\n{{- bos_token }}\n{%- for m in rest %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{%- if m.content is string and loop.first and system is defined %}{{- '[INST] ' + system + m.content.strip() }}"
    "{%- elif m.role == 'assistant' %}{{- m.content + eos_token }}{%- endif %}{%- endfor %}"
)
TOOLS = (
    "{%- macro show(value, depth) %}{{ value | tojson(indent=2) if depth > 0 else value | tojson }}{%- endmacro %}"
    "{%- set ns = namespace(found=false, all=[]) %}{%- for m in messages %}{%- set ns.found = true %}"
    "{%- set ns.all = ns.all + [{'role': m.role, 'n': loop.index}] %}{%- endfor %}{{ show(ns.all, 1) }}"
    "{{ strftime_now('%d %b %Y') }}{{ ns.all | map(attribute='role') | join(', ') | upper | replace('A', 'b') }}"
    "{% filter lower %}{{ 'x' * 3 ~ range(3) | list | sort | first }}{% endfilter %}{{ messages | length }}"
)
CHAT = ["user", "Hi  there", "assistant", "Hello!\n", "user", "<|eot_id|> é 你好 🙂"]


def write(folder, name, content):
    path = os.path.join(FUZZ, folder)
    os.makedirs(path, exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode()
    with open(os.path.join(path, name), "wb") as out:
        out.write(raw)


def parts(*items):
    return b"\0".join(item if isinstance(item, bytes) else item.encode() for item in items)


def config(**changes):
    return json.dumps(
        {
            "architectures": ["BitNetForCausalLM"],
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": VOCAB,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "relu2",
            "tie_word_embeddings": True,
            "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"},
            "bos_token_id": 260,
            "eos_token_id": [261, 262],
        }
        | changes
    )


def alphabet():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def tokenizer(vocab, merges, special, **changes):
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{"id": id, "content": text} | added for text, id in special.items()],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": vocab,
                "merges": merges,
            },
        }
        | changes,
        ensure_ascii=False,
    )


SPECIAL = {"<|begin_of_text|>": 260, "<|end_of_text|>": 261, "<|eot_id|>": 262}


def base_tokenizer():
    letters = alphabet()
    vocab = {letters[b]: b for b in range(256)} | {"he": 256, "hell": 257, "ll": 258, "Ġa": 259}
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["Ġ", "a"]]
    return tokenizer(vocab, merges, SPECIAL)


def small_tokenizers():
    letters = "abhelotĠ"
    vocab = {c: i for i, c in enumerate(letters)} | {"he": 8, "ll": 9, "hell": 10}
    special = {"<s>": 11, "</s>": 12}
    merges = [["h", "e"], ["l", "l"], ["he", "ll"]]
    yield "byte_level", tokenizer(vocab, merges, special)
    llama3 = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}{1,3}|\s+(?!\S)"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    first = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [11], "tokens": ["<s>"]}},
    }
    yield "split_and_bos", tokenizer(vocab, ["h e", "l l", "he ll"], special, pre_tokenizer=llama3, post_processor=first)
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x41>": 3, "▁": 4, "h": 5, "i": 6, "hi": 7, "▁hi": 8}
    spm = {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    }
    made = json.loads(tokenizer(pieces, [["h", "i"], ["▁", "hi"]], {"<unk>": 0, "<s>": 1, "</s>": 2}, **spm))
    made["model"] |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    yield "sentence_piece", json.dumps(made, ensure_ascii=False)


def safetensors(entries):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}
    for name, (dtype, shape) in entries.items():
        count = sizes[dtype]
        for dim in shape:
            count *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def shape(module):
    return [WIDTH // 2 if module.endswith(("k_proj", "v_proj")) else WIDTH, WIDTH]


def weights(kind):
    entries = {"model.embed_tokens.weight": ("BF16", [VOCAB, WIDTH]), "model.norm.weight": ("F32", [WIDTH])}
    for module in PROJECTIONS:
        name = f"model.layers.0.{module}.weight"
        rows, cols = shape(module)
        if kind == "packed":
            entries[name] = ("U8", [rows // 4, cols])
        else:
            entries[name] = ("BF16", [rows, cols])
        if kind != "masters":
            entries[f"{name}_scale"] = ("F32", [1])
    for norm in NORMS:
        entries[f"model.layers.0.{norm}.weight"] = ("F32", [WIDTH])
    return safetensors(entries)


def gguf_head(arch, metadata, vocab, embedding):
    """As `gguf.write` does, without the numbers."""
    sizes = [
        ("embedding_length", WIDTH),
        ("feed_forward_length", WIDTH),
        ("block_count", 1),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("context_length", 64),
    ]
    metadata = (
        [("general.architecture", gguf.text(arch)), ("general.name", gguf.text("tiny"))]
        + [(f"{arch}.{key}", gguf.u32(size)) for key, size in sizes]
        + [(f"{arch}.attention.layer_norm_rms_epsilon", gguf.f32(1e-5)), (f"{arch}.rope.freq_base", gguf.f32(5e5))]
        + metadata
    )
    bytes_of = {gguf.F32: lambda n: 4 * n, gguf.F16: lambda n: 2 * n, gguf.Q8_0: lambda n: n // 32 * 34}
    bytes_of[gguf.I2_S] = lambda n: n // 4 + 32
    tensors = [("token_embd.weight", [WIDTH, vocab], embedding), ("output_norm.weight", [WIDTH], gguf.F32)]
    if arch == "llama":
        tensors.append(("output.weight", [WIDTH, vocab], embedding))
    for module, name in PROJECTIONS.items():
        tensors.append((f"blk.0.{name}.weight", shape(module)[::-1], gguf.I2_S))
    for norm in NORMS.values():
        if arch != "llama" or "sub" not in norm:
            tensors.append((f"blk.0.{norm}.weight", [WIDTH], gguf.F32))
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, (kind, value) in metadata:
        out += gguf.string(key) + struct.pack("<I", kind) + value
    offset = 0
    for name, dims, kind in tensors:
        count = dims[0] * (dims[1] if len(dims) > 1 else 1)
        out += gguf.string(name) + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)
        offset += -(-bytes_of[kind](count) // 32) * 32
    return bytes(out)


def gguf_seeds():
    byte_level = ["h", "e", "l", "Ġ", "he", "ll", "<s>", "</s>"]
    yield "byte_level", gguf_head(
        "bitnet-b1.58",
        [
            ("tokenizer.ggml.model", gguf.text("gpt2")),
            ("tokenizer.ggml.pre", gguf.text("llama-bpe")),
            ("tokenizer.ggml.tokens", gguf.strings(byte_level)),
            ("tokenizer.ggml.token_type", gguf.i32s([1] * 6 + [3, 3])),
            ("tokenizer.ggml.merges", gguf.strings(["h e", "l l"])),
            ("tokenizer.ggml.bos_token_id", gguf.u32(6)),
            ("tokenizer.ggml.eos_token_id", gguf.u32(7)),
            ("tokenizer.ggml.add_bos_token", gguf.boolean(True)),
            ("tokenizer.chat_template", gguf.text(BITNET)),
        ],
        len(byte_level),
        gguf.F16,
    )
    pieces = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "h", "i", "hi", "▁hi"]
    yield "sentence_piece", gguf_head(
        "llama",
        [
            ("tokenizer.ggml.model", gguf.text("llama")),
            ("tokenizer.ggml.tokens", gguf.strings(pieces)),
            ("tokenizer.ggml.token_type", gguf.i32s([2, 3, 3, 6, 1, 1, 1, 1, 1])),
            ("tokenizer.ggml.scores", gguf.f32s([0, 0, 0, 0, -4, -5, -6, -1, -2])),
        ],
        len(pieces),
        gguf.Q8_0,
    )


def vocabulary_seeds():
    for words in ("llama-bpe", "falcon3", "gpt-2", "default"):
        tokens = "\n".join(["h", "e", "l", "Ġ", "1", "he", "ll", "hell", "<s>", "</s>", "tool"])
        merges = "h e\nl l\nhe ll"
        yield words, parts("gpt2", words, tokens, "11111111334", "", merges, b"\x08\x09", "hell 11 <s> tool hé")
    pieces = "\n".join(["<unk>", "<s>", "</s>", "<0x41>", "▁", "h", "i", "hi", "▁hi"])
    scores = bytes(s & 0xFF for s in [1, 1, 1, 1, -4, -5, -6, -1, -2])
    yield "sentence_piece", parts("llama", "", pieces, "233611111", scores, "", b"\x01\x02", " hi A <s> ▁")


def directory_seeds():
    tokenizer_config = {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"}, "chat_template": BITNET}
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": LLAMA_3}]
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 40, "top_p": 0.9, "eos_token_id": [262]}
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "all.safetensors"}}
    yield "plain", parts(config(), json.dumps(tokenizer_config), json.dumps(generation), "", "")
    yield "template_file", parts(config(), json.dumps({"add_bos_token": False}), "", STRICT, json.dumps(index))
    old = config(
        architectures=["BitnetForCausalLM"],
        head_dim=16,
        hidden_act="silu",
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        quantization_config={"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]},
    )
    yield "named_templates", parts(old, json.dumps({"chat_template": named}), "", "", "")
    yield "llama", parts(config(architectures=["LlamaForCausalLM"]), "{}", "{}", "", "")


def adapter_seeds():
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "init_lora_weights": True}
    pairs = {}
    for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
        rows, cols = shape(module)
        name = f"base_model.model.model.layers.0.{module}"
        pairs[f"{name}.lora_A.weight"] = ("F32", [2, cols])
        pairs[f"{name}.lora_B.weight"] = ("BF16", [rows, 2])
    yield "plain", parts(json.dumps(settings), safetensors(pairs))
    patterned = settings | {"r": 8, "rank_pattern": {"self_attn\\.q_proj": 2, "v_proj": 2, "down_proj": 2}}
    patterned |= {"alpha_pattern": {"q_proj": 1.5}, "use_rslora": True}
    yield "patterns", parts(json.dumps(patterned), safetensors(pairs))


def main():
    write("base", "config.json", config())
    write("base", "tokenizer.json", base_tokenizer())
    write(
        "base",
        "tokenizer_config.json",
        json.dumps(
            {
                "bos_token": "<|begin_of_text|>",
                "eos_token": "<|eot_id|>",
                "add_bos_token": True,
                "chat_template": BITNET,
            }
        ),
    )
    write("base", "model.safetensors.head", weights("packed"))
    for name, seed in gguf_seeds():
        write("corpus/gguf", name, seed)
    for name, seed in vocabulary_seeds():
        write("corpus/gguf_vocabulary", name, seed)
    for kind in ("packed", "masters"):
        write("corpus/safetensors", kind, weights(kind))
    # The numbers that the target adds are no trits.
    write("corpus/safetensors", "unpacked.refused", weights("unpacked"))
    for name, seed in directory_seeds():
        write("corpus/hf_directory", name, seed)
    for name, seed in small_tokenizers():
        write("corpus/tokenizer_json", name, parts(seed, "hell hi A <s> 12"))
    for name, seed in adapter_seeds():
        write("corpus/adapter", name, seed)
    for name, template in {"bitnet": BITNET, "llama_3": LLAMA_3, "strict": STRICT, "tools": TOOLS}.items():
        write("corpus/chat_template", name, parts(template, *CHAT))
    write("corpus/chat_messages", "chat", parts(*CHAT))
    write("corpus/chat_messages", "special", parts("<|eot_id|>", "<|begin_of_text|><|eot_id|<|eot_id|>|>", "", "\U000f0000"))
    write("corpus/text_stream", "cut_characters", b"\x03a\xc3\xa9\x01\xe4\x02\xbd\xa0\x05\xff\xf0\x9f\x99\x82\x01\xf0")


if __name__ == "__main__":
    main()
