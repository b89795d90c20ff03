"""What runs in `benchmarks/metrics.py`: for each measure ours, the packages that compute the same, and a plain matmul.

Each contender is made ready first (data, and one small run), then called as often as it is timed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilgan import metrics

Run = Callable[[], float]
Ready = Callable[[], Run]
Measure = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Setting:
    """What is measured, on how many samples of how many features (ms-ssim: pairs of images of d x d), and where."""

    measure: str
    n: int
    d: int
    device: str = "cpu"
    precision: str = "float32"

    def samples(self, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Two sets that are not centred, like a network's activations, and differ little enough at any width."""
        rng = torch.Generator().manual_seed(0)
        x, y = (torch.randn(size or self.n, self.d, generator=rng) for _ in range(2))
        return x.abs().to(self.device), ((1 + 0.8 / self.d**0.5) * y).abs().to(self.device)

    def images(self, size: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(0)
        a, noise = (torch.rand(size, 3, self.d, self.d, generator=rng) for _ in range(2))
        return a.to(self.device), (a + 0.2 * noise).clamp(0, 1).to(self.device)


def contenders(of: Setting) -> dict[str, Ready]:
    """What makes each contender ready, by name; that returns what to time, which returns the value it found."""
    return MEASURES[of.measure](of)


def bound(of: Setting) -> tuple[float, torch.dtype, str] | None:
    """Multiply-adds that no exact form can do without, in which numbers, and what they are; None where none are known.

    A product of a set with itself counts half, as it is symmetric.
    """
    n, d = of.n, of.d
    if of.measure in ("prdc", "kernel"):
        return 2 * n * n * d, torch.float32, "the products within both sets and between them"
    if of.measure == "frechet":
        return (n * d * d if n > d else n * n * d), torch.float64, "both covariances" if n > d else "the cross products"
    if of.measure in ("vendi", "vendi-2"):
        dtype = torch.float64 if of.measure == "vendi" else torch.float32  # what ours multiplies in
        return n * d * min(n, d) / 2, dtype, "the Gram matrix of the smaller side"
    return None


def matmul(of: Setting, at_most: float = 5e12) -> Ready:
    """As many multiply-adds as the bound counts, in plain products; of more than `at_most` only so many, scaled up."""
    found = bound(of)
    assert found is not None
    work, dtype, _ = found

    def ready() -> Run:
        wide = dtype == torch.float32
        rows, inner = (min(2048, of.n), of.d) if wide or of.n <= of.d else (min(2048, of.d), 1024)
        a, b = (torch.randn(rows, inner, device=of.device, dtype=dtype) for _ in range(2))
        out = torch.empty(rows, rows, device=of.device, dtype=dtype)
        torch.mm(a, b.T, out=out)
        times = min(work, at_most) / (rows * rows * inner)
        rest = max(1, round((times % 1) * rows))

        def run() -> float:
            for _ in range(int(times)):
                torch.mm(a, b.T, out=out)
            torch.mm(a[:rest], b.T, out=out[:rest])
            return out[0, 0].item()

        return run

    return ready


def matmul_scale(of: Setting, at_most: float = 5e12) -> float:
    """What to multiply the time of `matmul` with."""
    found = bound(of)
    return max(1.0, found[0] / at_most) if found else 1.0


def _ours(of: Setting, call: Measure) -> Ready:
    def ready() -> Run:
        call(*of.samples(600))
        x, y = of.samples()
        return lambda: call(x, y)

    return ready


def _theirs(of: Setting, call: Measure) -> Ready:
    def ready() -> Run:
        with contextlib.redirect_stdout(io.StringIO()):
            call(*(part[:, :64].cpu() for part in of.samples(600)))  # of few features: some take long for many
        x, y = (part.cpu() for part in of.samples())

        def run() -> float:
            with contextlib.redirect_stdout(io.StringIO()):
                return call(x, y)

        return run

    return ready


def _prdc(of: Setting) -> dict[str, Ready]:
    def package(x: Tensor, y: Tensor) -> float:
        from prdc import compute_prdc

        return float(compute_prdc(x.numpy(), y.numpy(), nearest_k=5)["precision"])

    def fidelity(x: Tensor, y: Tensor) -> float:
        from torch_fidelity.metric_prc import prc_features_to_metric

        options: dict[str, Any] = {"prc_neighborhood": 5, "prc_batch_size": 10_000, "save_cpu_ram": True}
        return float(prc_features_to_metric(y, x, verbose=False, **options)["precision"])

    return {
        "ours": _ours(of, lambda x, y: metrics.prdc(x, y).precision),
        "matmul": matmul(of),
        "prdc": _theirs(of, package),
        "torch-fidelity": _theirs(of, fidelity),
    }


def _frechet(of: Setting) -> dict[str, Ready]:
    def pytorch_fid(x: Tensor, y: Tensor) -> float:
        from pytorch_fid.fid_score import calculate_frechet_distance

        moments = [(a.mean(0), np.cov(a, rowvar=False)) for a in (x.double().numpy(), y.double().numpy())]
        return float(calculate_frechet_distance(*moments[0], *moments[1]))

    def fidelity(x: Tensor, y: Tensor) -> float:
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        a, b = (fid_features_to_statistics(part.double()) for part in (x, y))
        return float(fid_statistics_to_metric(a, b, verbose=False)["frechet_inception_distance"])

    def torchmetrics(x: Tensor, y: Tensor) -> float:
        from torchmetrics.image.fid import _compute_fid

        a, b = x.double(), y.double()
        return float(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()))

    return {
        "ours": _ours(of, lambda x, y: metrics.frechet_distance(x, y).distance),
        "matmul": matmul(of),
        "pytorch-fid": _theirs(of, pytorch_fid),
        "torch-fidelity": _theirs(of, fidelity),
        "torchmetrics": _theirs(of, torchmetrics),
    }


