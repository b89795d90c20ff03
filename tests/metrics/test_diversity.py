"""Vendi scores, bins, regions, duplicates, copies and MS-SSIM, against closed forms and under the null."""

import math

import numpy as np
import pytest
import torch

from stabilgan.metrics import (
    AuthenticityMeter,
    BirthdayMeter,
    FKEAMeter,
    MSSSIMDiversityMeter,
    NDBMeter,
    PQMassMeter,
    RKEMeter,
    VendiMeter,
    authenticity,
    birthday_support,
    birthday_test,
    fkea,
    median_distance,
    ms_ssim,
    ms_ssim_diversity,
    ndb,
    pqmass,
    rke,
    vendi_score,
)

from .samples import GRID, grid, normal


@pytest.mark.parametrize("q", [0.5, 1, 2, 3, math.inf])
@pytest.mark.parametrize(("m", "copies", "d"), [(5, 8, 100), (5, 40, 30), (1, 10, 7)])
def test_m_equal_clusters_at_right_angles_score_m(m, copies, d, q):
    x = torch.eye(d)[:m].repeat(copies, 1) * torch.arange(1, m * copies + 1)[:, None]  # lengths do not matter
    assert vendi_score(x, q=q).score == pytest.approx(m, rel=1e-9)


def test_clusters_of_unequal_size_score_exp_of_their_entropy():
    x = torch.eye(3)[torch.tensor([0] * 5 + [1] * 3 + [2] * 2)]
    shares = np.array([0.5, 0.3, 0.2])
    assert vendi_score(x).score == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-12)
    assert vendi_score(x, q=2).score == pytest.approx(1 / (shares**2).sum(), rel=1e-12)
    assert vendi_score(x, q=math.inf).score == pytest.approx(2, rel=1e-12)


def test_rows_of_zeros_are_one_more_kind():
    x = torch.cat([torch.eye(3), torch.zeros(1, 3)])
    assert vendi_score(x).score == pytest.approx(4)
    assert vendi_score(torch.zeros(5, 3)).score == pytest.approx(1)


@pytest.mark.parametrize(("kept", "want"), [(25, 25.4), (20, 20.4)])
def test_rke_reads_the_mode_count_of_the_grid(kept, want):
    assert rke(grid(2000, kept), sigma=0.5).score == pytest.approx(want, abs=0.35)


def test_rke_is_the_closed_form_and_survives_tight_clusters():
    x = normal(300, 3, 0)
    kernel = torch.exp(-(torch.cdist(x.double(), x.double()) ** 2) / (2 * 0.7**2))
    assert rke(x, sigma=0.7).score == pytest.approx(300**2 / kernel.square().sum().item(), rel=1e-5)
    assert rke(x, sigma=0.7, tile=64).score == pytest.approx(rke(x, sigma=0.7).score, rel=1e-6)
    tight = 100 + normal(4, 3, 1).repeat_interleave(50, 0) * 10 + normal(200, 3, 2, 1e-5)
    assert rke(tight, sigma=1e-3).score == pytest.approx(4, rel=1e-3)


def test_rke_of_near_samples_is_not_blurred_by_others_far_out():
    x = torch.cat([1e6 * normal(50, 8, 0), normal(100, 8, 1), normal(50, 8, 2, 1e-3)])
    squares = torch.stack([(row - x.double()).square().sum(1) for row in x.double()])
    for sigma in (0.5, 1e-3):
        want = 200**2 / torch.exp(-squares / sigma**2).sum().item()
        assert rke(x, sigma=sigma).score == pytest.approx(want, rel=1e-9)
        assert rke(x, sigma=sigma, tile=64).score == pytest.approx(want, rel=1e-9)


def test_order_two_of_many_samples_and_of_any_length_is_that_of_float64():
    x = normal(20_000, 20, 0).abs() + 0.1
    want = vendi_score(x.double(), q=2).score
    assert vendi_score(x, q=2).score == pytest.approx(want, rel=1e-6)
    assert vendi_score(x / x.max() * 3e38, q=2).score == pytest.approx(want, rel=1e-6)  # lengths beyond float32
    alike = x[:1].expand(20_000, -1)
    assert vendi_score(alike, q=2).score == pytest.approx(1, rel=1e-6)


