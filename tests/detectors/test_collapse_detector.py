import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from stabilgan.detectors import Collapse, View
from stabilgan.detectors.collapse import left_empty, reach, spread


def ring(n, generator, keep=8):
    angle = torch.randint(keep, (n,), generator=generator) * math.tau / 8
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.01 * torch.randn(n, 2, generator=generator)


def grid(n, generator, keep=25):
    mode = torch.randint(keep, (n,), generator=generator)
    centres = torch.stack([mode % 5 * 2 - 4.0, mode // 5 * 2 - 4.0], 1)
    return centres + 0.05 * torch.randn(n, 2, generator=generator)


CENTRES = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1


def images(n, generator, keep=10):
    mode = torch.randint(keep, (n,), generator=generator)
    return (CENTRES[mode] + 0.3 * torch.randn(n, 1, 28, 28, generator=generator)).clamp(-1, 1)


def told(real, fake, step=0, **options):
    detector = Collapse(**options)
    detector.update(View(step, real=real, fake=fake))
    return detector.compute()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_spread_is_the_mean_of_scipys_pairwise_distances():
    x = torch.randn(40, 7, generator=seeded(0))
    assert spread(x).item() == pytest.approx(pdist(x.numpy()).mean(), rel=1e-5)


@pytest.mark.parametrize(("dimensions", "scale"), [(2, 1.0), (60, 1.0), (2, 1e-3)])
def test_reach_is_what_a_loop_over_float64_distances_counts(dimensions, scale):
    g = seeded(3)
    real = 5 + scale * torch.randn(80, dimensions, generator=g)  # tight and far from the origin
    fake = 5 + scale * 1.3 * torch.randn(60, dimensions, generator=g)
    r, f = real.double().numpy(), fake.double().numpy()
    radius = np.sort(cdist(r, r), 1)[:, 5]  # the 0th is the sample itself
    inside = cdist(r, f) <= radius[:, None]
    among = (cdist(r, r) <= radius[:, None]) & ~np.eye(80, dtype=bool)
    expected = [inside.any(1).mean(), inside.any(0).mean(), among.any(0).mean()]
    assert [s.item() for s in reach(real, fake)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("fakes", [40, 200])
def test_neighbourhoods_stay_empty_as_often_as_the_closed_form_says(fakes):
    empty = []
    for seed in range(60):
        x = torch.randn(200 + fakes, 3, generator=seeded(seed))
        empty.append(1 - reach(x[:200], x[200:], k=10).coverage.item())
    chance = (1 + fakes / 200) ** -10  # the ten nearest are all real
    standard_error = np.std(empty) / math.sqrt(len(empty))
    assert np.mean(empty) == pytest.approx(chance, abs=4 * standard_error + 0.01)  # 0.01: without replacement
    above = np.mean([share > left_empty(200, fakes / 200, 10) for share in empty])
    assert above <= 1 / 60  # three standard errors


def test_at_equal_sizes_the_published_coverage_is_what_is_left():
    assert 1 - left_empty(10**9, 1.0, 5) == pytest.approx(1 - 2**-5, abs=1e-4)


@pytest.mark.parametrize("data", [ring, grid, images])
def test_identical_fakes_are_a_collapse(data):
    fake = data(1, seeded(1)).expand(512, *data(1, seeded(1)).shape[1:])
    reading = told(data(512, seeded(0)), fake)
    assert reading.state == "alarm"
    assert "all alike" in reading.text
    assert reading.value < 0.01


@pytest.mark.parametrize(("data", "seeds"), [(ring, 200), (grid, 200), (images, 20)])
def test_fakes_from_the_datas_own_distribution_are_no_collapse(data, seeds):
    states = Counter(told(data(512, seeded(2 * seed)), data(512, seeded(2 * seed + 1))).state for seed in range(seeds))
    assert states == {"ok": seeds}  # not one false alarm


@pytest.mark.parametrize(("data", "kept", "seeds"), [(ring, 5, 50), (grid, 17, 50), (images, 7, 20)])
def test_a_third_of_the_modes_dropped_is_told(data, kept, seeds):
    readings = [told(data(512, seeded(2 * s)), data(512, seeded(2 * s + 1), kept)) for s in range(seeds)]
    assert Counter(r.state for r in readings) == {"alarm": seeds}
    assert all("leave parts of the data out" in r.text for r in readings)
    share = {ring: 5 / 8, grid: 17 / 25, images: 7 / 10}[data]
    assert np.mean([r.value for r in readings]) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("data", [ring, grid, images])
def test_modes_that_get_a_third_of_their_due_are_not_left_out(data):
    states: Counter[str] = Counter()
    for seed in range(20):
        g = seeded(seed)
        modes = {ring: 8, grid: 25, images: 10}[data]
        whole, part = data(170, g), data(342, g, modes // 2)  # a third of all is for the latter modes, too
        states[told(data(512, g), torch.cat([whole, part])).state] += 1
    assert states["alarm"] == 0


def test_of_fakes_far_from_the_data_nobody_can_tell_what_they_leave_out():
    reading = told(ring(512, seeded(0)), torch.randn(512, 2, generator=seeded(1)))
    assert reading.state == "unknown"
    assert "near the data" in reading.text
    assert reading.value is not None  # the spread is still judged


def test_diversity_that_still_grows_is_no_alarm_and_diversity_that_stays_low_is():
    def states(sizes):
        detector, out = Collapse(), []
        for i, size in enumerate(sizes):
            real = torch.randn(512, 2, generator=seeded(i))
            fake = 50 + size * torch.randn(512, 2, generator=seeded(100 + i))  # far off: only the spread speaks
            detector.update(View(50 * (i + 1), real=real, fake=fake))
            out.append(detector.compute().state)
        return out

    growing = states([0.02 * 1.2**i for i in range(10)])
    assert growing == ["alarm", *["unknown"] * 9]
    assert states([0.02] * 6) == ["alarm"] * 6
    assert states([1.0, 1.0, 1.0, 0.01])[-1] == "alarm"  # a fall is seen at once


def test_modes_that_are_lost_late_are_told_at_once():
    detector = Collapse()
    for i in range(12):
        detector.update(View(50 * i, real=ring(512, seeded(i)), fake=ring(512, seeded(50 + i), 8 if i < 11 else 5)))
        assert detector.compute().state == ("ok" if i < 11 else "alarm")


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(1, fake=torch.randn(512, 2)), "no real samples were seen"),
        (View(1, real=torch.randn(512, 2)), "game.critic"),
        (View(1, real=torch.randn(512, 2), fake=torch.randn(10, 2)), "10 fakes were seen, and 512 are needed"),
        (View(1, real=torch.ones(512, 2), fake=torch.randn(512, 2)), "all identical"),
        (View(1, real=torch.randn(512, 2), fake=torch.full((512, 2), math.nan)), "not finite"),
        (View(1, real=torch.full((512, 2), math.inf), fake=torch.randn(512, 2)), "not finite"),
    ],
)
def test_what_it_cannot_compute_it_says(view, reason):
    detector = Collapse()
    detector.update(view)
    reading = detector.compute()
    assert reading.state == "unknown"
    assert reason in reading.text


def test_a_window_fills_over_several_batches_of_different_sizes():
    detector = Collapse()
    for i, size in enumerate((100, 100, 100, 100, 100, 60)):
        assert detector.compute().state == "unknown"
        detector.update(View(1, real=ring(size, seeded(2 * i)), fake=ring(size, seeded(2 * i + 1))))
    assert detector.compute().state == "ok"


def test_memory_is_bounded_by_window_and_dimensions():
    detector = Collapse()
    x = torch.randn(8, 3, 64, 64)
    detector.update(View(1, real=x, fake=x))
    kept = [r["rows"] for r in detector.state_dict().values() if isinstance(r, dict) and "rows" in r]
    assert sum(rows.numel() * rows.element_size() for rows in kept) <= 2 * 512 * 1024 * 4


def test_half_precision_samples_are_taken():
    real, fake = ring(512, seeded(0)).bfloat16(), ring(512, seeded(1)).bfloat16()
    assert told(real, fake).state == "ok"


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="window is 3; expected 20 or more"):
        Collapse(window=3)


@pytest.mark.data
def test_on_mnist_digits_real_against_real_is_ok_and_missing_ones_are_told_or_said_not_to_be_tellable(data_dir):
    from torchvision.datasets import MNIST

    mnist = MNIST(data_dir, train=True)
    digits = mnist.data.float().div(127.5).sub(1)
    states: dict[int, Counter[str]] = {kept: Counter() for kept in (10, 7, 3)}
    for seed in range(20):
        reals, rest = torch.randperm(len(digits), generator=seeded(seed)).split([512, len(digits) - 512])
        for kept, count in states.items():
            fakes = rest[mnist.targets[rest] < kept][:512]
            count[told(digits[reals], digits[fakes]).state] += 1
    assert states[10] == {"ok": 20}
    assert states[7]["ok"] == 0  # digits overlap in pixels: too little is missing to be sure
    assert states[3] == {"alarm": 20}
