"""The visual tokeniser: a vision tower on 16-pixel patches of the picture at half size, and a codebook by direction.

Tensor names of the checkpoint: `model.visual.*` and `model.vqmodel.*`."""
import torch
from torch import nn
from torch.nn import functional as F

from config import CODEBOOK, VISION

D, PATCH = VISION["hidden"], 16
SIDE = VISION["image_size"] // PATCH


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(D, 3 * D)
        self.proj = nn.Linear(D, D)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, VISION["heads"], -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, D))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(D, VISION["mlp"])
        self.fc2 = nn.Linear(VISION["mlp"], D)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D, 1e-6), nn.LayerNorm(D, 1e-6)
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, D, PATCH, PATCH)


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.position_embedding = nn.Embedding(SIDE * SIDE, D)
        nn.init.normal_(self.position_embedding.weight, std=0.01)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.embeddings = Embeddings()
        self.blocks = nn.ModuleList(Block() for _ in range(VISION["depth"]))

    def forward(self, picture):
        """[B, 3, H, W] in -1..1 at half size -> [B, H/16 * W/16, D], row after row"""
        x = self.patch_embed.proj(picture)
        rows, columns = x.shape[-2:]
        table = self.embeddings.position_embedding.weight.view(SIDE, SIDE, D).permute(2, 0, 1)[None]
        at = [((torch.arange(n) + 0.5) * 2 / n - 1) for n in (rows, columns)]
        y, x_at = torch.meshgrid(*at, indexing="ij")
        place = F.grid_sample(table, torch.stack((x_at, y), -1)[None], mode="bilinear", padding_mode="border", align_corners=False)
        x = (x + place).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CODEBOOK, VISION["embed_dim"])
        nn.init.normal_(self.embedding.weight)


class VqModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant_conv = nn.Conv2d(D, VISION["embed_dim"], 1)
        self.quantize = Quantizer()
        self.post_quant_conv = nn.Conv2d(VISION["embed_dim"], D, 1)

    def cosines(self, hidden):
        """hidden [B, N, D] -> directions [B, N, embed] and their cosines with every code [B, N, CODEBOOK]"""
        z = F.normalize(F.linear(hidden, self.quant_conv.weight.flatten(1), self.quant_conv.bias), dim=-1)
        return z, z @ F.normalize(self.quantize.embedding.weight, dim=-1).T


class VisualTokeniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Tower()
        self.vqmodel = VqModel()

    def forward(self, picture):
        return self.vqmodel.cosines(self.visual(picture))

    def export_tensors(self) -> dict[str, torch.Tensor]:
        return {f"model.{name}": tensor.detach().clone() for name, tensor in self.state_dict().items()}
