"""Writes the grids of held-out prompts with the writer as it stands and reads the words off the tokens: how well it
spells before anything is painted. `python check_ar.py --state DIR [--n 200]`."""
import argparse
import json
import os

import numpy as np
import torch
from torch.nn import functional as F

from cells import LABELS
from config import CODEBOOK, DEFAULT_CANVAS
from models.autoregressive import Writer
from scenes import HELD_OUT, preview_size
from tokenizer import render
from train_ar import cell_positions


BATCH = 50


def words_of(grid: list[list[int]]) -> list[str]:
    """One string per row: its letters, with blanks as spaces."""
    rows = []
    for row in grid:
        labels = [LABELS[i] if i < len(LABELS) else ("?",) for i in row]
        rows.append("".join(label[1] if label[0] == "glyph" else {"blank": " ", "band": "="}.get(label[0], "*") for label in labels).rstrip())
    return rows


@torch.no_grad()
def write(model: Writer, prompts: list[str], canvas: tuple[int, int]) -> list[list[list[int]]]:
    """The large grids of some prompts, the likeliest token at each cell. Shorter prompts are padded on the left, unseen."""
    columns, rows = canvas
    size = preview_size(rows, columns)
    ids = [render(prompt, (rows, columns), size) for prompt in prompts]
    longest = max(map(len, ids))
    count = size[0] * size[1] + rows * columns
    positions = torch.zeros(3, len(ids), longest + count, dtype=torch.long)
    seen = torch.zeros(len(ids), longest + count, dtype=torch.bool)
    padded = torch.zeros(len(ids), longest, dtype=torch.long)
    for index, one in enumerate(ids):
        n, gap = len(one), longest - len(one)
        spans = (np.tile(np.arange(n), (3, 1)), cell_positions(*size, n), cell_positions(rows, columns, n + max(size)))
        positions[:, index, gap:] = torch.from_numpy(np.concatenate(spans, 1))
        seen[index, gap:] = True
        padded[index, gap:] = torch.tensor(one)
    embed, head = model.tables()
    caches = [[] for _ in model.layers]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = (seen[:, None, None, :longest] & causal) | torch.eye(longest, dtype=torch.bool)
    h = model.hidden(padded, positions[:, :, :longest], embed, caches, mask)
    made = []
    for at in range(longest, longest + count):
        tokens = F.linear(h[:, -1], head)[:, :CODEBOOK].argmax(-1, keepdim=True)
        made.append(tokens)
        h = model.hidden(tokens, positions[:, :, at : at + 1], embed, caches, seen[:, None, None, : at + 1])
    return torch.cat(made, 1)[:, -rows * columns :].view(len(ids), rows, columns).tolist()


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--n", type=int, default=200)
    ap.add_argument("--prompt", action="append", default=[])
    args = ap.parse_args()
    torch.set_num_threads(1)
    model = Writer().eval()
    saved = torch.load(os.path.join(args.state, "ar.pt"), weights_only=True)
    model.load_state_dict(saved["model"])
    with open(HELD_OUT[0], encoding="utf-8") as file:
        entries = [json.loads(line) for line in file][: args.n]
    entries = [dict(prompt=p, texts=[]) for p in args.prompt] or entries
    right = total = whole = 0
    for start in range(0, len(entries), BATCH):
        part = entries[start : start + BATCH]
        for entry, grid in zip(part, write(model, [entry["prompt"] for entry in part], DEFAULT_CANVAS)):
            rows = words_of(grid)
            found = [row.strip(" *") for row in rows]
            words = [word for text in entry["texts"] for word in text.split()]
            hits = sum(word in found for word in words)
            right, total, whole = right + hits, total + len(words), whole + (hits == len(words))
            if hits < len(words) or args.prompt:
                print(entry["prompt"], "->", [row for row in rows if row])
    print(f"seen {saved['seen']}: {right} of {total} words, {whole} of {len(entries)} pictures whole")


if __name__ == "__main__":
    main()