def test_rke_of_gaussians_is_the_integral():
    # E exp(-|x-y|²/σ²) with x - y ~ N(0, 2) in d dimensions is (1 + 4/σ²)^(-d/2)
    assert rke(normal(4000, 2, 0), sigma=1.5).score == pytest.approx(1 + 4 / 1.5**2, rel=0.03)


def test_random_features_approach_the_exact_scores():
    x = grid(800, 9)
    exact = rke(x, sigma=0.5).score
    assert fkea(x, sigma=0.5, q=2, random_features=300).score == pytest.approx(exact, rel=0.1)
    kernel = torch.exp(-(torch.cdist(x.double(), x.double()) ** 2) / (2 * 0.5**2)) / 800
    shannon = torch.special.entr(torch.linalg.eigvalsh(kernel).clamp(min=0)).sum().exp().item()
    assert fkea(x, sigma=0.5, random_features=300).score == pytest.approx(shannon, rel=0.1)
    few = [fkea(x, sigma=0.5, random_features=50, seed=seed) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]


def test_the_bandwidth_rule_is_the_median_distance():
    x = normal(400, 3, 0).double()
    assert median_distance(x) == pytest.approx(torch.pdist(x).median().item())


def test_about_five_of_a_hundred_bins_differ_under_the_null():
    results = [ndb(normal(5000, 4, 2 * s), normal(5000, 4, 2 * s + 1), seed=s) for s in range(8)]
    different = torch.tensor([float(result.different) for result in results])
    assert different.mean().item() == pytest.approx(5, abs=2.5)
    assert all(0 < result.divergence < 0.02 for result in results)


def test_bins_of_the_grid_are_its_modes_and_dropped_ones_differ():
    real = grid(5000)
    for kept in (25, 20, 5):
        result = ndb(real, grid(5000, kept, seed=1), bins=25)
        if kept < 25:
            assert result.different >= 25 - kept
        else:
            assert result.different <= 4
    p, q = torch.full((25,), 1 / 25), torch.cat([torch.full((5,), 1 / 5), torch.zeros(20)])
    m = (p + q) / 2
    want = 0.5 * (torch.xlogy(p, p / m).sum() + torch.xlogy(q, q / m).sum()).item()
    assert result.divergence == pytest.approx(want, abs=0.01)


def test_the_z_test_is_the_two_proportion_one():
    real = torch.tensor([0.0] * 60 + [10.0] * 40)[:, None]
    for moved, different in ((13, 0), (14, 2)):  # z = 1.92 and 2.06 by hand
        fake = torch.tensor([0.0] * (60 - moved) + [10.0] * (40 + moved))[:, None]
        assert ndb(real, fake, bins=2).different == different


def test_pqmass_has_its_chi_square_under_the_null():
    chi2s = torch.tensor(
        [pqmass(normal(2000, 5, 2 * s), normal(1500, 5, 2 * s + 1), repeats=1, seed=s).chi2 for s in range(40)]
    )
    assert chi2s.mean().item() == pytest.approx(99, abs=4 * 14 / math.sqrt(40))
    assert chi2s.std().item() == pytest.approx(14, rel=0.5)


def test_pqmass_table_and_probability_are_scipys():
    from scipy.stats import chi2

    result = pqmass(normal(300, 2, 0), normal(400, 2, 1) + 0.2, regions=10, repeats=5)
    assert result.p_value == pytest.approx(np.mean([chi2.sf(value, 9) for value in result.chi2s]), rel=1e-9)
    assert result.chi2 == pytest.approx(np.mean(result.chi2s))


