"""Between pictures and latents: the convolutional autoencoder with the tensor names of AutoencoderKL."""
import torch
from torch import nn
from torch.nn import functional as F

from config import VAE

CHANNELS, LAYERS, LATENT, GROUPS = VAE["channels"], VAE["layers"], VAE["latent"], VAE["groups"]


class Resnet(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, c_in, 1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, c_out, 1e-6)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Down(nn.Module):
    """Pads right and below only, as the reference does."""

    def __init__(self, c: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    def __init__(self, c_in: int, c_out: int, count: int, kind: str | None):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(c_in if i == 0 else c_out, c_out) for i in range(count))
        if kind == "down":
            self.downsamplers = nn.ModuleList([Down(c_out)])
        if kind == "up":
            self.upsamplers = nn.ModuleList([Up(c_out)])

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        for name in ("downsamplers", "upsamplers"):
            for layer in getattr(self, name, ()):
                x = layer(x)
        return x


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(3, CHANNELS[0], 3, padding=1)
        widths = (CHANNELS[0], *CHANNELS)
        last = len(CHANNELS) - 1
        self.down_blocks = nn.ModuleList(Stage(widths[i], widths[i + 1], LAYERS, "down" if i < last else None) for i in range(last + 1))
        self.mid_block = Stage(CHANNELS[-1], CHANNELS[-1], 2, None)
        self.conv_norm_out = nn.GroupNorm(GROUPS, CHANNELS[-1], 1e-6)
        self.conv_out = nn.Conv2d(CHANNELS[-1], 2 * LATENT, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x)))).chunk(2, 1)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (CHANNELS[-1], *reversed(CHANNELS))
        last = len(CHANNELS) - 1
        self.conv_in = nn.Conv2d(LATENT, CHANNELS[-1], 3, padding=1)
        self.mid_block = Stage(CHANNELS[-1], CHANNELS[-1], 2, None)
        self.up_blocks = nn.ModuleList(Stage(widths[i], widths[i + 1], LAYERS + 1, "up" if i < last else None) for i in range(last + 1))
        self.conv_norm_out = nn.GroupNorm(GROUPS, CHANNELS[0], 1e-6)
        self.conv_out = nn.Conv2d(CHANNELS[0], 3, 3, padding=1)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
