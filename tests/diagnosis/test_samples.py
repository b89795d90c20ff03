"""Sampled failures with exact answers: kept modes, duplicates, shrunk spread, copies; and reals against reals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from torch import Tensor

from stabilgan.diagnosis import InputError, copies, null, regions, verdicts
from stabilgan.diagnosis.inputs import load
from stabilgan.diagnosis.samples import Judgement, diagnose_samples, judge_samples
from stabilgan.metrics import authenticity, prdc
from stabilgan.workloads import digits
from stabilgan.workloads.mixtures import draw_mixture

AXIS = torch.arange(5) * 2.0 - 4
GRID = torch.cartesian_prod(AXIS, AXIS)
SPLITS = 8  # enough for tests


def grid(n: int, seed: int, kept: int = 25, shrunk: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return shrunk * draw_mixture(GRID[torch.randperm(25, generator=rng)[:kept]], 0.05, n, rng)


def judged(real: Tensor, fake: Tensor, **options: object) -> Judgement:
    return judge_samples(real, fake, splits=SPLITS, **options)  # type: ignore[arg-type]


def names(judgement: Judgement) -> list[str]:
    return [f.failure for f in judgement.findings]


def worst(judgement: Judgement) -> float:
    return max((f.severity for f in judgement.findings), default=0.0)


def test_reals_against_reals_are_healthy_and_near_the_middle_of_their_own_range() -> None:
    found = judged(grid(1500, 0), grid(1500, 1))
    assert found.findings == ()
    assert found.undecided == ""
    for e in found.evidence:
        if e.name in ("precision", "coverage", "spread", "variety"):
            assert e.reference == pytest.approx(e.value, abs=0.06)


@pytest.mark.parametrize(("n", "least"), [(1000, 1), (800, 4)])
def test_severity_is_what_is_left_out_of_the_modes(n: int, least: int) -> None:
    real, severities = grid(n, 0), []
    for dropped in (0, 1, 4, 10, 20, 24):
        found = judged(real, grid(n, 7, kept=25 - dropped))
        severities.append(worst(found))
        if dropped >= least:
            assert names(found) == ["mode_collapse" if dropped >= 18 else "mode_dropping"]
            assert found.findings[0].severity == pytest.approx(dropped / 25, abs=0.06)
    assert severities == sorted(severities)
    assert severities[0] == 0


def test_severity_is_the_share_of_duplicates() -> None:
    real, severities = grid(1000, 0), []
    for repeated in (0, 50, 200, 500, 900):
        fake = grid(1000, 1)
        fake[:repeated] = fake[-1 - torch.arange(repeated) % (1000 - repeated)]
        found = judged(real, fake)
        severities.append(worst(found))
        assert names(found) == (["mode_collapse"] if repeated else [])
        assert severities[-1] == pytest.approx(repeated / 1000, abs=0.01)
    assert severities == sorted(severities)


def test_severity_grows_as_the_spread_shrinks_and_a_twentieth_is_no_collapse() -> None:
    cloud = torch.randn(800, 8, generator=torch.Generator().manual_seed(0))
    real, other = cloud[:400], cloud[400:]
    found = {s: judged(real, s * other) for s in (1.0, 0.95, 0.15, 0.1, 0.01, 0.0)}
    severities = [worst(f) for f in found.values()]
    assert severities == sorted(severities)
    assert names(found[1.0]) == names(found[0.95]) == []
    for shrunk in (0.15, 0.1, 0.01, 0.0):
        assert names(found[shrunk])[0] == "mode_collapse"
        assert found[shrunk].findings[0].severity >= 1 - shrunk - 0.03


@settings(max_examples=6, deadline=None, derandomize=True)
@given(fewer=st.integers(1, 12), more=st.integers(13, 25), seed=st.integers(0, 100))
def test_more_modes_kept_are_never_called_worse(fewer: int, more: int, seed: int) -> None:
    real = grid(500, 1000)
    assert worst(judged(real, grid(500, seed, fewer))) >= worst(judged(real, grid(500, seed, more)))


def test_a_constant_generator_has_collapsed_wholly() -> None:
    found = judged(grid(200, 0), torch.zeros(200, 2))
    assert names(found) == ["mode_collapse"]
    assert found.findings[0].severity == 1
    assert found.findings[0].confidence > 0.95


def test_the_same_set_twice_is_called_identical() -> None:
    found = judged(grid(300, 0), grid(300, 0))
    assert names(found) == ["memorisation"]
    assert "identical" in found.findings[0].evidence[1].text


def test_where_classes_are_known_they_are_the_modes_and_not_what_lies_within_them() -> None:
    real, fake = grid(1500, 0), grid(1500, 1)
    fake = fake[(fake - GRID[0]).norm(dim=1) > 1]  # one mode of 25
    assert names(judged(real, fake)) == ["mode_dropping"]
    rows = [(part[:, 0] > 0).long() for part in (real, fake)]  # two classes of many modes each
    found = judged(real, fake, labels_real=rows[0], labels_fake=rows[1])
    assert names(found) == []
    rows = [((part - GRID[0]).norm(dim=1) < 1).long() for part in (real, fake)]  # the mode is a class
    assert names(judged(real, fake, labels_real=rows[0], labels_fake=rows[1])) == ["mode_dropping"]


def test_a_tenth_of_the_data_that_is_empty_but_borders_on_the_rest_is_neither_a_finding_nor_a_clean_bill() -> None:
    rng = torch.Generator().manual_seed(0)
    cloud, noise = torch.randn(1600, 2, generator=rng), torch.randn(800, 2, generator=rng)
    real, fake = cloud[:800], cloud[800:] + 0.8 * noise  # blurred, so that its coverage says nothing
    compared, found = null.against_reals(real, fake, splits=SPLITS), copies.neighbours(real, fake, 5)
    again, copied = copies.repeats(real, fake, found), copies.memory(real, fake, found)

    def said(empty: int, border: float) -> tuple[list[str], str]:
        fakes = tuple(0 if i < empty else 50 for i in range(16))
        dropped = regions.Dropped(empty / 16, border, tuple(range(empty)), (50,) * 16, fakes, torch.zeros(16, 2), 0.02)
        findings, undecided = verdicts.judged(compared, again, copied, [dropped])
        return [f.failure for f in findings], undecided

    assert said(2, border=0.0) == (["mode_dropping"], "")  # a mode of its own
    named, undecided = said(2, border=0.2)
    assert named == []
    assert "2 of 16 regions, 12% of the data, hold next to no fakes" in undecided
    assert said(1, border=0.2) == ([], "")


def test_measures_known_by_name_stand_beside_what_reals_read() -> None:
    real, ours = grid(1500, 0), {e.name: e for e in judged(grid(1500, 2), grid(1500, 1)).evidence}
    fewer = {e.name: e for e in judged(real, grid(1500, 1, kept=5)).evidence}
    for name in ("Vendi score", "NDB", "birthday test"):
        assert ours[name].interval is not None
        low, high = ours[name].interval
        assert low - 0.1 <= ours[name].value <= high + 0.1
        assert low <= ours[name].reference <= high
    assert fewer["NDB"].value > max(0.5, 5 * ours["NDB"].value)
    repeated = grid(40, 1).repeat(38, 1)
    assert {e.name: e.value for e in judged(real, repeated).evidence}["birthday test"] == 1.0


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_copied_training_samples_are_counted(share: float) -> None:
    rng = torch.Generator().manual_seed(0)
    train, held, new = torch.randn(900, 6, generator=rng).split(300)
    fake = new.clone()
    fake[: int(300 * share)] = train[: int(300 * share)] + 1e-3 * held[: int(300 * share)]
    found = judged(held, fake, train=train)
    assert names(found) == ["memorisation"]
    assert found.findings[0].severity == pytest.approx(share, abs=0.02)
    assert names(judged(held, new, train=train)) == []


def test_a_copy_or_two_among_few_samples_are_no_memorisation_and_the_same_share_of_many_is() -> None:
    for n, expected in ((24, []), (400, ["memorisation"])):
        rng = torch.Generator().manual_seed(0)
        train, held, fake = torch.randn(3, n, 6, generator=rng)
        fake[: n // 12] = train[: n // 12]
        few = judged(held, fake, train=train)
        assert names(few) == expected
        copied = next(e for e in few.evidence if e.name == "copied")
        assert copied.value == pytest.approx(1 / 12, abs=0.01)


def test_chance_is_fishers_exact_test_on_copies_among_fakes_and_among_reals() -> None:
    rng = torch.Generator().manual_seed(0)
    train, held, fake = torch.randn(600, 6, generator=rng), torch.randn(300, 6, generator=rng), torch.zeros(60, 6)
    fake += torch.randn(60, 6, generator=rng)
    found = copies.neighbours(held, fake, 2)
    for n in range(12):
        fake[:n] = train[:n]
        memory = copies.memory(held, fake, copies.neighbours(held, fake, 2) if n else found, train)
        odds = []
        for ours, theirs in ((memory.share, memory.reference), (memory.exact, memory.exact_reference)):
            ours, theirs = round(ours * 60), round(theirs * 300)
            table = [[ours, 60 - ours], [theirs, 300 - theirs]]
            odds.append(fisher_exact(table, alternative="greater").pvalue)
        assert memory.surely() == (min(odds) < 1e-3)
    assert memory.surely()


def test_rows_that_repeat_among_reals_as_among_fakes_are_no_collapse() -> None:
    """A table of which three rows in ten are blank: by chance some draws hold more of them."""
    rng = torch.Generator().manual_seed(0)

    def table(n: int, blank: float) -> Tensor:
        x = torch.randn(n, 6, generator=rng)
        x[torch.rand(n, generator=rng) < blank] = 0
        return x

    for _ in range(10):
        assert judged(table(200, 0.3), table(200, 0.3)).findings == ()
    fake = table(200, 0.3)
    fake[:80] = 0.5  # and one sample that is none of the data, over and over
    assert "mode_collapse" in {f.failure for f in judged(table(200, 0.3), fake).findings}


def test_a_hundred_times_as_many_fakes_as_reals_lie_nearer_to_each_other_and_repeat_nothing() -> None:
    few, many = (torch.rand(n, 1, generator=torch.Generator().manual_seed(n)) for n in (60, 6000))
    again = copies.repeats(few, many, copies.neighbours(few, many, 2))
    assert again.n == 60
    assert again.share <= again.reference + 0.02
    assert "mode_collapse" not in names(judged(few, many))
    # and the other way round: what few fakes repeat is measured by so few reals
    twins = few.clone()
    twins[:20] = few[20:40] + 0.002 / 60
    again = copies.repeats(many, twins, copies.neighbours(many, twins, 2))
    assert again.share == pytest.approx(20 / 60, abs=0.05)


def test_a_small_training_set_learned_by_heart_is_found_by_the_distance_to_it() -> None:
    rng = torch.Generator().manual_seed(1)
    train, held = torch.randn(20, 6, generator=rng), torch.randn(300, 6, generator=rng)
    near = train[torch.randint(20, (300,), generator=rng)] + 0.3 * torch.randn(300, 6, generator=rng)
    assert "memorisation" in names(judged(held, near, train=train))


def test_what_is_far_from_the_data_gets_no_clean_bill() -> None:
    found = judged(grid(400, 0), 100 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0)))
    assert found.findings == ()
    assert "preprocessing" in found.undecided


def test_fakes_that_are_not_finite_are_divergence_and_the_rest_is_judged() -> None:
    fake = grid(300, 1)
    fake[:75, 0] = torch.nan
    found = judged(grid(300, 0), fake)
    assert names(found) == ["divergence"]
    assert found.findings[0].severity == 0.25
    assert any(e.name == "coverage" for e in found.evidence)
    assert names(judged(grid(300, 0), torch.full((300, 2), torch.inf))) == ["divergence"]


def test_few_samples_find_what_is_plain_and_say_what_they_can_not_see() -> None:
    assert names(judged(grid(60, 0), torch.zeros(60, 2))) == ["mode_collapse"]
    found = judged(grid(60, 0), grid(60, 1))
    assert found.findings == ()
    finest = min(float(e.text.split("a loss of ")[1].split("%")[0]) for e in found.evidence if "left out" in e.name)
    assert finest > 10
    assert "draw more" in judged(grid(20, 0), grid(20, 1)).undecided


@pytest.mark.parametrize(
    ("real", "fake", "says"),
    [
        (torch.zeros(50, 2), torch.randn(50, 2), "identical"),
        (torch.randn(50, 2), torch.randn(19, 2), "fake has 19 samples; expected at least 20"),
        (torch.randn(1, 2), torch.randn(50, 2), "real has 1 samples"),
        (torch.randn(50, 2), torch.randn(50, 3), "fake has 3 numbers"),
        (torch.full((50, 2), torch.nan), torch.randn(50, 2), "real has nan"),
    ],
)
def test_what_can_not_be_compared_is_refused_in_one_line(real: Tensor, fake: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        judge_samples(real, fake)
    assert "\n" not in str(error.value)


def test_the_same_seed_gives_the_same_judgement_and_torch_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, two = (judged(grid(200, 0), grid(200, 1, 20), seed=5) for _ in range(2))
    assert one[:3] == two[:3]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("n", "d"), [(50, 2), (200, 2), (200, 64), (600, 16)])
def test_false_alarms_on_reals_against_reals_are_none_in_twelve_draws(n: int, d: int) -> None:
    for seed in range(12):
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(2 * n, d, generator=rng) * torch.rand(d, generator=rng)
        assert judge_samples(x[:n], x[n:], splits=4, seed=seed).findings == ()


def test_shared_blocks_read_what_prdc_reads() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 3, generator=rng), 1.2 * torch.randn(40, 3, generator=rng)
    squares = torch.cdist(x.double(), x.double()).square()
    own = squares.fill_diagonal_(torch.inf).topk(5, 1, largest=False).values[:, -1]
    within = torch.cdist(y.double(), y.double()).square().fill_diagonal_(torch.inf)
    across = torch.cdist(x.double(), y.double()).square()
    read = null.measures(own, across, within.topk(5, 1, largest=False).values[:, -1], 5)
    there = prdc(x, y, k=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert read[name] == pytest.approx(getattr(there, name), abs=1e-12)


def test_memory_with_a_limit_of_one_is_the_inauthentic_share() -> None:
    rng = torch.Generator().manual_seed(0)
    train, held, fake = torch.randn(300, 4, generator=rng).split(100)
    found = copies.memory(held, fake, copies.neighbours(held, fake, 5), train)
    assert (found.ratio <= 1).double().mean().item() == pytest.approx(1 - authenticity(train, fake).share)


def test_reals_are_drawn_as_well_so_ten_of_them_without_a_fake_are_no_loss_and_twenty_are() -> None:
    fake = torch.arange(1, 11).repeat(10)
    for there, lost in ((10, ()), (20, (0,))):
        real = torch.cat([torch.zeros(there), torch.arange(1, 11).repeat(10)[there:]]).long()
        assert regions.histogram(real, fake).cells == lost
    # the chance itself, as scipy has it
    a, b = torch.tensor([10, 45, 45]), torch.tensor([1, 60, 59])
    rest = [
        fisher_exact([[y, 120 - y], [x, 100 - x]], alternative="less").pvalue for x, y in ((10, 1), (45, 60), (45, 59))
    ]
    assert regions.chance(a, b).tolist() == pytest.approx(rest)


def test_what_is_lost_beside_much_that_is_lost_needs_less() -> None:
    def lost(sizes: list[int]) -> int:
        real = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        fake = torch.full((len(real),), len(sizes) - 1)
        return len(regions.histogram(real, fake).cells)

    assert lost([14] + [8] * 10 + [400]) == 1  # one in twelve has to be as rare as 1e-3 / 12
    assert lost([11] + [8] * 10 + [400]) == 0
    assert lost([14] * 8 + [11] * 2 + [400]) == 10  # what is too little alone is enough beside eight that are lost


def test_a_dropped_class_is_a_mode_of_its_own_and_half_a_cloud_is_not() -> None:
    labels = torch.arange(10).repeat(50)
    found = regions.histogram(labels, labels[labels != 3])
    assert (found.mass, found.cells, found.allowed) == (0.1, (3,), regions.MODE)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(1000, 2, generator=rng), torch.randn(2000, 2, generator=rng)
    near = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(20, 1, largest=False).indices
    half = regions.partitions(x, y[y[:, 0] > 0], torch.arange(1000), near)[0]
    assert half.allowed > 2 * regions.MODE
    assert half.counts


def test_images_are_judged_with_their_labels_and_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 60, (400, 1, 12, 12), dtype=np.uint8)
    for i in range(400):
        x[i, 0, 2 * (i % 4) : 2 * (i % 4) + 4] += 180
    np.save(tmp_path / "real.npy", x)
    np.save(tmp_path / "fake.npy", x[np.arange(400) % 4 != 2] ^ 1)
    real = load(tmp_path / "real.npy")
    fake = load(tmp_path / "fake.npy", like=real, allow_nonfinite=True)
    found = diagnose_samples(real, fake, features="pixels")
    assert found.found("mode_dropping") is not None or found.found("memorisation") is not None
    assert found.figures["fake_images"].shape[1:] == (1, 12, 12)
    assert found.figures["pair_images"]


@pytest.fixture(scope="module")
def mnist(data_dir: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, _ = digits.load("MNIST", data_dir, train=False)
    net, _ = digits.judge_of("MNIST", data_dir)
    with torch.no_grad():
        x = digits.scaled(images)
        features, labels = net.features(x), net(x).argmax(1)
    return features[:2500], labels[:2500], features[2500:6500], labels[2500:6500]


@pytest.mark.data
@pytest.mark.parametrize("with_labels", [True, False])
def test_digits_that_are_left_out_are_found_with_their_share(
    mnist: tuple[Tensor, Tensor, Tensor, Tensor], with_labels: bool
) -> None:
    real, named, other, classes = mnist
    severities = []
    for left_out in ((), (3,), (3, 7), (0, 2, 3, 7, 9), (0, 1, 2, 3, 4, 5, 6, 7, 8)):
        keep = ~torch.isin(classes, torch.tensor(left_out, dtype=classes.dtype))
        share = 1 - torch.isin(named, torch.tensor([k for k in range(10) if k not in left_out])).double().mean().item()
        labels = {"labels_real": named, "labels_fake": classes[keep][:2500]} if with_labels else {}
        found = judged(real, other[keep][:2500], **labels)
        severities.append(worst(found))
        if left_out:
            assert names(found) == ["mode_collapse" if len(left_out) == 9 else "mode_dropping"]
            assert severities[-1] == pytest.approx(share, abs=0.06 if with_labels else 0.12)
    assert severities[0] == 0
    assert severities == sorted(severities)


@pytest.mark.data
def test_half_of_the_digits_without_labels_get_no_clean_bill(data_dir: Path) -> None:
    """Written digits are one cloud with bridges: no region of it shows that five of ten are left out, coverage does."""
    images, labels = digits.load("MNIST", data_dir, train=False)
    x = digits.scaled(images)
    real, rest, kept = x[:2000], x[2000:], x[2000:][labels[2000:] < 5]
    found = judged(real, kept[:2000])
    assert found.findings or "give labels" in found.undecided
    whole = judged(real, rest[:2000])
    assert not whole.findings
    assert not whole.undecided
