"""Inception v3's pool features, as FID takes them: from its own weights of 2015, or from torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stabilgan.diagnosis.features import pretrained
from stabilgan.diagnosis.findings import InputError

FILES = (
    "pt_inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
    "inception_v3_google-0cc3c7bd.pth",
    "inception_v3_google-1a9a5a14.pth",
    "inception.safetensors",
)
"""pytorch-fid's, torch-fidelity's and torchvision's names; the layouts are told apart by the number of classes."""
FID_CLASSES, TORCHVISION_CLASSES = 1008, 1000


class Inception(nn.Module):
    """(N, 3, H, W) in [0, 1] to (N, 2048): bilinear to 299 x 299, [-1, 1], then all layers up to the average.

    FID's network of 2015 leaves the padding out of its average pools, and its last block takes a maximum instead.
    """

    def __init__(self, weights: dict[str, Tensor], path: Path) -> None:
        super().__init__()
        from torchvision.models import inception

        classes = len(weights.get("fc.bias", ()))
        if classes not in (FID_CLASSES, TORCHVISION_CLASSES):
            raise InputError(f"{path} is not Inception v3: fc.bias has {classes} values; expected 1008 (FID) or 1000")
        self.fid = classes == FID_CLASSES
        net = inception.Inception3(num_classes=classes, aux_logits=not self.fid, init_weights=False)
        if self.fid:
            net.Mixed_7c._forward = partial(with_maximum, net.Mixed_7c, net.Mixed_7c._forward)
            for name, block in net.named_children():
                if name != "Mixed_7c" and hasattr(block, "branch_pool"):
                    block.branch_pool.register_forward_pre_hook(without_padding)
        pretrained.fill(net, weights, path)
        net.fc, net.dropout = nn.Identity(), nn.Identity()
        self.net: Any = net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        out: Tensor = self.net(x * 2 - 1)
        return out


def with_maximum(block: Any, forward: Callable[[Tensor], list[Tensor]], x: Tensor) -> list[Tensor]:
    """The branches of a block, the last of them with a maximum in place of its average."""
    out = forward(x)
    out[-1] = block.branch_pool(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))
    return out


def without_padding(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    """What an average of 3 x 3 with zeros round the image would have been without them."""
    (x,) = given
    share = F.avg_pool2d(x.new_ones(1, 1, *x.shape[2:]), kernel_size=3, stride=1, padding=1)
    return (x / share,)


def load(weights_dir: Path | None) -> tuple[Inception, tuple[str, ...]]:
    """Inception with the weights found, and a note of which.

    Raises:
        InputError: there are none, or they don't fit.
    """
    path = pretrained.find(
        FILES, weights_dir, "inception", "pytorch-fid's releases (FID's own) or torchvision's inception_v3"
    )
    net = Inception(pretrained.state(path), path)
    kind = "FID's own network" if net.fid else "torchvision's network, whose distances are not those of published FIDs"
    return net, (f"Inception v3 pool features from {path.name}: {kind}",)
