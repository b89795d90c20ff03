"""GDPP: the fakes are to be as diverse to D, in the same directions, as the data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stabilgan.tricks._features import FeatureTerm


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


class GDPP(FeatureTerm):
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
    when = (
        "Modes are dropped while D still tells them apart. It needs batches large enough to show the modes, and sees "
        "no diversity that D's features do not."
    )
    source = "Elfeki et al. 2019, arXiv:1812.00068, Sec. 3; Cherian et al. 2013, IEEE TPAMI 35(9)"

    def compare(self, fake: Tensor, real: Tensor) -> Tensor:
        return determinantal_divergence(fake, real)
