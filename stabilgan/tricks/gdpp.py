"""GDPP: the fakes are to be as diverse to D, in the same directions, as the data."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stabilgan import surgery
from stabilgan.game import Cost, Game, Player, Trick
from stabilgan.tricks.feature_matching import features_of_both


def log_det_plus_one(features: Tensor) -> Tensor:
    """log det(I + ΦᵀΦ) of features Φ (N, D): the log-normaliser of the determinantal point process with kernel ΦΦᵀ.

    It is the sum of log(1 + λ) over the kernel's eigenvalues, taken from the smaller of the two Gram matrices by
    Cholesky: I + ΦᵀΦ is always positive definite, and nothing has to be asked of the device.

    >>> round(log_det_plus_one(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).exp().item(), 4)  # (1 + 1²) (1 + 2²)
    10.0
    """
    gram = features @ features.T if features.shape[0] <= features.shape[1] else features.T @ features
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(identity + gram, check_errors=False)
    log_det: Tensor = 2 * factor.diagonal().log().sum()
    return log_det


def determinantal_divergence(fake: Tensor, real: Tensor) -> Tensor:
    """How differently two batches spread over the directions of a feature space: at least 0, and 0 where they agree.

    With each feature vector brought to length 1 and A = Φ_fakeᵀΦ_fake, B = Φ_realᵀΦ_real it is the Jensen-Bregman
    LogDet divergence log det(I + (A + B)/2) - ½ log det(I + A) - ½ log det(I + B).

    Args:
        fake, real: (N, ...) and (M, ...), features of the same shape; only min(N, M) of each are looked at, so that
            both kernels have the same trace.

    >>> one_mode, two_modes = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    >>> round(determinantal_divergence(one_mode, two_modes).item(), 4)  # ½ log(3.75² / (3 · 4))
    0.0793
    """
    n = min(len(fake), len(real))
    a, b = (normalize(x[:n].flatten(1)) for x in (fake, real))
    both = torch.cat([a, b]) / 2**0.5
    return log_det_plus_one(both) - (log_det_plus_one(a) + log_det_plus_one(b)) / 2


class GDPP(Trick):
    """Makes the fakes of a batch as diverse as the real ones of a batch, as D's features see diversity.

    After Elfeki et al. 2019 (arXiv:1812.00068, Sec. 3): diversity is the kernel of a determinantal point process, the
    inner products of D's normalised features over the batch, and G is to give the fakes the kernel of the data. The
    paper compares eigenvalues and eigenvectors one by one. Ours compares the same kernels as wholes, by the
    Jensen-Bregman LogDet divergence (Cherian et al. 2013, "Jensen-Bregman LogDet divergence with application to
    efficient similarity search for covariance matrices"). That needs no eigendecomposition, on which a GPU's host waits
    and whose gradient is infinite where eigenvalues coincide, and it does not depend on the order of the batch.

    Args:
        weight: at least 0. The paper adds its own term with weight 1; ours grows as the logarithm of the batch size.
        layer: the name of the linear or convolutional layer of D whose input is compared; D's last one if None.
        every: ask on every n-th step, then n-fold.

    Raises:
        ValueError: an option outside its range; D has no such layer.
        RuntimeError: the loop never calls `game.real`, or not the generator that was attached.
    """

    name = "gdpp"
    changes = "a term for G"
    when = (
        "Modes are dropped while D still tells them apart. It needs batches large enough to show the modes, and sees "
        "no diversity that D's features do not."
    )
    needs_latents = True
    cost = Cost(g_forward=1, g_backward=1, d_forward=2)
    off: ClassVar = {"weight": 0.0}
    conflicts: ClassVar = dict.fromkeys(
        ("instance_noise", "diffaugment", "ada"),
        "its real batch is augmented, but the fakes that it makes anew are not: G would be taught the augmentation",
    )
    limits: ClassVar = {
        "g first": "nothing is added until D has seen a first real batch, also after a restart",
        "accumulate": "each of G's micro-batches is held against the last real one of D's turn",
    }
    source = "Elfeki et al. 2019, arXiv:1812.00068, Sec. 3; Cherian et al. 2013, IEEE TPAMI 35(9)"

    def __init__(self, weight: float = 1.0, layer: str | None = None, every: int = 1) -> None:
        if weight < 0:
            raise ValueError(f"gdpp: weight is {weight}; expected 0 or more")
        if every < 1:
            raise ValueError(f"gdpp: every is {every}; expected 1 or more")
        self.weight, self.layer, self.every = weight, layer, every

    def setup(self, game: Game) -> None:
        surgery.last_layer(game.d, self.layer)

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "d" or self.weight == 0 or (features := features_of_both(game, self, self.layer)) is None:
            return None
        return self.weight * determinantal_divergence(*features)
