"""The writer of visual tokens: GLM-4 blocks with sandwich norms, grouped queries and rotary positions on three axes.

Tensor names are those of the checkpoint. While it learns, the table of visual tokens and the rows of the vision head are
sums: what a code shows (its letter, its colour, its kind) plus a part of its own, so that a letter learnt in one colour is
known in all. `export_tensors` writes the sums out as the plain tables that the architecture has.
"""
import torch
from torch import nn
from torch.nn import functional as F

from cells import LABELS
from config import AR, CODEBOOK, GLYPHS, PALETTE, VISION_VOCAB
from tokenizer import VOCAB_SIZE, character_ids

KINDS = sorted({label[0] for label in LABELS})
COLOURS = list(PALETTE)


class RmsNorm(nn.Module):
    def __init__(self, size: int, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), gain))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


def rotary_tables(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """positions [3, B, T] -> cos and sin [B, 1, T, width]: which axis turns a frequency is set by mrope_section."""
    width = int(AR["head_dim"] * AR["partial"])
    frequency = AR["theta"] ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(AR["mrope"]))
    angle = positions.float()[axis].permute(1, 2, 0) * frequency
    angle = torch.cat((angle, angle), -1)[:, None]
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    width = cos.shape[-1]
    turned, still = x[..., :width], x[..., width:]
    low, high = turned.chunk(2, -1)
    return torch.cat((turned * cos + torch.cat((-high, low), -1) * sin, still), -1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        d, n = AR["hidden"], AR["head_dim"]
        self.q_proj = nn.Linear(d, AR["heads"] * n)
        self.k_proj = nn.Linear(d, AR["kv_heads"] * n)
        self.v_proj = nn.Linear(d, AR["kv_heads"] * n)
        self.o_proj = nn.Linear(AR["heads"] * n, d, bias=False)

    def forward(self, x, cos, sin, cache=None, mask=None):
        b, t, _ = x.shape
        q, k, v = (p(x).view(b, t, -1, AR["head_dim"]).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        group = AR["heads"] // AR["kv_heads"]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        with torch.autocast("cpu", enabled=False):  # the fused kernel of this runtime is faster in float32
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, is_causal=mask is None and t > 1)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Linear(AR["hidden"], 2 * AR["mlp"], bias=False)
        self.down_proj = nn.Linear(AR["mlp"], AR["hidden"], bias=False)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        d = AR["hidden"]
        self.input_layernorm = RmsNorm(d)
        self.self_attn = Attention()
        self.post_self_attn_layernorm = RmsNorm(d, 0.5)
        self.post_attention_layernorm = RmsNorm(d)
        self.mlp = Mlp()
        self.post_mlp_layernorm = RmsNorm(d, 0.5)

    def forward(self, x, cos, sin, cache=None, mask=None):
        x = x + self.post_self_attn_layernorm(self.self_attn(self.input_layernorm(x), cos, sin, cache, mask))
        return x + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x)))


class CodeTable(nn.Module):
    """One vector per visual code: kind + colour + letter + its own."""

    def __init__(self, scale: float):
        super().__init__()
        d = AR["hidden"]
        self.kind = nn.Parameter(torch.randn(len(KINDS) + 1, d) * scale * 0.5)
        self.colour = nn.Parameter(torch.randn(len(COLOURS) + 1, d) * scale * 0.7)
        self.own = nn.Parameter(torch.zeros(VISION_VOCAB, d))
        kind = torch.full((VISION_VOCAB,), len(KINDS))
        colour = torch.full((VISION_VOCAB,), len(COLOURS))
        letter = torch.full((VISION_VOCAB,), len(GLYPHS))
        for index, label in enumerate(LABELS):
            kind[index] = KINDS.index(label[0])
            colour[index] = COLOURS.index(label[-1])
            if label[0] == "glyph":
                letter[index] = GLYPHS.index(label[1])
        for name, value in (("kind_of", kind), ("colour_of", colour), ("letter_of", letter)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """letters [len(GLYPHS), d]"""
        letters = torch.cat((letters, torch.zeros_like(letters[:1])))
        return self.kind[self.kind_of] + self.colour[self.colour_of] + letters[self.letter_of] + self.own


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        d = AR["hidden"]
        self.text_embedding = nn.Parameter(torch.randn(VOCAB_SIZE - VISION_VOCAB, d))
        self.vision_embedding = CodeTable(1.0)
        self.vision_head = CodeTable(d**-0.5)
        self.head_letters = nn.Parameter(torch.empty(len(GLYPHS), d))
        self.layers = nn.ModuleList(Block() for _ in range(AR["layers"]))
        self.norm = RmsNorm(d)
        self.register_buffer("glyph_ids", torch.tensor([character_ids(c)[0] - VISION_VOCAB for c in GLYPHS]), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2 and name.endswith("proj.weight"):
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        with torch.no_grad():
            self.head_letters.copy_(self.text_embedding[self.glyph_ids] * d**-0.5)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """embed_tokens [VOCAB_SIZE, d] and lm_head [VISION_VOCAB, d]. A letter in a picture begins as the letter in the text."""
        embed = torch.cat((self.vision_embedding(self.text_embedding[self.glyph_ids]), self.text_embedding))
        return embed, self.vision_head(self.head_letters)

    def hidden(self, ids, positions, embed, caches=None, mask=None):
        x = F.embedding(ids, embed)
        cos, sin = rotary_tables(positions)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, None if caches is None else caches[index], mask)
        return self.norm(x)

    def export_tensors(self) -> dict[str, torch.Tensor]:
        embed, head = self.tables()
        out = {"model.language_model.embed_tokens.weight": embed, "lm_head.weight": head, "model.language_model.norm.weight": self.norm.weight}
        for name, tensor in self.layers.state_dict().items():
            out[f"model.language_model.layers.{name}"] = tensor
        return {name: tensor.detach().clone() for name, tensor in out.items()}
