"""The grammar of tricks: what it makes, and what it says of mistakes."""

import inspect

import pytest

from stabilgan import spec
from stabilgan.tricks import TRICKS, parse, parse_arms


def test_options_take_the_types_of_the_signature() -> None:
    (r1,) = parse("r1:weight=5:every=4")
    assert (r1.weight, r1.every) == (5.0, 4)
    assert isinstance(r1.every, int)


def test_plus_joins_tricks_in_their_order() -> None:
    assert [t.name for t in parse("relativistic+r1:weight=10+r2:weight=10")] == ["relativistic", "r1", "r2"]


def test_nothing_and_none_are_the_arm_without_tricks() -> None:
    assert parse("") == parse("none") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replya", "no trick named 'replya'; did you mean 'replay'?"),
        ("r1:wieght=3", "r1: no option named 'wieght'; did you mean 'weight'?"),
        ("r1:weight=heavy", "r1:weight=heavy: expected a number"),
        ("r1:every=1.5", "r1:every=1.5: expected a whole number"),
        ("r1:weight=-1", "weight is -1.0; expected 0 or more"),
        ("r1:weight", "'weight' in 'r1:weight' is not an option"),
        ("relativistic:x=1", "relativistic has no options"),
        ("r1++ema", "a name is missing"),
        ("no.such.Thing", "can't import 'no.such'"),
        ("stabilgan.tricks.r1.R3", "no name in stabilgan.tricks.r1 named 'R3'; did you mean 'R"),
        ("stabilgan.spec.split", "expected a subclass of stabilgan.Trick"),
    ],
)
def test_a_mistake_gets_one_clear_line(text: str, message: str) -> None:
    if "replay" in message and "replay" not in TRICKS:
        pytest.fail("the registry lacks replay")
    with pytest.raises(spec.SpecError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dotted_path_names_somebodys_own_trick() -> None:
    (trick,) = parse("stabilgan.tricks.r1:R1:weight=2")
    (same,) = parse("stabilgan.tricks.r1.R1:weight=2")
    assert repr(trick) == repr(same) == "R1(weight=2.0, every=1)"


def test_two_names_make_four_arms() -> None:
    assert parse_arms("r1,ema") == ["none", "r1", "ema", "r1+ema"]


def test_an_explicit_arm_makes_every_part_one_arm() -> None:
    assert parse_arms("none,r1,ema,r1+ema") == ["none", "r1", "ema", "r1+ema"]


def test_one_name_twice_is_one_arm() -> None:
    assert parse_arms("r1,r1") == ["none", "r1"]


@pytest.mark.parametrize("name", TRICKS)
def test_the_defaults_of_every_trick_can_be_written_into_a_list_of_arms(name: str) -> None:
    given = {k: p.default for k, p in inspect.signature(TRICKS[name]).parameters.items() if isinstance(p.default, str)}
    arm = ":".join([name, *(f"{k}={v}" for k, v in given.items() if v)])
    assert parse_arms(arm) == ["none", arm]
