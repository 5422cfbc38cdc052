"""Trains the writer of visual tokens. Resumable: `python train_ar.py --state DIR [--minutes M] [--threads N]`.

Stages, by number of pictures seen (the recipe of GLM-Image at a small scale):
  raster       the large grid alone, row after row, on small canvases; everything learns
  progressive  the preview is written first and its layout tokens weigh more; text embeddings are frozen, while the
               vision embedding, the vision head and the blocks learn
"""
import argparse
import os
import time

import numpy as np
import torch
from torch.nn import functional as F

from cells import ID, LABELS
from config import CANVASES, CODEBOOK, DEFAULT_CANVAS, SEED
from models.autoregressive import Writer
from prompts import Phraser
from scenes import Sampler, place, preview_of, preview_size
from tokenizer import render

IS_GLYPH = np.array([label[0] == "glyph" for label in LABELS] + [False] * (CODEBOOK - len(LABELS)))
SMALL = ((11, 6), (8, 6), (8, 8))
PREVIEW_DROP = 0.6
"""Share of progressive batches whose preview is left out of the context, its positions kept: the same letters are learnt
at half the cost, and a preview that went wrong cannot spoil them."""
LAYOUT_WEIGHT = 3.0
"""Of preview tokens where the layout changes, against those that repeat the one before."""


def cell_positions(rows: int, columns: int, base: int) -> np.ndarray:
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack((np.full(rows * columns, base), base + y.ravel(), base + x.ravel()))


def longest_prompt(share: float) -> int:
    """Characters of a prompt, by the share of the first stage that is over: short prompts first."""
    return 40 if share < 0.3 else 70 if share < 0.6 else 1000


def sample(sampler: Sampler, phraser: Phraser, canvas: tuple[int, int], progressive: bool, longest: int = 1000, shows_preview: bool = True):
    """ids, positions [3, T], the first index of the grids, and weights of the predicted tokens."""
    columns, rows = canvas
    while True:
        scene = sampler.scene(columns, rows)
        prompt = phraser.prompt(scene)
        if len(prompt) <= longest:
            break
    grid = place(scene, columns, rows)
    size = preview_size(rows, columns)
    ids = render(prompt, (rows, columns), size if progressive else None)
    count = base = len(ids)
    parts, positions, weights = [], [np.tile(np.arange(count), (3, 1))], []
    if progressive and shows_preview:
        preview = preview_of(grid, scene, *size).ravel()
        changed = np.concatenate(([True], preview[1:] != preview[:-1]))
        starts = np.arange(preview.size) % size[1] <= 1
        parts.append(preview)
        weights.append(np.where(changed | starts, LAYOUT_WEIGHT, 0.3) * 0.33)
        positions.append(cell_positions(*size, base))
    if progressive:
        base += max(size)
    flat = grid.ravel()
    glyph = IS_GLYPH[flat]
    follows = np.concatenate(([False], glyph[:-1]))
    is_start = np.arange(flat.size) % columns <= 1
    parts.append(flat)
    weights.append(np.where(glyph | follows | is_start | (flat != flat[0]), 1.0, 0.1))
    positions.append(cell_positions(rows, columns, base))
    return np.concatenate([ids, *parts]), np.concatenate(positions, 1), count, np.concatenate(weights)


def batch(sampler, phraser, canvas, progressive, size, longest=1000, shows_preview=True):
    drawn = [sample(sampler, phraser, canvas, progressive, longest, shows_preview) for _ in range(size)]
    longest = max(len(ids) for ids, *_ in drawn)
    ids = torch.zeros(size, longest, dtype=torch.long)
    positions = torch.zeros(3, size, longest, dtype=torch.long)
    weights = torch.zeros(size, longest - 1)
    for index, (one, position, start, weight) in enumerate(drawn):
        n = len(one)
        ids[index, :n] = torch.from_numpy(one)
        positions[:, index, :n] = torch.from_numpy(position)
        weights[index, start - 1 : n - 1] = torch.from_numpy(weight).float()
    return ids, positions, weights


