"""The text side of the vocabulary: one token per character, so that a letter of a quoted text can be copied as it is.

Byte-level BPE whose only merges join the bytes of single characters beyond ASCII. Same file format as GLM-Image's.
"""
import json
import os

from config import END, GLYPHS, START, VISION_VOCAB
from prompts import characters_of_templates

SPECIALS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
            "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>")
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_alphabet() -> list[str]:
    """The printable stand-in of each byte, as GPT-2 defined it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_in, extra = {b: chr(b) for b in printable}, 0
    for b in range(256):
        if b not in stand_in:
            stand_in[b] = chr(256 + extra)
            extra += 1
    return [stand_in[b] for b in range(256)]


BYTES = byte_alphabet()


def _build() -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocab = {f"<|dit_token_{i}|>": i for i in range(VISION_VOCAB)}
    for stand_in in BYTES:
        vocab[stand_in] = len(vocab)
    merges: list[tuple[str, str]] = []
    for character in sorted(set(c for c in GLYPHS if ord(c) > 127) | set(characters_of_templates())):
        left, *rest = (BYTES[b] for b in character.encode())
        for right in rest:
            if (left, right) not in merges:
                merges.append((left, right))
                vocab[left + right] = len(vocab)
            left += right
    return vocab, merges


VOCAB, MERGES = _build()
SPECIAL_ID = {name: len(VOCAB) + index for index, name in enumerate(SPECIALS)}
VOCAB_SIZE = -(-(len(VOCAB) + len(SPECIALS)) // 16) * 16


def character_ids(character: str) -> list[int]:
    whole = "".join(BYTES[b] for b in character.encode())
    return [VOCAB[whole]] if whole in VOCAB else [VOCAB[BYTES[b]] for b in character.encode()]


_CACHE: dict[str, list[int]] = {}


def encode(text: str) -> list[int]:
    """Ids of a text without special tokens. Characters of three bytes that no phrasing uses may be cut otherwise than the
    tokenizers library cuts them; training never has any."""
    ids: list[int] = []
    for character in text:
        known = _CACHE.get(character)
        if known is None:
            known = _CACHE[character] = character_ids(character)
        ids += known
    return ids


def grid_ids(rows: int, columns: int) -> list[int]:
    return [SPECIAL_ID["<sop>"], *encode(f"{rows} {columns}"), SPECIAL_ID["<eop>"]]


def render(prompt: str, large: tuple[int, int], preview: tuple[int, int] | None) -> list[int]:
    grids = grid_ids(*large) + (grid_ids(*preview) if preview else [])
    return encode(prompt) + grids + [START]


def write(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)

    def special(token: str, index: int) -> dict:
        return dict(id=index, content=token, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)

    marks = [f"<|dit_token_{START}|>", f"<|dit_token_{END}|>"]
    spec = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [special(mark, VOCAB[mark]) for mark in marks] + [special(name, index) for name, index in SPECIAL_ID.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": VOCAB, "merges": [list(m) for m in MERGES]},
    }
    config = {
        "backend": "tokenizers", "bos_token": marks[0], "eos_token": marks[1], "pad_token": marks[1], "extra_special_tokens": [],
        "grid_bos_token": "<sop>", "grid_eos_token": "<eop>", "image_token": "<|image|>", "model_max_length": 65536, "padding_side": "left",
        "processor_class": "GlmImageProcessor", "tokenizer_class": "TokenizersBackend",
    }
    template = ("{%- for message in messages -%}{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}"
                f"{marks[0]}<|image|>{marks[1]}"
                "{%- elif item['type'] == 'text' -%}{{ item['text'] }}{%- endif -%}{%- endfor -%}{%- endfor -%}")
    for name, content in (("tokenizer.json", spec), ("tokenizer_config.json", config)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1 if name != "tokenizer.json" else None)
            file.write("\n")
    with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(template)
