"""Rules on series: each is shown a game that fails as it says, and a healthy one that looks much like it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from stabilgan import losses
from stabilgan.diagnosis.dynamics import Judgement, judge_series, passing
from stabilgan.diagnosis.families import CHANCE, PRIOR, Series, believe, clamp_of, named

LN2 = math.log(2)


def noise(n: int, size: float, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, size, n)


def game(family: str, gap: float, n: int = 200, spread: float = 1.0, seed: int = 0) -> dict[str, Series]:
    """Losses of scores that are `gap` apart, with noise, by the losses of the package itself."""
    rng = torch.Generator().manual_seed(seed)
    loss = losses.named(family)
    centre = 0.5 if family == "least_squares" else 0.0
    rows = []
    for _ in range(n):
        real = centre + gap / 2 + spread * torch.randn(64, generator=rng)
        fake = centre - gap / 2 + spread * torch.randn(64, generator=rng)
        rows.append([loss.d(real, fake).item(), loss.g(fake, real).item()])
    d, g = np.array(rows).T
    return {"d_loss": Series.of(d, label="D"), "g_loss": Series.of(g, label="G")}


def names(judgement: Judgement) -> set[str]:
    return {f.failure for f in judgement.findings}


@pytest.mark.parametrize("family", ["logistic", "hinge", "least_squares", "relativistic", "wasserstein", "saturating"])
def test_a_lively_game_near_chance_is_healthy_under_its_own_loss(family: str) -> None:
    judgement = judge_series(game(family, gap=0.4, spread=0.3), family)
    assert judgement.findings == ()
    assert judgement.undecided == ""


@pytest.mark.parametrize("family", ["logistic", "hinge", "relativistic", "saturating"])
def test_scores_far_apart_are_a_saturated_discriminator(family: str) -> None:
    judgement = judge_series(game(family, gap=16), family)
    assert "discriminator_saturated" in names(judgement)


def test_a_wide_gap_of_a_wasserstein_critic_is_no_saturation() -> None:
    assert names(judge_series(game("wasserstein", gap=16), "wasserstein")) == set()


def test_no_loss_at_all_is_normal_under_a_relativistic_hinge_and_fatal_under_the_logistic_loss() -> None:
    series = {"d_loss": Series.of(np.zeros(100)), "g_loss": Series.of(9 + noise(100, 1.0))}
    assert names(judge_series(series, "relativistic_hinge")) == set()
    assert names(judge_series(series, "logistic")) == {"discriminator_saturated"}


def test_where_families_disagree_the_answer_is_cannot_tell_and_says_what_to_pass() -> None:
    zeros = replace(Series.of(np.zeros(4)), digits=6)  # 0.000000: less than a logistic loss could be beside such a G
    series = {"d_loss": zeros, "g_loss": Series.of([9.0, 8.5, 9.5, 18.5])}
    judgement = judge_series(series)
    assert judgement.findings == ()
    assert "loss=" in judgement.undecided


def test_the_onset_is_the_step_from_which_it_stays() -> None:
    d = np.concatenate([1.2 + noise(100, 0.1), [0.001] * 3, 1.2 + noise(50, 0.1), np.full(100, 0.0005)])
    step = np.arange(len(d)) * 10
    series = {"d_loss": Series.of(d, step), "g_loss": Series.of(np.where(d < 0.01, 9.0, 1.0), step)}
    found = judge_series(series, "logistic").findings[0]
    assert (found.failure, found.onset) == ("discriminator_saturated", 1530)


def test_printed_probabilities_count_before_the_loss() -> None:
    n = 60
    series = {
        "d_loss": Series.of(np.full(n, 0.005) + noise(n, 0.001)),  # with something added to it, say
        "g_loss": Series.of(2 + noise(n, 0.2)),
        "d_real": Series.of(0.8 + noise(n, 0.02)),
        "d_fake": Series.of(0.2 + noise(n, 0.02)),
    }
    assert "discriminator_saturated" not in names(judge_series(series, "logistic"))


def test_one_answer_for_everything_is_a_dead_discriminator_though_its_loss_moves() -> None:
    c = np.linspace(-0.5, 0.0, 100)  # one logit for all, drifting to chance
    t = torch.from_numpy(c)
    p = np.round(torch.sigmoid(t).numpy(), 4)
    series = {
        "d_loss": Series.of((F.softplus(-t) + F.softplus(t)).numpy()),
        "g_loss": Series.of(F.softplus(-t).numpy()),
        "d_real": Series.of(p),
        "d_fake": Series.of(p),
    }
    assert "discriminator_dead" in names(judge_series(series, "logistic"))


@pytest.mark.parametrize("family", ["logistic", "hinge", "least_squares", "relativistic"])
def test_a_loss_that_stands_exactly_at_chance_is_a_dead_discriminator(family: str) -> None:
    for chance in CHANCE[family]:
        series = {"d_loss": Series.of(np.full(50, round(chance, 4))), "g_loss": Series.of(np.full(50, 0.7))}
        assert "discriminator_dead" in names(judge_series(series, family))


def test_noise_about_chance_after_a_lively_start_is_an_equilibrium() -> None:
    d = np.concatenate([[1.39, 1.1, 0.8, 0.6, 0.7, 0.9, 1.1], 1.386 + noise(100, 0.01)])
    series = {"d_loss": Series.of(d), "g_loss": Series.of(np.where(d < 1.2, 1.5, LN2) + noise(len(d), 0.01, 1))}
    judgement = judge_series(series, "logistic")
    assert (judgement.findings, judgement.undecided) == ((), "")


def test_noise_about_chance_from_the_first_row_on_is_left_open() -> None:
    series = {"d_loss": Series.of(1.386 + noise(100, 0.01)), "g_loss": Series.of(LN2 + noise(100, 0.01, 1))}
    judgement = judge_series(series, "logistic")
    assert judgement.findings == ()
    assert "chance" in judgement.undecided


@pytest.mark.parametrize("constant", [16.118, 13.816, 27.631, 100.0])
def test_a_clamped_log_is_a_saturated_discriminator_and_a_dead_gradient(constant: float) -> None:
    assert clamp_of(np.full(3, constant)) == constant
    series = {"d_loss": Series.of(np.full(9, 1e-4)), "g_loss": Series.of(np.full(9, constant))}
    assert {"discriminator_saturated", "vanishing_gradient"} <= names(judge_series(series, "logistic"))


def test_a_generator_whose_gradient_fell_to_nothing_is_found_by_its_norm() -> None:
    norm = np.concatenate([np.full(50, 1.0), np.geomspace(1, 1e-4, 50), np.full(100, 1e-4)])
    series = game("logistic", gap=0.5) | {"g_grad": Series.of(norm)}
    found = {f.failure: f for f in judge_series(series, "logistic").findings}
    assert set(found) == {"vanishing_gradient"}
    assert 70 <= (found["vanishing_gradient"].onset or 0) <= 80


def test_the_minimax_loss_vanishes_where_fakes_are_seen_through_and_the_other_does_not() -> None:
    n = 100
    answers = {
        "d_real": Series.of(np.full(n, 0.9) + noise(n, 0.01)),
        "d_fake": Series.of(np.full(n, 1e-5) + noise(n, 1e-6)),
    }
    minimax = answers | {"d_loss": Series.of(0.12 + noise(n, 0.01)), "g_loss": Series.of(-1e-5 + noise(n, 1e-6))}
    assert "vanishing_gradient" in names(judge_series(minimax, "saturating"))
    other = answers | {"d_loss": Series.of(0.12 + noise(n, 0.01)), "g_loss": Series.of(11.5 + noise(n, 0.1))}
    assert "vanishing_gradient" not in names(judge_series(other, "logistic"))


@pytest.mark.parametrize("period", [4.0, 13.3, 30.0, 50.0])
def test_a_rhythm_is_an_oscillation_with_its_period(period: float) -> None:
    t = np.arange(600)
    d = 1.3 + 0.2 * np.sin(2 * np.pi * t / period) + noise(600, 0.05)
    series = {"d_loss": Series.of(d, t * 10), "g_loss": Series.of(0.8 + noise(600, 0.05, 1), t * 10)}
    found = {f.failure: f for f in judge_series(series, "logistic").findings}
    assert set(found) == {"oscillation"}
    told = float(found["oscillation"].evidence[0].text.split("period of ")[1].split()[0])
    assert told == pytest.approx(10 * period, rel=0.05)


def test_rounds_that_are_small_beside_a_bend_are_seen() -> None:
    t, rng = np.arange(160.0), np.random.default_rng(0)
    bend = 0.5 + np.exp(-t / 50)  # a game that settles
    around = 0.004 * np.sin(2 * np.pi * t / 10) + 0.0005 * rng.standard_normal(160)
    series = {"d_loss": Series.of(bend + around), "g_loss": Series.of(0.5 + 0.01 * rng.standard_normal(160))}
    assert "oscillation" in names(judge_series(series, "least_squares"))
    series["d_loss"] = Series.of(bend + 0.003 * rng.standard_normal(160))
    assert "oscillation" not in names(judge_series(series, "least_squares"))


def test_a_rhythm_of_a_small_part_of_a_long_log_is_an_episode() -> None:
    t, rng = np.arange(4000), np.random.default_rng(0)
    late = np.where(t >= 3900, 0.3 * np.sin(2 * np.pi * t / 8), 0.0)
    series = {"d_loss": Series.of(1.3 + late + 0.05 * rng.standard_normal(4000))}
    assert "oscillation" not in names(judge_series(series, "logistic"))


def test_noise_of_any_correlation_has_no_rhythm() -> None:
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        phi = rng.uniform(0, 0.95)
        x = np.zeros((2, 300))
        for i in range(1, 300):
            x[:, i] = phi * x[:, i - 1] + rng.normal(0, 0.05, 2)
        series = {"d_loss": Series.of(1.2 + x[0]), "g_loss": Series.of(0.9 + x[1])}
        alarms += "oscillation" in names(judge_series(series, "logistic"))
    assert alarms <= 1


def test_nan_is_divergence_with_its_onset() -> None:
    series = game("logistic", gap=0.5)
    g = series["g_loss"].value.copy()
    g[120:] = np.nan
    found = judge_series(series | {"g_loss": Series.of(g)}, "logistic").findings[0]
    assert (found.failure, found.onset, found.severity) == ("divergence", 120, 1.0)


def test_nan_from_the_first_row_points_at_the_environment() -> None:
    series = {"d_loss": Series.of([math.nan] * 5), "g_loss": Series.of([math.nan] * 5)}
    found = judge_series(series).findings[0]
    assert found.failure == "divergence"
    assert "environment" in found.evidence[0].text


def test_a_column_that_is_never_a_number_is_no_fault_beside_losses_that_are() -> None:
    series = game("logistic", gap=0.5) | {"gp": Series.of([math.nan] * 200)}
    assert judge_series(series, "logistic").findings == ()


def without(rows: list[int]) -> dict[str, Series]:
    """A lively game of 200 rows whose generator's loss is NaN in some of them."""
    series = game("logistic", gap=0.5)
    g = series["g_loss"].value.copy()
    g[rows] = np.nan
    return series | {"g_loss": Series.of(g, label="Loss_G")}


