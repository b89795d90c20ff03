"""DINOv2's class token: its vision transformer, built from the shapes in the authors' file of weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabilgan.diagnosis.features import pretrained
from stabilgan.diagnosis.findings import InputError

SIZES = ("vits14", "vitb14", "vitl14", "vitg14")
FILES = tuple(
    f"dinov2_{size}{kind}_pretrain{ending}"
    for ending in (".pth", ".safetensors")
    for size in SIZES
    for kind in ("", "_reg4")
)
HEAD = 64
"""Width of an attention head, in all sizes."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Attention and a dense part, each normalised before and scaled after."""

    def __init__(self, width: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        names = ("w12", "w3") if gated else ("fc1", "fc2")
        first, last = nn.Linear(width, hidden * (2 if gated else 1)), nn.Linear(hidden, width)
        self.mlp = nn.ModuleDict({names[0]: first, names[1]: last})
        self.ls2 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))})
        self.gated, self.names = gated, names

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x)) * self.ls1["gamma"]
        hidden = self.mlp[self.names[0]](self.norm2(x))
        if self.gated:
            gate, value = hidden.chunk(2, -1)
            hidden = F.silu(gate) * value
        else:
            hidden = F.gelu(hidden)
        out: Tensor = x + self.mlp[self.names[1]](hidden) * self.ls2["gamma"]
        return out

    def attend(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.attn["qkv"](x).view(n, length, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        out: Tensor = self.attn["proj"](mixed)
        return out


class DinoV2(nn.Module):
    """(N, 3, H, W) in [0, 1] to (N, width): the class token of an image brought to 224 x 224.

    Bicubic and antialiased, normalised by ImageNet's mean and spread.

    (Oquab et al. 2023, arXiv:2304.07193; registers: Darcet et al. 2023, arXiv:2309.16588.)
    """

    def __init__(self, weights: dict[str, Tensor], path: Path, side: int = 224) -> None:
        super().__init__()
        try:
            width, _, self.patch, _ = weights["patch_embed.proj.weight"].shape
            places = weights["pos_embed"].shape[1]
            gated = "blocks.0.mlp.w12.weight" in weights
            hidden = weights["blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"].shape[1]
        except (KeyError, ValueError):
            raise InputError(
                f"{path} is not DINOv2: expected patch_embed.proj.weight, pos_embed and blocks.0, as its authors have"
            ) from None
        if width % HEAD or math.isqrt(places - 1) ** 2 != places - 1:
            raise InputError(
                f"{path} is not DINOv2: width {width}, {places} places; expected a multiple of 64, a square and 1"
            )
        depth = len({k.split(".")[1] for k in weights if k.startswith("blocks.")})
        self.side = side
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, places, width))
        registers = weights["register_tokens"].shape[1] if "register_tokens" in weights else 0
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.registers = registers
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, self.patch, stride=self.patch)})
        self.blocks = nn.ModuleList(Block(width, hidden, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        pretrained.fill(self, weights, path)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        x = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.places(self.side // self.patch)
        if self.registers:
            tokens = torch.cat([tokens[:, :1], self.register_tokens.expand(len(x), -1, -1), tokens[:, 1:]], 1)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)[:, 0]
        return out

    def places(self, side: int) -> Tensor:
        """The position embedding for a grid of `side` squared, resized as the authors' code does."""
        own = math.isqrt(self.pos_embed.shape[1] - 1)
        if own == side:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].view(1, own, own, -1).permute(0, 3, 1, 2)
        if self.registers:
            grid = F.interpolate(grid, (side, side), mode="bicubic", antialias=True)
        else:
            scale = (side + 0.1) / own  # theirs, kept since the weights were published with it
            grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def load(weights_dir: Path | None) -> tuple[DinoV2, tuple[str, ...]]:
    """DINOv2 with the weights found, and a note of which.

    Raises:
        InputError: there are none, or they don't fit.
    """
    path = pretrained.find(FILES, weights_dir, "dinov2", "the DINOv2 repository's list of backbones")
    return DinoV2(pretrained.state(path), path), (f"DINOv2 class tokens from {path.name}",)
