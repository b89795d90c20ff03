"""Everything at once: the measures of fakes against reals that features allow, sharing their distances."""

from dataclasses import dataclass

from torch import Tensor

from stabilgan.metrics.birthday import Birthday, birthday_test
from stabilgan.metrics.distances import tiles
from stabilgan.metrics.frechet import Frechet, frechet_distance
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.kernel import KernelDistance, kernel_distance
from stabilgan.metrics.memorisation import Authenticity
from stabilgan.metrics.ndb import NDB, ndb
from stabilgan.metrics.neighbours import Nearest
from stabilgan.metrics.pqmass import PQMass, pqmass
from stabilgan.metrics.prdc import PRDC, Hits
from stabilgan.metrics.sliced import SlicedWasserstein, sliced_wasserstein
from stabilgan.metrics.vendi import RKESum, Vendi, median_distance, vendi_score


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured. Numbers of one set alone stand beside the reals': diversity has no scale of its own.

    prdc, frechet, kernel, sliced, ndb, pqmass, birthday: of the fakes against the reals.
    authenticity: of the fakes, with the reals as the training set; misleading if the generator was trained on others.
    vendi, rke: of the fakes; vendi_real, rke_real: of the reals, with the same sigma.
    """

    prdc: PRDC
    frechet: Frechet
    kernel: KernelDistance
    sliced: SlicedWasserstein
    ndb: NDB
    pqmass: PQMass
    birthday: Birthday
    authenticity: Authenticity
    vendi: Vendi
    vendi_real: Vendi
    rke: Vendi
    rke_real: Vendi


def evaluate(
    real: Tensor, fake: Tensor, *, k: int = 5, sigma: float | None = None, seed: int = 0, tile: int | None = None
) -> Evaluation:
    """Measure fidelity, diversity and memorisation of fakes against reals in one go.

    real: (N, d), fake: (M, d) features of one kind, N and M above k and at least 10. k: neighbours for PRDC. sigma:
    bandwidth for RKE, by default the median distance between reals. Bins, regions, batches and subsets shrink with the
    samples: at most 100 bins and regions, 5 samples for each at least. seed: for everything that draws. PRDC, RKE and
    authenticity take three passes over the distances together; KID, Fréchet and the others take their own.

    >>> import torch
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> evaluate(x[:100], x[100:]).prdc.n
    100
    """
    x, y = pair(real, fake, least=10)
    least = min(len(x), len(y))
    if not 1 <= k < least:
        raise ValueError(f"k is {k} with {len(x)} real and {len(y)} fake samples; expected 1 <= k < {least}")
    width = median_distance(x, seed=seed) if sigma is None else sigma
    if not width > 0:
        raise ValueError("the reals are all alike, so that no bandwidth follows from them; pass sigma")

    own, rows, rke_real = _within(x, k, width, tile)
    fakes, _, rke_fake = _within(y, k, width, tile)
    hits, search = Hits(x, y, own[:, -1], fakes[:, -1]), Nearest(y, 1, x)
    for part in tiles(x, y, size=tile):
        search.add(part, flipped=True)
        hits.add(part)
    squares, nearest = (found.flatten() for found in search.result())
    authentic = (own[nearest, 0] < squares).double().mean().item()

    cells = max(2, min(100, least // 5))
    return Evaluation(
        prdc=hits.result(own, rows),
        frechet=frechet_distance(x, y),
        kernel=kernel_distance(x, y, seed=seed),
        sliced=sliced_wasserstein(x, y, seed=seed),
        ndb=ndb(x, y, bins=cells, seed=seed),
        pqmass=pqmass(x, y, regions=cells, seed=seed),
        birthday=birthday_test(x, y, size=max(2, min(100, least // 5)), seed=seed),
        authenticity=Authenticity(authentic, nearest, squares.sqrt(), len(x), len(y)),
        vendi=vendi_score(y),
        vendi_real=vendi_score(x),
        rke=rke_fake,
        rke_real=rke_real,
    )


def _within(x: Tensor, k: int, sigma: float, tile: int | None) -> tuple[Tensor, Tensor, Vendi]:
    search, sums = Nearest(x, k), RKESum(x, sigma)
    for part in tiles(x, dtype=sums.dtype(), size=tile):
        sums.add(part)  # before the search takes the diagonal out
        search.add(part)
    squares, rows = search.result()
    return squares, rows, sums.result()