def _kernel(of: Setting) -> dict[str, Ready]:
    size = min(1000, of.n)

    def fidelity(x: Tensor, y: Tensor) -> float:
        from torch_fidelity.metric_kid import kid_features_to_metric

        found = kid_features_to_metric(x, y, kid_subsets=100, kid_subset_size=min(size, len(x)), verbose=False)
        return float(found["kernel_inception_distance_mean"])

    def torchmetrics(x: Tensor, y: Tensor) -> float:
        from torchmetrics.image.kid import poly_mmd

        rng = torch.Generator().manual_seed(0)

        def some(of: Tensor) -> Tensor:
            return of[torch.randperm(len(of), generator=rng)[:size]]

        return float(torch.stack([poly_mmd(some(x), some(y)) for _ in range(100)]).mean())

    return {
        "ours": _ours(of, lambda x, y: metrics.kernel_distance(x, y).distance),
        "matmul": matmul(of),
        "torch-fidelity": _theirs(of, fidelity),
        "torchmetrics": _theirs(of, torchmetrics),
    }


def _vendi(of: Setting) -> dict[str, Ready]:
    q = 1 if of.measure == "vendi" else 2

    def package(name: str) -> Measure:
        def call(x: Tensor, _: Tensor) -> float:
            from vendi_score import vendi

            if name == "score_K":  # score_X forgets to hand q on
                x = torch.nn.functional.normalize(x)
                return float(vendi.score_K((x @ x.T).numpy(), q=q))
            return float(getattr(vendi, name)(x.numpy(), q=q))

        return call

    default = "score_X" if q == 1 else "score_K"
    return {
        "ours": _ours(of, lambda x, _: metrics.vendi_score(x, q=q).score),
        "matmul": matmul(of),
        f"vendi-score {default}": _theirs(of, package(default)),
        "vendi-score score_dual": _theirs(of, package("score_dual")),
    }


def _ms_ssim(of: Setting) -> dict[str, Ready]:
    def compared(call: Measure, where: str) -> Ready:
        def ready() -> Run:
            call(*(part.to(where) for part in of.images(1)))
            a, b = (part.to(where) for part in of.images(of.n))
            return lambda: call(a, b)

        return ready

    def torchmetrics(a: Tensor, b: Tensor) -> float:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as score

        return float(score(a, b, data_range=1.0))

    def pytorch_ssim(a: Tensor, b: Tensor) -> float:
        from pytorch_msssim import ms_ssim

        return float(ms_ssim(a, b, data_range=1.0))

    return {
        "ours": compared(lambda a, b: metrics.ms_ssim(a, b, data_range=1.0).mean().item(), of.device),
        "torchmetrics": compared(torchmetrics, "cpu"),
        "pytorch-msssim": compared(pytorch_ssim, "cpu"),
    }


def _evaluate(of: Setting) -> dict[str, Ready]:
    return {"ours": _ours(of, lambda x, y: metrics.evaluate(x, y).prdc.precision)}


MEASURES: dict[str, Callable[[Setting], dict[str, Ready]]] = {
    "prdc": _prdc,
    "frechet": _frechet,
    "kernel": _kernel,
    "vendi": _vendi,
    "vendi-2": _vendi,
    "ms-ssim": _ms_ssim,
    "evaluate": _evaluate,
}


def matrices(name: str, of: Setting) -> float:
    """GB of distances or kernel values that a package holds at once; torch-fidelity holds batches of 10,000 rows."""
    numbers = {"vendi-score score_X": 3 * of.n**2, "vendi-score score_K": 3 * of.n**2}
    if of.measure == "prdc":
        numbers = {"prdc": 3 * of.n**2, "torch-fidelity": 5 * min(of.n, 10_000) * of.n}
    return 4 * numbers.get(name, 0) / 2**30
