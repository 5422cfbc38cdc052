"""Trains the denoiser and the glyph encoder by flow matching. Needs a trained autoencoder in DIR/vae.pt.
Resumable: `python train_dit.py --state DIR [--vae FILE] [--minutes M]`.

Prior tokens and glyph texts are dropped at random, each alone and both together, for guidance. Most pictures are small
canvases, dense with letters; a share has the sizes and layouts that are served.
"""
import argparse
import os
import time

import numpy as np
import torch

from cells import BLANKS, ID, INKS, TEXT_INKS, draw_grid
from config import CANVASES, CELL, PALETTE, SEED, SHAPES
from models.glyph_encoder import GlyphEncoder, encode_batch
from models.transformer import Denoiser
from models.vae import Autoencoder
from muon import Muon, split
from scenes import Sampler, place
from train_vae import to_tensor

SMALL = ((4, 4), (4, 4), (6, 4), (4, 6), (5, 3))
DROP_BOTH, DROP_ONE = 0.1, 0.04


def dense_scene(sampler: Sampler, columns: int, rows: int) -> tuple[np.ndarray, str, list[str]]:
    """Words anywhere on their rows, shapes between them: what the denoiser has to paint, many on few cells."""
    bg = sampler.pick(list(PALETTE))
    grid = np.full((rows, columns), ID[("blank", bg)])
    ink = sampler.pick(TEXT_INKS[bg])
    texts = []
    for row in range(rows):
        draw = sampler.rng.random()
        if draw < 0.75:
            word = sampler.word(columns)
            at = int(sampler.rng.integers(columns - len(word) + 1))
            grid[row, at : at + len(word)] = [ID[("glyph", letter, ink)] for letter in word]
            texts.append(word)
        elif draw < 0.85:
            other = sampler.pick(INKS[bg])
            kind = sampler.pick(("band", *SHAPES, "quarter0", "quarter1", "quarter2", "quarter3"))
            if kind == "band":
                grid[row, :] = ID[(kind, other)]
            else:
                grid[row, int(sampler.rng.integers(columns))] = ID[(kind, other)]
    return grid, bg, texts or [""]


def served_scene(sampler: Sampler, columns: int, rows: int) -> tuple[np.ndarray, str, list[str]]:
    scene = sampler.scene(columns, rows)
    return place(scene, columns, rows), scene.bg, [text.words for text in scene.texts] or [""]


class Pool:
    """Latents of drawn pictures by size. Each picture is used several times, with other noise each time."""

    def __init__(self, vae: Autoencoder, mean, std, sampler: Sampler, capacity: int = 600):
        self.vae, self.sampler, self.capacity = vae, sampler, capacity
        self.mean, self.std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
        self.kept: dict[tuple[int, int], list] = {}

    @torch.no_grad()
    def take(self, canvas: tuple[int, int], count: int, fresh: int):
        kept = self.kept.setdefault(canvas, [])
        columns, rows = canvas
        make = dense_scene if rows * columns <= 24 else served_scene
        drawn = [make(self.sampler, columns, rows) for _ in range(max(fresh, count - len(kept)))]
        pictures = to_tensor(np.stack([draw_grid(grid, bg) for grid, bg, _ in drawn]))
        latents = (self.vae.encoder(pictures)[0] - self.mean) / self.std
        for latent, (grid, _, texts) in zip(latents, drawn):
            prior = torch.from_numpy(np.repeat(np.repeat(grid, 2, 0), 2, 1).ravel())
            kept.append((latent.contiguous(), prior, texts))
        del kept[: max(0, len(kept) - self.capacity)]
        chosen = [kept[int(i)] for i in self.sampler.rng.choice(len(kept), count, replace=False)]
        return torch.stack([c[0] for c in chosen]), torch.stack([c[1] for c in chosen]), [c[2] for c in chosen]