@pytest.mark.parametrize("rows", [[0], [30], [198], [30, 31, 32], list(range(50, 150)), [30, 90, 150]])
def test_numbers_that_come_again_after_nan_are_no_divergence_but_a_note(rows: list[int]) -> None:
    series = without(rows)
    judgement = judge_series(series, "logistic")
    assert (judgement.findings, judgement.undecided) == ((), "")
    (note,) = passing(series)
    assert f"Loss_G is not a number in {len(rows)} of 200 rows, first at step {rows[0]}" in note
    infinite = Series.of(np.where(np.isnan(series["g_loss"].value), np.inf, series["g_loss"].value))
    assert judge_series(series | {"g_loss": infinite}, "logistic").findings == ()


@pytest.mark.parametrize(
    ("rows", "onset"),
    [
        ([199], 199),
        (list(range(120, 200)), 120),
        ([30, *range(120, 200)], 120),
        ([*range(120, 150), *range(151, 200)], 120),  # a single number among NaN is misread
        (list(range(120, 199)), 120),
        (list(range(199)), 0),
    ],
)
def test_nan_that_ends_a_log_is_divergence_from_where_it_stays(rows: list[int], onset: int) -> None:
    series = without(rows)
    (found,) = judge_series(series, "logistic").findings
    assert (found.failure, found.onset, found.severity) == ("divergence", onset, 1.0)
    assert passing(series) == []