def learning_rate(seen: int, plan: dict) -> float:
    warm = min(1.0, seen / plan["warmup"])
    left = max(0.0, 1 - seen / plan["pictures"])
    return plan["lr"] * warm * min(1.0, 0.05 + 1.5 * left)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--minutes", type=float, default=600)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--raster", type=int, default=80_000, help="pictures of the first stage")
    ap.add_argument("--pictures", type=int, default=160_000, help="pictures in all")
    ap.add_argument("--lr", type=float, default=0.01)
    ap.add_argument("--fp32", action="store_true")
    ap.add_argument("--compile", action="store_true")
    args = ap.parse_args()
    plan = dict(warmup=2_000, pictures=args.pictures, lr=args.lr)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    model = Writer()
    matrices = [p for n, p in model.layers.named_parameters() if p.dim() == 2]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    muon = torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.02, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)
    path, seen = os.path.join(args.state, "ar.pt"), 0
    os.makedirs(args.state, exist_ok=True)
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        seen = saved["seen"]
    sampler = Sampler(SEED + 1 + seen)
    phraser = Phraser(sampler)
    canvases, shares = list(CANVASES), np.array(list(CANVASES.values()))

    def save():
        torch.save(dict(model=model.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(), seen=seen), path + ".new")
        os.replace(path + ".new", path)

    hidden = torch.compile(model.hidden, dynamic=True) if args.compile else model.hidden
    begun = saved_at = told_at = time.time()
    sums = dict.fromkeys(("loss", "n", "letters", "right", "first", "first_right", "preview", "preview_right"), 0.0)
    while seen < args.pictures and time.time() - begun < args.minutes * 60:
        progressive = seen >= args.raster
        model.text_embedding.requires_grad_(not progressive)
        if not progressive and seen < args.raster * 0.75:
            canvas = SMALL[int(sampler.rng.integers(len(SMALL)))]
        else:
            canvas = canvases[int(sampler.rng.choice(len(canvases), p=shares))]
        size = args.batch if canvas[0] * canvas[1] <= 100 else args.batch * 3 // 4
        longest = 1000 if progressive else longest_prompt(seen / args.raster)
        shows_preview = sampler.rng.random() >= PREVIEW_DROP
        ids, positions, weights = batch(sampler, phraser, canvas, progressive, size, longest, shows_preview)
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
            embed, head = model.tables()
            h = hidden(ids[:, :-1], positions[:, :, :-1], embed)
            at = weights > 0
            logits = F.linear(h[at], head).float()
        target = ids[:, 1:][at]
        w = weights[at]
        loss = (F.cross_entropy(logits, target, reduction="none") * w).sum() / w.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        lr = learning_rate(seen, plan)
        for group in muon.param_groups:
            group["lr"] = lr
        for group in adam.param_groups:
            group["lr"] = lr * 0.3
        muon.step()
        adam.step()
        muon.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        seen += size
        with torch.no_grad():
            hit = logits.argmax(-1) == target
            glyph = torch.from_numpy(IS_GLYPH)[target]
            before = torch.from_numpy(np.concatenate((IS_GLYPH, np.zeros(4096, bool))))[ids[:, :-1][at]]
            first = glyph & ~before
            for name, mask in (("letters", glyph & before), ("first", first)):
                sums[name] += mask.sum().item()
                sums["right" if name == "letters" else "first_right"] += (hit & mask).sum().item()
            sums["preview"] += (~glyph).sum().item()
            sums["preview_right"] += (hit & ~glyph).sum().item()
            sums["loss"] += loss.item()
            sums["n"] += 1
        now = time.time()
        if now - told_at > 20:
            print(f"{time.strftime('%H:%M:%S')} seen {seen} lr {lr:.4f} loss {sums['loss'] / sums['n']:.4f} letters {sums['right'] / max(1, sums['letters']):.4f} "
                  f"first {sums['first_right'] / max(1, sums['first']):.4f} other {sums['preview_right'] / max(1, sums['preview']):.4f} "
                  f"rate {sums['n'] * size / (now - told_at):.1f}/s", flush=True)
            told_at = now
            sums = dict.fromkeys(sums, 0.0)
        if now - saved_at > 120:
            save()
            saved_at = now
    save()


if __name__ == "__main__":
    main()
