import math
from collections import Counter

import pytest
import torch

from stabilgan.detectors import Divergence, View
from stabilgan.detectors.divergence import SOURCES, History, median

HEALTHY = {
    "real": torch.zeros(4, 2),
    "fake": torch.zeros(4, 2),
    "scores_real": torch.zeros(4),
    "scores_fake": torch.zeros(4),
    **{name: torch.tensor(1.0) for name in ("d_loss", "g_loss", "d_grad", "g_grad")},
}


def told(norms, player="g", **options):
    detector = Divergence(**options)
    for step, norm in enumerate(norms):
        detector.update(View(step, **{f"{player}_grad": torch.as_tensor(norm)}))
    return detector.compute()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", list(SOURCES))
def test_one_bad_number_anywhere_is_a_divergence_from_the_first_step(where, bad):
    x = HEALTHY[where].clone()
    x.view(-1)[-1] = bad
    detector = Divergence()
    detector.update(View(1, **(HEALTHY | {where: x})))
    reading = detector.compute()
    assert reading.state == "alarm"
    assert SOURCES[where] in reading.text
    assert not any(name in reading.text for source, name in SOURCES.items() if source != where)


def test_it_is_remembered_for_the_window_and_forgotten_after():
    detector = Divergence(window=20)
    detector.update(View(0, d_loss=torch.tensor(math.nan)))
    for step in range(1, 21):
        assert detector.compute().state == "alarm"
        detector.update(View(step, **HEALTHY))
    assert detector.compute().state == "ok"


@pytest.mark.parametrize("player", ["d", "g"])
def test_a_gradient_that_explodes_is_told_and_whose(player):
    reading = told([1.0] * 300 + [5000.0] * 10, player)
    assert reading.state == "alarm"
    assert reading.text.startswith(f"{player.upper()}'s gradient explodes")
    assert reading.value == pytest.approx(5000)


def test_the_slow_explosion_of_simultaneous_steps_on_a_bilinear_game_is_told():
    x, y, norms = 1.0, 1.0, []
    for _ in range(3000):  # each step grows the orbit by sqrt(1 + 0.1²)
        norms.append(abs(y))
        x, y = x - 0.1 * y, y + 0.1 * x
    assert told(norms).state == "alarm"


def test_healthy_norms_are_silent_over_200_seeds():
    states = Counter()
    for seed in range(200):  # heavy-tailed, and drifting tenfold up or down
        g = torch.Generator().manual_seed(seed)
        norms = torch.randn(200, generator=g).exp() * torch.linspace(0, (-1) ** seed * math.log(10), 200).exp()
        states[told(norms).state] += 1
    assert states == {"ok": 200}


def test_a_single_spike_is_no_explosion():
    assert told([1.0] * 300 + [1e6] + [1.0] * 3).state == "ok"


def test_a_gradient_that_recovers_from_nothing_is_no_explosion():
    assert told([1.0] * 100 + [1e-8] * 400 + [0.5] * 10).state == "ok"


def test_growth_is_not_judged_before_there_is_a_history_and_that_is_said():
    reading = told([1.0] * 20 + [1e6] * 10)
    assert reading.state == "ok"
    assert "not judged yet" in reading.text


def test_what_was_not_seen_is_named_with_the_line_to_write():
    detector = Divergence()
    detector.update(View(1, fake=torch.zeros(2, 2)))
    text = detector.compute().text
    assert "not seen: D's loss, G's loss" in text
    assert "game.record(d_loss=..., g_loss=...)" in text


def test_nothing_seen_is_unknown():
    detector = Divergence()
    detector.update(View(1))
    assert detector.compute().state == "unknown"


def test_history_covers_the_whole_run_evenly_in_bounded_memory():
    for n in range(1, 300):
        history = History(16)
        for i in range(n):
            history.push(torch.tensor(float(i)))
        values = history.values().tolist()
        assert len(values) <= 16
        assert values == [float(i) for i in range(0, n, history.stride)]
    assert history.stride == 32


def test_median_is_torchs_for_odd_lengths():
    x = torch.randn(31)
    assert median(x) == x.median()
