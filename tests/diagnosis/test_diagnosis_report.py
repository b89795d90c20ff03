"""Reports: on the terminal, as JSON, as one page that holds nothing active."""

from __future__ import annotations

import io
import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from stabilgan import tricks
from stabilgan.diagnosis import FAILURES, Diagnosis, Evidence, Finding, charts, html, remedies, report

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>[bold]$\\frac{"


def diagnosis() -> Diagnosis:
    told = Evidence("coverage", 0.25, f"25 % is reached {EVIL}", 0.97, (0.95, 0.98), "real against real")
    endless = Evidence("wrong", float("nan"), "nothing", 0.5, (0.01, float("inf")))
    images = torch.rand(8, 3, 6, 6)
    curve = (np.arange(50), np.append(np.linspace(1, 99, 49), np.nan))
    return Diagnosis(
        subject=EVIL,
        source="samples",
        findings=(Finding("mode_dropping", 0.75, 0.9, (told,), onset=17),),
        evidence=(told, endless),
        notes=(EVIL,),
        skipped=((EVIL, "truncated"),) * 12,
        figures={
            "curves": {f"_{EVIL}loss": curve, "D(x)": curve},
            "real": torch.randn(50, 2),
            "fake": torch.randn(50, 2),
            "projected": True,
            "real_images": images,
            "fake_images": images[:, :1],
            "pair_images": [(images[0], images[1])] * 3,
            "pair_ratios": torch.ones(3),
            "paths": torch.randn(8, 16, 36),
            "shape": (1, 6, 6),
            "classes": ("cat", EVIL),
            "regions": [
                {"real": (5, 5), "fake": (9, 0), "cells": (1,), "labels": True, "mass": 0.5, "counts": True},
            ],
            "scores": (torch.randn(20), torch.randn(20)),
        },
    )


def shown(found: Diagnosis) -> str:
    out = io.StringIO()
    report.show(found, Console(file=out, width=100))
    return out.getvalue()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_terminal_says_verdict_failure_numbers_and_what_to_do() -> None:
    text = shown(diagnosis())
    for words in (
        "problem: mode dropping",
        "severe, severity 0.75",
        "since step 17",
        "0.97",
        "stabilgan bench --tricks",
    ):
        assert words in text
    assert "[bold]" in text  # names from files are no markup
    assert "and 2 more were skipped" in text


def test_healthy_and_cannot_tell_say_so() -> None:
    assert "healthy: nothing wrong" in shown(Diagnosis("x", "log"))
    assert "cannot tell: too few" in shown(Diagnosis("x", "log", undecided="too few"))


def test_json_is_plain_and_holds_no_nan() -> None:
    text = json.dumps(diagnosis().to_json(), allow_nan=False)
    assert json.loads(text)["findings"][0]["failure"] == "mode_dropping"


def test_the_page_has_all_pictures_and_nothing_from_elsewhere_and_nothing_active() -> None:
    page = html.rendered(diagnosis())
    tags = Tags()
    tags.feed(page)
    kinds = [tag for tag, _ in tags.tags]
    assert kinds.count("img") == 7
    assert not {"script", "link", "iframe", "object"} & set(kinds)
    for _, attributes in tags.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert "href" not in attributes
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    html.write(diagnosis(), tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_every_picture_is_a_png_with_a_caption() -> None:
    made = charts.pictures(diagnosis().figures, onsets={EVIL: 17})
    assert [p.title for p in made] == [
        "Curves", "Samples", "Nearest pairs", "Between latents", "Map of the data", "Modes", "Scores"
    ]  # fmt: skip
    assert all(p.png.startswith(b"\x89PNG") and p.caption for p in made)
    assert charts.pictures({}) == []


def test_every_trick_of_every_failure_can_be_played() -> None:
    for failure in FAILURES.values():
        for arm in failure.tricks:
            assert tricks.parse(arm)
            assert arm in remedies.command(arm)


def test_the_evidence_in_the_package_is_that_of_the_published_records() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "evidence.py"))
    assert made["written"]() == made["TARGET"].read_text()


def test_records_are_quoted_also_where_they_say_that_a_trick_does_not_help() -> None:
    assert any("helps" in line for line in remedies.said_of("relativistic+r1:weight=10+r2:weight=10"))
    assert all("no detectable difference" in line for line in remedies.said_of("minibatch"))
    assert len(remedies.said_of("spectral_norm")) == 2  # the ring and MNIST, each alone
    assert remedies.said_of("spectral_norm:iterations=7") == ()


def test_the_pages_markers_for_measured_tables_are_there() -> None:
    text = (ROOT / "docs" / "diagnosis.md").read_text()
    for name in ("calibration", "logs"):
        assert re.search(rf"<!-- {name} -->.*<!-- /{name} -->", text, re.DOTALL)
    for failure in FAILURES.values():
        assert failure.title in text
