"""The denoiser: joint blocks over glyph text and picture, both modulated; tensor names of GlmImageTransformer2DModel.

As in the writer, the table of prior tokens is a sum while it learns (letter + colour + kind + its own)."""
import math

import torch
from torch import nn
from torch.nn import functional as F

from cells import LABELS
from config import BYT5, CODEBOOK, DIT, GLYPHS, PALETTE, VAE

HEADS, HEAD = DIT["heads"], DIT["head_dim"]
D, T = HEADS * HEAD, DIT["time_dim"]
PATCH = 2


def sinusoid(value: torch.Tensor, size: int) -> torch.Tensor:
    frequency = torch.exp(-math.log(10_000) * torch.arange(size // 2, dtype=torch.float32) / (size // 2))
    angle = value.float()[..., None] * frequency
    return torch.cat((angle.cos(), angle.sin()), -1)


class Projection(nn.Module):
    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.proj = nn.Linear(n_in, n_out)


class FeedForward(nn.Module):
    def __init__(self, n_in: int, inner: int, n_out: int, activation):
        super().__init__()
        self.net = nn.ModuleList([Projection(n_in, inner), nn.Identity(), nn.Linear(inner, n_out)])
        self.activation = activation

    def forward(self, x):
        return self.net[2](self.activation(self.net[0].proj(x)))


class Embedder(nn.Module):
    def __init__(self, n_in: int):
        super().__init__()
        self.linear_1 = nn.Linear(n_in, T)
        self.linear_2 = nn.Linear(T, T)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeCondition(nn.Module):
    def __init__(self):
        super().__init__()
        self.timestep_embedder = Embedder(T)
        self.condition_embedder = Embedder(4 * DIT["condition_dim"])


class Modulation(nn.Module):
    def __init__(self, count: int):
        super().__init__()
        self.linear = nn.Linear(T, count * D)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


def norm(x):
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-5)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(D, D) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(D, D)])


def rotary(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequency = 10_000 ** (-torch.arange(0, HEAD // 2, 2, dtype=torch.float32) / (HEAD // 2))
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    angle = torch.cat((y.reshape(-1, 1) * frequency, x.reshape(-1, 1) * frequency), 1)
    return angle.cos(), angle.sin()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = Modulation(12)
        self.attn1 = Attention()
        self.ff = FeedForward(D, 4 * D, D, lambda x: F.gelu(x, approximate="tanh"))

    def forward(self, x, y, temb, cos, sin, mask):
        (sh_a, tsh_a, sc_a, tsc_a, g_a, tg_a, sh_m, tsh_m, sc_m, tsc_m, g_m, tg_m) = self.norm1.linear(temb)[:, None].chunk(12, -1)
        b, n, _ = x.shape
        length = y.shape[1]
        z = torch.cat((norm(y) * (1 + tsc_a) + tsh_a, norm(x) * (1 + sc_a) + sh_a), 1)
        a = self.attn1
        q, k, v = (p(z).view(b, length + n, HEADS, HEAD).transpose(1, 2).float() for p in (a.to_q, a.to_k, a.to_v))
        q, k = norm(q), norm(k)
        q = torch.cat((q[:, :, :length], self._rotate(q[:, :, length:], cos, sin)), 2)
        k = torch.cat((k[:, :, :length], self._rotate(k[:, :, length:], cos, sin)), 2)
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = a.to_out[0](out.transpose(1, 2).reshape(b, length + n, D))
        x = x + out[:, length:] * g_a
        y = y + out[:, :length] * tg_a
        x = x + self.ff(norm(x) * (1 + sc_m) + sh_m) * g_m
        y = y + self.ff(norm(y) * (1 + tsc_m) + tsh_m) * tg_m
        return x, y

    @staticmethod
    def _rotate(v, cos, sin):
        low, high = v.chunk(2, -1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


class PriorTable(nn.Module):
    def __init__(self):
        super().__init__()
        kinds, colours = sorted({label[0] for label in LABELS}), list(PALETTE)
        self.kind = nn.Parameter(torch.randn(len(kinds) + 1, D) * 0.5)
        self.colour = nn.Parameter(torch.randn(len(colours) + 1, D) * 0.7)
        self.letter = nn.Parameter(torch.cat((torch.randn(len(GLYPHS), D), torch.zeros(1, D))))
        self.own = nn.Parameter(torch.zeros(CODEBOOK, D))
        index = torch.tensor([[kinds.index(l[0]), colours.index(l[-1]), GLYPHS.index(l[1]) if l[0] == "glyph" else len(GLYPHS)] for l in LABELS]
                             + [[len(kinds), len(colours), len(GLYPHS)]] * (CODEBOOK - len(LABELS)))
        self.register_buffer("index", index, persistent=False)

    def forward(self):
        kind, colour, letter = self.index.T
        return self.kind[kind] + self.colour[colour] + self.letter[letter] + self.own


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        channels = VAE["latent"]
        self.image_projector = Projection(channels * PATCH**2, D)
        self.glyph_projector = FeedForward(BYT5["d_model"], D, D, F.gelu)
        self.prior_table = PriorTable()
        self.prior_projector = FeedForward(D, D, D, F.silu)
        self.time_condition_embed = TimeCondition()
        self.transformer_blocks = nn.ModuleList(Block() for _ in range(DIT["layers"]))
        self.norm_out = Modulation(2)
        self.proj_out = nn.Linear(D, channels * PATCH**2)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, latent, glyphs, glyph_mask, prior, dropped, timestep, size):
        """latent [B, C, H/8, W/8], glyphs [B, L, text], prior [B, N] ids, dropped [B], timestep [B], size (H, W) in pixels."""
        b, c, h, w = latent.shape
        rows, columns = h // PATCH, w // PATCH
        patches = latent.view(b, c, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(b, rows * columns, -1)
        p = F.embedding(prior, self.prior_table()) * (~dropped)[:, None, None]
        x = self.image_projector.proj(patches) + self.prior_projector(p)
        y = self.glyph_projector(glyphs)
        sizes = torch.tensor([0.0, 0.0, size[0], size[1]])
        condition = sinusoid(sizes, DIT["condition_dim"]).reshape(1, -1)
        embed = self.time_condition_embed
        temb = F.silu(embed.timestep_embedder(sinusoid(timestep, T)) + embed.condition_embedder(condition))
        cos, sin = rotary(rows, columns)
        mask = torch.cat((glyph_mask, torch.ones(b, rows * columns, dtype=torch.bool)), 1)[:, None, None]
        for block in self.transformer_blocks:
            x, y = block(x, y, temb, cos, sin, mask)
        scale, shift = self.norm_out.linear(temb)[:, None].chunk(2, -1)
        out = self.proj_out(norm(x) * (1 + scale) + shift)
        return out.view(b, rows, columns, c, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)

    def export_tensors(self) -> dict[str, torch.Tensor]:
        out = {name: t.detach().clone() for name, t in self.state_dict().items() if not name.startswith("prior_table")}
        out["prior_token_embedding.weight"] = self.prior_table().detach().clone()
        return out