def test_nan_at_the_end_as_there_was_before_is_no_clean_bill_unless_it_is_a_habit() -> None:
    judgement = judge_series(without([100, 199]), "logistic")
    assert judgement.findings == ()
    assert "Loss_G ends without a number from step 199 on, as it did before" in judgement.undecided
    habit = judge_series(without([i for i in range(200) if i % 5]), "logistic")  # every fifth row has the loss
    assert (habit.findings, habit.undecided) == ((), "")


def test_the_onset_of_lasting_nan_is_not_that_of_one_that_passed_and_was_thinned_out() -> None:
    series = without(list(range(120, 200)))
    g = replace(series["g_loss"], first_bad=31)
    assert judge_series(series | {"g_loss": g}, "logistic").findings[0].onset == 120
    kept = Series.of(g.value[::2], np.arange(0, 200, 2))
    thinned = replace(kept, first_bad=119)  # row 119 was not kept
    assert judge_series(series | {"g_loss": thinned}, "logistic").findings[0].onset == 119


@pytest.mark.parametrize("name", ["fid", "accuracy_d", "lr_g", "lr_d"])
def test_what_is_measured_now_and_then_has_nan_where_it_was_not(name: str) -> None:
    now_and_then = np.full(200, np.nan)
    now_and_then[:120:40] = 0.7
    assert judge_series(game("logistic", gap=0.5) | {name: Series.of(now_and_then)}, "logistic").findings == ()


