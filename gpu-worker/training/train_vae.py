"""Trains the autoencoder on small crops of cells. Resumable: `python train_vae.py --state DIR [--minutes M] [--crops N]`.

The statistics of the latents are measured at the end and saved with the weights.
"""
import argparse
import os
import time

import numpy as np
import torch
from torch.nn import functional as F

from cells import ID, INKS, LABELS, TEXT_INKS, draw_grid
from config import BASELINE, GLYPHS, PALETTE, SEED, SHAPES
from models.vae import Autoencoder
from muon import Muon, split

KL_WEIGHT = 1e-4
SIZES = ((1, 2), (2, 2), (2, 3), (1, 4), (3, 3))


def random_grid(rng: np.random.Generator, rows: int, columns: int) -> tuple[np.ndarray, str]:
    """Cells without any order: the autoencoder has only to know how they look."""
    bg = list(PALETTE)[int(rng.integers(len(PALETTE)))]
    grid = np.full((rows, columns), ID[("blank", bg)])
    ink = TEXT_INKS[bg][int(rng.integers(len(TEXT_INKS[bg])))]
    filled = rng.random() ** 0.7
    for r in range(rows):
        for c in range(columns):
            draw = rng.random()
            if draw > filled:
                continue
            if rng.random() < 0.85:
                grid[r, c] = ID[("glyph", GLYPHS[int(rng.integers(len(GLYPHS)))], ink)]
            else:
                other = INKS[bg][int(rng.integers(len(INKS[bg])))]
                kinds = ("band", *SHAPES, "quarter0", "quarter1", "quarter2", "quarter3", "blank")
                grid[r, c] = ID[(kinds[int(rng.integers(len(kinds)))], other)]
    return grid, bg


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1"""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def crops(rng, rows: int, columns: int, count: int) -> torch.Tensor:
    return to_tensor(np.stack([draw_grid(*random_grid(rng, rows, columns)) for _ in range(count)]))


def statistics(model: Autoencoder, rng) -> tuple[list[float], list[float]]:
    with torch.no_grad():
        mean = torch.cat([model.encoder(crops(rng, 4, 4, 16))[0] for _ in range(16)])
    flat = mean.permute(1, 0, 2, 3).flatten(1)
    return flat.mean(1).tolist(), flat.std(1).tolist()


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--minutes", type=float, default=600)
    ap.add_argument("--crops", type=int, default=80_000)
    ap.add_argument("--decoder-only", action="store_true", help="keeps the latents as they are: the denoiser may already learn")
    ap.add_argument("--batch", type=int, default=10)
    ap.add_argument("--lr", type=float, default=0.02)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    os.makedirs(args.state, exist_ok=True)
    model = Autoencoder().to(memory_format=torch.channels_last)
    matrices, others = split(model.named_parameters(), lambda name, p: p.dim() == 4 and "conv_in" not in name)
    muon = Muon(matrices, lr=args.lr, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=args.lr * 0.3, betas=(0.9, 0.98), weight_decay=0.0)
    path, seen = os.path.join(args.state, "vae.pt"), 0
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        seen = saved["seen"]
    rng = np.random.default_rng(SEED + 2 + seen)
    latent_std = torch.tensor(statistics(model, np.random.default_rng(SEED))[1]).view(1, -1, 1, 1)

    def save():
        mean, std = statistics(model, np.random.default_rng(SEED))
        torch.save(dict(model=model.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(), seen=seen, mean=mean, std=std), path + ".new")
        os.replace(path + ".new", path)

    begun = told_at = saved_at = time.time()
    total, n, errors, steps = 0.0, 0, 0.0, 0
    while seen < args.crops and time.time() - begun < args.minutes * 60:
        rows, columns = SIZES[int(rng.integers(len(SIZES)))]
        count = max(4, args.batch * 4 // (rows * columns))
        x = crops(rng, rows, columns, count)
        with torch.set_grad_enabled(not args.decoder_only):
            mean, logvar = model.encoder(x)
        logvar = logvar.clamp(-12, 4)
        spread = torch.exp(0.5 * logvar)
        if args.decoder_only:  # what the denoiser makes is a little off
            spread = spread + latent_std * 0.12 * torch.rand(count, 1, 1, 1)
        z = mean + torch.randn_like(mean) * spread
        y = model.decoder(z)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        error = F.l1_loss(y, x)
        loss = error + 0.3 * F.mse_loss(y, x) + KL_WEIGHT * kl
        muon.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        done = seen / args.crops
        lr = args.lr * min(1, (seen + 1) / 500) * min(1, 0.03 + 1.6 * (1 - done))
        for optimiser, share in ((muon, 1.0), (adam, 0.3)):
            for group in optimiser.param_groups:
                group["lr"] = lr * share
            optimiser.step()
        seen += count
        total, errors, n, steps = total + kl.item(), errors + error.item(), n + count, steps + 1
        now = time.time()
        if now - told_at > 20:
            print(f"{time.strftime('%H:%M:%S')} seen {seen} l1 {errors / steps:.4f} kl {total / steps:.3f} rate {n / (now - told_at):.1f}/s", flush=True)
            told_at, total, n, errors, steps = now, 0.0, 0, 0.0, 0
        if now - saved_at > 90:
            save()
            saved_at = now
    save()


if __name__ == "__main__":
    main()
