"""Writes the grids of held-out prompts with the writer as it stands and reads the words off the tokens: how well it
spells before anything is painted. `python check_ar.py --state DIR [--n 20] [--raster]`."""
import argparse
import json
import os

import torch
from torch.nn import functional as F

from cells import LABELS
from config import CODEBOOK, DEFAULT_CANVAS
from models.autoregressive import Writer
from scenes import HELD_OUT, preview_size
from tokenizer import render
from train_ar import cell_positions


def words_of(grid: list[list[int]]) -> list[str]:
    """One string per row: its letters, with blanks as spaces."""
    rows = []
    for row in grid:
        labels = [LABELS[i] if i < len(LABELS) else ("?",) for i in row]
        rows.append("".join(label[1] if label[0] == "glyph" else {"blank": " ", "band": "="}.get(label[0], "*") for label in labels).rstrip())
    return rows


@torch.no_grad()
def write(model: Writer, prompt: str, canvas: tuple[int, int], progressive: bool) -> list[list[int]]:
    columns, rows = canvas
    size = preview_size(rows, columns)
    ids = render(prompt, (rows, columns), size if progressive else None)
    base = len(ids)
    spans = []
    if progressive:
        spans.append(cell_positions(*size, base))
        base += max(size)
    spans.append(cell_positions(rows, columns, base))
    positions = torch.cat([torch.arange(len(ids)).repeat(3, 1), *(torch.from_numpy(span) for span in spans)], 1)
    embed, head = model.tables()
    caches = [[] for _ in model.layers]
    h = model.hidden(torch.tensor([ids]), positions[:, None, : len(ids)], embed, caches)
    made = []
    for step in range(positions.shape[1] - len(ids)):
        token = int(F.linear(h[0, -1], head)[:CODEBOOK].argmax())
        made.append(token)
        at = len(ids) + step
        h = model.hidden(torch.tensor([[token]]), positions[:, None, at : at + 1], embed, caches)
    large = made[-rows * columns :]
    return [large[r * columns : (r + 1) * columns] for r in range(rows)]


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--n", type=int, default=20)
    ap.add_argument("--raster", action="store_true")
    ap.add_argument("--prompt", action="append", default=[])
    args = ap.parse_args()
    torch.set_num_threads(1)
    model = Writer().eval()
    saved = torch.load(os.path.join(args.state, "ar.pt"), weights_only=True)
    model.load_state_dict(saved["model"])
    with open(HELD_OUT[0], encoding="utf-8") as file:
        entries = [json.loads(line) for line in file][: args.n]
    entries = [dict(prompt=p, texts=[]) for p in args.prompt] or entries
    right = total = 0
    for entry in entries:
        rows = words_of(write(model, entry["prompt"], DEFAULT_CANVAS, not args.raster))
        found = [row.strip(" *") for row in rows]
        words = [word for text in entry["texts"] for word in text.split()]
        hits = sum(word in found for word in words)
        right, total = right + hits, total + len(words)
        if hits < len(words) or args.prompt:
            print(entry["prompt"], "->", [row for row in rows if row])
    print(f"seen {saved['seen']}: {right} of {total} words")


if __name__ == "__main__":
    main()