def test_a_score_that_ends_in_nan_is_divergence_and_one_row_of_it_is_not() -> None:
    base, score = game("logistic", gap=0.5), np.linspace(0, 1, 200)
    ends = np.where(np.arange(200) >= 150, np.nan, score)
    assert names(judge_series(base | {"score_real": Series.of(ends)}, "logistic")) == {"divergence"}
    once = np.where(np.arange(200) >= 199, np.nan, score)
    assert names(judge_series(base | {"score_real": Series.of(once)}, "logistic")) == set()


@pytest.mark.parametrize(("digits", "stalled"), [(0, True), (1, True), (2, False), (4, False), (8, False), (9, True)])
def test_a_rate_of_nothing_but_printed_zeros_may_be_too_small_for_its_decimals(digits: int, stalled: bool) -> None:
    rate = replace(Series.of(np.zeros(200), label="lr"), digits=digits)
    found = names(judge_series(game("logistic", gap=0.5) | {"lr_g": rate}, "logistic"))
    assert found == ({"stalled"} if stalled else set())


def test_negative_and_drifting_values_of_a_critic_are_healthy() -> None:
    n = 300
    drift = np.linspace(0, -400, n)
    series = {
        "d_loss": Series.of(-3 + noise(n, 0.5)),
        "g_loss": Series.of(drift + noise(n, 2.0)),
        "gp": Series.of(0.2 + np.abs(noise(n, 0.05))),
    }
    judgement = judge_series(series)
    assert believe(series).best == "wasserstein"
    assert (judgement.findings, judgement.undecided) == ((), "")


def test_a_critic_beyond_what_a_lipschitz_one_can_say_has_exploded() -> None:
    d = -np.geomspace(1, 1e7, 100)
    series = {"d_loss": Series.of(d), "g_loss": Series.of(-d), "gp": Series.of(np.geomspace(0.1, 1e4, 100))}
    assert names(judge_series(series, "wgan-gp")) == {"divergence"}


def test_a_penalty_that_stands_at_its_weight_is_a_dead_critic() -> None:
    series = {
        "d_loss": Series.of(np.full(30, 10.0) + noise(30, 1e-5)),
        "g_loss": Series.of(0.3 + noise(30, 0.01)),
        "gp": Series.of(np.full(30, 10.0)),
    }
    assert "discriminator_dead" in names(judge_series(series, "wgan-gp"))


