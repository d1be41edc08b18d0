"""Makes ../fixtures/tokenizers: small vocabularies as GGUF files, and what other programs make of text.

    python make_tokenizers.py

Needs numpy, regex, tokenizers and sentencepiece; made with tokenizers 0.23.3 and sentencepiece 0.2.3.

- `bpe.json`: the demo's tokenizer.json run by the Python package `tokenizers`.
- `words.json`: the same vocabulary under each set of splitting rules, by the few lines of `merge`
  below and the `regex` package.
- `spm.json`: a SentencePiece vocabulary trained here, run by sentencepiece itself.
"""

import functools
import io
import json
import os

import regex
import sentencepiece
import tokenizers

import gguf_file as gguf
import make_gguf

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "fixtures", "tokenizers")
DEMO = os.path.join(HERE, "..", "..", "service", "server", "demo")

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n",
    " \n \n",
    "\r\n\r\nHello\r\n",
    "Hello",
    " Hello",
    "Hello, world!",
    "Hello  world   with    spaces",
    "trailing space ",
    "tab\tseparated\t\tvalues",
    "I'm you're he'll we'd they've it's can't",
    "I'M YOU'RE HE'LL WE'D THEY'VE IT'S CAN'T",
    "o'clock 'tis 'quoted'",
    "The long \u017f: '\u017f 'S",
    "1 12 123 1234 12345 123456 1234567",
    "3.14159 and 2,718 and 1e-5",
    "x=1;y=2;z=x+y",
    "\u0661\u0662\u0663 \u00bd \u2167",
    "caf\u00e9 na\u00efve \u00fcber",
    "cafe\u0301 (decomposed)",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439, \u043c\u0438\u0440!",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\ud55c\uad6d\uc5b4",
    "\U0001f600\U0001f680\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "mixed \U0001f600text\U0001f600 here",
    "\u00a0non\u2003breaking\u3000spaces\u00a0",
    "zero\u200bwidth",
    "\u0000\u0001\u007f",
    "fn main() { println!(\"{}\", 42); }",
    "!!!???...---===",
    "#include <stdio.h>\n\nint main(void)\n{\n\treturn 0;\n}\n",
    "Once upon a time there was a boy named Luca.",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|eot_id|>",
    "<|begin_of_text|>User: hi<|eot_id|>Assistant: ",
    "a<|eot_id|>b <|eot_id|> c",
    "<|eot_id",
    "<<|eot_id|>|>",
    "<|end_of_text|><|end_of_text|>",
    "User: How are you?",
    "Assistant: ",
]

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
WORDS = {
    "llama-bpe": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    "gpt-2": [GPT_2 + r"|\s+"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "falcon3": [r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, "[0-9]"],
}


def save(name, value):
    with open(os.path.join(OUT, name), "w") as out:
        out.write(json.dumps(value, indent=0) + "\n")


def byte_level():
    path = os.path.join(DEMO, "tokenizer.json")
    cases = []
    for text in TEXTS:
        tokenizer = tokenizers.Tokenizer.from_file(path)
        parsed = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "parse": parsed, "plain": plain})
    save("bpe.json", cases)


def alphabet():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def cut(pieces, pattern):
    for piece in pieces:
        end = 0
        for match in regex.finditer(pattern, piece):
            yield piece[end : match.start()]
            yield match.group()
            end = match.end()
        yield piece[end:]


def merge(word, vocab, ranks, whole):
    if whole and word in vocab:
        return [vocab[word]]
    parts = list(word)
    while True:
        pairs = [(ranks.get((a, b), len(ranks)), i) for i, (a, b) in enumerate(zip(parts, parts[1:]))]
        rank, i = min(pairs, default=(len(ranks), 0))
        if rank == len(ranks):
            return [vocab[part] for part in parts]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def words():
    model = json.load(open(os.path.join(DEMO, "tokenizer.json")))["model"]
    ranks = {tuple(pair): i for i, pair in enumerate(model["merges"])}
    letters = alphabet()
    expected = {}
    for pre, patterns in WORDS.items():
        ids = []
        for text in TEXTS:
            pieces = functools.reduce(cut, patterns, [text])
            spelled = ["".join(letters[b] for b in piece.encode()) for piece in pieces if piece]
            whole = pre == "llama-bpe"
            ids.append([i for word in spelled for i in merge(word, model["vocab"], ranks, whole)])
        expected[pre] = ids
        metadata = [("general.architecture", gguf.text("llama")), *make_gguf.vocabulary(DEMO, pre)]
        gguf.write(os.path.join(OUT, f"bpe-{pre}.gguf"), metadata, [])
    save("words.json", {"texts": TEXTS, "ids": expected})


def corpus():
    names = ["Anna", "Ben", "Clara", "David", "Emma", "Felix"]
    things = ["house", "river", "garden", "mountain", "window", "letter", "horse", "winter"]
    verbs = ["walks to", "looks at", "dreams of", "writes about", "remembers", "paints"]
    for i in range(3000):
        name, verb, thing = names[i % 6], verbs[i // 6 % 6], things[i // 36 % 8]
        yield f"{name} {verb} the {thing}, and the {things[(i * 7) % 8]} is {i} years old."
        yield f"Why does {name} go?  Because it's {'very ' * (i % 4)}late; {verb} nothing!"


def sentence_piece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(),
        model_writer=model,
        model_type="bpe",
        vocab_size=560,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        user_defined_symbols=["<sep>"],
        num_threads=1,
        minloglevel=2,
    )
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = spm.vocab_size()

    def kind(i):
        if spm.is_unknown(i):
            return 2
        if spm.is_control(i):
            return 3
        if spm.is_byte(i):
            return 6
        return 4 if spm.id_to_piece(i) == "<sep>" else 1

    metadata = [
        ("general.architecture", gguf.text("llama")),
        ("tokenizer.ggml.model", gguf.text("llama")),
        ("tokenizer.ggml.pre", gguf.text("default")),
        ("tokenizer.ggml.tokens", gguf.strings([spm.id_to_piece(i) for i in range(size)])),
        ("tokenizer.ggml.scores", gguf.f32s([spm.get_score(i) for i in range(size)])),
        ("tokenizer.ggml.token_type", gguf.i32s([kind(i) for i in range(size)])),
        ("tokenizer.ggml.bos_token_id", gguf.u32(spm.bos_id())),
        ("tokenizer.ggml.eos_token_id", gguf.u32(spm.eos_id())),
    ]
    gguf.write(os.path.join(OUT, "spm.gguf"), metadata, [])
    # A user-defined piece inside a text is a seam at which our reader, like llama.cpp, adds the
    # leading space again and sentencepiece does not; so it is not among these.
    texts = [t for t in TEXTS if "\0" not in t] + [
        "Anna walks to the river.",
        "Because it's very very very late; paints nothing!",
        "the the  the   the    the",
        "mountainmountain windowletter",
        "<s>Emma</s> <unk> <0x41>",
        "\u2581literal\u2581underscores",
    ]
    save("spm.json", [{"text": t, "ids": spm.encode(t)} for t in texts])


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    byte_level()
    words()
    sentence_piece()
