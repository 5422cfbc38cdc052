"""The byte-level encoder of quoted text: T5 v1.1 blocks, tensor names of T5EncoderModel."""
import math

import torch
from torch import nn
from torch.nn import functional as F

from config import BYT5

D, HEADS, KV = BYT5["d_model"], BYT5["num_heads"], BYT5["d_kv"]
BUCKETS, MAX_DISTANCE = 32, 128


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class SelfAttention(nn.Module):
    def __init__(self, has_bias: bool):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, HEADS * KV, bias=False) for _ in range(3))
        self.o = nn.Linear(HEADS * KV, D, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(BUCKETS, HEADS)


class AttentionLayer(nn.Module):
    def __init__(self, has_bias: bool):
        super().__init__()
        self.SelfAttention = SelfAttention(has_bias)
        self.layer_norm = Scale()


class GatedGelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(D, BYT5["d_ff"], bias=False) for _ in range(2))
        self.wo = nn.Linear(BYT5["d_ff"], D, bias=False)


class FeedForwardLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.DenseReluDense = GatedGelu()
        self.layer_norm = Scale()


class Block(nn.Module):
    def __init__(self, has_bias: bool):
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(has_bias), FeedForwardLayer()])


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.ModuleList(Block(i == 0) for i in range(BYT5["num_layers"]))
        self.final_layer_norm = Scale()


def bucket(distance: torch.Tensor) -> torch.Tensor:
    half, exact = BUCKETS // 2, BUCKETS // 4
    n = distance.abs()
    far = exact + (torch.log(n.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)).long()
    return torch.where(distance > 0, half, 0) + torch.where(n < exact, n, far.clamp(max=half - 1))


class GlyphEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(384, D)
        self.encoder = Stack()
        nn.init.normal_(self.shared.weight, std=1.0)
        for p in self.encoder.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.7 * p.shape[1] ** -0.5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """ids and mask [N, L] -> [N, L, D]; keys outside the mask are not attended."""
        n, length = ids.shape
        x = self.shared(ids)
        steps = torch.arange(length)
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(bucket(steps[None, :] - steps[:, None])).permute(2, 0, 1)[None].float()
        bias = bias.masked_fill(~mask[:, None, None, :], -1e9)
        for block in self.encoder.block:
            attention = block.layer[0].SelfAttention
            z = block.layer[0].layer_norm(x)
            q, k, v = (p(z).view(n, length, HEADS, KV).transpose(1, 2).float() for p in (attention.q, attention.k, attention.v))
            out = torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v
            x = x + attention.o(out.transpose(1, 2).reshape(n, length, -1))
            feed = block.layer[1].DenseReluDense
            z = block.layer[1].layer_norm(x)
            x = x + feed.wo(F.gelu(feed.wi_0(z), approximate="tanh") * feed.wi_1(z))
        return self.encoder.final_layer_norm(x)


def text_ids(texts: list[str]) -> list[list[int]]:
    """Bytes + 3, then the end; an even number of texts gives each a pad in front that is attended, as the reference does."""
    head = [0] if len(texts) % 2 == 0 else []
    return [head + [b + 3 for b in text.encode()] + [1] for text in texts]


def encode_batch(encoder: GlyphEncoder, prompts: list[list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The texts of each prompt, one after the other: [B, L, D] and which of them are there [B, L]."""
    sequences = [ids for texts in prompts for ids in text_ids(texts)]
    longest = max(map(len, sequences))
    ids = torch.tensor([one + [0] * (longest - len(one)) for one in sequences])
    mask = torch.arange(longest)[None] < torch.tensor([[len(one)] for one in sequences])
    hidden = encoder(ids, mask)
    rows, at = [], 0
    for texts in prompts:
        span = slice(at, at + len(texts))
        rows.append(hidden[span][mask[span]])
        at += len(texts)
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.arange(int(lengths.max()))[None] < lengths[:, None]
