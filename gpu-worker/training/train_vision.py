"""Trains the visual tokeniser: `python train_vision.py --state DIR [--minutes M]`. Resumable.

The semantic objective names what a cell shows (its letter and colour, its shape, its plain colour); a code is the
direction that stands for one such meaning, kept by a moving average of what the tower makes of it (k-means), and the
tower is bound to its code by a commitment term. Codes for which no meaning is left over stay unused, opposite to all
others. Prints the purity of the codes: the share of cells whose nearest code is the one of their meaning.
"""
import argparse
import os
import time

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from cells import LABELS, draw_grid
from config import CODEBOOK, SEED
from models.vision import VisualTokeniser
from muon import Muon, split
from scenes import Sampler, place
from train_vae import random_grid

SHARPNESS = 16.0
COMMITMENT = 0.25
DECAY = 0.98


def half_size(picture: np.ndarray) -> np.ndarray:
    """As the processor prepares condition images: bicubic, to half of each side."""
    h, w, _ = picture.shape
    return np.asarray(Image.fromarray(picture).resize((w // 2, h // 2), Image.BICUBIC))


def batch(sampler: Sampler, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = sampler.pick(((4, 4), (6, 4), (4, 6), (6, 8)))
    pictures, grids = [], []
    for _ in range(count):
        if rows * columns < 48 or sampler.chance(0.5):
            grid, bg = random_grid(sampler.rng, rows, columns)
        else:
            scene = sampler.scene(columns, rows)
            grid, bg = place(scene, columns, rows), scene.bg
        picture = half_size(draw_grid(grid, bg)).astype(np.float32)
        # Sources come as JPEG and WebP too, and from painters that are not exact.
        picture += sampler.rng.normal(0, sampler.rng.random() * 8, picture.shape)
        pictures.append(picture)
        grids.append(grid.ravel())
    x = torch.from_numpy(np.clip(np.stack(pictures), 0, 255).astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    return x, torch.from_numpy(np.stack(grids))


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--minutes", type=float, default=600)
    ap.add_argument("--pictures", type=int, default=24_000)
    ap.add_argument("--lr", type=float, default=0.01)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    os.makedirs(args.state, exist_ok=True)
    model = VisualTokeniser()
    codes = model.vqmodel.quantize.embedding.weight
    codes.requires_grad_(False)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and "post_quant" not in n]
    matrices, others = split(named, lambda n, p: p.dim() == 2 and "blocks" in n)
    muon = Muon(matrices, lr=args.lr, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=args.lr * 0.3, betas=(0.9, 0.98), weight_decay=0.0)
    path, seen = os.path.join(args.state, "vision.pt"), 0
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        seen = saved["seen"]
    sampler = Sampler(SEED + 4 + seen)
    used = torch.arange(CODEBOOK) < len(LABELS)

    def save():
        torch.save(dict(model=model.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(), seen=seen), path + ".new")
        os.replace(path + ".new", path)

    begun = told_at = saved_at = time.time()
    right = cells = rounds = 0
    while seen < args.pictures and time.time() - begun < args.minutes * 60:
        x, labels = batch(sampler, 12)
        z, cosines = model(x)
        z, labels = z.flatten(0, 1), labels.flatten()
        logits = SHARPNESS * cosines.flatten(0, 1).masked_fill(~used, -1)
        loss = F.cross_entropy(logits, labels) + COMMITMENT * (1 - logits.gather(1, labels[:, None]) / SHARPNESS).mean()
        muon.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        lr = args.lr * min(1, (seen + 1) / 600) * min(1, 0.03 + 2 * (1 - seen / args.pictures))
        for optimiser, share in ((muon, 1.0), (adam, 0.3)):
            for group in optimiser.param_groups:
                group["lr"] = lr * share
            optimiser.step()
        with torch.no_grad():
            sums = torch.zeros_like(codes).index_add_(0, labels, z)
            present = torch.bincount(labels, minlength=CODEBOOK) > 0
            codes[present] = F.normalize(DECAY * F.normalize(codes[present], dim=-1) + (1 - DECAY) * F.normalize(sums[present], dim=-1), dim=-1)
            codes[~used] = -F.normalize(codes[used].mean(0), dim=0)
        seen += x.shape[0]
        right += (logits.argmax(1) == labels).sum().item()
        cells += labels.numel()
        rounds += x.shape[0]
        now = time.time()
        if now - told_at > 20:
            print(f"{time.strftime('%H:%M:%S')} seen {seen} loss {loss.item():.3f} purity {right / cells:.4f} rate {rounds / (now - told_at):.1f}/s", flush=True)
            told_at, right, cells, rounds = now, 0, 0, 0
        if now - saved_at > 90:
            save()
            saved_at = now
    save()


if __name__ == "__main__":
    main()