def shift(share: torch.Tensor, tokens: int) -> torch.Tensor:
    """The sigma of a share of the unshifted schedule, as the scheduler has it for so many tokens."""
    mu = 0.75 * (tokens / 256) ** 0.5 + 0.25
    return mu / (mu + 1 / share - 1)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--vae")
    ap.add_argument("--minutes", type=float, default=600)
    ap.add_argument("--pictures", type=int, default=150_000)
    ap.add_argument("--batch", type=int, default=24)
    ap.add_argument("--lr", type=float, default=0.012)
    ap.add_argument("--served", type=float, default=0.08, help="share of batches with the sizes that are served")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    os.makedirs(args.state, exist_ok=True)
    saved_vae = torch.load(args.vae or os.path.join(args.state, "vae.pt"), weights_only=True)
    vae = Autoencoder().to(memory_format=torch.channels_last)
    vae.load_state_dict(saved_vae["model"])
    vae.eval().requires_grad_(False)
    model, glyphs = Denoiser(), GlyphEncoder()
    everything = [*((f"dit.{n}", p) for n, p in model.named_parameters()), *((f"glyph.{n}", p) for n, p in glyphs.named_parameters())]
    is_matrix = lambda n, p: p.dim() == 2 and ("blocks" in n or "block." in n or "projector.net" in n) and "norm1" not in n and "bias" not in n
    matrices, others = split(everything, is_matrix)
    muon = Muon(matrices, lr=args.lr, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)
    average = {n: p.detach().clone() for n, p in everything}
    path, seen = os.path.join(args.state, "dit.pt"), 0
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        glyphs.load_state_dict(saved["glyphs"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        average, seen = saved["average"], saved["seen"]
    sampler = Sampler(SEED + 3 + seen)
    pool = Pool(vae, saved_vae["mean"], saved_vae["std"], sampler)
    canvases, shares = list(CANVASES), np.array(list(CANVASES.values()))

    def save():
        torch.save(dict(model=model.state_dict(), glyphs=glyphs.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(), average=average, seen=seen), path + ".new")
        os.replace(path + ".new", path)

    begun = told_at = saved_at = time.time()
    low, high, n, steps, rounds = 0.0, 0.0, 0, 0, 0
    while seen < args.pictures and time.time() - begun < args.minutes * 60:
        if sampler.rng.random() < args.served:
            canvas, count, fresh = canvases[int(sampler.rng.choice(len(canvases), p=shares))], 4, 1
        else:
            canvas, count = SMALL[int(sampler.rng.integers(len(SMALL)))], args.batch
            fresh = count // 4
        x0, prior, texts = pool.take(canvas, count, fresh)
        drops = sampler.rng.random(count)
        drop_prior = torch.from_numpy((drops < DROP_BOTH) | ((drops >= 0.5) & (drops < 0.5 + DROP_ONE)))
        drop_glyph = (drops < DROP_BOTH) | (drops >= 1 - DROP_ONE)
        share = ((torch.arange(count) + torch.rand(count)) / count).clamp(0.001, 1)
        sigma = shift(share, prior.shape[1])[:, None, None, None]
        noise = torch.randn_like(x0)
        with torch.autocast("cpu", torch.bfloat16):
            embedded, mask = encode_batch(glyphs, [[""] if gone else text for gone, text in zip(drop_glyph, texts)])
            v = model((1 - sigma) * x0 + sigma * noise, embedded, mask, prior, drop_prior, share * 1000 - 1, (canvas[1] * CELL, canvas[0] * CELL))
        error = (v.float() - (noise - x0)).square().mean((1, 2, 3))
        loss = error.mean()
        muon.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in everything], 1.0)
        lr = args.lr * min(1, (seen + 1) / 1500) * min(1, 0.03 + 2 * (1 - seen / args.pictures))
        for optimiser, factor in ((muon, 1.0), (adam, 0.25)):
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
            optimiser.step()
        with torch.no_grad():
            keep = min(0.998, 1 - 10 / (steps + 20))
            for name, p in everything:
                average[name].lerp_(p, 1 - keep)
        seen += count
        kept = ~drop_prior
        half = sigma.flatten() > 0.5
        low += error[kept & ~half].mean().nan_to_num().item()
        high += error[kept & half].mean().nan_to_num().item()
        n, steps, rounds = n + count, steps + 1, rounds + 1
        now = time.time()
        if now - told_at > 20:
            print(f"{time.strftime('%H:%M:%S')} seen {seen} lr {lr:.4f} low noise {low / rounds:.4f} high noise {high / rounds:.4f} rate {n / (now - told_at):.1f}/s", flush=True)
            told_at, low, high, n, rounds = now, 0.0, 0.0, 0, 0
        if now - saved_at > 90:
            save()
            saved_at = now
    save()


if __name__ == "__main__":
    main()