def test_absolute_scores_that_drift_are_healthy_in_a_relativistic_game() -> None:
    n = 100
    drift = np.linspace(0, -12, n)
    series = {
        "d_loss": Series.of(0.45 + noise(n, 0.05)),
        "g_loss": Series.of(1.2 + noise(n, 0.1)),
        "score_real": Series.of(drift + 1.2 + noise(n, 0.1)),
        "score_fake": Series.of(drift - 1.2 + noise(n, 0.1)),
    }
    assert judge_series(series, "relativistic").findings == ()


def test_a_rate_that_decayed_to_nothing_stalls_and_one_that_ends_at_nothing_does_not() -> None:
    base = game("logistic", gap=0.5)
    step = np.arange(200)
    gone = Series.of(2e-4 * 0.5**step)
    found = {f.failure: f for f in judge_series(base | {"lr_g": gone}, "logistic").findings}
    assert set(found) == {"stalled"}
    cosine = Series.of(1e-4 * (1 + np.cos(np.pi * step / 199)))
    linear = Series.of(2e-4 * (1 - step / 199))
    assert judge_series(base | {"lr_g": cosine, "lr_d": linear}, "logistic").findings == ()


def test_fid_that_jumps_for_good_is_a_late_divergence_and_one_that_only_falls_is_not() -> None:
    base = game("logistic", gap=0.5)
    good = [300.0, 120, 80, 60, 50, 45, 44, 43, 42, 41]
    jumped = [*good, 400, 500, 450, 470, 480, 460]
    assert judge_series(base | {"fid": Series.of(good)}, "logistic").findings == ()
    found = judge_series(base | {"fid": Series.of(jumped)}, "logistic").findings
    assert [(f.failure, f.onset) for f in found] == [("divergence", 10)]


def test_a_discriminator_that_takes_every_fake_for_real_is_dead_unless_its_answers_say_otherwise() -> None:
    n = 40
    series = {"d_loss": Series.of(8 + noise(n, 1.0)), "g_loss": Series.of(np.abs(noise(n, 0.002)))}
    assert names(judge_series(series, "logistic")) == {"discriminator_dead"}
    sees = series | {"d_real": Series.of(0.4 + noise(n, 0.02)), "d_fake": Series.of(0.98 + noise(n, 0.005))}
    assert judge_series(sees, "logistic").findings == ()


def test_zero_from_the_first_row_on_with_a_moving_generator_is_a_warm_up() -> None:
    series = {"d_loss": Series.of(np.zeros(100)), "g_loss": Series.of(np.linspace(40, 20, 100))}
    judgement = judge_series(series, "least_squares")
    assert judgement.findings == ()
    assert "not started" in judgement.undecided


@pytest.mark.parametrize("rows", [1, 2, 5, 19])
def test_a_clean_bill_takes_rows_enough(rows: int) -> None:
    judgement = judge_series(game("logistic", gap=0.5, n=rows), "logistic")
    assert judgement.findings == ()
    assert "rows" in judgement.undecided


@pytest.mark.parametrize(
    ("alias", "family"),
    [
        ("bce", "logistic"),
        ("LSGAN", "least_squares"),
        ("wgan-gp", "wasserstein"),
        ("relativistic-hinge", "relativistic_hinge"),
    ],
)
def test_usual_names_of_losses_are_known(alias: str, family: str) -> None:
    assert named(alias) == family


def test_a_mistyped_loss_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'hinge'"):
        named("hnge")


def test_every_family_of_the_package_can_be_named() -> None:
    assert set(losses.LOSSES) <= set(PRIOR)


@pytest.mark.parametrize("family", ["logistic", "hinge", "wasserstein", "saturating"])
def test_the_family_is_inferred_from_the_numbers_of_a_game_that_it_plays(family: str) -> None:
    """Hinge and minimax losses can look alike where G's loss is never positive: then neither is taken for certain."""
    beliefs = believe(game(family, gap=0.0, spread=0.2, n=300))
    assert beliefs.best == family, str(beliefs)