def test_pqmass_counts_as_scipys_contingency_does():
    from scipy.spatial import KDTree
    from scipy.stats import chi2_contingency

    x, y = normal(200, 2, 0), normal(150, 2, 1)
    order = torch.randperm(350, generator=torch.Generator().manual_seed(4))
    both, points = torch.cat([x, y]), order[:8]
    cell = KDTree(both[points].numpy()).query(both[order[8:]].numpy())[1]
    table = np.zeros((2, 8))
    np.add.at(table, ((order[8:] >= 200).long().numpy(), cell), 1)
    assert pqmass(x, y, regions=8, repeats=1, seed=4).chi2 == pytest.approx(chi2_contingency(table).statistic)


def test_birthday_support_of_a_discrete_generator_is_found():
    rng = torch.Generator().manual_seed(0)
    atoms = normal(200, 8, 0)
    fake = atoms[torch.randint(200, (5000,), generator=rng)]
    result = birthday_test(normal(5000, 8, 1), fake, size=50, trials=200)
    assert result.support == pytest.approx(200, rel=0.15)
    assert result.real_probability == pytest.approx(0.05, abs=0.02)
    assert result.probability > 0.95


def test_reals_against_reals_hold_no_more_duplicates_than_the_level():
    result = birthday_test(normal(5000, 4, 0), normal(5000, 4, 1), trials=200)
    assert result.probability == pytest.approx(0.05, abs=0.06)
    distinct = torch.arange(500.0)[:, None]
    none = birthday_test(distinct, distinct, threshold=0.5, size=50)
    assert (none.probability, none.support) == (0.0, math.inf)


def test_the_birthday_paradox_has_its_constant():
    assert birthday_support(0.5, 10_000) / 10_000**2 == pytest.approx(1 / (2 * math.log(2)), rel=1e-3)
    assert birthday_support(0.5, 23) == pytest.approx(365, rel=0.01)
    assert birthday_support(0.0, 23) == math.inf
    with pytest.raises(ValueError, match=r"probability is 1\.0"):
        birthday_support(1.0, 23)


def test_copies_are_not_authentic_and_far_samples_are():
    train = normal(3000, 4, 0)
    assert authenticity(train, train[:500]).share == 0.0
    assert authenticity(train, train[:500] + normal(500, 4, 1, 1e-4)).share < 0.01
    assert authenticity(train, train[:500] + 100).share == 1.0
    near = authenticity(train, train[:9] + 1e-6)
    assert near.nearest.tolist() == list(range(9))
    assert near.distance.max().item() < 1e-5


@pytest.mark.parametrize(("d", "want"), [(1, 1 / 3), (4, 0.45), (64, 0.82)])
def test_new_draws_are_as_authentic_as_the_docstring_says(d, want):
    # 1-D: the gap g around a new point is Gamma(2), it lies gU/2 off, the next gap is Exp(1): E[1 - exp(-gU/2)] = 1/3
    assert authenticity(normal(2000, d, 0), normal(2000, d, 1)).share == pytest.approx(want, abs=0.04)


def test_ms_ssim_of_equal_images_is_one_and_of_noise_near_zero():
    a = torch.rand(2, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ms_ssim(a, a, data_range=1.0), torch.ones(2))
    assert ms_ssim(a[:1], a[1:], data_range=1.0).item() < 0.1
    assert torch.allclose(ms_ssim(a, a, data_range=1.0), ms_ssim(a.half(), a.half(), data_range=1.0))
    scaled = ms_ssim((a[:1] * 255).round().byte(), (a[1:] * 255).round().byte(), data_range=255.0)
    assert torch.allclose(scaled, ms_ssim(a[:1], a[1:], data_range=1.0), atol=1e-3)


def test_ms_ssim_of_two_flat_images_is_the_luminance_term():
    a, b = (torch.full((1, 1, 32, 32), value, dtype=torch.float64) for value in (0.2, 0.6))
    c1 = 0.01**2
    want = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert ms_ssim(a, b, data_range=1.0, scales=1).item() == pytest.approx(want, rel=1e-9)
    weight = 0.2856 / (0.0448 + 0.2856)
    assert ms_ssim(a, b, data_range=1.0, scales=2).item() == pytest.approx(want**weight, rel=1e-9)


