"""PRDC against the authors' package, a direct float64 count, closed forms and constructed sets."""

import contextlib
import io
import math

import pytest
import torch
from torch import Tensor

from stabilgan.metrics.distances import multiply, tiles
from stabilgan.metrics.neighbours import below, nearest, smallest
from stabilgan.metrics.prdc import PRDCMeter, _straighten, expected_coverage, prdc


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def by_hand(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The definitions, from differences in float64."""
    x, y = real.double(), fake.double()

    def squares(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([(row - b).square().sum(1) for row in a])

    r = squares(x, x).kthvalue(k + 1, 1).values
    s = squares(y, y).kthvalue(k + 1, 1).values
    cross = squares(x, y)
    inside = cross < r[:, None]
    return {
        "precision": inside.any(0).double().mean().item(),
        "recall": (cross < s).any(1).double().mean().item(),
        "density": inside.sum().item() / k / len(y),
        "coverage": inside.any(1).double().mean().item(),
    }


def check(real: Tensor, fake: Tensor, k: int = 5, **options: int) -> None:
    result = prdc(real, fake, k=k, **options)
    for name, value in by_hand(real, fake, k).items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(600, 500, 64, 5), (300, 700, 2, 3), (200, 200, 500, 10), (50, 80, 1, 1)]
)
def test_the_authors_package_agrees(n, m, d, k):
    package = pytest.importorskip("prdc")
    real, fake = normal(n, d, 0), normal(m, d, 1, 0.9)
    with contextlib.redirect_stdout(io.StringIO()):
        want = package.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    result = prdc(real, fake, k=k)
    for name, value in want.items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("tile", [37, 64, 1000, 4096])
def test_tiles_of_any_size_give_the_same(tile):
    real, fake = normal(301, 16, 0), normal(257, 16, 1, 1.1)
    assert prdc(real, fake, tile=tile) == prdc(real, fake)
    check(real, fake, tile=tile)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_tight_clusters_far_from_the_origin_are_counted_exactly(spread):
    rng = torch.Generator().manual_seed(0)
    centres = 25 + 5 * torch.randn(25, 8, generator=rng)
    real = centres[torch.randint(25, (800,), generator=rng)] + spread * torch.randn(800, 8, generator=rng)
    fake = centres[torch.randint(20, (700,), generator=rng)] + spread * torch.randn(700, 8, generator=rng)
    check(real, fake)


def test_a_collapsed_set_far_from_the_origin_has_exact_radii():
    x = 25 / math.sqrt(8) + normal(500, 8, 0, 1e-4)
    want = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").kthvalue(6, 1).values
    plain = (x.square().sum(1)[:, None] + x.square().sum(1) - 2 * x @ x.T).clamp(min=0).kthvalue(6, 1).values.sqrt()
    assert ((plain - want) / want).abs().max() > 0.5  # the trap: products of points that are not centred
    got = nearest(x, 5)[0][:, -1].sqrt()
    assert ((got - want) / want).abs().max() < 1e-12


def test_tiles_of_a_collapsed_set_are_centred():
    x = 25 + normal(300, 8, 0, 1e-4)
    want = (x[:, None].double() - x.double()).square().sum(2)
    (tile,) = tiles(x)
    assert tile.slack < 1e-3 * want.median()
    assert (tile.squares - want).abs().max() < tile.slack


@pytest.mark.parametrize("products", ["high", "medium"])
def test_tiles_are_exact_to_their_slack_whatever_the_global_precision_of_products(products):
    x, y = normal(300, 300, 0), normal(200, 300, 1)
    want = (x[:, None].double() - y.double()).square().sum(2)
    torch.set_float32_matmul_precision(products)
    try:
        (tile,) = tiles(x, y)
        assert (tile.squares - want).abs().max() < tile.slack < 1e-5 * want.median()
        assert torch.get_float32_matmul_precision() == products
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("d", [64, 2048])
def test_products_of_fewer_digits_move_the_readings_by_less_than_a_hundredth(d):
    real, fake = normal(1500, d, 0), normal(1500, d, 1, 1.02)
    exact, coarse = prdc(real, fake), prdc(real, fake, products="bfloat16")
    assert coarse.products == "bfloat16"
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(coarse, name) == pytest.approx(getattr(exact, name), abs=0.01), name
    wide = real.double(), fake.double()
    assert prdc(*wide, products="bfloat16").recall == prdc(*wide).recall  # float64 stays exact
    (tile,) = tiles(real, fake, products="bfloat16", size=2048)
    assert tile.slack == 0.0
    exact_squares = (real[:50, None].double() - fake[:50].double()).square().sum(2)
    off = ((tile.squares[:50, :50] - exact_squares) / exact_squares).abs().max()
    assert 1e-4 < off < 1e-2  # it did use them


def test_clusters_that_even_float64_products_cannot_resolve_are_searched_by_differences():
    centres = torch.tensor([[-38.0], [15.0], [8.0]]).double()
    rng = torch.Generator().manual_seed(0)
    x, y = (centres.repeat(60, 1) + 1e-7 * torch.randn(180, 1, generator=rng).double() for _ in range(2))
    check(x, y, k=3)


def test_duplicates_at_distance_zero_are_strictly_inside_only_of_a_ball_with_a_radius():
    real = torch.cat([normal(100, 4, 0), normal(1, 4, 1).expand(20, 4)])
    fake = torch.cat([real[:30], real[-1:].expand(40, 4)])
    check(real, fake)
    same = prdc(torch.ones(20, 3), torch.ones(30, 3))
    assert (same.precision, same.recall, same.density, same.coverage) == (0.0, 0.0, 0.0, 0.0)


def test_ties_on_whole_numbers_are_kept_outside():
    rng = torch.Generator().manual_seed(0)
    check(torch.randint(4, (300, 3), generator=rng), torch.randint(4, (200, 3), generator=rng), k=3)


def test_everything_inside_every_ball_is_counted():
    real = normal(200, 256, 0)
    fake = real.mean(0) + normal(100, 256, 1, 1e-3)
    check(real, fake)
    result = prdc(real, fake)
    assert result.precision == 1.0  # a collapsed generator, and yet
    assert result.density > 10


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_scale_does_not_matter(scale):
    real, fake = normal(100, 4, 0).double(), normal(90, 4, 1).double()
    assert prdc((real * scale).float(), (fake * scale).float()) == prdc(real.float(), fake.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_measured_at_their_values(dtype):
    check(normal(200, 16, 0).to(dtype), normal(150, 16, 1).to(dtype))


def test_images_of_whole_numbers_are_rows_of_pixels():
    rng = torch.Generator().manual_seed(0)
    real = torch.randint(256, (60, 3, 8, 8), generator=rng, dtype=torch.uint8)
    fake = torch.randint(256, (50, 3, 8, 8), generator=rng, dtype=torch.uint8)
    assert prdc(real, fake) == prdc(real.flatten(1).double(), fake.flatten(1).double())


def test_non_contiguous_rows_are_measured_in_place():
    wide = normal(200, 32, 0)
    assert prdc(wide[::2, ::2], wide[1::2, 1::2]) == prdc(wide[::2, ::2].contiguous(), wide[1::2, 1::2].contiguous())


def test_precision_and_recall_are_not_swapped():
    real = torch.cat([normal(200, 2, 0, 0.1) + torch.tensor([float(10 * c), 0.0]) for c in range(4)])
    dropped = prdc(real, normal(400, 2, 1, 0.1))  # one mode of four, clean
    assert dropped.precision > 0.9
    assert dropped.recall < 0.3
    noisy = prdc(normal(400, 2, 1, 0.1), real)  # all of the mode, and three that are not real
    assert noisy.precision < 0.3
    assert noisy.recall > 0.9


def test_identical_distributions_reach_the_expected_coverage_and_density_one():
    assert expected_coverage(10_000, 10_000, 5) == pytest.approx(0.969, abs=5e-4)
    results = [prdc(normal(400, 8, 2 * s), normal(300, 8, 2 * s + 1)) for s in range(30)]
    for name, want in (("coverage", expected_coverage(400, 300, 5)), ("density", 1.0)):
        values = torch.tensor([getattr(result, name) for result in results], dtype=torch.float64)
        assert values.mean().item() == pytest.approx(want, abs=4 * values.std().item() / math.sqrt(30))


def test_recall_of_identical_gaussians_in_64_dimensions_is_about_what_protocols_say():
    assert 0.6 < prdc(normal(2000, 64, 0), normal(2000, 64, 1)).recall < 0.76


def test_clipped_measures_of_identical_distributions_are_near_one_and_drop_linearly_with_bad_samples():
    real = normal(2000, 16, 0)
    coverage = []
    for bad in (0.0, 0.25, 0.5, 0.75, 1.0):
        fake = normal(2000, 16, 1)
        fake[: int(bad * 2000)] += 100
        result = prdc(real, fake)
        coverage.append(result.clipped_coverage)
        assert result.clipped_density == pytest.approx(1 - bad, abs=0.05)
    assert coverage == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0], abs=0.04)


def test_one_outlier_among_the_reals_moves_density_and_not_clipped_density():
    real, fake = normal(500, 2, 0), normal(500, 2, 1)
    fake[:100] = 30 + normal(100, 2, 2)  # a clump of bad samples
    loose = torch.cat([real, torch.tensor([[31.0, 31.0]])])  # its ball is huge, and reaches them
    assert prdc(loose, fake).density - prdc(real, fake).density > 0.03
    assert prdc(loose, fake).clipped_density == pytest.approx(prdc(real, fake).clipped_density, abs=0.01)


def test_the_straight_line_inverts_the_beta_binomial_expectation():
    from scipy.stats import betabinom

    n, k = 60, 4
    for t in (1, 10, 33, 50):
        law = betabinom(t, k, n - k)
        expected = sum(min(j, k) * law.pmf(j) for j in range(t + 1)) / k
        assert _straighten(expected, n, 50, k) == pytest.approx(t / 50, rel=1e-9)
    assert _straighten(0.0, n, 50, k) == 0.0
    assert _straighten(1.0, n, 50, k) == 1.0


def test_batches_add_up_to_the_whole():
    real, fake = normal(300, 8, 0), normal(250, 8, 1)
    meter = PRDCMeter(k=3)
    for part in real.split(100):
        meter.update(real=part)
    meter.update(fake=fake[:100]).update(fake=fake[100:])
    assert meter.compute() == prdc(real, fake, k=3)


def test_nearest_neighbours_of_another_set_are_scipys():
    from scipy.spatial import KDTree

    x, y = normal(300, 3, 0), normal(400, 3, 1)
    squares, rows = nearest(x, 4, y)
    distances, indices = KDTree(y.double().numpy()).query(x.double().numpy(), k=4)
    assert torch.allclose(squares.sqrt(), torch.from_numpy(distances), rtol=1e-12)
    assert torch.equal(rows, torch.from_numpy(indices))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int64])
def test_nearest_neighbours_of_other_dtypes_are_those_of_their_values(dtype):
    x, y = ((20 + 5 * normal(n, 3, n)).to(dtype) for n in (60, 50))
    for other in (None, y):
        wide = nearest(x.double(), 3, None if other is None else other.double())
        squares, rows = nearest(x, 3, other)
        assert torch.equal(squares, wide[0])
        assert torch.equal(rows, wide[1])
    with pytest.raises(ValueError, match=r"y has nan or infinity in 1 of 2 rows, the first at \[1\]"):
        nearest(x, 1, torch.tensor([[0.0] * 3, [math.nan] * 3]))
    with pytest.raises(ValueError, match="x has 3 columns and y 2"):
        nearest(x, 1, torch.zeros(4, 2))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", [(700, 513), (64, 40), (5, 7)])
def test_folding_finds_what_sorting_finds(dim, shape):
    tile = normal(*shape, seed=0).square()
    keep = min(5, shape[dim])
    values, places = smallest(tile, keep, dim)
    want = tile.sort(dim).values
    assert torch.equal(values.sort(1).values, want[:, :keep] if dim else want[:keep].T)
    assert torch.equal((tile if dim else tile.T).gather(1, places), values)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", [(700, 513), (64, 40), (5, 7)])
def test_what_is_below_a_limit_is_found_in_the_order_of_its_owners(dim, shape):
    tile = normal(*shape, seed=0)
    limits = normal(shape[1 - dim], 1, seed=1).flatten() - 2
    who, place, values = below(tile, limits, dim)
    table = tile if dim == 1 else tile.T
    want = (table < limits[:, None]).nonzero()
    assert len(want)
    assert (who.diff() >= 0).all()
    assert torch.equal(table[who, place], values)
    assert sorted(zip(who.tolist(), place.tolist(), strict=True)) == list(map(tuple, want.tolist()))


@pytest.mark.parametrize("order", ["nearer and nearer", "farther and farther", "shuffled"])
def test_neighbours_are_found_whatever_the_order_of_the_tiles(order):
    y = normal(1500, 6, 0)
    x = 0.01 * normal(400, 6, 1)
    far = y.norm(dim=1).argsort()
    y = y[{"nearer and nearer": far.flip(0), "farther and farther": far, "shuffled": torch.arange(1500)}[order]]
    want = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").topk(4, largest=False)
    squares, rows = nearest(x, 4, y, size=130)
    assert torch.allclose(squares.sqrt(), want.values, rtol=1e-12)
    assert torch.equal(rows, want.indices)


def test_of_neighbours_equally_near_the_first_row_comes_first():
    x = torch.zeros(40, 3)
    x[20:] = 1
    squares, rows = nearest(x, 4)
    assert not squares.any()
    assert rows[5].tolist() == sorted(rows[5].tolist())
    ring = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert nearest(torch.zeros(1, 2), 4, ring)[1].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("d", [16, 600])
def test_symmetric_products_are_the_whole_ones(d):
    a = normal(1100, d, 0)
    out = torch.empty(1100, 1100)
    multiply(a, a, out, symmetric=True)
    assert torch.allclose(out, a @ a.T, rtol=1e-5, atol=1e-4)
    assert d == 16 or torch.equal(out, out.T)


@pytest.mark.parametrize(("n", "m", "k"), [(5, 10, 5), (10, 5, 5), (1, 10, 1), (10, 10, 0)])
def test_too_few_samples_for_k_are_named(n, m, k):
    with pytest.raises(ValueError, match=f"k is {k} with {n} real and {m} fake samples"):
        prdc(normal(n, 2, 0), normal(m, 2, 1), k=k)
    with pytest.raises(ValueError, match="expected 1 <= k"):
        expected_coverage(n, m, 10)


def test_what_cannot_be_measured_is_named():
    real, fake = normal(20, 2, 0), normal(20, 2, 1)
    fake[3, 1], fake[7, 0] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"fake has nan or infinity in 2 of 20 rows, the first at \[3, 7\]"):
        prdc(real, fake)
    with pytest.raises(ValueError, match="real has 2 columns and fake 3"):
        prdc(real, normal(20, 3, 0))
    with pytest.raises(ValueError, match=r"real has shape \(20,\)"):
        prdc(real[:, 0], fake)
    with pytest.raises(TypeError, match=r"real is torch\.complex64"):
        prdc(real.to(torch.complex64), fake)
    with pytest.raises(TypeError, match="real is ndarray"):
        prdc(real.numpy(), fake)
    with pytest.raises(ValueError, match="overflows float64"):
        prdc(real.double() * 1e200, real.double())