def test_severity_grows_with_how_little_is_left() -> None:
    worse = [judge_series(game("logistic", gap=gap), "logistic").findings[0].severity for gap in (13.0, 18.0, 24.0)]
    assert worse == sorted(worse)
    assert worse[0] < worse[-1]


def test_series_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two of one length"):
        Series.of([1.0, 2.0], [1])


def test_what_printed_probabilities_cost_tells_the_logistic_loss_from_others() -> None:
    """A plain DCGAN print: four columns of batch means, and nothing says which loss it is."""
    real, fake = 0.65 + noise(200, 0.05, 1), 0.33 + noise(200, 0.04, 2)
    d = -np.log(real) - np.log(1 - fake) + 0.08 + np.abs(noise(200, 0.03, 3))
    g = 2.4 + noise(200, 0.3, 4)  # with a term of its own, so that it says nothing of the family
    columns = {"d_loss": Series.of(d), "g_loss": Series.of(g), "d_real": Series.of(real), "d_fake": Series.of(fake)}
    beliefs = believe(columns)
    assert beliefs.best == "logistic"
    assert beliefs.known
    assert any("cost under logistic" in reason for reason in beliefs.reasons)
    squares = {
        **columns,
        "d_loss": Series.of(((real - 1) ** 2 + fake**2) / 2 + 0.01),
        "g_loss": Series.of((fake - 1) ** 2 / 2 + 0.01),
    }
    assert believe(squares).share["logistic"] < 0.1


@pytest.mark.parametrize(("digits", "dead"), [(2, False), (4, True), (None, True)])
def test_a_loss_in_two_decimals_that_stands_at_chance_is_no_dead_discriminator(digits: int | None, dead: bool) -> None:
    """Means of an epoch are that steady; in four decimals no living D's are."""
    columns = {
        "d_loss": replace(Series.of(np.full(40, round(2 * LN2, digits or 6)), label="D"), digits=digits),
        "g_loss": replace(Series.of(np.full(40, round(LN2, digits or 6)), label="G"), digits=digits),
    }
    assert ("discriminator_dead" in names(judge_series(columns, "logistic"))) is dead


@pytest.mark.parametrize(
    ("level", "digits", "dead"),
    [(0.5, 1, False), (0.5, 2, False), (50.0, 0, False), (50.0, 2, True), (0.5, 4, True), (0.5, None, True)],
)
def test_an_accuracy_that_is_rounded_to_one_half_is_no_dead_discriminator(
    level: float, digits: int | None, dead: bool
) -> None:
    columns = game("logistic", gap=0.4, n=40)
    columns["accuracy_d"] = replace(Series.of(np.full(40, level), label="acc"), digits=digits)
    assert ("discriminator_dead" in names(judge_series(columns, "logistic"))) is dead


def test_what_stands_in_every_second_row_is_no_circle() -> None:
    """D's loss with a penalty that comes in lazily, on every second row; a rhythm of three rows is one."""
    d = 1.2 + noise(256, 0.02)
    for period, expected in ((2, set()), (3, {"oscillation"})):
        columns = {
            "d_loss": Series.of(d + 0.4 * (np.arange(256) % period == 0), label="D"),
            "g_loss": Series.of(0.9 + noise(256, 0.02, seed=1), label="G"),
        }
        assert names(judge_series(columns, "logistic")) == expected


@pytest.mark.parametrize(
    ("level", "digits", "dead"),
    [(-6e-4, 4, False), (-6e-4, 6, False), (-6e-4, None, False), (0, 4, True), (0, None, True)],
)
def test_a_clipped_critic_whose_small_gap_moves_is_not_dead(level: float, digits: int | None, dead: bool) -> None:
    d = level + noise(100, 8e-5 if level else 1e-8)
    d = d if digits is None else d.round(digits)
    columns = {
        "d_loss": replace(Series.of(d, label="D"), digits=digits),
        "g_loss": Series.of(3e-4 + noise(100, 1e-5, seed=1), label="G"),
    }
    assert ("discriminator_dead" in names(judge_series(columns, "wasserstein"))) is dead