def test_images_of_one_generator_are_as_alike_as_their_pairs():
    x = torch.rand(6, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    apart = ms_ssim_diversity(x, data_range=1.0, scales=2)
    assert apart.similarity < 0.2
    collapsed = ms_ssim_diversity(x[:1] + 0.01 * x, data_range=1.0, scales=2)
    assert collapsed.similarity > 0.95
    with pytest.raises(ValueError, match="expected 1 to 2"):
        ms_ssim(x, x, data_range=1.0)
    with pytest.raises(ValueError, match="smaller than the 11 x 11 window"):
        ms_ssim(x[..., :9], x[..., :9], data_range=1.0)
    x[3, 0, 2, 2] = math.nan
    with pytest.raises(ValueError, match=r"1 of 6 rows, the first at \[3\]"):
        ms_ssim_diversity(x, data_range=1.0, scales=1)


def test_meters_measure_what_the_functions_do():
    x, y = normal(300, 4, 0), normal(200, 4, 1)
    for meter, function in (
        (NDBMeter(bins=10), lambda: ndb(x, y, bins=10)),
        (PQMassMeter(regions=10), lambda: pqmass(x, y, regions=10)),
        (BirthdayMeter(size=20), lambda: birthday_test(x, y, size=20)),
    ):
        assert meter.update(real=x[:100]).update(real=x[100:], fake=y).compute() == function()
    assert AuthenticityMeter().update(real=x, fake=y).compute().share == authenticity(x, y).share
    for single, alone in (
        (VendiMeter(q=2), lambda: vendi_score(x, q=2)),
        (RKEMeter(sigma=1.0), lambda: rke(x, sigma=1.0)),
        (FKEAMeter(sigma=1.0, random_features=50), lambda: fkea(x, sigma=1.0, random_features=50)),
    ):
        assert single.update(x[:50]).update(x[50:]).compute().score == alone().score
        single.load_state_dict(single.state_dict())
        assert single.merge(single).compute().n == 600
    images = x.view(50, 1, 24, 1).expand(50, 1, 24, 24)
    meter = MSSSIMDiversityMeter(data_range=1.0, scales=1)
    assert meter.update(images).compute() == ms_ssim_diversity(images, data_range=1.0, scales=1)
    with pytest.raises(ValueError, match="no x samples were given"):
        VendiMeter().compute()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: vendi_score(x, q=0), "q is 0"),
        (lambda x: rke(x, sigma=0.0), r"sigma is 0\.0"),
        (lambda x: fkea(x, sigma=-1.0), r"sigma is -1\.0"),
        (lambda x: ndb(x, x, bins=21), "bins is 21 with 20 real"),
        (lambda x: ndb(x, x, bins=2, alpha=1.0), r"alpha is 1\.0"),
        (lambda x: pqmass(x, x, regions=20), "regions is 20 with 20 real and 20 fake"),
        (lambda x: pqmass(x, x, regions=5, repeats=0), "repeats is 0"),
        (lambda x: birthday_test(x, x, size=21), "size is 21"),
        (lambda x: authenticity(x[:1], x), "train has 1 sample"),
        (lambda x: median_distance(x[:1]), "x has 1 samples; expected at least 2"),
        (lambda x: ms_ssim(x, x, data_range=1.0), "expected .N, C, H, W."),
        (lambda x: ms_ssim(x.view(1, 1, 4, 15), x.view(1, 1, 4, 15), data_range=0.0), "data_range is 0.0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(20, 3, 0))


def test_identical_samples_and_constant_features_have_stated_answers():
    same = torch.ones(120, 3)
    assert vendi_score(same).score == pytest.approx(1)
    assert rke(same, sigma=1.0).score == pytest.approx(1)
    assert fkea(same, sigma=1.0).score == pytest.approx(1)
    assert ndb(same, same, bins=3).different == 0
    assert pqmass(same, same, regions=4).chi2 == 0.0
    assert birthday_test(same, same).probability == 1.0
    assert authenticity(same, same).share == 0.0
    assert rke(GRID[:1], sigma=1.0).score == pytest.approx(1)
