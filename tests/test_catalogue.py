"""What there is, for people at any width and for programs, and what packages add to it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint

import pytest
from rich.console import Console

from stabilgan import catalogue, detectors, plugins, spec, tricks
from stabilgan.game import CHANGES, Cost, Trick
from stabilgan.tricks import TRICKS


def printed(kind: str, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(catalogue.table(kind, catalogue.entries()[0][kind], width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140, 200])
@pytest.mark.parametrize("kind", ["tricks", "detectors", "workloads", "losses"])
def test_a_list_fits_its_width_and_names_everything(kind: str, width: int) -> None:
    lines = printed(kind, width)
    assert max(map(len, lines)) <= width
    for entry in catalogue.entries()[0][kind]:
        assert any(line.strip().startswith(entry["name"]) for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "…" not in text  # nothing is cut off


def test_tricks_stand_by_what_they_change() -> None:
    order = [line.strip() for line in printed("tricks", 140) if line.strip() in CHANGES]
    assert order == [word for word in CHANGES if word in {t.changes for t in TRICKS.values()}]


def test_a_wide_list_has_costs_and_sources_beside_a_narrow_one_below() -> None:
    wide, narrow = printed("tricks", 160), printed("tricks", 80)
    heads = ["name", "what it does", "options", "passes more", "losses", "source"]
    assert re.split(r"\s{2,}", wide[2].strip()) == heads
    (row,) = (line for line in wide if line.strip().startswith("r1 "))
    assert "weight=10.0" in row
    assert "1 D forward" in row
    (row,) = (line for line in narrow if line.strip().startswith("r1 "))
    assert "weight=10.0" in row
    assert "1 D forward" not in row


def test_programs_get_all_that_is_known_of_a_trick(capsys: pytest.CaptureFixture[str]) -> None:
    catalogue.show("tricks", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"tricks", "broken"}
    (r1,) = (entry for entry in found["tricks"] if entry["name"] == "r1")
    assert r1["cost"] == Cost(d_forward=1, d_backward=1, second_order=1)._asdict()
    assert r1["options"][0] == {"name": "weight", "type": "float", "default": 10.0}
    assert (r1["changes"], r1["package"], r1["class"]) == ("a penalty on D", None, "stabilgan.tricks.r1:R1")
    assert r1["off"] == {"weight": 0.0}
    assert "Eq. 9" in r1["source"]
    for entry in found["tricks"]:
        assert entry["conflicts"] == dict(TRICKS[entry["name"]].conflicts)
        assert entry["limits"] == dict(TRICKS[entry["name"]].limits)
        assert entry["when"]
    told = {entry["name"]: (entry["made_for"], entry["fits"]) for entry in found["tricks"]}
    assert told["r1"] == (None, None)
    assert told["wgan_gp"] == told["weight_clipping"] == (["wasserstein"], None)
    assert told["label_smoothing"] == (None, ["least_squares", "logistic", "saturating"])
    assert told["ada"] == (["logistic", "saturating"], ["hinge", "least_squares", "logistic", "saturating"])


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("By Arjovsky et al. 2017, Eq. 2. More.", "By Arjovsky et al. 2017, Eq. 2."),
        ("No end", "No end"),
    ],
)
def test_a_sentence_ends_where_people_end_it(text: str, first: str) -> None:
    assert catalogue.sentence(text) == first


class Distribution:
    """As much of a package as is asked for."""

    def __init__(self, name: str) -> None:
        self.name, self.version = name, "1.0"


def register(monkeypatch: pytest.MonkeyPatch, group: str, *entries: tuple[str, str, str]) -> None:
    """Has packages register names: (package, name, what)."""
    made = []
    for package, name, value in entries:
        entry = EntryPoint(name, value, group)
        vars(entry)["dist"] = Distribution(package)
        made.append(entry)

    def found(*, group: str) -> Iterable[EntryPoint]:
        return [entry for entry in made if entry.group == group]

    monkeypatch.setattr(plugins, "entry_points", found)


def test_the_library_goes_first_and_then_the_first_package(monkeypatch: pytest.MonkeyPatch) -> None:
    there = "stabilgan.tricks.instance_noise:InstanceNoise"
    register(
        monkeypatch,
        "stabilgan.tricks",
        ("b", "r1", "stabilgan.tricks.r1:R2"),
        ("b", "twice", there),
        ("a", "twice", there),
    )
    assert tricks.class_of("r1") is TRICKS["r1"]

    def anything(name: str, made: object) -> None:
        return None

    good, bad = plugins.load_all("trick", TRICKS, anything)
    assert [(p.name, p.package) for p in good] == [("twice", "a 1.0")]
    assert [str(b) for b in bad] == [
        "trick 'r1' of the package b 1.0: the library has a trick of that name already; register it under another one",
        "trick 'twice' of the package b 1.0: a 1.0 has a trick of that name already; register it under another one",
    ]


def test_a_plugin_that_leaves_the_program_is_broken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(entry: EntryPoint) -> None:
        raise SystemExit("two\nlines")

    register(monkeypatch, "stabilgan.detectors", ("a", "leaving", "nowhere:Nothing"))
    monkeypatch.setattr(EntryPoint, "load", leave)
    with pytest.raises(spec.SpecError, match=r"^detector 'leaving' of the package a 1\.0: .* SystemExit: two lines$"):
        detectors.parse("collapse,leaving")


class Unreadable(Trick):
    """Has an option of a type that is nowhere."""

    name = "unreadable"

    def __init__(self, size: NoSuchType = 3) -> None:  # type: ignore[name-defined] # noqa: F821
        self.size = size


def test_a_plugin_that_says_nonsense_of_itself_does_not_break_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(monkeypatch, "stabilgan.tricks", ("a", "unreadable", "test_catalogue:Unreadable"))
    catalogue.show()
    out, err = capsys.readouterr()
    assert "minibatch" in out
    assert err == (
        "stabilgan: trick 'unreadable' of the package a 1.0: what it says of itself can't be read: "
        "NameError: name 'NoSuchType' is not defined\n"
    )


def test_detectors_are_made_by_name_with_options() -> None:
    first, second = detectors.parse("oscillation:window=128, stabilgan.detectors.collapse:Collapse:patience=5")
    assert (first.name, vars(first)["window"]) == ("oscillation", 128)
    assert (second.name, second.patience) == ("collapse", 5)
    for text, message in (
        ("colapse", "no detector named 'colapse'; did you mean 'collapse'?"),
        ("collapse:windw=1", "did you mean 'window'?"),
        ("stabilgan.tricks.r1:R1", "expected a subclass of stabilgan.Detector"),
    ):
        with pytest.raises(spec.SpecError) as caught:
            detectors.parse(text)
        assert message in str(caught.value)
