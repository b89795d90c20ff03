"""MNIST and Fashion-MNIST with the small dense GAN, judged by a classifier that is trained on the real data once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabilgan import host
from stabilgan.metrics import label_modes, prdc
from stabilgan.schemes import Scheme
from stabilgan.workloads.base import Judge, Workload
from stabilgan.workloads.mixtures import dense


def mnist(
    rate: float = 0.002, min_count: int = 25, scheme: Scheme = "alternating", *, data_dir: Path | None = None
) -> Workload:
    """Handwritten digits with a GAN that fails within its first epoch: the discriminator wins outright.

    G 64-256-256-784, ReLU, tanh; D 784-256-256-1, LeakyReLU 0.2; logistic loss; batches of 100; 600 steps are an epoch.

    Args:
        rate: Adam's, for both players; the rate at which it fails is 0.002.
        min_count: samples of 2,500 that a digit needs to count as a mode; a classifier errs, so one is not enough.
        scheme: of steps, as in the Trainer.
        data_dir: where torchvision finds `MNIST/raw`; else $STABILGAN_DATA, else the cache.
    """
    return _workload("MNIST", rate, min_count, scheme, data_dir)


def fashion_mnist(
    rate: float = 0.002, min_count: int = 25, scheme: Scheme = "alternating", *, data_dir: Path | None = None
) -> Workload:
    """Ten kinds of clothing, in all else like `mnist`.

    Args:
        rate: Adam's, for both players.
        min_count: samples of 2,500 that a class needs to count as a mode.
        scheme: of steps, as in the Trainer.
        data_dir: where torchvision finds `FashionMNIST/raw`; else $STABILGAN_DATA, else the cache.
    """
    return _workload("FashionMNIST", rate, min_count, scheme, data_dir)


def cache_dir() -> Path:
    """Where trained judges and downloads are kept: $STABILGAN_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STABILGAN_CACHE") or Path(home) / "stabilgan")


def load(name: str, data_dir: Path | None, *, train: bool) -> tuple[Tensor, Tensor]:
    """Images (n, 28, 28) uint8 and labels (n,), by torchvision; downloaded to the cache where there is a network.

    Raises:
        FileNotFoundError: they are nowhere and can't be downloaded; the message says what to put where.
    """
    from torchvision import datasets

    kind = getattr(datasets, name)
    given = data_dir or (Path(os.environ["STABILGAN_DATA"]) if os.environ.get("STABILGAN_DATA") else None)
    kept = cache_dir() / "data"
    for root in (given or kept, kept):
        with contextlib.suppress(RuntimeError):  # torchvision's word for "not found"
            found = kind(root, train=train, download=False)
            return found.data, found.targets
    try:
        found = kind(kept, train=train, download=True)
    except (RuntimeError, OSError):
        root = given or kept
        raise FileNotFoundError(
            f"{name} is not in {root} and could not be downloaded; put its four files (train-images-idx3-ubyte, "
            f"train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte) into {root / name / 'raw'}, or "
            "name the folder that has them with --data-dir or STABILGAN_DATA"
        ) from None
    return found.data, found.targets


def scaled(images: Tensor) -> Tensor:
    """(n, 28, 28) uint8 to (n, 784) in [-1, 1]."""
    return images.flatten(1).float().div_(127.5).sub_(1)


class Classifier(nn.Module):
    """A small convolutional classifier of 28 x 28 images in [-1, 1]; `features` are what its last layer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 49, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """(n, 784) to (n, 64)."""
        out: Tensor = self.body(x.view(-1, 1, 28, 28))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out


def train_classifier(images: Tensor, labels: Tensor, epochs: int = 3, seed: int = 0) -> Classifier:
    """A classifier trained on (n, 28, 28) uint8 images, the same for the same seed."""
    with host.drawing_from(seed, torch.device("cpu")):
        net = Classifier()
    order, batch = torch.Generator().manual_seed(seed), 200
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=max(steps, 2))
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=order)[: len(images) // batch * batch].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(net(scaled(images[rows])), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(net: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of (n, 28, 28) uint8 images that the classifier names right."""
    right = [(net(scaled(x)).argmax(1) == y).sum() for x, y in zip(images.split(1000), labels.split(1000), strict=True)]
    return torch.stack(right).sum().item() / len(labels)


def judge_of(name: str, data_dir: Path | None) -> tuple[Classifier, float]:
    """The classifier of a data set and its accuracy on the test images; trained once, then read from the cache."""
    images, labels = load(name, data_dir, train=True)
    key = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes() + b"classifier 1").hexdigest()[:16]
    path = cache_dir() / "classifiers" / f"{name}-{key}.pt"
    net = Classifier().eval().requires_grad_(False)
    if path.exists():
        # damaged, or not what was kept there: nothing in it is run, and it is made anew
        with contextlib.suppress(
            pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError, ValueError
        ):
            kept = torch.load(path, weights_only=True)
            net.load_state_dict(kept["net"])
            return net, float(kept["accuracy"])
    net = train_classifier(images, labels)
    known: dict[str, Any] = {"net": net.state_dict(), "accuracy": accuracy(net, *load(name, data_dir, train=False))}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    torch.save(known, part)
    os.replace(part, path)
    return net, known["accuracy"]


def classified(net: Classifier, reference: Tensor, min_count: int) -> Judge:
    """Judges (n, 784) images by class histogram, and by coverage and recall on the classifier's features.

    A sample that the classifier is less than half sure of counts as "no mode"; `high_quality` is the share of the rest.
    """
    real = net.features(reference)

    @torch.no_grad()
    def judge(samples: Tensor) -> dict[str, float]:
        x = samples.cpu().float()
        finite = bool(x.isfinite().all())
        if not finite:
            return {
                "modes": 0.0,
                "high_quality": 0.0,
                "kl": float("nan"),
                "coverage": 0.0,
                "recall": 0.0,
                "precision": 0.0,
            }
        sure, labels = net(x).softmax(1).max(1)
        found = label_modes(torch.where(sure >= 0.5, labels, -1), 10, min_count=min_count)
        near = prdc(real, net.features(x))
        return {
            "modes": float(found.captured),
            "high_quality": found.high_quality,
            "kl": found.kl,
            "coverage": near.coverage,
            "recall": near.recall,
            "precision": near.precision,
        }

    return judge


def _workload(name: str, rate: float, min_count: int, scheme: Scheme, data_dir: Path | None) -> Workload:
    if rate <= 0:
        raise ValueError(f"rate is {rate}; expected above 0")
    if not 1 <= min_count <= 250:
        raise ValueError(f"min_count is {min_count}; expected 1 to 250, a tenth of the samples judged")
    images, _ = load(name, data_dir, train=True)
    test, _ = load(name, data_dir, train=False)
    net, right = judge_of(name, data_dir)
    reference = scaled(test[:2500])
    g = nn.Sequential(*dense([64, 256, 256, 784], nn.ReLU), nn.Tanh())
    d = dense([784, 256, 256, 1], lambda: nn.LeakyReLU(0.2))
    return Workload(
        g=g,
        d=d,
        opt_g=torch.optim.Adam(g.parameters(), rate),
        opt_d=torch.optim.Adam(d.parameters(), rate),
        data=scaled(images),
        latent=64,
        judge=classified(net, reference, min_count),
        reference=reference,
        batch_size=100,
        scheme=scheme,
        steps=1200,
        primary="modes",
        target=10.0,
        kind="images",
        notes={"classifier_accuracy": right, "min_count": min_count},
    )
