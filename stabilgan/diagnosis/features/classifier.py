"""A classifier's features and labels: the workload's judge for MNIST and Fashion-MNIST, else one trained on reals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stabilgan.diagnosis.features import cache, network
from stabilgan.diagnosis.features.batches import mapped
from stabilgan.diagnosis.features.content import content_hash
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import Progress, Samples

DIGITS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
SURE = 0.5
"""Below this probability a sample is taken for no class, -1."""
TRUSTED = 0.7
"""A classifier that names fewer of the held-out reals rightly is not asked for labels."""


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        features: (N, C, H, W) in [0, 1] to (N, d).
        head: these features to (N, classes) logits.
        classes, accuracy: how many it knows, and the share of held-out reals that it names rightly.
        key: changes with its weights' origin.
        notes: what it is.
    """

    features: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    classes: int
    accuracy: float
    key: str
    notes: tuple[str, ...]

    def labels(self, features: Tensor, device: torch.device) -> Tensor:
        """(N,) classes, -1 where it is less than half sure or the features are not finite."""
        logits = mapped(self.head, features, device=device, batch=10_000)
        sure, label = logits.softmax(1).max(1)
        return torch.where(sure >= SURE, label, -1)


def classifier_of(
    real: Samples,
    *,
    data_dir: Path | None = None,
    device: torch.device,
    seed: int = 0,
    progress: Progress | None = None,
) -> Classifier:
    """The classifier for these reals.

    Raises:
        InputError: they have no labels, fewer than two classes or fewer than ten images of each on average.
    """
    name = real.source.partition(":")[0].lower()
    if name in DIGITS and tuple(real.x.shape[1:]) == (1, 28, 28):
        return _judge(name, data_dir, device)
    return _own(real, device, seed, progress)


def _judge(name: str, data_dir: Path | None, device: torch.device) -> Classifier:
    from stabilgan.workloads import digits

    net, accuracy = digits.judge_of(DIGITS[name], data_dir)
    net.to(device)
    note = f"features of the {DIGITS[name]} workload's own classifier (accuracy {accuracy:.1%} on its test images)"
    return Classifier(
        lambda x: net.features(x.flatten(1) * 2 - 1),
        net.head,
        10,
        accuracy,
        content_hash(*net.state_dict().values(), of="judge"),
        (note,),
    )


def _own(real: Samples, device: torch.device, seed: int, progress: Progress | None) -> Classifier:
    if real.labels is None:
        raise InputError(
            f"a classifier needs labels, and {real.source} has none; put images into a sub-folder for each class, give "
            "labels=, or take the features 'edges' or 'pixels'"
        )
    classes = int(real.labels.max()) + 1
    if len(real.labels.unique()) < 2 or len(real) < 10 * classes:
        raise InputError(
            f"a classifier needs two classes at least and ten images of each; {real.source} has {len(real):,} images "
            f"of {len(real.labels.unique())} classes; take the features 'edges' or 'pixels'"
        )
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    held = order[: min(2000, max(1, len(order) // 10))]
    rest = order[len(held) :]
    key = content_hash(real.x, real.labels, of=f"classifier {network.VERSION} {seed}")
    net = network.SmallNetwork(tuple(real.x.shape[1:]), classes)
    accuracy, note = cache.kept_weights("classifier", key, net)
    if accuracy is None:
        net = network.trained(real.x[rest], real.labels[rest], classes, device=device, seed=seed, progress=progress)
        logits = mapped(net, real.x[held], device=device)
        accuracy = (logits.argmax(1) == real.labels[held]).float().mean().item()
        cache.keep_weights("classifier", key, net, accuracy)
    net.to(device).eval().requires_grad_(False)
    told = f"features of a small classifier trained on the reals (right on {accuracy:.1%} of {len(held)} held-out ones)"
    return Classifier(net.features, net.head, classes, accuracy, key, (told, note) if note else (told,))
